"""What chapter 11 reads off its records, `adaptation` and `rates`: what adapters make of its tasks, and at what cost.

Accuracies are of test data, in points; brackets are 95 % intervals over runs. Differences are paired by run: the base,
the head’s first weights and the batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from .. import findings
from ..experiments.adaptation import BUDGET_TASK, BUDGETS, TASKS, VALIDATION_ITEMS, VARIANTS, methods_of
from ..findings import Finding
from ..findings.runs import sides
from ..lab.problems import problem
from ..lab.scores import evenly
from ..provenance import recorded
from .names import NAMES, key, stored, where
from .sentences import MISSING, Cell, Figure, listed, median, span, table, trained_for

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
"""Method in the record → its name in print; the order of tables."""
MIN_ANSWERS = 2000
"""Test answers that a verdict should have, where the data allow."""
ASKED = {
    "docstrings": "next token of docstrings",
    "kind": "docstring of a function, a class or a method?",
    "prose": "next byte of docstrings",
    "headers": "next byte of C++ headers",
    "rotation": "by how much is this digit turned?",
    "mirrored": "is this digit mirrored?",
    "turned pairs": "which caption names this digit, turned by 90°?",
}
"""Task → what a model is asked."""
TIED_NATS = 0.01
"""Nats of validation loss within which two rates are all but a tie."""
VARIANT_NAMES = {
    "noise-uniform": "uniform noise",
    "noise-signs": "±1 for noise",
    "noise-deeper": "scales that grow with depth",
    "noise-gaussian, σ raised": "σ of the base raised",
    "lora, σ raised": "LoRA, σ of the base raised",
}
"""Variant in the record → its name in print."""


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F13 of every model and task; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("adaptation", record, **parameters)
    listed = []
    for task in tasks_of(record):
        name = f"{stored(TASKS[task]['model'])}, {task}"
        listed.append(findings.f13_over_runs(record[record["task"] == task], name, origin | {"source": name}))
    return listed


def tasks(record: pd.DataFrame) -> pd.DataFrame:
    """What is learned: by whom, how many answers are judged, and how many parameters LoRA of rank 1 trains."""
    columns = {
        "model": lambda rows: NAMES[key(rows)],
        "task": lambda rows: rows["task"].iloc[0],
        "asked": lambda rows: ASKED[rows["task"].iloc[0]],
        "answers judged": answers,
        "steps × batch": trained_for,
        "trained at 1 ×": lambda rows: int(where(rows, method="lora")["parameters"].iloc[0]),
    }
    return listed((of_task(record, task) for task in tasks_of(record)), columns)


def answers(rows: pd.DataFrame) -> int:
    """How many answers are judged; of a model that takes seconds to load, as the record says."""
    recorded = rows.get("answers", pd.Series(dtype=float)).dropna()
    return int(recorded.iloc[0]) if len(recorded) else problem(key(rows), rows["task"].iloc[0]).count()


def few(record: pd.DataFrame) -> str:
    """Which tasks have fewer answers to judge than are asked for, in a sentence; empty where none has."""
    found = tasks(record)
    short = found[found["answers judged"] < MIN_ANSWERS]
    words = ", ".join(f"{row['model']}, {row['task']} ({row['answers judged']:,})" for _, row in short.iterrows())
    return (
        f"Fewer than the {MIN_ANSWERS:,} answers asked for, since there are no more digits: {words}." if words else ""
    )


def scores(record: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy by method and task."""
    return _by_method(record, {method: partial(findings.accuracy, method=method) for method in METHODS})


def against_lora(record: pd.DataFrame) -> pd.DataFrame:
    """Paired difference to LoRA, by method and task."""
    others = [method for method in METHODS if method != "lora"]
    return _by_method(record, {method: partial(findings.advantage, method=method) for method in others}, "+")


def _by_method(record: pd.DataFrame, figures: dict[str, Figure], sign: str = "") -> pd.DataFrame:
    """A figure of each method, in points, by task; methods that were not tried on any left out."""
    columns = {METHODS[method]: tried(method, span(figure, 1, sign)) for method, figure in figures.items()}
    return _filled(table({title(task): of_task(record, task) for task in tasks_of(record)}, columns).T)


def tried(method: str, cell: Cell) -> Cell:
    """A cell that is left out where a method was not tried."""
    return lambda rows: cell(rows) if has(rows, method) else None


def _filled(found: pd.DataFrame) -> pd.DataFrame:
    """A table of methods, in the order of `METHODS`, with a dash where one was not tried."""
    return found.reindex(list(METHODS.values())).dropna(how="all").fillna(MISSING)


def tested(record: pd.DataFrame) -> str:
    """p-values of noise-built adapters against LoRA, corrected for the number of tasks, in a sentence."""
    each = {title(task): findings.advantage(of_task(record, task)) for task in tasks_of(record)}
    corrected = findings.holm(pd.Series({name: findings.paired_p(some) for name, some in each.items()}))
    words = "; ".join(f"{name} {'not tested' if pd.isna(p) else f'{p:.2g}'}" for name, p in corrected.items())
    return f"p-values of noise-built against LoRA, paired, corrected for the number of tasks (Holm): {words}."


def known(differences: pd.Series) -> bool:
    """Whether there is an interval: two runs or more, none diverged."""
    return len(differences) > 1 and bool(differences.notna().all())


def beyond(each: Sequence[pd.Series]) -> str:
    """How many paired differences lie above and below 0 beyond the interval; “3 better, 1 worse of 6”."""
    spans = [findings.over_runs(one) for one in each if known(one)]
    unknown = f", {len(each) - len(spans)} without an interval" if len(spans) < len(each) else ""
    better, worse = sides(spans)
    return f"{better} better, {worse} worse{unknown} of {len(each)}"


def added_by(record: pd.DataFrame, variant: str) -> list[pd.Series]:
    """What a variant adds to the method that it varies, in points by run, for every task that it was tried on."""
    each = [where(record, task=task, budget=1) for task in tasks_of(record)]
    return [findings.advantage(both, variant, _of(variant)) for both in each if has(both, variant)]


def tuning(rates: pd.DataFrame) -> pd.DataFrame:
    """The rate that won, by method and task, and by budget where there are several; “(end)” where it lies at an end of
    the grid."""
    found = {}
    for heading, method, some in _grids(rates):
        ends, rate = (some["lr"].min(), some["lr"].max()), some["lr"].iloc[0]
        found.setdefault(heading, {})[METHODS[method]] = f"{rate:g}{' (end)' if rate in ends else ''}"
    return _filled(pd.DataFrame(found))


def close_calls(rates: pd.DataFrame) -> str:
    """Where another rate was all but as good as the one that won, and which tasks were tuned on few texts, in
    sentences."""
    words: dict[str, list[str]] = {}
    for heading, method, some in _grids(rates):
        first, near = some.iloc[0], some[some["loss"] <= some["loss"].min() + TIED_NATS].iloc[1:]
        if len(near):
            end = ", the end of the grid," if first["lr"] in (some["lr"].min(), some["lr"].max()) else ""
            others = ", ".join(f"{rate:g}" for rate in near["lr"])
            words.setdefault(heading, []).append(f"{METHODS[method]} {first['lr']:g}{end} beside {others}")
    each = "; ".join(f"{heading}: {', '.join(some)}" for heading, some in words.items())
    said = (
        f"All but ties, within {TIED_NATS:g} nats, so that another seed could have chosen the other: {each or 'none'}."
    )
    for task in tasks_of(rates):
        if most := VALIDATION_ITEMS.get(model := TASKS[task]["model"]):
            labels = problem(model, task).task.validation.labels
            few = f"{len(evenly(labels, most))} of {len(labels)} validation texts"
            said += f" The rates of {title(task)}, were chosen on **{few}**."
    return said


def _grids(rates: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Task, with the budget if it is not 1, method, and its rows from the smallest validation loss on."""
    for task in tasks_of(rates):
        for budget, rows in rates[rates["task"] == task].groupby("budget"):
            for method in methods_of(task):
                if has(rows, method):
                    heading = title(task) if budget == 1 else f"{title(task)}, {budget} ×"
                    yield heading, method, rows[rows["method"] == method].sort_values("loss", kind="stable")


def tuned_curves(rates: pd.DataFrame, task: str = BUDGET_TASK) -> pd.DataFrame:
    """Validation loss by method and rate, of one task."""
    rows = rates[(rates["task"] == task) & (rates["budget"] == 1)]
    table = rows.pivot_table(index="method", columns="lr", values="loss", dropna=False)
    table = table.reindex([method for method in METHODS if method in table.index])
    return table.rename(index=METHODS, columns=lambda rate: f"{rate:g}").rename_axis(None).rename_axis(None, axis=1)


def costs(record: pd.DataFrame, tasks: Sequence[str] = (BUDGET_TASK,)) -> Iterator[tuple[str, pd.DataFrame]]:
    """What each method costs on these tasks, as far as they were recorded: trained parameters, bytes stored and held,
    time of a step beside LoRA’s."""
    for task in tasks:
        rows = of_task(record, task)
        own = where(rows, method="lora")["step_seconds"].median()
        columns = {
            "trained": median("parameters", ",.0f"),
            "stored, kB": median("stored", ",.1f", times=1e-3),
            "held in training, MB": median("held", ",.1f", times=1e-6),
            "time of a step, ms": median("step_seconds", ",.0f", times=1000),
            "beside LoRA’s": median("step_seconds", ".2f", " ×", times=1 / own),
        }
        each = {name: where(rows, method=method) for method, name in METHODS.items() if method != "none"}
        if len(found := table(each, columns)):
            yield title(task), found


def variants(record: pd.DataFrame) -> pd.DataFrame:
    """What each variant adds to the method that it varies, by task, in points."""
    columns = {
        name: tried(variant, span(partial(findings.advantage, method=variant, against=_of(variant)), 1, "+"))
        for variant, name in VARIANT_NAMES.items()
    }
    tasks = tasks_of(where(record, part="variants"))
    return table({title(task): where(record, task=task, budget=1) for task in tasks}, columns).T


def _of(variant: str) -> str:
    """The method that a variant varies."""
    return "lora" if VARIANTS[variant]["adapter"] == "lora" else findings.NOISE_ADAPTER


def varied(record: pd.DataFrame) -> str:
    """In how many tasks each variant is better or worse than what it varies, beyond the interval, in a sentence."""
    words = [f"{name}, {beyond(added_by(record, variant))}" for variant, name in VARIANT_NAMES.items()]
    return f"Tasks beyond the interval: {'; '.join(words)}."


def curve(record: pd.DataFrame) -> pd.DataFrame:
    """For the figure, on one task: rows with method, trained ``parameters``, and accuracy: mean, low, high."""
    rows = record[(record["task"] == BUDGET_TASK) & record["method"].isin(METHODS)]
    table = []
    for (method, budget), some in rows.groupby(["method", "budget"]):
        mean, low, high = findings.over_runs(findings.accuracy(some, method, budget))
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
    rows, found = where(record, task=BUDGET_TASK), {}
    for method, name in METHODS.items():
        each = {budget: findings.advantage(rows, method, budget=budget) for budget in BUDGETS}
        words = {f"{budget} ×": findings.span(one, 1, "+") for budget, one in each.items() if len(one) > 1}
        if method != "lora" and len(words) > 1:
            found[name] = words
    return pd.DataFrame.from_dict(found, orient="index")


def of_task(record: pd.DataFrame, task: str) -> pd.DataFrame:
    """The methods on one task, at the first budget."""
    return where(record, task=task, part="methods")


def tasks_of(rows: pd.DataFrame) -> list[str]:
    """Tasks that are recorded, in the order of print."""
    return [task for task in TASKS if task in set(rows["task"])]


def has(rows: pd.DataFrame, method: str) -> bool:
    """Whether a method or variant is among these rows."""
    return method in set(rows["method"])


def title(task: str) -> str:
    """A task and its model, as they are printed."""
    return f"{NAMES[TASKS[task]['model']]}, {task}"
