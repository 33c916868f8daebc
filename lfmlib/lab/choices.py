"""Multiple choice by likelihood: which of four functions does this docstring describe?

The functions are those of Python's standard library (`lfmlib.lab.text`), and all four of an item stand in one file. A
causal language model answers with the signature that it finds likeliest per character after the docstring, as in
`acc_norm` of lm-evaluation-harness. A published model has probably read this library: the task asks what changed
weights take from its answers, not how it would do on code that nobody has read.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .text import fraction
from .text import load as library

ITEMS, OPTIONS = 1024, 4
MOST_OF_FILE = 24
"""Functions of one file that are asked for, at most."""
WORDS = (4, 40)
"""Words of a docstring's first paragraph."""
TOGETHER = 16
"""Items that are scored at once: their logits take some 200 MB with a vocabulary of 49,152."""


@dataclass(frozen=True)
class Item:
    """A docstring's first paragraph, four signatures, and which of them is its own."""

    docstring: str
    options: tuple[str, ...]
    right: int


@functools.cache
def load() -> tuple[Item, ...]:
    """The first `ITEMS` items in a fixed shuffled order; another version of Python has others."""
    found = sorted((place, item.docstring, item) for name in _files() for place, item in _of_file(name))
    unlike = {(item.docstring, item.options[item.right]): item for *_, item in reversed(found)}
    return tuple(reversed(unlike.values()))[:ITEMS]


def digest(items: Sequence[Item]) -> str:
    """Hash of the items."""
    return hashlib.sha256(repr(items).encode()).hexdigest()


def _files() -> list[str]:
    return sorted(name for names in library().files.values() for name in names)


def _of_file(name: str) -> Iterator[tuple[float, Item]]:
    """Items of a file and their places in the shuffled order; a docstring that holds the name itself makes none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old sources have escapes that Python warns of
        tree = ast.parse((Path(sysconfig.get_path("stdlib")) / name).read_bytes())
    signatures: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            opening = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            plain = WORDS[0] <= len(opening.split()) <= WORDS[1] and node.name.strip("_").lower() not in opening.lower()
            signature = f" {node.name}({ast.unparse(node.args)}):"
            if plain and signature not in signatures.values():
                signatures.setdefault(opening, signature)
    if len(signatures) < OPTIONS:
        return
    places = {opening: fraction(f"{name} {opening}") for opening in signatures}
    order = sorted(signatures, key=lambda opening: places[opening])
    for opening in order[:MOST_OF_FILE]:
        place = places[opening]
        rng = np.random.default_rng(int(place * 2**48))
        own, others = signatures[opening], [one for one in order if one != opening]
        options = [signatures[others[i]] for i in rng.choice(len(others), OPTIONS - 1, replace=False)]
        right = int(rng.integers(OPTIONS))
        yield place, Item(opening, (*options[:right], own, *options[right:]), right)


@torch.no_grad()
def likelihoods(
    model: nn.Module, encode: Callable[[str], list[int]], items: Sequence[Item], *, first: int, docstrings: bool = True
) -> np.ndarray:
    """Log-likelihood of every option, in nats per character, float64 ``(items, OPTIONS)``.

    The options of an item stand behind one another in one sequence, and none sees another: each goes on from the
    docstring, at the places that follow it.

    Args:
        model: of transformers, causal, that takes a mask ``(items, 1, tokens, tokens)`` and ``position_ids``.
        encode: from a text to the ids of its tokens.
        items: what is asked.
        first: id of the token that begins a document.
        docstrings: whether they are shown; without them the options alone are compared.
    """
    packed = [_packed(item, encode, first, docstrings) for item in items]
    found = np.empty((len(items), OPTIONS))
    order = sorted(range(len(items)), key=lambda i: len(packed[i][0]))
    for start in range(0, len(items), TOGETHER):
        some = order[start : start + TOGETHER]
        found[some] = _sums(model, [packed[i] for i in some])
    return found / [[len(option) for option in item.options] for item in items]


def right(found: np.ndarray, items: Sequence[Item]) -> np.ndarray:
    """Which items are answered rightly, bool; ``found`` is of `likelihoods`."""
    return found.argmax(axis=1) == [item.right for item in items]


def _packed(
    item: Item, encode: Callable[[str], list[int]], first: int, docstrings: bool
) -> tuple[list[int], list[int]]:
    """Ids of a sequence's tokens, and the number of the option that each is of: -1 in what comes before them."""
    ids = [first, *encode(f"# {item.docstring}\ndef" if docstrings else "def")]
    parts = [-1] * len(ids)
    for number, option in enumerate(item.options):
        more = encode(option)
        ids += more
        parts += [number] * len(more)
    return ids, parts


def _sums(model: nn.Module, packed: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
    """Log-likelihood of every option of some items, in nats."""
    length, device = max(len(ids) for ids, _ in packed), model.device
    ids = torch.zeros((len(packed), length), dtype=torch.long)
    part = torch.full((len(packed), length), OPTIONS)  # behind the end: sees itself alone
    before = torch.zeros((len(packed), length), dtype=torch.long)  # the place that foretells a token
    places = torch.zeros((len(packed), length), dtype=torch.long)
    for row, (tokens, parts) in enumerate(packed):
        ids[row, : len(tokens)], part[row, : len(tokens)] = torch.tensor(tokens), torch.tensor(parts)
        shown = parts.index(0)
        for i, number in enumerate(parts):
            begins = number >= 0 and parts[i - 1] != number
            before[row, i] = shown - 1 if begins else max(i - 1, 0)
            places[row, i] = i if number < 0 else shown + i - parts.index(number)
    seen = (part[:, None, :] == -1) | (part[:, None, :] == part[:, :, None])
    seen &= torch.ones(length, length).tril().bool()
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]
    asked = {"input_ids": ids.to(device), "position_ids": places.to(device)}
    logits = model(**asked, attention_mask=mask.to(device, model.dtype), use_cache=False).logits
    rows, columns = torch.nonzero((part >= 0) & (part < OPTIONS), as_tuple=True)
    chosen = logits[rows, before[rows, columns]].log_softmax(-1, dtype=torch.float32).cpu()
    each = chosen.gather(1, ids[rows, columns][:, None])[:, 0].double()
    return (
        torch.zeros((len(packed), OPTIONS), dtype=torch.float64)
        .index_put_((rows, part[rows, columns]), each, accumulate=True)
        .numpy()
    )
