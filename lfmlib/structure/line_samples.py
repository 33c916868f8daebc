"""Are the rows of a large matrix alike, and its columns, judged by a sample of them?

Two rows have the same correlation whichever others are looked at, so that the mean over the pairs of a sample of rows,
each in its whole length, is an unbiased estimate of that over all pairs.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..distribution.jackknife import jackknife_error
from .likeness import Alike, line_moments, over_pairs

LINES = 512
"""Rows, and columns, that are looked at, at most."""
GROUPS = 16
"""Groups of them that the jackknife of the standard error leaves out one by one."""


def alike_of_sample(w: np.ndarray, *, seed: int = 0, lines: int = LINES) -> tuple[Alike, Alike, tuple[float, float]]:
    """Mean squared Pearson correlation between different rows, and columns, of a matrix ``(r, c)``, from some of them.

    Args:
        w: float32 or float64.
        seed: of the choice.
        lines: rows, and columns, to look at; of a side that has no more, all.

    Returns:
        Of rows and of columns the mean over the pairs that were looked at, with its variance on independent entries;
        and the standard errors of both, as estimates of the mean over all pairs: from a delete-a-group jackknife, 0
        where all were looked at. Where pairs are independent, as of noise, the jackknife gives √2 times the scatter
        (Efron and Stein 1981).

    Raises:
        ValueError: fewer than two of them vary.

    Examples:
        >>> from lfmlib.structure.line_samples import alike_of_sample
        >>> matrix = np.random.default_rng(0).standard_normal((1024, 512))
        >>> rows, columns, (error, none) = alike_of_sample(matrix, lines=512)
        >>> bool(abs(rows.value * 511 - 1) < 5 * error * 511), none
        (True, 0.0)
    """
    rng = np.random.default_rng([lines, seed])
    found = []
    for axis in (1, 0):
        size = w.shape[1 - axis]
        chosen = np.sort(rng.choice(size, min(lines, size), replace=False))
        one, error = _between(w[chosen] if axis else w[:, chosen].T)
        found.append((one, math.sqrt(1 - lines / size) * error if size > lines else 0.0))  # of a finite population
    (rows, row_error), (columns, column_error) = found
    if rows is None or columns is None:
        raise ValueError("fewer than two rows, or columns, vary: there is nothing to compare; leave this matrix out")
    return rows, columns, (row_error, column_error)


def _between(lines: np.ndarray) -> tuple[Alike | None, float]:
    """Of the rows of a matrix ``(m, n)``, with the standard error; None where fewer than two vary."""
    x = lines.astype(np.float64)
    mean = x.mean(1)
    x -= mean[:, None]
    second, peak, vary = line_moments(x, mean, 1)
    x *= np.divide(1.0, np.sqrt(second), out=np.zeros_like(second), where=vary)[:, None]
    z = torch.from_numpy(x)
    squares = (z @ z.T).square_().numpy()
    squares.flat[:: len(squares) + 1] = vary
    whole = over_pairs(x.shape[1], float(squares.sum()), peak[None], vary[None])
    return whole, _error(squares, vary) if whole else 0.0


def _error(squares: np.ndarray, vary: np.ndarray) -> float:
    """The jackknife's standard error of the mean over pairs of different rows that vary."""
    starts = np.linspace(0, len(vary), min(GROUPS, len(vary)) + 1).astype(int)[:-1]
    between = np.add.reduceat(np.add.reduceat(squares - np.diag(np.diag(squares)), starts, 0), starts, 1)
    counts = np.add.reduceat(vary.astype(np.int64), starts)
    sums = between.sum() - between.sum(0) - between.sum(1) + np.diag(between)
    left = vary.sum() - counts
    if left.min() < 2:
        return math.inf
    return float(jackknife_error(sums / (left * (left - 1))))
