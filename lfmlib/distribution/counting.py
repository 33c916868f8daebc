"""Count bit patterns: the one loop over the weights, at memory speed.

Everything counted is an integer, so the counts of chunks add up to the count of the whole, whatever the chunks and
their order. The numba loops release the GIL, so that the threads of a survey count in parallel. The torch versions
count on the device that holds the tensor, and give the same integers.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

CENTRE = 1 << 15
"""Subtracted from the trailing 16 bits of a float32 before they are summed, to keep the sums small."""
LIMB_BITS = 32
"""A sketch keeps sums of the squares of trailing bits, which outgrow 64 bits, as high * 2**LIMB_BITS + low."""

_INFINITY = 0x7F800000  # the bits of a float32 infinity; anything larger, sign bit aside, is NaN
_FEW_WORDS = 1 << 20  # fewer are counted sooner one by one, without counters of their own
_COUNTED_WORDS = 1 << 30  # at once, whose counts fit 32 bits; a multiple of 8
_CACHED_WORDS = 8192  # words that are read twice (for extremes, for counts) while they are in the first-level cache


def count_patterns(words, counts):
    """Add to ``counts``, int64, how often each value of the flat uint8 or uint16 array ``words`` occurs.

    Eight bytes are loaded at a time, and counters of 32 bits fill half as much of the first-level cache: on large
    arrays that takes a quarter less time than counting word by word.
    """
    few = words.size < _FEW_WORDS or words.strides != (words.itemsize,)
    skipped = words.size if few else -words.ctypes.data % 8 // words.itemsize
    _count_each(words[:skipped], counts)
    for start in range(skipped, words.size, _COUNTED_WORDS):
        part = words[start : start + _COUNTED_WORDS]
        whole = part.size * part.itemsize // 8 * 8 // part.itemsize
        found = np.zeros(counts.size, np.uint32)
        _count_eight_bytes(part[:whole].view(np.uint64), found)
        counts += found
        _count_each(part[whole:], counts)


@numba.njit(nogil=True, cache=True)
def _count_each(words, counts):
    for i in range(words.size):
        counts[words[i]] += 1


@numba.njit(nogil=True, cache=True)
def _count_eight_bytes(words, counts):
    """`_count_each` of uint64, each of which is 8 values if there are 256 counters, and 4 if there are 65,536."""
    one = np.uint32(1)
    if counts.size == 256:
        for word in words:
            for k in range(8):
                counts[(word >> np.uint64(8 * k)) & np.uint64(0xFF)] += one
    else:
        for word in words:
            for k in range(4):
                counts[(word >> np.uint64(16 * k)) & np.uint64(0xFFFF)] += one


@numba.njit(nogil=True, cache=True)
def count_words(words, bins, span):
    """Count float32 values, given as uint32 words, by their leading 16 bits.

    Args:
        words: uint32 ``(n,)``, at most 2**31 of them, so that a sum of squares stays below 2**62.
        bins: int64 ``(65536, 4)``, added to: count, sum of the trailing bits less `CENTRE`, sum of the squares of
            these, and in ``[0, 3]`` and ``[0x8000, 3]`` the number of zeros of either sign.
        span: int64 ``(2,)``, updated: smallest and largest finite value as monotone keys (see `key_to_float`).
    """
    for start in range(0, words.size, _CACHED_WORDS):
        block = words[start : start + _CACHED_WORDS]
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for i in range(block.size):
            signed = np.int32(block[i])
            key = np.int32(signed ^ ((signed >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            low = min(low, key)
            high = max(high, key)
        if high >= _INFINITY or low <= -_INFINITY - 1:
            low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
            for i in range(block.size):
                if (block[i] & np.uint32(0x7FFFFFFF)) < _INFINITY:
                    signed = np.int32(block[i])
                    key = np.int32(signed ^ ((signed >> np.int32(31)) & np.int32(0x7FFFFFFF)))
                    low = min(low, key)
                    high = max(high, key)
        span[0] = min(span[0], low)
        span[1] = max(span[1], high)
        for i in range(block.size):
            word = block[i]
            lead = word >> np.uint32(16)
            trail = np.int64(word & np.uint32(0xFFFF)) - CENTRE
            bins[lead, 0] += 1
            bins[lead, 1] += trail
            bins[lead, 2] += trail * trail
            bins[lead, 3] += np.int64((word & np.uint32(0x7FFFFFFF)) == 0)


@numba.njit(nogil=True, cache=True)
def limbs(bins):
    """The bins of `count_words` as the sums of a sketch: ``(5, 65536)``, sums of squares in two limbs."""
    sums = np.zeros((5, bins.shape[0]), np.int64)
    for i in range(bins.shape[0]):
        if bins[i, 0]:
            sums[0, i], sums[1, i], sums[4, i] = bins[i, 0], bins[i, 1], bins[i, 3]
            sums[2, i], sums[3, i] = bins[i, 2] >> LIMB_BITS, bins[i, 2] & ((1 << LIMB_BITS) - 1)
    return sums


COUNTERS_PER_BIN = 16
"""Counters of a device for each of 65,536 bins: threads that add to the same counter wait for one another. For 256 bins
torch.bincount gives each block of threads its own counters anyway."""


def count_patterns_torch(tensor: torch.Tensor, patterns: int) -> np.ndarray:
    """`count_patterns` on the device of ``tensor``, a flat int16 or uint8 view of the words; returns the counts."""
    counts = torch.zeros(patterns, dtype=torch.int64, device=tensor.device)
    for part in tensor.split(1 << 26):
        place = part.to(torch.int32) & (patterns - 1)
        lanes = COUNTERS_PER_BIN if patterns > 256 else 1
        if lanes > 1:
            place += _counter_numbers(part) * patterns
        counts += torch.bincount(place, minlength=lanes * patterns).view(lanes, patterns).sum(0)
    return counts.cpu().numpy()


def count_words_torch(tensor: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`count_words` on the device of ``tensor``, a flat int32 view of at most 2**31 float32 words.

    Returns:
        Bins and span as of `count_words`.
    """
    bins = torch.zeros((4, COUNTERS_PER_BIN, 1 << 16), dtype=torch.int64, device=tensor.device)
    low, high = (torch.tensor(end, dtype=torch.int32, device=tensor.device) for end in (0x7FFFFFFF, -0x80000000))
    for word in tensor.split(1 << 24):
        place = ((word >> 16) & 0xFFFF) + _counter_numbers(word) * (1 << 16)
        trail = (word & 0xFFFF).long() - CENTRE
        size = word & 0x7FFFFFFF
        bins[0] += torch.bincount(place, minlength=COUNTERS_PER_BIN << 16).view(COUNTERS_PER_BIN, -1)
        for row, values in ((1, trail), (2, trail * trail), (3, (size == 0).long())):
            bins[row].view(-1).index_add_(0, place, values)
        key, finite = word ^ ((word >> 31) & 0x7FFFFFFF), size < _INFINITY
        if word.numel():
            low = torch.minimum(low, torch.where(finite, key, 0x7FFFFFFF).min())
            high = torch.maximum(high, torch.where(finite, key, -0x80000000).max())
    return bins.sum(1).T.contiguous().cpu().numpy(), np.array([int(low), int(high)], dtype=np.int64)


def _counter_numbers(words: torch.Tensor) -> torch.Tensor:
    """Index of the counter, of those of its bin, that each word adds to."""
    return torch.arange(len(words), dtype=torch.int32, device=words.device) % COUNTERS_PER_BIN


def key_to_float(key: int) -> float:
    """The float32 value of a monotone key (an integer; keys sort as their floats do)."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    return float(np.array(bits, dtype=np.int64).astype(np.int32).view(np.float32))
