"""The standard error of a figure that was computed again without each of some groups of values in turn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def jackknife_error(left_out: ArrayLike) -> np.ndarray:
    """The delete-a-group jackknife's standard error: √((g - 1) / g Σ (θᵢ - mean θ)²) of g groups (Efron and Stein
    1981).

    Args:
        left_out: the figure, or figures, without each group: ``(g, ...)``, g at least 2.

    Returns:
        ``(...)``, in the figure's unit.

    Examples:
        >>> from lfmlib.distribution.jackknife import jackknife_error
        >>> values = np.random.default_rng(0).standard_normal(100)
        >>> means = [np.delete(values, i).mean() for i in range(100)]
        >>> bool(np.isclose(jackknife_error(means), values.std(ddof=1) / 10))  # of a mean it is the usual one
        True
    """
    values = np.asarray(left_out, dtype=float)
    return math.sqrt(len(values) - 1) * values.std(axis=0)
