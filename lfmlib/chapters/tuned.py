"""What the chapters on fine-tuning share: the rows of a way of training, and the findings.

Rows are those of the record `finetuning` (see `lfmlib.experiments.finetuning.run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.finetuning import CAUSES, DECAY
from ..findings import Finding
from ..provenance import recorded
from .names import NAMES, by_model, key, stored_tuned, where
from .sentences import mean, number, table, trained_for

OTHER_TEXT = "on English"
"""What is said behind the name of a model, or of a way of training, of fine-tunings of the part `text`."""
METHODS = {"": "full", "lora": "LoRA", "dora": "DoRA"}
LEARNS = {
    "docstrings": "docstrings of Python’s library",
    "english": "licences and READMEs of packages",
    "library": "the package of a docstring",
    "prose": "prose, after code",
    "rotation": "the turn of a digit",
}
"""Task → what is learned."""
MEASURED = {"smollm2-135m": "loss", "minilm": "accuracy", "deep-decoder": "loss", "vit": "accuracy"}
"""What a held-out score is; the loss in nats per byte, of SmolLM2 per token."""


def plain(record: pd.DataFrame, model: str, decay: float = DECAY) -> pd.DataFrame:
    """Full fine-tunings of a model, with the usual weight decay or another."""
    return where(record, part="plain", model=model, weight_decay=decay)


def methods(record: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """The ways a model was fine-tuned, by a name such as "LoRA 16": full, and every adapter and rank."""
    found = {"full": plain(record, model)}
    ranked = where(record, part="rank", model=model)
    for (adapter, rank), rows in sorted(ranked.groupby(["adapter", "rank"]), key=lambda one: one[0][0] == "dora"):
        found[f"{METHODS[adapter]} {int(rank)}"] = rows
    return {name: rows for name, rows in found.items() if len(rows)}


def on_other_text(record: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """The same of a model's second text: full with the usual weight decay, and LoRA 16."""
    asked = {"full": {"adapter": "", "weight_decay": DECAY}, "LoRA 16": {"adapter": "lora", "rank": 16}}
    found = {name: where(record, part="text", model=model, **settings) for name, settings in asked.items()}
    return {name: rows for name, rows in found.items() if len(rows)}


def ways(record: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """`methods`, full fine-tuning without weight decay, and on labels that were exchanged; and on a second text."""
    found = {"full, no decay": plain(record, model, decay=0.0), "shuffled labels": shuffled(record, model)}
    found |= {f"{name}, {OTHER_TEXT}": rows for name, rows in on_other_text(record, model).items()}
    return methods(record, model) | {name: rows for name, rows in found.items() if len(rows)}


def by_way(
    record: pd.DataFrame, of: Callable[[pd.DataFrame, str], dict[str, pd.DataFrame]] = methods
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Every model, as printed, every way it was fine-tuned in (`methods` or `ways`), and the rows of that."""
    for model, name in NAMES.items():
        for way, rows in of(record, model).items():
            yield name, way, rows


def shuffled(record: pd.DataFrame, model: str) -> pd.DataFrame:
    """Full fine-tunings of a model on labels that were exchanged."""
    return where(record, part="cause", model=model, cause="shuffled labels")


def by_cause(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Full fine-tunings of the 12-layer decoder as they are, without weight decay, and with each setting changed."""
    model = "deep-decoder"
    found = {"unchanged": plain(record, model), "no decay": plain(record, model, decay=0.0)}
    found |= {cause: where(record, part="cause", model=model, cause=cause) for cause in CAUSES}
    return {cause: rows for cause, rows in found.items() if len(rows)}


def settings(record: pd.DataFrame) -> pd.DataFrame:
    """How the models are fully fine-tuned, what comes of it, and what guessing by frequencies alone reaches."""
    columns = {
        "learns": lambda rows: LEARNS[rows["task"].iloc[0]],
        "steps × batch": trained_for,
        "rate": number("lr", "g"),
        "held out": held_out,
        "by frequencies": mean("trivial", ".2f"),
    }
    return table(fully(record), columns)


def held_out(rows: pd.DataFrame) -> str:
    """The mean held-out score, and what it is, in words."""
    return f"{MEASURED[key(rows)]} {rows['score'].mean():.2f}"


def fully(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every model that was fully fine-tuned with the usual weight decay, and again for its second text: as printed, and
    its rows."""
    for part, text in (("plain", ""), ("text", f" {OTHER_TEXT}")):
        for name, rows in by_model(record, part=part, adapter="", weight_decay=DECAY):
            yield name + text, rows


def f6_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F6 of every model, fully fine-tuned; beside it the share of matrices that widen with DoRA and with a
    decay of 1, which are not judged. ``parameters`` of the chapter go into its provenance.

    The second text is not judged: the first rule asks for trainings without a weight decay, which it has not.
    """
    origin = recorded("finetuning", record, **parameters)
    found = []
    for _, rows in by_model(record, part="plain"):
        name = stored_tuned(key(rows))
        one = findings.f6_over_runs(rows, name, origin | {"source": name})
        aside = {
            f"with {way}": float(findings.widening_over_runs(some).loc["widened", "mean"])
            for way, some in unjudged(record, key(rows))
        }
        found.append(replace(one, details=one.details | {"parts": one.details["parts"] | aside}))
    return found


def f7_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F7 of every model, fully fine-tuned and with LoRA of rank 16, and again for its second text."""
    origin = recorded("finetuning", record, **parameters)
    found = []
    for model in NAMES:
        name = stored_tuned(model)
        for called, ways in ((name, methods(record, model)), (f"{name} {OTHER_TEXT}", on_other_text(record, model))):
            for way, words in (("full", called), ("LoRA 16", f"{called}, LoRA")):
                if way in ways:
                    control = shuffled(record, model) if words == name else None
                    found.append(findings.f7_over_runs(ways[way], words, origin | {"source": words}, control))
    return found


def unjudged(record: pd.DataFrame, model: str) -> list[tuple[str, pd.DataFrame]]:
    """Ways of training on which F6's verdict does not rest, and which pull the other way: DoRA, and a decay of 1."""
    ways = {"DoRA 16": methods(record, model).get("DoRA 16"), "decay 1": where(record, model=model, cause="decay 1")}
    return [(way, rows) for way, rows in ways.items() if rows is not None and rows["seed"].nunique() > 1]


def over(values: pd.Series, least: float = -np.inf, most: float = np.inf) -> str:
    """Mean and 95 % interval over runs, in words, within the range that the figure can have."""
    return findings.span(values.dropna(), 2, least=least, most=most)
