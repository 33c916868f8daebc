"""Multiple choice for language models: which function does a sentence describe?

A question is the first sentence of a docstring of a package that the book installs, as a comment, and four lines that
begin a definition: the function's own, and those of three others of the same package. The model’s answer is the line
that it finds likeliest, in nats per byte. SmolLM2 is trained here on other text alone.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import cache
from . import docstrings
from .text import fraction

LIBRARIES = ("numpy", "pandas", "scipy", "sklearn")
COUNT, OPTIONS = 1024, 4
"""Questions, and lines to choose from."""
WORDS = (5, 30)
"""Words of the sentence, at least and at most."""
MOST_ARGUMENTS = 5
"""Arguments of a function, at most: long lines tell themselves apart."""
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        sentence: of the docstring.
        options: lines to choose from.
        right: index of the function’s own.
    """

    sentence: str
    options: tuple[str, ...]
    right: int

    @property
    def prompt(self) -> str:
        """What stands before the line: the sentence as a comment."""
        return f"# {self.sentence}\ndef"


@functools.cache
def questions() -> tuple[Question, ...]:
    """`COUNT` questions in a fixed shuffled order. Raises ModuleNotFoundError for a missing package.

    Parsing takes ten seconds, so they are kept in the lab's cache until a file of a package, or this one, changes.
    """
    folders = docstrings.folders(LIBRARIES)
    described = docstrings.state(folders) | {"choices": cache.file_hash(Path(__file__))}
    place = cache.artefact(described, partial(_keep, folders))
    rows = json.loads((place / "questions.json").read_text(encoding="utf-8"))
    return tuple(Question(row["sentence"], tuple(row["options"]), row["right"]) for row in rows)


def data_hash() -> str:
    """Hash of all questions: it changes with the versions of the packages."""
    return hashlib.sha256(repr(questions()).encode()).hexdigest()


def _keep(folders: dict[str, Path], place: Path) -> None:
    found = {library: dict(_functions(folder)) for library, folder in folders.items()}
    asked = {
        sentence: _question(sentence, line, sorted(set(lines.values())))
        for lines in found.values()
        for sentence, line in lines.items()
    }
    some = [asked[sentence] for sentence in sorted(asked, key=lambda one: fraction("choice " + one))]
    (place / "questions.json").write_text(json.dumps([asdict(one) for one in some[:COUNT]]), encoding="utf-8")


def _question(sentence: str, line: str, lines: list[str]) -> Question:
    """A question; the other lines follow from its sentence alone."""
    rng = np.random.default_rng([*hashlib.sha256(sentence.encode()).digest()])
    by_name = {one.partition("(")[0]: one for one in lines}
    others = [one for name, one in by_name.items() if name != line.partition("(")[0]]
    options = [line, *(others[i] for i in rng.choice(len(others), OPTIONS - 1, replace=False))]
    order = rng.permutation(OPTIONS)
    return Question(sentence, tuple(options[i] for i in order), int(np.argmin(order)))


def _functions(folder: Path) -> Iterator[tuple[str, str]]:
    """First sentence and line of functions and methods whose name their sentence does not hold."""
    enabled = gc.isenabled()
    gc.disable()  # syntax trees are many small objects, none of them garbage until their file is done
    try:
        for path in docstrings.sources(folder):
            with warnings.catch_warnings(action="ignore"):  # of old escapes
                tree = ast.parse(path.read_bytes())
            for kind, node, _ in docstrings.definitions(tree):
                if kind == "class" or node.name.startswith("__"):
                    continue
                whole = (ast.get_docstring(node) or "").partition("\n\n")[0]
                sentence = re.split(r"(?<=[.!?])\s", " ".join(whole.split()))[0]
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                told = node.name.replace("_", "").lower() in re.sub(r"[^a-z0-9]", "", sentence.lower())
                if (
                    not told
                    and "---" not in sentence
                    and WORDS[0] <= len(sentence.split()) <= WORDS[1]
                    and len(names) <= MOST_ARGUMENTS
                ):
                    yield sentence, f" {node.name}({', '.join(names)}):"
    finally:
        if enabled:
            gc.enable()


@torch.no_grad()
def likelihoods(model: nn.Module, encode: Encode, some: tuple[Question, ...]) -> np.ndarray:
    """Log-likelihood of every option after its sentence, in nats per byte of the option.

    Args:
        model: causal, as transformers builds it.
        encode: text → ids.
        some: questions.

    Returns:
        float64 ``(questions, options)``.
    """
    found = np.empty((len(some), OPTIONS))
    for place, one in enumerate(some):
        before = torch.tensor(encode(one.prompt))[None].to(model.device)
        out = model(input_ids=before, use_cache=True)
        lines = [torch.tensor(encode(option)) for option in one.options]
        padded = nn.utils.rnn.pad_sequence(lines, batch_first=True).to(model.device)
        out.past_key_values.batch_repeat_interleave(OPTIONS)
        # what is padded comes last, where no other token sees it
        after = model(input_ids=padded[:, :-1], past_key_values=out.past_key_values).logits
        logits = torch.cat([out.logits[:, -1:].expand(OPTIONS, -1, -1), after], 1).log_softmax(-1)
        each = logits.gather(2, padded[..., None])[..., 0].double().cpu().numpy()
        for option, line in enumerate(lines):
            found[place, option] = each[option, : len(line)].sum() / len(one.options[option].encode())
    return found


def right(found: np.ndarray, some: tuple[Question, ...]) -> np.ndarray:
    """Which questions were answered rightly, from `likelihoods`; bool ``(questions,)``."""
    return found.argmax(1) == np.array([one.right for one in some])
