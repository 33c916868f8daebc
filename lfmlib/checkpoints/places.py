"""Choose which values of a tensor a sample reads: short pieces, spread evenly over the tensor."""

from __future__ import annotations

import numpy as np

SAMPLE_GROUPS = 32
"""Groups that the pieces of a sample are dealt into; intervals come from the differences between groups. A remote
tensor has one piece a group."""

MAPPED_PIECES, COMPUTED_PIECES = 1024, 256
"""Pieces of a sample, in a mapped file or in memory, and of a quantized tensor. A short piece costs the disk a whole
page of 4 KiB."""

MIN_PIECE_VALUES = 16
"""Values of a piece: finding a shorter one takes longer than reading it, so a small sample has fewer pieces instead."""


def sample_ranges(size: int, wanted: int, groups: int, pieces: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose which values of a flattened tensor to read.

    Stratified sampling: the tensor is cut into blocks of equal length, one block is drawn at random from every
    ``size / wanted`` neighbouring ones, and the blocks drawn are dealt to the groups in turn. Every value is equally
    likely to be read, so a periodic pattern is neither missed nor met too often.

    Args:
        size: number of values in the tensor.
        wanted: about how many values to read (one in a whole number is read); at least one for each group.
        groups: number of groups that the pieces are dealt into.
        pieces: about how many pieces to read; fewer where they would be shorter than `MIN_PIECE_VALUES`.
        rng: source of randomness.

    Returns:
        For each group int64 ``(pieces, 2)``: index of a piece's first value, and of the one after its last. All values
        are covered if ``wanted`` is at least ``size``.
    """
    wanted = max(wanted, groups)
    every = max(1, -(-size // wanted))
    pieces = max(groups, min(pieces, wanted // MIN_PIECE_VALUES))
    length = max(1, -(-size // (pieces * every)))
    strata = -(-size // (length * every))
    first = (np.arange(strata) * every + rng.integers(every, size=strata)) * length
    found = np.stack([first, np.minimum(first + length, size)], axis=1)[first < size]
    return [found[group::groups] for group in range(min(groups, len(found)))]
