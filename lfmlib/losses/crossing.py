"""Where a curve of losses first crosses a bound: between two measured points, on the line between them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def crossing(shares: ArrayLike, rises: ArrayLike, bound: float) -> tuple[float, float, float]:
    """Up to which share of the weights the rise of the loss stays within a bound.

    Args:
        shares: that were measured, ascending, above 0; at 0 nothing rises.
        rises: of the loss there; one that is infinite or NaN exceeds any bound.
        bound: how much the loss may rise, in its unit.

    Returns:
        The share, interpolated linearly, and the measured shares on both sides of it: the answer is known no better.
        All three are the last share where the bound is never exceeded, and 0 where it is not above 0.

    Examples:
        >>> from lfmlib.losses.crossing import crossing
        >>> [round(one, 2) for one in crossing([0.2, 0.4], [0.0, 0.1], 0.05)]
        [0.3, 0.2, 0.4]
    """
    if not bound > 0:
        return 0.0, 0.0, 0.0
    x, y = (np.concatenate([[0.0], np.asarray(one, dtype=float)]) for one in (shares, rises))
    beyond = np.flatnonzero(~(y <= bound))
    if not len(beyond):
        return float(x[-1]), float(x[-1]), float(x[-1])
    last = int(beyond[0])
    low, high = float(x[last - 1]), float(x[last])
    way = (bound - y[last - 1]) / (y[last] - y[last - 1]) if math.isfinite(y[last]) else 0.0
    return float(low + way * (high - low)), low, high
