"""Texts with labels, for a model of the reader's to be adapted to: their own, or docstrings.

Chapter 11 hands them to transformers' Trainer, beside a model with an adapter of peft on it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..checkpoints.locate import locate
from ..experiments.adaptation import HEAD_RATES
from ..experiments.adaptation import RATES as TUNED
from ..findings.markup import plain
from ..lab import docstrings
from ..lab.docstrings import Split

COLUMNS = ("text", "label")
MAX_TOKENS = 64
"""Tokens that a text is cut to."""
OPENING_WORDS = 20
"""Words that a docstring is cut to: its first sentence tells its kind, and a step takes three fifths of the time."""
MAX_TESTED, TOY_TESTED = 400, 48
"""Held-out texts that answers are judged on, at most, and in quick runs."""
MIN_TEXTS = 20
"""Texts with a label that there must be, to learn from and be judged on."""
RATES = {"noise-built": 3e-2, "LoRA": TUNED["kind"]["lora"]}
"""Learning rates of adapters, a first guess for other texts. LoRA's won on docstrings (the record `rates`). The rate
that won there for noise lay at the end of its grid; under transformers' head a third of it learns more surely."""
SILENT = {
    "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
    "per_device_eval_batch_size": 64, "dataloader_pin_memory": torch.cuda.is_available(),
}  # fmt: skip
"""For TrainingArguments: nothing but the trained model is wanted."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Texts to learn from, and others to be judged on.

    Attributes:
        name: where they come from, in words.
        classes: names of the labels 0, 1, ….
        train, test: the texts.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split


def read(data: str, seed: int = 0, profile: str = "default") -> Labelled:
    """The reader’s texts, a fifth of them, drawn at random within each class, to be judged on; or docstrings.

    Args:
        data: a CSV file with columns `COLUMNS`; empty: docstrings, and whether they are of a function, a class or a
            method (`lfmlib.lab.docstrings`).
        seed: of that draw.
        profile: of the chapter.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has not these columns, fewer than `MIN_TEXTS` texts, one class only, or a class with one text.
    """
    tested = TOY_TESTED if profile == "quick" else MAX_TESTED
    if not data:
        task = docstrings.load("kind")
        train, test = (
            Split([" ".join(text.split()[:OPENING_WORDS]) for text in part.texts], part.labels)
            for part in (task.train, Split(task.test.texts[:tested], task.test.labels[:tested]))
        )
        return Labelled(f"docstrings of Python packages (their first {OPENING_WORDS} words)", task.classes, train, test)
    path = Path(data).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: data is a CSV file with the columns {' and '.join(COLUMNS)}")
    rows = pd.read_csv(path)
    if missing := [name for name in COLUMNS if name not in rows]:
        raise ValueError(
            f"{path.name} has the columns {', '.join(map(str, rows))}, and not {' and '.join(missing)}: rename the one "
            "that holds the texts and the one that holds their labels"
        )
    rows = rows.dropna(subset=list(COLUMNS))
    classes = tuple(sorted(rows["label"].astype(str).unique()))
    counts = rows["label"].astype(str).value_counts()
    if len(rows) < MIN_TEXTS or len(classes) < 2 or counts.min() < 2:
        raise ValueError(
            f"{path.name} has {len(rows)} texts with a label, in {len(classes)} classes, of which the smallest has "
            f"{counts.min() if len(counts) else 0}: expected {MIN_TEXTS} texts or more, two classes, and two "
            "texts in each"
        )
    from sklearn.model_selection import train_test_split  # here, because importing it takes a second

    labels = np.array([classes.index(label) for label in rows["label"].astype(str)], dtype=np.int64)
    texts = rows["text"].astype(str).to_numpy()
    parts = train_test_split(texts, labels, test_size=max(0.2, len(classes) / len(rows)), random_state=seed,
                             stratify=labels)  # fmt: skip
    train, test, of_train, of_test = parts
    return Labelled(path.name, classes, Split(list(train), of_train), Split(list(test)[:tested], of_test[:tested]))


def source(adapt: str) -> str:
    """What transformers loads a model from: the reader’s hub id or folder; without one, MiniLM’s installed package."""
    return adapt or str(locate("minilm").files[0].parent)


def quiet() -> None:
    """Keep transformers from reporting the head that is new, and other news, within a page."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft’s use of a name that goes


def fresh(kind, source: str, texts: Labelled, seed: int) -> nn.Module:
    """The model, of a class of transformers, with a new head for these classes, drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_pretrained(source, num_labels=len(texts.classes))


def optimizer(model: nn.Module, adapter: str) -> torch.optim.Optimizer:
    """AdamW for what is trained of a model with an adapter of peft, named as in `RATES`.

    The head is new and has a rate of its own, as in the records: scales of noise want a rate at which a head diverges.
    """
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    head = [one for name, one in trained.items() if "modules_to_save" in name]
    rest = [one for name, one in trained.items() if "modules_to_save" not in name]
    return torch.optim.AdamW([{"params": rest, "lr": RATES[adapter]}, {"params": head, "lr": HEAD_RATES["kind"]}])


def encoded(split: Split, tokenizer) -> list[dict]:
    """Texts as transformers’ Trainer takes them: token ids, cut at `MAX_TOKENS`, and a label."""
    texts = tokenizer(split.texts, truncation=True, max_length=MAX_TOKENS)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
        for ids, mask, label in zip(texts["input_ids"], texts["attention_mask"], split.labels, strict=True)
    ]


def accuracy(said) -> float:
    """The share of right answers, of what Trainer predicts."""
    return float((said.predictions.argmax(-1) == said.label_ids).mean())


def compared(scores: dict[str, float], texts: Labelled) -> str:
    """What adapters reached on these texts, in a sentence, with the error of so many answers."""
    count = len(texts.test.labels)
    words = [
        f"{name} **{100 * one:.1f} %** ± {100 * (one * (1 - one) / count) ** 0.5:.1f}" for name, one in scores.items()
    ]
    trivial = np.bincount(texts.test.labels).max() / count
    return (
        f"Right answers on {count} held-out texts of {plain(texts.name)} ({len(texts.classes)} classes, the most "
        f"frequent {100 * trivial:.1f} %): {'; '.join(words)}. The ± is the standard error of that many answers, of "
        "one training: other seeds scatter beside it."
    )


@torch.no_grad()
def answers(model: nn.Module, test: list[dict], tokenizer, most: int = 32) -> torch.Tensor:
    """Logits ``(texts, classes)`` of the first texts."""
    some = [{name: one[name] for name in ("input_ids", "attention_mask")} for one in test[:most]]
    return model.eval()(**tokenizer.pad(some, return_tensors="pt").to(model.device)).logits.cpu()


def sizes(place: Path, apart: torch.Tensor) -> str:
    """What the saved adapter and the merged model take on disk, in a sentence.

    Args:
        place: with the folders "noise-built" and "merged".
        apart: differences of their answers.
    """
    adapter, merged = (
        sum(path.stat().st_size for path in (place / name).glob("*.safetensors")) for name in ("noise-built", "merged")
    )
    alike = f"within {apart.abs().max():.2g} (logits)" if apart.any() else "to the bit"
    return (
        f"On disk: the adapter {adapter / 1000:,.0f} kB, the merged model {merged / 1e6:,.1f} MB. Loaded again, "
        f"without this library, it answers as the adapter did, {alike}."
    )
