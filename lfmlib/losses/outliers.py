"""What it costs to change the outliers of weight matrices, and as many or as large random entries.

An outlier is an entry whose magnitude is beyond a cut, such as `lfmlib.distribution.law.Law.outlier_cut`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from ..structure.outlier_places import beyond
from .weights import Weights, restored

AMPLIFICATION = 1.5
"""Factor of the outliers where they are amplified."""
CHANGES: Mapping[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "zeroed": lambda entries, cut: torch.zeros_like(entries),
    "clipped": lambda entries, cut: entries.clamp(-cut, cut),
    "amplified": lambda entries, cut: AMPLIFICATION * entries,
}
"""Name of a change → function of the entries and of the cut, the magnitude beyond which an entry is an outlier."""
RANGES = ("all", "core, outliers clipped", "core, outliers kept")
"""How the range of a quantizer is chosen: up to the largest entry; or up to the cut, outliers being clipped to it or
kept unquantized."""


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
        loss: of the weights as they are when it is called, on fixed data.
        weights: name → matrix, changed in place, and restored to the bit whatever happens.
        masks: name → boolean matrix: the entries to change.
        change: a key of `CHANGES`.
        cuts: name → magnitude to which "clipped" clips.
        own: the loss before the change; None: it is measured.

    Returns:
        In the unit of the loss.

    Raises:
        ValueError: unknown change, "clipped" without the cuts, or weights without a mask or a cut.

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
    cut = (cuts or {}) if change == "clipped" else dict.fromkeys(weights, 0.0)
    for what, given in (("masks", masks), ("cuts", cut)):
        if missing := [name for name in weights if name not in given]:
            raise ValueError(f"{what} has none of {missing[0]}: expected one for each of the weights")
    own = float(loss()) if own is None else own
    with restored(weights) as before, torch.no_grad():
        for name, w in weights.items():
            w.copy_(torch.where(masks[name], CHANGES[change](before[name], cut[name]), before[name]))
        return float(loss()) - own


def quantized(w: torch.Tensor, bits: int, range_of: str, cut: float) -> torch.Tensor:
    """A matrix rounded to the nearest of 2^bits - 1 levels, symmetric about zero, with one scale for all of it.

    Args:
        w: any matrix.
        bits: of a level, at least 2.
        range_of: how the largest level is chosen, one of `RANGES`.
        cut: magnitude beyond which an entry is an outlier; math.inf: there are none.

    Raises:
        ValueError: unknown range, or fewer than 2 bits.

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
    """A random set of entries outside of ``mask``, as many as it has (fewer where there are not so many).

    Args:
        w: ``(out, in)``.
        mask: boolean, of the same shape.
        rng: source of the draw.

    Returns:
        A boolean matrix of the same shape.

    Examples:
        >>> w = torch.tensor([[0.1, -0.2, 0.3, -2.0]])
        >>> random = lfmlib.outliers.as_many(w, w.abs() > 1, np.random.default_rng(0))
        >>> int(random.sum()), bool(random[0, 3])
        (1, False)
    """
    others = torch.nonzero(~mask.flatten()).flatten().cpu().numpy()
    return _mask(w, rng.choice(others, min(int(mask.sum()), len(others)), replace=False))


def as_large(w: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random set of entries outside of ``mask`` with the squared norm of those inside it.

    Entries are drawn one after another up to where the sum of their squares comes closest; all others are taken where
    even these are too small.

    Args:
        w, mask, rng: as for `as_many`.

    Returns:
        A boolean matrix of the same shape.

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
