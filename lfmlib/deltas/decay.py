"""What weight decay takes from the spread of the weights, foretold from a training without it.

In units of Var W₀: with a share a of W₀ left by the decay, and a path U that training would have gone without it, of
variance δ² and covariance δ∥ with W₀, weights end at W = a W₀ + √a U. Each step of the path shrinks in what is left of
the training, a step in its middle by √a. Hence

    Var W = a² + a δ² + 2 a √a δ∥,

and what is lost, 1 - a², outweighs what is gained where a² + a δ² + 2 a √a δ∥ < 1. For a small decay and a path
unrelated to W₀ that is where δ² < 2 λ Σ η: the line between trainings that narrow the weights and those that widen
them. That the gradient does not answer to the shrinking is assumed; where it does, the law fails, and is seen to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize


def widened(kept: ArrayLike, moved: ArrayLike, along: ArrayLike) -> np.ndarray:
    """Var W / Var W₀ - 1 after a training with weight decay.

    Args:
        kept: a, the share of W₀ that decay alone leaves (see `lfmlib.lab.train.left_by_decay`); an array, or a number.
        moved: δ = std(ΔW) / std(W₀) of the same training without decay.
        along: δ∥ = Cov(ΔW, W₀) / Var W₀ of it.

    Returns:
        An array of their common shape.

    Examples:
        >>> from lfmlib.deltas.decay import widened
        >>> float(round(widened(0.99, moved=0.2, along=0.0), 3))
        0.02
    """
    left, size, same = (np.asarray(one, dtype=float) for one in (kept, moved, along))
    return left**2 + left * size**2 + 2 * left**1.5 * same - 1


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
    left, size, same = (np.asarray(one, dtype=float) for one in (kept, moved, along))
    added = (1 - left) ** 2 + left * size**2 - 2 * (1 - left) * left**0.5 * same  # Var ΔW / Var W₀
    return widened(left, size, same) / added


def turning_point(moved: float, along: float) -> float:
    """The share of W₀ that decay must leave for the weights to keep their spread; NaN where they narrow anyway.

    Args:
        moved, along: as for `widened`.

    Examples:
        >>> from lfmlib.deltas.decay import turning_point
        >>> round(1 - turning_point(moved=0.2, along=0.0), 3)  # about δ² / 2
        0.02
    """
    if not widened(1.0, moved, along) > 1e-12:  # NaN too
        return float("nan")
    return float(optimize.brentq(lambda kept: float(widened(kept, moved, along)), 0.0, 1.0))
