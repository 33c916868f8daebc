"""Which tensors lie beside the codes of quantized matrices, where no layout that is known names them.

The names of scales, zero points and scales of activations tell; and where a quantizer has names of its own, the
integers of a module do: what is a matrix of floats there, and smaller in bytes than these, belongs to them. What is
called a weight, an index or a mask stays what its name says, and so does what lies beside a weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import torch

from .names import PrefixDict
from .stored import Stored

PIECE = re.compile(
    r"(?:^|_|W)(?:s|z|scales?(?:_inv|_2|_max)?|zeros?|zero_points?|zp|qzeros|g_idx|absmax|SCB|q?biases|codebooks?|lut"
    r"|shift)$"
)
"""On the last word of a name: what lies beside codes, and is none itself."""
_SCALE = r"(?:global_)?(?:scales?|amax|factors?|zero_points?|zp)(?:_inv|_orig)?"
ACTIVATIONS = re.compile(
    rf"(?:^|_)(?:(?:input|output|act|activation|smooth|smoothing|pre_quant)_{_SCALE}|smooth|smoother)$"
)
"""On the last word of a name: what activations are multiplied by, in a checkpoint with quantized weights."""
OF_ATTENTION = re.compile(rf"(?:^|_)(?:[qkv]|kv|prob|softmax|in|out)_{_SCALE}$")
"""The same, near quantized weights only: some models learn scales of these names."""
COUNTS = re.compile(
    r"(?:^|_)(?:ids?|idxs?|index|positions?|pos|masks?|tril|bias|tokens?|labels?|coords|edges?|anchors|table|usage|counts?"
    r"|num|tracked|steps?|offsets?|perm|invperm|order)(?:_|$)"
)
"""In the last word of a name: integers that count, or name a place, and are no codes."""
PLACES = re.compile(r"(?:^|_)(?:indices|maps?|hash\w*|buckets?|states?|lengths?|sizes?|shapes?|graph|adj\w*)(?:_|$)")
"""The same, where no scale lies beside them: VPTQ calls its codes indices."""
OWN_NAME = re.compile(
    r"(?:^|_)(?:weights?|kernel|embeddings?|embed|emb|codebooks?|tables?|bias|biases|proj\w*|lora_\w+|w\d*|matrix)$",
    re.IGNORECASE,
)
"""On the last word of a name: floats that are what they are called, whatever integers lie beside them."""
MIN_CODES = 64
"""Integers of a module that are fewer are settings, not codes."""


def leaf(name: str) -> str:
    """The last word of a name."""
    return name.rpartition(".")[2]


def scales_of_activations(stored: PrefixDict, quantized: Iterable[str]) -> Iterator[str]:
    """Names of matrices that scale activations, or are called a scale in the module of a quantized weight.

    Args:
        stored: name → `Stored`, all.
        quantized: names of codes, and of the matrices that these are.
    """
    homes = {name.rpartition(".")[0] for name in quantized} - {""}
    parents = {home.rpartition(".")[0] for home in homes} - {""}
    for name, entry in stored.items():
        if len(entry.shape) < 2 or not homes:
            continue
        home, _, last = name.rpartition(".")
        near = {home, above := home.rpartition(".")[0]} & homes or {home, above} & parents
        if ACTIVATIONS.search(last) or (near and OF_ATTENTION.search(last)) or (home in homes and PIECE.search(last)):
            yield name


def smaller_than_integers(stored: Mapping[str, Stored]) -> list[tuple[list[str], list[str]]]:
    """Of each module in which integers outweigh matrices of floats, and nothing tells why: both, by their names.

    Integers at the root may be anything, such as an image beside a matrix; and a module with a weight of its own is not
    in codes.
    """
    modules: dict[str, tuple[list[str], list[str]]] = {}
    own: set[str] = set()
    for name, entry in stored.items():
        home, _, last = name.rpartition(".")
        integers, floats = modules.setdefault(home, ([], []))
        if entry.kind or not math.prod(entry.shape):
            continue
        if re.match(r"u?int\d", entry.dtype):
            if not (COUNTS.search(last) or PLACES.search(last)) and math.prod(entry.shape) >= MIN_CODES:
                integers.append(name)
        elif entry.dtype != "bool" and len(entry.shape) > 1:
            floats.append(name)
            own |= {home} if OWN_NAME.search(last) else set()
    found = []
    for home, (integers, floats) in modules.items():
        most = sum(_bytes(stored[name]) for name in integers)
        small = [name for name in floats if _bytes(stored[name]) < most]
        if home and small and home not in own:
            found.append((integers, small))
    return found


def _bytes(entry: Stored) -> int:
    return math.prod(entry.shape) * getattr(torch, entry.dtype).itemsize
