"""What chapter 11 reads off its records, `adaptation` and `rates`: what adapters make of six tasks, and at what cost.

Accuracies are of test data, in points; brackets are 95 % intervals over runs. Differences are paired by run: the base,
the head’s first weights and the batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from .. import evidence
from ..evidence import span
from ..findings import Finding
from ..provenance import recorded
from .adaptation import BUDGETS, CURVE, TASKS, VARIANTS, best, methods_of
from .optima import NAMES, SHORT
from .problems import problem

METHODS = {
    "none": "the base",
    "head": "head alone",
    "lora": "LoRA",
    "dora": "DoRA",
    "vera": "VeRA",
    "randlora": "RandLoRA",
    "noise-gaussian": "noise-built",
    "full": "full fine-tuning",
}
"""As they are printed."""
ASKED = {
    "kind": "docstring of a function, a class or a method?",
    "prose": "next byte of docstrings",
    "headers": "next byte of C++ headers",
    "rotation": "by how much is this digit turned?",
    "mirrored": "is this digit mirrored?",
    "turned pairs": "which caption names this digit, turned by 90°?",
}
OTHERS = {
    "noise-uniform": "uniform noise",
    "noise-signs": "±1 for noise",
    "noise-deeper": "scales that grow with depth",
    "noise-gaussian, σ raised": "σ of the base raised",
    "lora, σ raised": "LoRA, σ of the base raised",
}


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F13 of every model and task; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("adaptation", record, **parameters)
    listed = []
    for task in _tasks(record):
        name = f"{NAMES[TASKS[task]['model']]}, {task}"
        listed.append(evidence.f13_over_runs(_plain(record, task), name, origin | {"source": name}))
    return listed


def tasks(record: pd.DataFrame) -> pd.DataFrame:
    """What is learned: by whom, how many answers are judged, and how many parameters LoRA of rank 1 trains."""
    table = []
    for task in _tasks(record):
        settings, rows = TASKS[task], _plain(record, task)
        judged = problem(settings["model"], task)
        table.append({
            "model": SHORT[settings["model"]],
            "task": task,
            "asked": ASKED[task],
            "answers judged": judged.count(),
            "steps × batch": " × ".join(f"{rows[name].iloc[0]:g}" for name in ("steps", "batch")),
            "trained at 1 ×": int(rows.loc[rows["method"] == "lora", "parameters"].iloc[0]),
        })  # fmt: skip
    return pd.DataFrame(table)


def scores(record: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy by method and task."""
    table = {}
    for task in _tasks(record):
        rows = _plain(record, task)
        table[title(task)] = {
            name: span(evidence.accuracy(rows, method), 1) for method, name in METHODS.items() if _has(rows, method)
        }
    return pd.DataFrame(table).reindex(list(METHODS.values())).dropna(how="all").fillna("–")


def against_lora(record: pd.DataFrame) -> pd.DataFrame:
    """Paired difference to LoRA, by method and task."""
    table = {}
    for task in _tasks(record):
        rows = _plain(record, task)
        table[title(task)] = {
            name: span(evidence.advantage(rows, method), 1, "+")
            for method, name in METHODS.items()
            if method != "lora" and _has(rows, method)
        }
    return pd.DataFrame(table).fillna("–")


def tested(record: pd.DataFrame) -> str:
    """p-values of noise-built adapters against LoRA, corrected for the number of tasks, in a sentence."""
    each = {title(task): evidence.advantage(_plain(record, task)) for task in _tasks(record)}
    corrected = evidence.holm(pd.Series({name: evidence.paired_p(some) for name, some in each.items()}))
    words = "; ".join(f"{name} {p:.2g}" for name, p in corrected.items())
    return f"p-values of noise-built against LoRA, paired, corrected for the number of tasks (Holm): {words}."


def in_short(record: pd.DataFrame) -> str:
    """How noise-built adapters do beside each other method, over the tasks, in sentences."""
    words = []
    for method, name in METHODS.items():
        rows = {task: _plain(record, task) for task in _tasks(record) if _has(_plain(record, task), method)}
        if method in (evidence.OWN, "none") or not rows:
            continue
        each = {task: evidence.over_runs(evidence.advantage(some, evidence.OWN, method)) for task, some in rows.items()}
        better, worse = sum(low > 0 for _, low, _ in each.values()), sum(high < 0 for *_, high in each.values())
        mean = sum(middle for middle, *_ in each.values()) / len(each)
        words.append(f"{name}: {better} better, {worse} worse of {len(each)}, {mean:+.1f} points in the mean")
    return f"Noise-built adapters beside others, tasks beyond the interval. {'; '.join(words)}."


def tuning(rates: pd.DataFrame) -> pd.DataFrame:
    """The rate that won, by method and task; “(end)” where it lies at an end of the grid."""
    table = {}
    for task in _tasks(rates):
        rows, table[title(task)] = rates[(rates["task"] == task) & (rates["budget"] == 1)], {}
        ends = rows["lr"].min(), rows["lr"].max()
        for method in methods_of(task):
            if _has(rows, method):
                rate = best(rows, task, method)
                table[title(task)][METHODS[method]] = f"{rate:g}{' (end)' if rate in ends else ''}"
    return pd.DataFrame(table).fillna("–")


def tuned_curves(rates: pd.DataFrame, task: str = CURVE) -> pd.DataFrame:
    """Validation loss by method and rate, of one task."""
    rows = rates[(rates["task"] == task) & (rates["budget"] == 1)]
    table = rows.pivot_table(index="method", columns="lr", values="loss", dropna=False)
    return table.rename(index=METHODS, columns=lambda rate: f"{rate:g}").rename_axis(None).rename_axis(None, axis=1)


def costs(record: pd.DataFrame, tasks: Sequence[str] = (CURVE,)) -> Iterator[tuple[str, pd.DataFrame]]:
    """What each method costs on these tasks, as far as they were recorded: trained parameters, bytes stored and held,
    time of a step beside LoRA’s."""
    for task in tasks:
        rows = _plain(record, task)
        each = rows.groupby("method")[["parameters", "stored", "held", "step_seconds"]].median()
        table = {
            name: {
                "trained": f"{each.loc[method, 'parameters']:,.0f}",
                "stored, kB": f"{each.loc[method, 'stored'] / 1000:,.1f}",
                "held in training, MB": f"{each.loc[method, 'held'] / 1e6:,.1f}",
                "time of a step, ms": f"{1000 * each.loc[method, 'step_seconds']:,.0f}",
                "beside LoRA’s": f"{each.loc[method, 'step_seconds'] / each.loc['lora', 'step_seconds']:.2f} ×",
            }
            for method, name in METHODS.items()
            if method in each.index and method != "none"
        }
        if table:
            yield title(task), pd.DataFrame.from_dict(table, orient="index")


def variants(record: pd.DataFrame) -> pd.DataFrame:
    """What each variant adds to the method that it varies, by task, in points."""
    rows, table = record[record["part"] == "variants"], {}
    for variant, name in OTHERS.items():
        plain = "lora" if VARIANTS[variant]["adapter"] == "lora" else "noise-gaussian"
        table[name] = {}
        for task in _tasks(rows):
            both = record[(record["task"] == task) & (record["budget"] == 1)]
            if _has(both, variant):
                table[name][title(task)] = span(evidence.advantage(both, variant, plain), 1, "+")
    return pd.DataFrame.from_dict(table, orient="index")


def varied(record: pd.DataFrame) -> str:
    """In how many tasks each variant is better or worse than what it varies, beyond the interval, in a sentence."""
    words = []
    for variant, name in OTHERS.items():
        plain = "lora" if VARIANTS[variant]["adapter"] == "lora" else "noise-gaussian"
        each = []
        for task in _tasks(record[record["part"] == "variants"]):
            both = record[(record["task"] == task) & (record["budget"] == 1)]
            if _has(both, variant):
                each.append(evidence.over_runs(evidence.advantage(both, variant, plain)))
        better, worse = sum(low > 0 for _, low, _ in each), sum(high < 0 for *_, high in each)
        words.append(f"{name}, {better} better and {worse} worse of {len(each)}")
    return f"Tasks beyond the interval: {'; '.join(words)}."


def curve(record: pd.DataFrame) -> pd.DataFrame:
    """For the figure, on one task: rows with method, trained ``parameters``, and accuracy: mean, low, high."""
    rows = record[(record["task"] == CURVE) & record["method"].isin(METHODS)]
    table = []
    for (method, budget), some in rows.groupby(["method", "budget"]):
        mean, low, high = evidence.over_runs(evidence.accuracy(some, method, budget))
        table.append({
            "method": METHODS[method], "parameters": int(some["parameters"].iloc[0]), "mean": mean, "low": low,
            "high": high,
        })  # fmt: skip
    order = list(METHODS.values())
    return pd.DataFrame(table).sort_values(
        ["method", "parameters"], key=lambda c: c.map(order.index) if c.name == "method" else c
    )


def by_budget(record: pd.DataFrame) -> pd.DataFrame:
    """Paired difference to LoRA at every budget, on one task."""
    rows, table = record[record["task"] == CURVE], {}
    for method, name in METHODS.items():
        spans = {
            f"{budget} ×": span(evidence.advantage(rows, method, budget=budget), 1, "+")
            for budget in BUDGETS
            if evidence.advantage(rows, method, budget=budget).size > 1
        }
        if method != "lora" and len(spans) > 1:
            table[name] = spans
    return pd.DataFrame.from_dict(table, orient="index")


def _plain(record: pd.DataFrame, task: str) -> pd.DataFrame:
    return record[(record["task"] == task) & (record["part"] == "methods")]


def _tasks(rows: pd.DataFrame) -> list[str]:
    return [task for task in TASKS if task in set(rows["task"])]


def _has(rows: pd.DataFrame, method: str) -> bool:
    return method in set(rows["method"])


def title(task: str) -> str:
    """A task and its model, as they are printed."""
    return f"{SHORT[TASKS[task]['model']]}, {task}"
