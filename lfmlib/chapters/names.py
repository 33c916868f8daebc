"""What the chapters on fine-tuning share: names of models and methods, the rows of a way of training, the findings.

Rows are those of the record `finetuning` (see `lfmlib.experiments.finetuning.run`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.finetuning import CAUSES, DECAY
from ..findings import Finding
from ..provenance import recorded

LAB = {"decoder": "lab decoder", "vit": "lab ViT", "clip": "lab CLIP"}
"""The models by modality: language, vision, both."""
NAMES = {
    "minilm": "all-MiniLM-L6-v2, fine-tuned",
    "deep-decoder": "lab 12-layer decoder",
    "vit": "lab ViT",
}
"""The models that are fine-tuned; the first is real."""
SHORT = {"minilm": "MiniLM", "deep-decoder": "decoder", "vit": "ViT"}
PRETRAINED = {"deep-decoder": "12-layer decoder", "decoder": "decoder", "vit": "ViT", "clip": "CLIP"}
"""The models whose own training is looked at."""
METHODS = {"": "full", "lora": "LoRA", "dora": "DoRA"}
LEARNS = {
    "minilm": "the package of a docstring",
    "deep-decoder": "prose, after code",
    "vit": "the turn of a digit",
}
MEASURED = {"minilm": "accuracy", "deep-decoder": "loss", "vit": "accuracy"}
"""What a held-out score is; the loss in nats per byte."""


def where(rows: pd.DataFrame, **settings) -> pd.DataFrame:
    """The rows that have these settings."""
    for name, value in settings.items():
        rows = rows[rows[name] == value]
    return rows


def plain(record: pd.DataFrame, model: str) -> pd.DataFrame:
    """Full fine-tunings of a model with the usual weight decay."""
    return where(record, part="plain", model=model, weight_decay=DECAY)


def methods(record: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """The ways a model was fine-tuned, by a name such as "LoRA 16": full, and every adapter and rank."""
    found = {"full": plain(record, model)}
    ranked = where(record, part="rank", model=model)
    for (adapter, rank), rows in sorted(ranked.groupby(["adapter", "rank"]), key=lambda one: one[0][0] == "dora"):
        found[f"{METHODS[adapter]} {int(rank)}"] = rows
    return {name: rows for name, rows in found.items() if len(rows)}


def shuffled(record: pd.DataFrame, model: str) -> pd.DataFrame:
    """Full fine-tunings of a model on labels that were exchanged."""
    return where(record, part="cause", model=model, cause="shuffled labels")


def by_cause(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Full fine-tunings of the decoder as they are, without weight decay, and with each setting changed."""
    model = "deep-decoder"
    found = {"unchanged": plain(record, model)}
    found["no decay"] = where(record, part="plain", model=model, weight_decay=0.0)
    for cause in CAUSES:
        found[cause] = where(record, part="cause", model=model, cause=cause)
    return {cause: rows for cause, rows in found.items() if len(rows)}


def settings(record: pd.DataFrame) -> pd.DataFrame:
    """How the models are fully fine-tuned, what comes of it, and what guessing by frequencies alone reaches."""
    found = {}
    for model, name in SHORT.items():
        if len(rows := plain(record, model)):
            one, scores = rows.iloc[0], rows[["score", "trivial"]].mean()
            found[name] = {
                "learns": LEARNS[model],
                "steps × batch": f"{one['steps']:.0f} × {one['batch']:.0f}",
                "rate": f"{one['lr']:g}",
                "held out": f"{MEASURED[model]} {scores['score']:.2f}",
                "by frequencies": f"{scores['trivial']:.2f}",
            }
    return pd.DataFrame.from_dict(found, orient="index")


def f6_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F6 of every model, fully fine-tuned; beside it the share that rises with DoRA and with a decay of 1,
    which are not judged. ``parameters`` of the chapter go into its provenance."""
    origin = recorded("finetuning", record, **parameters)
    found = []
    for model, name in NAMES.items():
        if len(rows := where(record, part="plain", model=model)):
            one = findings.f6_over_runs(rows, name, origin | {"source": name})
            aside = {
                f"with {way}": float(findings.widening_over_runs(some).loc["rises", "mean"])
                for way, some in unjudged(record, model)
            }
            found.append(replace(one, details=one.details | {"parts": one.details["parts"] | aside}))
    return found


def f7_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F7 of every model, fully fine-tuned and with LoRA of rank 16."""
    origin = recorded("finetuning", record, **parameters)
    found = []
    for model, name in NAMES.items():
        ways = methods(record, model)
        for way, words in (("full", name), ("LoRA 16", f"{name}, LoRA")):
            if way in ways:
                control = shuffled(record, model) if way == "full" else None
                found.append(findings.f7_over_runs(ways[way], words, origin | {"source": words}, control))
    return found


def unjudged(record: pd.DataFrame, model: str) -> list[tuple[str, pd.DataFrame]]:
    """Ways of training on which F6's verdict does not rest, and which pull the other way: DoRA, and a decay of 1."""
    ways = {"DoRA 16": methods(record, model).get("DoRA 16"), "decay 1": where(record, model=model, cause="decay 1")}
    return [(way, rows) for way, rows in ways.items() if rows is not None and rows["seed"].nunique() > 1]


def over(values: pd.Series, least: float = -np.inf, most: float = np.inf) -> str:
    """Mean and 95 % interval over runs, in words, within the range that the figure can have."""
    return findings.span(values.dropna(), 2, least=least, most=most)
