"""Compiled loops over the cells of codes. Importing numba takes half a second, which listing a file does not need: what
calls one of these imports it there.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def spread(lower, upper, start, out):
    """Spread values, the first of which has the index `start` in its tensor, evenly over their cells."""
    golden, first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    begin = np.uint64(start)
    for i in range(out.size):
        z = (begin + np.uint64(i) + np.uint64(1)) * golden
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        u = (np.float32(z >> np.uint64(41)) + np.float32(0.5)) * np.float32(2.0**-23)
        out[i] = lower[i] + u * (upper[i] - lower[i])


@numba.njit(nogil=True, cache=True)
def even_ends(values, half, lower, upper):
    """Write the ends of cells that reach equally far to both sides of their values.

    Args:
        values, lower, upper: float32 (n,).
        half: half of the distance of neighbouring codes, float32 (groups,), in equal groups of values.
    """
    size = values.size // half.size
    for group in range(half.size):
        for i in range(group * size, (group + 1) * size):
            lower[i], upper[i] = values[i] - half[group], values[i] + half[group]


@numba.njit(nogil=True, cache=True)
def close_ends(values, lower, upper, size, ends):
    """End the cells of each block where its quantizer says that no value lies farther out.

    A quantizer that takes a block's scale from its largest magnitude, or from its minimum and maximum, stores that
    value exactly, so the first one with that code has no width.

    Args:
        values, lower, upper: float32 (n,); the latter two are changed in place.
        size: values of a block.
        ends: float32 (blocks, 4): value of the lowest code and lower end of its cell, value of the highest code and
            upper end of its cell. Where the two are equal, the first such value of the block is exact.
    """
    for block in range(ends.shape[0]):
        low, least, high, most = ends[block, 0], ends[block, 1], ends[block, 2], ends[block, 3]
        low_seen, high_seen = low != least, high != most
        for i in range(block * size, min((block + 1) * size, values.size)):
            if values[i] == low:
                lower[i] = least
                if not low_seen:
                    upper[i] = least
                    low_seen = True
            elif values[i] == high:
                upper[i] = most
                if not high_seen:
                    lower[i] = most
                    high_seen = True
