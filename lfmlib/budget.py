"""The budget Var W = Var W₀ + Var ΔW + 2 Cov(W₀, ΔW) of one matrix, in two passes over some rows at a time.

Means are taken in the first pass and squares about them in the second, all in float64, so that it adds up to float64's
rounding. The loops release the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch

from .sketch import Sketch

BLOCK, SKETCHED = 1 << 16, 1 << 21
"""Entries that are held as float64 at a time, so that they stay in a core's cache; and at least those that are sketched
at a time, where ΔW is not held."""
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
        figures: the columns `lfmlib.delta.BUDGET` of a table.
        sketch: of ΔW as float32.
        held: ΔW, float32, or None.
    """

    figures: dict[str, float]
    sketch: Sketch
    held: torch.Tensor | None


def budget(new: torch.Tensor, old: torch.Tensor, dtype: str, hold: bool) -> Budget:
    """Variances and covariance of W and W₀, and the sketch of ΔW.

    Args:
        new, old: W and W₀, ``(rows, columns)``.
        dtype: the type that W is stored in.
        hold: whether ΔW is to be returned.

    Raises:
        ValueError: values that are not finite.
    """
    n = new.numel()
    held = torch.empty(new.shape) if hold else None
    delta = held.view(-1).numpy() if hold else np.empty(SKETCHED + max(BLOCK, new.shape[1]), dtype=np.float32)
    sums, place, sketch = np.zeros(6), 0, None
    for w, w0 in _blocks(new, old):
        sums += _sums(w, w0, delta[place : place + w.size])
        place += w.size
        if not hold and place >= SKETCHED:
            sketch, place = _more(sketch, delta[:place]), 0
        for side, bad in (("the tuned model", sums[3]), ("the base", sums[4])):
            if bad:
                raise ValueError(f"{bad:.0f} or more values of {side} are infinite or NaN: mend them first")
        if sums[5]:
            raise ValueError(f"{sums[5]:.0f} or more values of ΔW are beyond float32's range: W and W₀ are no kin")
    sketch = _more(sketch, delta[:place])
    mean, mean0 = sums[:2] / n
    squares, spacing = np.zeros(5), _spacing(dtype)
    for w, w0 in _blocks(new, old):
        squares += _squares(w, w.view(np.int64), w0, mean, mean0, spacing)
    var, var0, cov, whole, ulps = (squares / n).tolist()
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
        "zeros": float(sums[2] / n),
        "rounding_std": np.sqrt(ulps / 12),
    }
    return Budget(figures, sketch, held)


def _more(sketch: Sketch | None, values: np.ndarray) -> Sketch:
    return Sketch.of(values) if sketch is None else sketch + Sketch.of(values)


def _blocks(new: torch.Tensor, old: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows of both at a time, flat, float64."""
    rows = max(1, BLOCK // max(1, new.shape[1]))
    for start in range(0, new.shape[0], rows):
        w, w0 = (one[start : start + rows].detach().double().contiguous().view(-1).cpu().numpy() for one in (new, old))
        yield w, w0


@numba.njit(nogil=True, cache=True)
def _sums(w, w0, out):
    """Sums of ΔW (which is written to ``out``) and of W₀, and how many are zero; not finite in W, in W₀, in ``out``."""
    total, total0, zeros, bad, bad0, far = 0.0, 0.0, 0, 0, 0, 0
    for i in range(w.size):
        d = w[i] - w0[i]
        out[i] = d
        total += d
        total0 += w0[i]
        zeros += d == 0
        bad += not abs(w[i]) < np.inf
        bad0 += not abs(w0[i]) < np.inf
        far += not abs(out[i]) < np.inf
    return np.array([total, total0, zeros, bad, bad0, far])


@numba.njit(nogil=True, cache=True)
def _squares(w, bits, w0, mean, mean0, spacing):
    """Sums of the squares of ΔW and of W₀ about their means, of their product, of the square of their sum, and of the
    spacing of numbers around W, squared, by the exponent in the bits of W."""
    var, var0, cov, whole, ulps = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(w.size):
        d, c = w[i] - w0[i] - mean, w0[i] - mean0
        var += d * d
        var0 += c * c
        cov += d * c
        whole += (d + c) * (d + c)
        ulps += spacing[(bits[i] >> 52) & 0x7FF]
    return np.array([var, var0, cov, whole, ulps])


def _spacing(dtype: str) -> np.ndarray:
    """Squared spacing of the numbers of a storage type, by the exponent field of a float64; NaN for unknown types."""
    if dtype not in _FORMATS:
        return np.full(2048, np.nan)
    fraction, least = _FORMATS[dtype]
    with np.errstate(over="ignore", under="ignore"):
        return np.square(np.ldexp(1.0, np.maximum(np.arange(2048) - 1023, least) - fraction))
