"""How far weights may stray: the size of random noise at which a loss has risen by so much.

The weights become W + s D, with D drawn once for every ``draw`` and the root mean square of D in each matrix that
matrix's standard deviation, so that s is in units of std(W). The draws depend on seed, draw and name alone: two models
with the same names are shaken by the same noise, up to its scale, and can be compared pairwise.
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

KINDS = ("matrix", "rows", "growing", "falling")
"""Which entries are shaken how much: all of a matrix alike; each row in proportion to its own standard deviation; all
of a matrix alike, with a variance in proportion to the layer's place, counted from the first or from the last."""
STEP = math.sqrt(2)
"""Ratio of neighbouring scales on which a radius is looked for."""
PLACES = (-20, 8)
"""First and last place on that grid: about 0.001 and 16 standard deviations."""


def radius(
    loss: Callable[[], float],
    weights: Mapping[str, torch.Tensor],
    rise: float,
    *,
    kind: str = "matrix",
    depth: Mapping[str, float] | None = None,
    draws: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """The scale of noise at which a loss has risen by ``rise``, for each of several draws of the noise.

    Between two neighbouring scales, one with a smaller and one with a larger rise, the loss is taken to be linear in
    the square of the scale, as it is where it is quadratic. Of a loss that falls again, any crossing may be found.

    Args:
        loss: what the weights, as they are at the moment, lose on fixed data.
        weights: name → matrix, changed in place, and restored to the bit whatever happens.
        rise: of the loss, above what it is without noise; above 0.
        kind: one of `KINDS`.
        depth: name → depth, for the kinds that need it; a matrix without one (NaN) is shaken like the middle layer.
        draws: number of draws of the noise.
        seed: of the draws.
        progress: show a bar.

    Returns:
        Columns: draw; radius, in standard deviations of each matrix; inf where the largest did not raise the loss that
        much, and 0 where the smallest did (see `PLACES`). ``attrs["loss"]`` is the loss without noise. Ctrl-C returns
        the draws that are done, if there are any.

    Raises:
        ValueError: ``rise`` is not above 0, the kind is unknown or needs a depth, there is nothing to shake, or the
            loss is not finite without noise.

    Examples:
        >>> weights = {"w": torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().mean())
        >>> lfmlib.tolerance.radius(loss, weights, rise=0.25, draws=2)["radius"].round(1).tolist()
        [0.5, 0.5]
    """
    if not rise > 0:
        raise ValueError(f"rise is {rise}: expected by how much the loss is to rise, above 0")
    own = _own(loss, weights, kind, depth)
    rows, place = [], -7
    try:
        for draw in tqdm(range(draws), f"noise radius, {kind}", disable=not progress, leave=False, delay=1):
            with shaken(weights, kind, depth, seed, draw) as shake:

                def risen(scale: float, shake=shake) -> float:
                    shake(scale)
                    found = loss() - own
                    return found if math.isfinite(found) else math.inf  # what overflows has risen enough

                found, place = _crossing(risen, rise, place)
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
    kind: str = "matrix",
    depth: Mapping[str, float] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """The rise of a loss at given scales of noise.

    Args:
        scales: of the noise, in standard deviations of each matrix.
        loss, weights, kind, depth, draws, seed: as in `radius`, whose draws these are.

    Returns:
        Columns: draw, scale, rise.

    Raises:
        ValueError: as `radius`.

    Examples:
        >>> weights = {"w": torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().mean())
        >>> lfmlib.tolerance.curve(loss, weights, [0.1, 0.2], draws=1)["rise"].round(2).tolist()
        [0.01, 0.04]
    """
    own, rows = _own(loss, weights, kind, depth), []
    for draw in range(draws):
        with shaken(weights, kind, depth, seed, draw) as shake:
            for scale in scales:
                shake(scale)
                rows.append((draw, scale, loss() - own))
    return pd.DataFrame(rows, columns=["draw", "scale", "rise"])


@contextmanager
def shaken(
    weights: Mapping[str, torch.Tensor], kind: str, depth: Mapping[str, float] | None, seed: int, draw: int
) -> Iterator[Callable[[float], None]]:
    """Gives a function that sets the weights to W + s D; on leaving they are W again, to the bit."""
    before = {name: w.detach().clone() for name, w in weights.items()}
    factors = _factors(before, kind, depth)
    noise = {}
    for name, w in before.items():
        rng = np.random.default_rng([seed, draw, *name.encode()])
        unit = torch.from_numpy(rng.standard_normal(tuple(w.shape), dtype=np.float32)).to(w.device)
        noise[name] = unit * factors[name]

    def shake(scale: float) -> None:
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(before[name].float() + scale * noise[name])

    try:
        yield shake
    finally:
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(before[name])


def _factors(weights: Mapping[str, torch.Tensor], kind: str, depth: Mapping[str, float] | None) -> dict:
    """Standard deviation of D, per matrix or per row: its root mean square in a matrix is std(W), but for the depth."""
    std = {name: w.float().std(correction=0) for name, w in weights.items()}
    if kind == "rows":
        rows = {name: w.float().std(dim=1, correction=0, keepdim=True) for name, w in weights.items()}
        sizes = {name: one.square().mean().sqrt() for name, one in rows.items()}
        return {name: one * (std[name] / sizes[name] if sizes[name] > 0 else 1.0) for name, one in rows.items()}
    if kind == "matrix":
        return std
    known = sorted({depth[name] for name in weights if not math.isnan(depth[name])})
    share = {one: 2 * (place + 0.5) / len(known) for place, one in enumerate(known)}  # mean over layers 1
    if kind == "falling":
        share = {one: 2 - value for one, value in share.items()}
    return {name: std[name] * math.sqrt(share.get(depth[name], 1.0)) for name in weights}


def _crossing(risen: Callable[[float], float], rise: float, place: int) -> tuple[float, int]:
    """The scale at which ``risen`` reaches ``rise``, and the place on the grid below; looked for from ``place`` on."""
    at = functools.cache(lambda place: risen(STEP**place))
    while at(place) >= rise and place > PLACES[0]:
        place -= 1
    if at(place) >= rise:
        return 0.0, place
    while place < PLACES[1] and at(place + 1) < rise:
        place += 1
    if place >= PLACES[1]:
        return math.inf, place - 1
    below, above = at(place), at(place + 1)
    low, high = STEP**place, STEP ** (place + 1)
    if math.isinf(above):
        return high, place
    return math.sqrt(low**2 + (rise - below) / (above - below) * (high**2 - low**2)), place


def _own(loss: Callable[[], float], weights: Mapping, kind: str, depth: Mapping | None) -> float:
    """The loss without noise, once everything else was checked."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of noise {kind!r}: expected one of {', '.join(KINDS)}")
    if kind in ("growing", "falling") and depth is None:
        raise ValueError(f"noise that is {kind} with depth needs the depth of every matrix: pass depth=")
    if not weights:
        raise ValueError("there are no weights to shake")
    own = loss()
    if not math.isfinite(own):
        raise ValueError(f"the loss is {own} without any noise: there is nothing it could rise from")
    return own
