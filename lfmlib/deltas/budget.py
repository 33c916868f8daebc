"""The budget Var W = Var W₀ + Var ΔW + 2 Cov(W₀, ΔW) of one matrix, in one pass over blocks of rows.

In each block means are taken first and squares about these means then, in float64; the sums of blocks are combined by
the update of Chan, Golub & LeVeque (1983), so that the budget adds up to the rounding of float64. The loops release the
GIL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import torch

from ..distribution.sketch import Sketch

BLOCK_VALUES = 1 << 16
"""Values that are held as float64 at a time: few enough to stay in a core's cache."""
SKETCH_VALUES = 1 << 21
"""Least number of values of ΔW that are sketched at a time, where ΔW is not returned."""
#: storage type → bits of its fraction, least exponent of a normal number
_FORMATS = {
    "float64": (52, -1022),
    "float32": (23, -126),
    "bfloat16": (7, -126),
    "float16": (10, -14),
    "float8_e4m3fn": (3, -6),
    "float8_e4m3fnuz": (3, -7),
    "float8_e5m2": (2, -14),
    "float8_e5m2fnuz": (2, -15),
}


@dataclass(frozen=True)
class Budget:
    """What `budget` found.

    Attributes:
        figures: by name, those of `lfmlib.deltas.comparison.BUDGET`.
        sketch: of ΔW as float32.
        held: ΔW as float32; None where it was not asked for.
    """

    figures: dict[str, float]
    sketch: Sketch
    held: torch.Tensor | None


def blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The matrix in blocks of whole rows, of about `BLOCK_VALUES` values each."""
    return matrix.split(max(1, BLOCK_VALUES // max(1, matrix.shape[1])))


def budget(new: Iterable[torch.Tensor], old: torch.Tensor, dtype: str, hold: bool) -> Budget:
    """Variances and covariance of W and W₀, and the sketch of ΔW.

    Args:
        new: the `blocks` of W, used one after another, so that W need not exist as a whole.
        old: W₀, ``(rows, columns)``.
        dtype: the type that W is stored in.
        hold: whether to return ΔW.

    Raises:
        ValueError: values that are not finite, no values, or blocks of other shapes than those of W₀.
    """
    if not old.numel():
        raise ValueError(f"a matrix of shape {tuple(old.shape)} has no values to compare")
    held = torch.empty(old.shape) if hold else None
    room = SKETCH_VALUES + max(BLOCK_VALUES, old.shape[1])
    delta = np.empty(room, dtype=np.float32) if held is None else held.view(-1).numpy()
    place, sketch, spacing = 0, None, _spacing(dtype)
    n, means, squares, counts = 0, np.zeros(2), np.zeros(4), np.zeros(5)
    first = ()  # of ΔW and W₀; means are of differences to these, which keeps them exact where they are large
    for rows, rows0 in zip(new, blocks(old), strict=True):
        if rows.shape != rows0.shape:
            raise ValueError(f"{tuple(rows.shape)} of W lie beside {tuple(rows0.shape)} of W₀: expected `blocks` alike")
        w, w0 = (one.detach().double().contiguous().view(-1).cpu().numpy() for one in (rows, rows0))
        first = first or (w[0] - w0[0], w0[0])
        some = delta[place : place + w.size]
        their_means, their_squares, their_counts = _moments(w, w.view(np.int64), w0, *first, spacing, some)
        counts += their_counts
        for side, bad in (("the tuned model", counts[1]), ("the base", counts[2])):
            if bad:
                raise ValueError(f"{bad:.0f} or more values of {side} are infinite or NaN: mend them first")
        if counts[3]:
            raise ValueError(f"{counts[3]:.0f} or more values of ΔW are beyond float32's range: W and W₀ are no kin")
        if n:
            d, c = apart = their_means - means
            between = np.array([d * d, c * c, d * c, (d + c) * (d + c)])
            squares += their_squares + between * (n * (w.size / (n + w.size)))
            means += apart * (w.size / (n + w.size))
        else:
            squares, means = their_squares, their_means
        n += w.size
        place += w.size
        if not hold and place >= SKETCH_VALUES:
            sketch, place = _with(sketch, delta[:place]), 0
    sketch = _with(sketch, delta[:place])
    mean, mean0 = means + first
    zeros, *_, ulps = (counts / n).tolist()
    var, var0, cov, whole = (squares / n).tolist()
    std, std0 = np.sqrt(var), np.sqrt(var0)
    figures = {
        "std_base": std0,
        "std_tuned": np.sqrt(whole),
        "std_delta": std,
        "std_gain": np.sqrt(whole) - std0,
        "gain": (whole - var0) / var if var > 0 else np.nan,
        "corr": cov / (std * std0) if std > 0 and std0 > 0 else np.nan,
        "cov": cov,
        "moved": float(np.sqrt((var + mean**2) / (var0 + mean0**2))) if var0 + mean0**2 > 0 else np.nan,
        "zeros": zeros,
        "rounding_std": np.sqrt(ulps / 12),
    }
    return Budget(figures, sketch, held)


def _with(sketch: Sketch | None, values: np.ndarray) -> Sketch:
    return Sketch.of(values) if sketch is None else sketch + Sketch.of(values)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})  # sums of many lanes; infinities and NaN count
def _moments(w, bits, w0, first, first0, spacing, out):
    """Sums over one block; ΔW is written to ``out``.

    Returns three arrays: the means of ΔW - ``first`` and W₀ - ``first0``; the sums of squares of ΔW and of W₀ about
    their means, of the product of both, and of the square of their sum; the number of values of ΔW that are zero, of W,
    W₀ and ``out`` that are not finite, and the sum of the squared spacing of numbers around W, which ``spacing`` gives
    by the exponent in the ``bits`` of W.
    """
    total, total0, zeros, bad, bad0, far, ulps = 0.0, 0.0, 0, 0, 0, 0, 0.0
    for i in range(w.size):
        d = w[i] - w0[i]
        out[i] = d
        total += d - first
        total0 += w0[i] - first0
        zeros += d == 0
        bad += not abs(w[i]) < np.inf
        bad0 += not abs(w0[i]) < np.inf
        far += not abs(out[i]) < np.inf
        ulps += spacing[(bits[i] >> 52) & 0x7FF]
    mean, mean0 = total / w.size, total0 / w.size
    var, var0, cov, whole = 0.0, 0.0, 0.0, 0.0
    for i in range(w.size):
        d, c = w[i] - w0[i] - first - mean, w0[i] - first0 - mean0
        var += d * d
        var0 += c * c
        cov += d * c
        whole += (d + c) * (d + c)
    return np.array([mean, mean0]), np.array([var, var0, cov, whole]), np.array([zeros, bad, bad0, far, ulps])


def _spacing(dtype: str) -> np.ndarray:
    """Squared spacing of the numbers of a storage type, by the exponent field of a float64; NaN for unknown types."""
    if dtype not in _FORMATS:
        return np.full(2048, np.nan)
    fraction, least = _FORMATS[dtype]
    with np.errstate(over="ignore", under="ignore"):
        return np.square(np.ldexp(1.0, np.maximum(np.arange(2048) - 1023, least) - fraction))
