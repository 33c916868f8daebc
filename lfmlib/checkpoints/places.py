"""Which values of a tensor a sample reads: pieces at evenly spread places, as many as are cheap."""

from __future__ import annotations

import numpy as np

GROUPS = 32
"""Groups of pieces that intervals rest on; from afar, one piece each."""


SCATTERED, COMPUTED = 1024, 256
"""Pieces where values are at hand, and where they are computed. A page read from a disk costs as much as 4 KiB do."""


SHORTEST = 16
"""Values of a piece: shorter ones take longer to find than to read. Where they would be shorter, there are fewer."""


def ranges(size: int, most: int, groups: int, pieces: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which values of a flattened tensor to read.

    The tensor is cut into blocks of one length, of each run of so many blocks one is drawn, and the blocks drawn are
    dealt out to the groups in turn. Every value has the same chance, so nothing that is periodic can be missed or met
    too often.

    Args:
        size: values of the tensor.
        most: values to read, about: one in a whole number is read; at least one for each group.
        groups: into which the pieces are dealt.
        pieces: how many there are to be, about; fewer where they would be shorter than `SHORTEST`.
        rng: source of randomness.

    Returns:
        For each group int64 ``(pieces, 2)``: first value, and the one behind the last. All values, where ``most`` is
        not less than ``size``.
    """
    most = max(most, groups)
    every = max(1, -(-size // most))
    pieces = max(groups, min(pieces, most // SHORTEST))
    length = max(1, -(-size // (pieces * every)))
    runs = -(-size // (length * every))
    first = (np.arange(runs) * every + rng.integers(every, size=runs)) * length
    found = np.stack([first, np.minimum(first + length, size)], axis=1)[first < size]
    return [found[group::groups] for group in range(min(groups, len(found)))]
