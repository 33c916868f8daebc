"""How much noise weights tolerate: the scale of random noise at which a loss has risen by a given amount.

The weights become W + s D. In each matrix the root mean square of the noise D is the standard deviation of W, so that
the scale s is in units of std(W), unless another standard deviation is given. D depends on the seed, the number of the
draw and the name of the matrix alone: two models with the same names get the same noise, up to its scale, and can be
compared draw by draw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..options import check
from .weights import restored

KINDS = ("matrix", "rows", "growing", "falling")
"""How noise is spread over the entries: evenly over a matrix; over its rows in proportion to their own standard
deviations; evenly over a matrix, with a variance that grows with the number of the layer, or falls with it."""
SCALE_STEP = math.sqrt(2)
"""Ratio of neighbouring scales on the grid on which a radius is looked for."""
EXPONENTS = (-20, 8)
"""Smallest and largest power of `SCALE_STEP` on that grid: about 0.001 and 16 standard deviations."""
START_EXPONENT = -7
"""Power of `SCALE_STEP` at which the search for the first radius starts; that for the next starts where it ended."""


def radius(
    loss: Callable[[], float],
    weights: Mapping[str, torch.Tensor],
    rise: float,
    *,
    progress: bool = False,
    seed: int = 0,
    kind: str = "matrix",
    depth: Mapping[str, float] | None = None,
    draws: int = 16,
    std: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The scale of noise at which a loss has risen by ``rise``, for each of several draws of the noise.

    Between two neighbouring scales of the grid, one with a smaller and one with a larger rise, the loss is interpolated
    linearly in the square of the scale, which is exact for a quadratic loss. Where the loss falls again with the scale,
    any of the scales at which it crosses may be found.

    Args:
        loss: of the weights as they are when it is called, on fixed data.
        weights: name → matrix, changed in place, and restored to the bit whatever happens.
        rise: of the loss, above what it is without noise, in the unit of the loss; above 0.
        kind: one of `KINDS`.
        depth: name → number of the layer, for "growing" and "falling"; a matrix without one (NaN) has the noise of the
            middle layer.
        draws: number of draws of the noise.
        std: name → standard deviation of the noise at scale 1, such as those of a model to be compared with; None: the
            standard deviation of each matrix.
        seed: of the draws.
        progress: show a bar.

    Returns:
        Columns: draw; radius, in standard deviations of each matrix, or in units of ``std``; inf where even the largest
        scale does not raise the loss that much, and 0 where the smallest already does (see `EXPONENTS`).
        ``attrs["loss"]`` is the loss without noise. Ctrl-C returns the draws that are done, if there are any.

    Raises:
        ValueError: ``rise`` is not above 0, the kind is unknown or needs a depth, there are no weights, or the loss is
            not finite without noise.

    Examples:
        >>> weights = {"w": torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().mean())
        >>> lfmlib.tolerance.radius(loss, weights, rise=0.25, draws=2)["radius"].round(1).tolist()
        [0.5, 0.5]
    """
    if not rise > 0:
        raise ValueError(f"rise is {rise}: expected by how much the loss is to rise, above 0")
    check(draws=draws)
    own = _noiseless_loss(loss, weights, kind, depth)
    rows, exponent = [], START_EXPONENT
    try:
        for draw in tqdm(range(draws), f"noise radius, {kind}", disable=not progress, leave=False, delay=1):
            with perturbed(weights, kind, depth, seed, draw, std) as perturb:

                def rise_at(scale: float, perturb=perturb) -> float:
                    perturb(scale)
                    found = float(loss()) - own
                    return found if math.isfinite(found) else math.inf  # a loss that overflows has risen enough

                found, exponent = _crossing(rise_at, rise, exponent)
            rows.append((draw, found))
    except KeyboardInterrupt:
        if not rows:
            raise
    found = pd.DataFrame(rows, columns=["draw", "radius"])
    found.attrs["loss"] = own
    return found


def curve(
    loss: Callable[[], float],
    weights: Mapping[str, torch.Tensor],
    scales: Sequence[float],
    *,
    seed: int = 0,
    kind: str = "matrix",
    depth: Mapping[str, float] | None = None,
    draws: int = 4,
) -> pd.DataFrame:
    """The rise of a loss at given scales of noise.

    Args:
        scales: of the noise, in standard deviations of each matrix.
        loss, weights, kind, depth, draws, seed: as for `radius`; the draws are the same.

    Returns:
        Columns: draw; scale; rise, in the unit of the loss.

    Raises:
        ValueError: as `radius`.

    Examples:
        >>> weights = {"w": torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().mean())
        >>> lfmlib.tolerance.curve(loss, weights, [0.1, 0.2], draws=1)["rise"].round(2).tolist()
        [0.01, 0.04]
    """
    check(draws=draws)
    if wrong := [scale for scale in scales if not 0 <= scale < math.inf]:
        raise ValueError(f"a scale of noise is {wrong[0]}: expected numbers from 0 on, in standard deviations")
    own, rows = _noiseless_loss(loss, weights, kind, depth), []
    for draw in range(draws):
        with perturbed(weights, kind, depth, seed, draw) as perturb:
            for scale in scales:
                perturb(scale)
                rows.append((draw, scale, float(loss()) - own))
    return pd.DataFrame(rows, columns=["draw", "scale", "rise"])


@contextmanager
def perturbed(
    weights: Mapping[str, torch.Tensor],
    kind: str,
    depth: Mapping[str, float] | None,
    seed: int,
    draw: int,
    std: Mapping[str, float] | None = None,
) -> Iterator[Callable[[float], None]]:
    """A context that gives a function of the scale s, which sets the weights to W + s D; on leaving they are W again.

    Args:
        weights, kind, depth, seed, std: as for `radius`.
        draw: number of the draw of D.
    """
    with restored(weights) as before:
        sizes, noise = _noise_std(before, kind, depth, std), {}
        for name, w in before.items():
            rng = np.random.default_rng([seed, draw, *name.encode()])
            unit = torch.from_numpy(rng.standard_normal(tuple(w.shape), dtype=np.float32)).to(w.device)
            noise[name] = unit * sizes[name]

        def perturb(scale: float) -> None:
            with torch.no_grad():
                for name, w in weights.items():
                    w.copy_(before[name].float() + scale * noise[name])

        yield perturb


def _noise_std(
    weights: Mapping[str, torch.Tensor],
    kind: str,
    depth: Mapping[str, float] | None,
    given: Mapping[str, float] | None,
) -> dict:
    """Name → standard deviation of D, of the whole matrix or of each row ``(out, 1)``."""
    std = {name: w.float().std(correction=0) if given is None else given[name] for name, w in weights.items()}
    if kind == "rows":
        rows = {name: w.float().std(dim=1, correction=0, keepdim=True) for name, w in weights.items()}
        sizes = {name: one.square().mean().sqrt() for name, one in rows.items()}
        return {name: one * (std[name] / sizes[name] if sizes[name] > 0 else 1.0) for name, one in rows.items()}
    if kind == "matrix":
        return std
    assert depth is not None, f"noise that is {kind} with depth needs the depth of each matrix"
    known = sorted({depth[name] for name in weights if not math.isnan(depth[name])})
    share = {
        one: 2 * (place + 0.5) / len(known) for place, one in enumerate(known)
    }  # a factor of the variance, whose mean over the layers is 1
    if kind == "falling":
        share = {one: 2 - value for one, value in share.items()}
    return {name: std[name] * math.sqrt(share.get(depth[name], 1.0)) for name in weights}


def _crossing(rise_at: Callable[[float], float], rise: float, exponent: int) -> tuple[float, int]:
    """The scale at which ``rise_at`` reaches ``rise``, and the exponent of the scale of the grid below it.

    The search starts at the scale with ``exponent`` and goes up or down the grid from there.
    """
    at = functools.cache(lambda exponent: rise_at(SCALE_STEP**exponent))
    while at(exponent) >= rise and exponent > EXPONENTS[0]:
        exponent -= 1
    if at(exponent) >= rise:
        return 0.0, exponent
    while exponent < EXPONENTS[1] and at(exponent + 1) < rise:
        exponent += 1
    if exponent >= EXPONENTS[1]:
        return math.inf, exponent - 1
    below, above = at(exponent), at(exponent + 1)
    low, high = SCALE_STEP**exponent, SCALE_STEP ** (exponent + 1)
    if math.isinf(above):
        return high, exponent
    return math.sqrt(low**2 + (rise - below) / (above - below) * (high**2 - low**2)), exponent


def _noiseless_loss(loss: Callable[[], float], weights: Mapping, kind: str, depth: Mapping | None) -> float:
    """The loss without noise, once the other arguments are checked."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of noise {kind!r}: expected one of {', '.join(KINDS)}")
    if kind in ("growing", "falling") and depth is None:
        raise ValueError(f"noise that is {kind} with depth needs the depth of every matrix: pass depth=")
    if not weights:
        raise ValueError("there are no weights to add noise to")
    own = float(loss())
    if not math.isfinite(own):
        raise ValueError(f"the loss is {own} without any noise: there is nothing it could rise from")
    return own
