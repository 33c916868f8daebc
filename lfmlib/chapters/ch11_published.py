"""Chapter 11: the published language model of its record, by itself and beside the lab's models.

Its rates were tuned for chapter 7; it is judged in nats too; and some of its methods may have fewer runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from .. import findings
from ..experiments.adaptation import LARGE, RATES, SEEDS, TASKS, VARIANTS, VARIED
from .ch11_adaptation import METHODS, VARIANT_NAMES, title
from .names import PUBLISHED, where
from .sentences import MISSING, table

NOISE = findings.NOISE_ADAPTER
NAMED = METHODS | VARIANT_NAMES
"""Method or variant in the record → its name in print; the order of tables."""
COMPARED = {
    "noise-built beside LoRA": (NOISE, "lora"),
    "noise-built beside full fine-tuning": (NOISE, "full"),
    **{name: (variant, NOISE) for variant, name in VARIANT_NAMES.items() if VARIANTS[variant]["adapter"] != "lora"},
}
"""What is compared, in print → the method, and the one it is held against."""
OUTCOMES = ("better", "worse", "even", "unknown")
"""What can come of a comparison; "even": the interval holds 0."""


@dataclass(frozen=True)
class Compared:
    """A comparison on the published model, and on the lab's.

    Attributes:
        name: what is compared, as it is printed.
        own: differences on the published model, in points by run.
        lab: what came of it on each of the lab's tasks, one of `OUTCOMES`.
    """

    name: str
    own: pd.Series
    lab: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """What came of it on the published model."""
        return _outcome(self.own)

    @property
    def here(self) -> str:
        """That in words, with the number of runs where they are few."""
        return f"{self.outcome} here" + (f" in {len(self.own)} runs" if len(self.own) < SEEDS else "")

    @property
    def on_the_lab(self) -> str:
        """What came of it on the lab's tasks: “2 better, 1 even”."""
        return ", ".join(f"{self.lab.count(word)} {word}" for word in OUTCOMES if word in self.lab)


def tuned_before(record: pd.DataFrame) -> str:
    """Where rates come from that the record `rates` does not have, in a sentence; "" where it has all."""
    words = []
    for task in _large(record):
        rates = {METHODS[method]: f"{METHODS[method]} {rate:g}" for method, rate in RATES[task].items()}
        full = rates.pop(METHODS["full"])
        words.append(
            f"The rates of {title(task)}, are those of chapter 7, of the same task and length, each from a grid of its "
            f"own: {', '.join(rates.values())}; {full} is that of chapter 6, chosen in 20 steps."
        )
    return " ".join(words)


def fewer_runs(record: pd.DataFrame) -> str:
    """What has fewer runs than the rest, in a sentence; "" where nothing has."""
    few = []
    for task in _large(record):
        seeds = where(record, task=task, budget=1).groupby("method")["seed"].nunique()
        words = [f"{name} ({seeds[one]})" for one, name in NAMED.items() if seeds.get(one, SEEDS) < SEEDS]
        few += [f"{', '.join(words)} on {title(task)}"] if words else []
    return f"With fewer than {SEEDS} runs: {'; '.join(few)}." if few else ""


def losses(record: pd.DataFrame) -> Iterator[tuple[str, dict[str, tuple[pd.Series, pd.Series]]]]:
    """Test loss of methods and variants in nats, and how much more it is than the noise-built adapter's, by run; of
    every text on which variants were tried."""
    for task in (one for one in VARIED if TASKS[one]["model"] in (*PUBLISHED, "decoder")):
        rows, found = where(record, task=task, budget=1), {}
        own = where(rows, method=NOISE).set_index("seed")["loss"]
        for method in NAMED:
            if len(loss := where(rows, method=method).set_index("seed")["loss"]):
                found[method] = loss, (loss - own)[loss.index.intersection(own.index)]
        if found:
            yield title(task), found


def in_nats(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """`losses` in words: mean and interval over the runs."""
    for name, each in losses(record):
        found = {}
        for method, (loss, more) in each.items():
            words = MISSING if method == NOISE else findings.span(more, 3, "+")
            found[NAMED[method]] = {"nats": findings.span(loss, 3), "more than noise-built": words}
        yield name, pd.DataFrame.from_dict(found, orient="index")


def beside_lab(record: pd.DataFrame) -> pd.DataFrame:
    """What came of each comparison on the published model, in points, and on how many of the lab's tasks; empty where
    either was not recorded."""
    columns = {
        "runs": lambda one: len(one.own),
        "points": lambda one: findings.span(one.own, 2, "+"),
        "outcome": lambda one: one.outcome,
        "lab’s tasks": lambda one: one.on_the_lab,
    }
    return table({one.name: one for one in _compared(record)}, columns)


def disagree(record: pd.DataFrame) -> str:
    """Where the published model and the lab's disagree: where it comes out as on none of their tasks, in a sentence."""
    each = [one for one in _compared(record) if one.outcome != "unknown"]
    if not each:
        return "Of the published model too little was recorded to say where it and the lab’s disagree."
    apart = [f"{one.name}, {one.here}, there {one.on_the_lab}" for one in each if one.outcome not in one.lab]
    count = (
        f"{len(apart)} of {len(each)} comparisons: {'; '.join(apart)}" if apart else f"none of {len(each)} comparisons"
    )
    return f"**SmolLM2 and the lab disagree** in {count}."


def _compared(record: pd.DataFrame) -> Iterator[Compared]:
    lab = [task for task in TASKS if TASKS[task]["model"] not in PUBLISHED]
    for name, pair in COMPARED.items():
        there = [one for task in lab if len(one := _differences(record, task, *pair))]
        for task in _large(record):
            if there and len(own := _differences(record, task, *pair)):
                yield Compared(name, own, tuple(map(_outcome, there)))


def _differences(record: pd.DataFrame, task: str, method: str, against: str) -> pd.Series:
    return findings.advantage(where(record, task=task), method, against)


def _outcome(differences: pd.Series) -> str:
    if len(differences) < 2 or differences.isna().any():
        return "unknown"
    _, low, high = findings.over_runs(differences)
    return "better" if low > 0 else "worse" if high < 0 else "even"


def _large(record: pd.DataFrame) -> list[str]:
    return [task for task in LARGE if task in set(record["task"])]
