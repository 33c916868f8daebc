"""Outliers of weight matrices: where they are, and what it costs to change them, beside random entries.

An outlier is an entry whose magnitude is beyond a cut, such as `lfmlib.distribution.law.Law.outlier_cut`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from ..structure.outlier_places import beyond
from .weights import Weights, restored

AMPLIFIED = 1.5
"""What outliers are multiplied with where they are amplified."""
CHANGES: Mapping[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "zeroed": lambda entries, cut: torch.zeros_like(entries),
    "clipped": lambda entries, cut: entries.clamp(-cut, cut),
    "amplified": lambda entries, cut: AMPLIFIED * entries,
}
"""What can be done to entries: function of them and of the cut beyond which an entry is an outlier."""
RANGES = ("all", "core, outliers clipped", "core, outliers kept")
"""What the range of a quantizer is taken from: the largest entry, or the cut; outliers are then clipped, or kept as
they are."""


def damage(
    loss: Callable[[], float],
    weights: Weights,
    masks: Weights,
    change: str,
    *,
    cuts: Mapping[str, float] | None = None,
    own: float | None = None,
) -> float:
    """The rise of a loss when some entries of all weights are changed at once.

    Args:
        loss: what the weights, as they are at the moment, lose on fixed data.
        weights: name → matrix, changed in place, and restored to the bit whatever happens.
        masks: name → boolean matrix: the entries to change.
        change: one of `CHANGES`.
        cuts: name → cut, for "clipped".
        own: the loss before, if it is known.

    Raises:
        ValueError: unknown change, or one that needs the cuts.

    Examples:
        >>> weights = {"w": torch.tensor([[0.1, -0.2, 0.3, -2.0]])}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().sum())
        >>> masks = {"w": weights["w"].abs() > 1}
        >>> lfmlib.outliers.damage(loss, weights, masks, "zeroed")
        4.0
    """
    if change not in CHANGES or (change == "clipped" and cuts is None):
        raise ValueError(f"cannot make entries {change!r}: expected one of {', '.join(CHANGES)}; to clip, pass cuts=")
    own = loss() if own is None else own
    with restored(weights) as before, torch.no_grad():
        for name, w in weights.items():
            cut = cuts[name] if cuts else 0.0
            w.copy_(torch.where(masks[name], CHANGES[change](before[name], cut), before[name]))
        return loss() - own


def quantized(w: torch.Tensor, bits: int, range_of: str, cut: float) -> torch.Tensor:
    """A matrix rounded to the nearest of 2^bits - 1 levels, symmetric about zero, with one scale for all of it.

    Args:
        w: any matrix.
        bits: at least 2.
        range_of: one of `RANGES`, what the largest level is.
        cut: magnitude beyond which an entry is an outlier; math.inf: there are none.

    Raises:
        ValueError: an unknown range, or fewer than 2 bits.

    Examples:
        >>> w = torch.tensor([[0.1, 0.2, 2.0, -3.0]])
        >>> [round(value, 1) for value in lfmlib.outliers.quantized(w, 2, "all", 1.0).flatten().tolist()]
        [0.0, 0.0, 3.0, -3.0]
    """
    if range_of not in RANGES:
        raise ValueError(f"unknown range {range_of!r}: expected one of {', '.join(RANGES)}")
    if bits < 2:
        raise ValueError(f"bits is {bits}: expected at least 2, a level on either side of zero")
    largest = w.detach().abs().max().item()
    reach = largest if range_of == "all" else min(cut, largest)
    step = reach / (2 ** (bits - 1) - 1)
    rounded = (w.detach().clamp(-reach, reach) / step).round() * step if step else w.detach()
    return torch.where(beyond(w, cut), w.detach(), rounded) if range_of == "core, outliers kept" else rounded


def as_many(w: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random set of as many entries outside of ``mask``, as a boolean matrix.

    Args:
        w: any matrix.
        mask: boolean, of its shape: the set that the random one stands beside.
        rng: source of the draw.

    Examples:
        >>> w = torch.tensor([[0.1, -0.2, 0.3, -2.0]])
        >>> random = lfmlib.outliers.as_many(w, w.abs() > 1, np.random.default_rng(0))
        >>> int(random.sum()), bool(random[0, 3])
        (1, False)
    """
    others = torch.nonzero(~mask.flatten()).flatten().cpu().numpy()
    return _mask(w, rng.choice(others, min(int(mask.sum()), len(others)), replace=False))


def as_large(w: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random set of entries outside of ``mask`` whose squared norm is as close to that of the ``mask`` as the order
    of the draw allows: all of them, if that is not enough; as a boolean matrix.

    Args:
        w: any matrix.
        mask: boolean, of its shape: the set that the random one stands beside.
        rng: source of the draw.

    Examples:
        >>> w = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -2.0]])
        >>> random = lfmlib.outliers.as_large(w, w.abs() > 1, np.random.default_rng(0))
        >>> int(random.sum()), float(w[random].square().sum())
        (4, 4.0)
    """
    square = w.detach().flatten().double().cpu().square().numpy()
    inside = mask.flatten().cpu().numpy()
    order = rng.permutation(np.flatnonzero(~inside))
    upto = np.concatenate([[0.0], np.cumsum(square[order])])
    return _mask(w, order[: int(np.argmin(np.abs(upto - square[inside].sum())))])


def _mask(w: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    mask = torch.zeros(w.numel(), dtype=torch.bool)
    mask[torch.from_numpy(places)] = True
    return mask.view(w.shape).to(w.device)
