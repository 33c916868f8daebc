"""What models are called, in print and in the files of findings, and the rows of a record by model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from ..checkpoints.named import NamedModel, named, titled


@dataclass(frozen=True)
class Model:
    """A model that the lab trains.

    Attributes:
        name: what it is called wherever it is printed, which tells it from published models of its kind.
        what: what it is.
    """

    name: str
    what: str


PUBLISHED = ("smollm2-135m", "minilm")
"""Those of the records that others trained; what they are says `lfmlib.checkpoints.named`."""
LAB = {
    "decoder": Model("lab decoder", "a language model of bytes, Llama-type, with 4 layers"),
    "deep-decoder": Model("lab 12-layer decoder", "a language model of bytes, Llama-type, with 12 layers"),
    "vit": Model("lab ViT", "a vision transformer for digits"),
    "clip": Model("lab CLIP", "a pair of towers for digits and their captions"),
}
"""Name in records → the model of the lab."""
NAMES = {key: titled(key) for key in PUBLISHED} | {key: model.name for key, model in LAB.items()}
"""Name in records → what the model is called in print, everywhere."""


def stored(key: str) -> str:
    """What findings on a model as it is are kept under; of a published one by what it is opened by.

    Args:
        key: one of `NAMES`.
    """
    return key if key in PUBLISHED else NAMES[key]


def stored_tuned(key: str) -> str:
    """What findings on its fine-tunes are kept under; of a published model by its makers' name, and a word that tells
    them from findings on the model as it was published.

    Args:
        key: one of `NAMES`.
    """
    published = named(key)
    return f"{_makers(published)}, fine-tuned" if published else NAMES[key]


def _makers(model: NamedModel) -> str:
    return model.original.rpartition("/")[2]


def sizes(weights: dict[str, int]) -> dict[str, int]:
    """Name of a model as in findings → its judged weights: published ones, the largest first, then the lab's.

    Args:
        weights: name of a published model → its judged weights.
    """
    from ..lab import models  # here, because it imports transformers, and names are wanted without
    from ..lab.tuning import body

    found = dict(sorted(weights.items(), key=lambda one: -one[1]))
    lab = {model.name: body(models.build(key, seed=0)) for key, model in LAB.items()}
    return found | {name: int(rows["numel"].sum()) for name, rows in lab.items()}


def listing(sizes: dict[str, int]) -> str:
    """All models of the scoreboard and what they are, as Markdown.

    Args:
        sizes: from `sizes`.
    """
    lab = {model.name: f"{model.what}, trained here" for model in LAB.values()}
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


def by_model(record: pd.DataFrame, **settings) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a record that have these settings, by the models' names; models without any are left out."""
    for model, name in NAMES.items():
        if len(rows := where(record, model=model, **settings)):
            yield name, rows


def key(rows: pd.DataFrame) -> str:
    """What records call the model that these rows are of."""
    return rows["model"].iloc[0]
