"""What models are called in print: one table for all chapters, and the rows of a record by model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from ..checkpoints.named import named, titled


@dataclass(frozen=True)
class Model:
    """A model of the records.

    Attributes:
        short: its name in tables, figures and sentences.
        long: its name where it stands alone, as in a finding.
        what: what it is.
    """

    short: str
    long: str
    what: str


MODELS = {
    "smollm2-135m": Model("SmolLM2", "SmolLM2-135M-Instruct", "a published language model, Llama-type, with 30 layers"),
    "minilm": Model("MiniLM", "all-MiniLM-L6-v2", "a published encoder of sentences, with 6 layers"),
    "decoder": Model("decoder", "lab decoder", "a language model of bytes, Llama-type, with 4 layers"),
    "deep-decoder": Model(
        "12-layer decoder", "lab 12-layer decoder", "a language model of bytes, Llama-type, with 12 layers"
    ),
    "vit": Model("ViT", "lab ViT", "a vision transformer for digits"),
    "clip": Model("CLIP", "lab CLIP", "a pair of towers for digits and their captions"),
}
"""Name in records → the model."""
PUBLISHED = ("smollm2-135m", "minilm")
"""Those that others trained."""
SHORT = {key: model.short for key, model in MODELS.items()}
"""Names for tables, figures and sentences."""
CALLED = {key: model.short if key in PUBLISHED else model.long for key, model in MODELS.items()}
"""The same, where the lab's models are told from published ones of their kind."""
NAMES = {key: key if key in PUBLISHED else model.long for key, model in MODELS.items()}
"""Names for findings on models as they are; of published ones that of their checkpoint, on which other findings are."""
TUNED = NAMES | {key: f"{MODELS[key].long}, fine-tuned" for key in PUBLISHED}
"""Names for findings on fine-tunes, which must not be taken for findings on a model as it was published."""
LAB = {key: NAMES[key] for key in ("decoder", "vit", "clip")}
"""The lab's models by modality: language, vision, both."""


def sizes(weights: dict[str, int]) -> dict[str, int]:
    """Name of a model as in findings → its judged weights: published ones, the largest first, then the lab's.

    Args:
        weights: name of a published model → its judged weights.
    """
    from ..lab import models  # here, because it imports transformers, and names are wanted without
    from ..lab.tuning import body

    found = dict(sorted(weights.items(), key=lambda one: -one[1]))
    lab = {model.long: key for key, model in MODELS.items() if key not in PUBLISHED}
    return found | {name: int(body(models.build(key, seed=0))["numel"].sum()) for name, key in lab.items()}


def listing(sizes: dict[str, int]) -> str:
    """All models of the scoreboard and what they are, as Markdown.

    Args:
        sizes: from `sizes`.
    """
    lab = {model.long: f"{model.what}, trained here" for model in MODELS.values()}
    lines = ["| Model | What it is | Judged weights |", "|---|---|---:|"]
    for name, count in sizes.items():
        published = named(name)
        known = f" (`{name}`)" if published else ""
        lines.append(f"| {titled(name)}{known} | {published.what if published else lab[name]} | {count / 1e6:.1f} M |")
    return "\n".join(lines) + "\n"


def where(rows: pd.DataFrame, **settings) -> pd.DataFrame:
    """The rows that have these settings."""
    for name, value in settings.items():
        rows = rows[rows[name] == value]
    return rows


def by_model(record: pd.DataFrame, names: dict[str, str] = SHORT, **settings) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a record that have these settings, by the models' names; models without any are left out."""
    for model, name in names.items():
        if len(rows := where(record, model=model, **settings)):
            yield name, rows


def key(rows: pd.DataFrame) -> str:
    """What records call the model that these rows are of."""
    return rows["model"].iloc[0]
