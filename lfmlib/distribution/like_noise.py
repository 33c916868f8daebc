"""The null of a sketch: the figures of `normality` on noise of its own type, mean, standard deviation and size.

Where a type has many values within a standard deviation, rounding matters little, and the table of `nulls` serves
whatever the scale. Where it has few, as float8 always and the 16-bit types near their smallest numbers, each figure
depends on where the values lie among them: noise is itself skewed, far from the Gaussian it was drawn from, or nearly
all zero. There noise is drawn for each sketch (a parametric bootstrap, Efron and Tibshirani 1993, ch. 6), from the
Gaussian whose *rounded* values have the sketch's mean and standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from . import nulls
from .formats import Grid, grid
from .sketch import Sketch

DRAWS = 200
"""Number of noise sketches that a drawn null is taken from."""
MIN_NORMALS = 16.0
"""Standard deviation, in smallest normal numbers of the type, from which on the table serves."""
MIN_SIZE = 64
"""Number of values below which there is no null, as in the table."""
_SALT = 2309  # told apart from the seeds of noise that stands in for a tensor
_LN2 = math.log(2)

Null = dict[str, tuple[float, float, float]]
"""Figure → low end, median and high end."""


def null(sketch: Sketch, measure: Callable[[Sketch], dict[str, float]], name: str = "") -> Null:
    """Central 95 % and median of each figure of `lfmlib.distribution.nulls.FIGURES` on noise like a sketch.

    Costs nothing where the table serves, and `DRAWS` calls of ``measure`` where it does not (0.2 s for float8).

    Args:
        sketch: of any type.
        measure: `lfmlib.distribution.distances.measure`.
        name: of the tensor; it seeds the draws.

    Returns:
        Empty where there are fewer than `MIN_SIZE` values, or nothing varies. An end is NaN where the figure is NaN for
        half of the noise.

    Examples:
        >>> from lfmlib.distribution.like_noise import null
        >>> few = torch.randn(65536, generator=torch.Generator().manual_seed(0)).mul(0.002).to(torch.float8_e4m3fn)
        >>> sketch = lfmlib.Sketch.of(few)
        >>> low, middle, high = null(sketch, lfmlib.measure)["ks"]
        >>> low <= lfmlib.measure(sketch)["ks"] <= high, round(middle, 1)
        (True, 0.2)
    """
    if sketch.count < MIN_SIZE or not sketch.std > 0:
        return {}
    if is_coarse(sketch.dtype, sketch.mean, sketch.std):
        return _drawn(sketch, measure, name)
    found = nulls.bounds(sketch.dtype, sketch.count)
    if found and not sketch.grid.wide:
        found = found | {"exponent_entropy": _exponent_entropy(sketch.grid, sketch.mean, sketch.std, sketch.count)}
    return found


def is_coarse(dtype: str, mean: float, std: float) -> bool:
    """Whether noise of this mean and standard deviation has few values of the type within its reach.

    Never so for float32 and float64.
    """
    shape = grid(dtype)
    if shape.wide:
        return False
    smallest = 2.0 ** (shape.unit + shape.mantissa)  # normal number
    return bool(shape.patterns == 256 or not MIN_NORMALS * smallest <= std <= shape.values[-1] / 16 or abs(mean) > std)


def latent(dtype: str, mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of the Gaussian whose values, rounded to a type, have the given ones.

    Rounding widens a distribution by a twelfth of a squared step (Sheppard 1898), and by far more, or less, where the
    step exceeds the standard deviation. The given ones are returned where they are not `is_coarse`.

    Args:
        dtype: storage type.
        mean, std: of the rounded values.

    Examples:
        >>> from lfmlib.distribution.like_noise import latent
        >>> [round(float(part), 5) for part in latent("float8_e4m3fn", 0.0, 0.0003)]  # its smallest number is 0.00195
        [0.0, 0.00043]
    """
    if not is_coarse(dtype, mean, std):
        return mean, std
    values = grid(dtype).values

    def miss(at: np.ndarray) -> np.ndarray:
        cells, mass = nulls.masses(dtype, mean + at[0] * std, std * math.exp(at[1]))
        x = (values[cells] - mean) / std
        first = mass @ x / mass.sum()
        second = mass @ (x - first) ** 2 / mass.sum()
        return np.array([first, math.log(max(second, 1e-30)) / 2])

    best = None
    for start in (0.0, 1.5, 4.0):  # the smaller the share of values that are not zero, the wider the Gaussian
        found = optimize.least_squares(miss, (0.0, start), bounds=((-50.0, -8.0), (50.0, 12.0)), x_scale=(0.1, 0.1))
        if best is None or found.cost < best.cost:
            best = found
        if best.cost < 1e-10:
            break
    assert best is not None
    return mean + float(best.x[0]) * std, std * math.exp(best.x[1])


def _drawn(sketch: Sketch, measure: Callable[[Sketch], dict[str, float]], name: str) -> Null:
    rng = np.random.default_rng([_SALT, *name.encode()])
    centre, scale = latent(sketch.dtype, sketch.mean, sketch.std)
    cells, mass = nulls.masses(sketch.dtype, centre, scale)
    values = sketch.grid.values[cells]
    mean = float(mass @ values / mass.sum())
    rows = []
    for _ in range(DRAWS):
        one = nulls.draw(sketch.dtype, sketch.count, rng, centre, scale)
        # the null of abs(mean) / std is that of a mean of zero
        rows.append(measure(one) | {"mean_ratio": abs(one.mean - mean) / one.std if one.std else math.nan})
    return {figure: _ends(np.array([row[figure] for row in rows])) for figure in nulls.FIGURES}


def _ends(values: np.ndarray) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    if 2 * known.size < values.size:
        return math.nan, math.nan, math.nan
    # of Weibull's plotting positions, so that the next draw lies outside in 5 %
    low, middle, high = np.quantile(known, [0.025, 0.5, 0.975], method="weibull")
    return float(low), float(middle), float(high)


def _exponent_entropy(shape: Grid, mean: float, std: float, count: int) -> tuple[float, float, float]:
    """Null of the exponent field's entropy, in bits, from its exact probabilities.

    It is Gaussian to first order, of mean H - (K - 1) / (2 n ln 2) (Miller 1955, for the K values that are likely to
    occur) and variance Var(log2 p) / n. The field of float16 is so short that the subnormal numbers, which share a
    value, count in noise of a typical weight's scale.
    """
    middle, step = shape.values.size // 2, 1 << shape.mantissa  # the cell of zero, and the values of an exponent
    first = shape.edges[np.arange(middle + step, shape.values.size, step)]  # edges at which the exponents begin
    beyond = special.ndtr((-first - mean) / std) + special.ndtr((mean - first) / std)
    share = -np.diff(beyond, prepend=1.0, append=0.0)
    share = share[share > 0]
    bits = -np.log2(share)
    entropy = share @ bits
    occupied = -np.expm1(count * np.log1p(-np.minimum(share, 1 - 1e-16))).sum()
    centre = entropy - (occupied - 1) / (2 * count * _LN2)
    half = special.ndtri(0.975) * math.sqrt(max(share @ bits**2 - entropy**2, 0.0) / count)
    return float(centre - half), float(centre), float(centre + half)
