"""What weight decay takes from the spread of the weights, foretold from a training without it.

In units of Var W₀: with a share P of W₀ left by the decay, and a path U that training would have gone without it, of
variance m² and covariance c with W₀, weights end at W = P W₀ + √P U. Each step of the path shrinks in what is left of
the training, a step in its middle by √P. Hence

    Var W = P² + P m² + 2 P √P c,

and what is lost, 1 - P², outweighs what is gained where P² + P m² + 2 P √P c < 1. For a small decay and a path
unrelated to W₀ that is where m² < 2 λ Σ η: the line between trainings that narrow the weights and those that widen
them. That the gradient does not answer to the shrinking is assumed; where it does, the law fails, and is seen to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize


def widened(kept: ArrayLike, moved: ArrayLike, along: ArrayLike) -> np.ndarray:
    """Var W / Var W₀ - 1 after a training with weight decay.

    Args:
        kept: P, the share of W₀ that decay alone leaves (see `lfmlib.lab.train.left_by_decay`); an array, or a number.
        moved: m = std(ΔW) / std(W₀) of the same training without decay.
        along: c = Cov(ΔW, W₀) / Var W₀ of it.

    Returns:
        An array of their common shape.

    Examples:
        >>> from lfmlib.deltas.decay import widened
        >>> float(round(widened(0.99, moved=0.2, along=0.0), 3))
        0.02
    """
    p, m, c = (np.asarray(one, dtype=float) for one in (kept, moved, along))
    return p**2 + p * m**2 + 2 * p**1.5 * c - 1


def foretold_gain(kept: ArrayLike, moved: ArrayLike, along: ArrayLike) -> np.ndarray:
    """g = (Var W - Var W₀) / Var ΔW after a training with weight decay.

    Args:
        kept, moved, along: as for `widened`.

    Returns:
        An array of their common shape.

    Examples:
        >>> from lfmlib.deltas.decay import foretold_gain
        >>> float(round(foretold_gain(1.0, moved=0.2, along=0.0), 3))  # no decay, a path unrelated to W₀
        1.0
    """
    p, m, c = (np.asarray(one, dtype=float) for one in (kept, moved, along))
    return widened(p, m, c) / ((1 - p) ** 2 + p * m**2 - 2 * (1 - p) * p**0.5 * c)


def turning_point(moved: float, along: float) -> float:
    """The share of W₀ that decay must leave for the weights to keep their spread; NaN where they narrow anyway.

    Args:
        moved, along: as for `widened`.

    Examples:
        >>> from lfmlib.deltas.decay import turning_point
        >>> round(1 - turning_point(moved=0.2, along=0.0), 3)  # about m² / 2
        0.02
    """
    if not widened(1.0, moved, along) > 1e-12:  # NaN too
        return float("nan")
    return float(optimize.brentq(lambda kept: float(widened(kept, moved, along)), 0.0, 1.0))
