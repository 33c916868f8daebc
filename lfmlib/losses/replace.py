"""What part of the weights is worth: it is replaced by something that keeps less and less of it, and a loss judges.

Each matrix W is split into what is kept and a part B: its entries of least magnitude; its singular directions of least
singular value; its rows, columns or 8 × 8 blocks of least norm. In the place of B comes a stand-in:

    zero       nothing
    noise      fresh Gaussian noise
    permuted   the entries of B, in random order
    resampled  entries drawn from those of B, with replacement
    rotated    the singular values of B in random directions (Haar)
    signs      the signs of B's entries, all of one size (of directions, before they are projected to B's place)
    sizes      the sizes of B's entries, with random signs

A stand-in has the norm of B and lies outside of what is kept: of directions, it is orthogonal to those, on both sides.
So if W is a signal of few directions, all well above the edge of noise, and Gaussian noise, and just these directions
are kept, fresh noise is nearly another draw of the law of B. (A signal x times the noise leaves 1/x⁴ of itself in B.)
The control "added" replaces nothing: to W comes Gaussian noise as long as the step from B to a fresh one, √2 times B's
norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..options import check
from .crossing import crossing
from .splits import CONTROL, RULES, STAND_INS, Share, Split, check_stand_in, checked
from .weights import Weights, restored, rng

__all__ = ["CONTROL", "RULES", "STAND_INS", "Split", "curve", "replaceable"]


def curve(
    loss: Callable[[], float],
    weights: Weights,
    shares: Sequence[Share | Mapping[str, float]],
    *,
    progress: bool = False,
    seed: int = 0,
    rule: str | None = None,
    stand_in: str = "noise",
    draws: int = 1,
    splits: Mapping[str, Split] | None = None,
    own: float | None = None,
) -> pd.DataFrame:
    """The rise of a loss with the share of every matrix that a stand-in replaces.

    Args:
        loss: of the weights as they are when it is called, on fixed data.
        weights: name → matrix ``(out, in)``, changed in place, and restored to the bit whatever happens.
        shares: of each matrix to replace, of what ``rule`` names, as `Split.at` takes them; or name → share, where
            they differ.
        rule: one of `RULES`; None: that of ``splits``, or "directions".
        stand_in: one of `STAND_INS`, or `CONTROL`.
        draws: of the stand-in; "zero" and "signs" draw nothing, and have one.
        splits: name → `Split` of that matrix, so that several curves share its decomposition; None: made here.
        own: the loss before; None: it is measured.
        seed: of the draws; each also depends on the name of the matrix.
        progress: show a bar.

    Returns:
        Columns: draw; share, over all matrices, each weighted with the number of its directions, or of its entries;
        energy, the share of the squared norm of all matrices that was replaced; rise, in the unit of the loss.
        ``attrs["loss"]`` is the loss before. Ctrl-C returns the rows that are done, if there are any, and
        ``attrs["interrupted"]`` says so.

    Raises:
        ValueError: unknown rule or stand-in, a share outside [0, 1], weights that are none, no matrices or one twice,
            fewer than one draw, or a loss that is not finite before anything is replaced; "rotated" for scattered
            entries or blocks.

    Examples:
        >>> from lfmlib.losses import replace
        >>> weights = {"w": torch.diag(torch.tensor([3.0, 2.0, 1.0]))}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().sum())
        >>> replace.curve(loss, weights, [1 / 3, 2 / 3], stand_in="zero")[["share", "energy", "rise"]].round(2)
           share  energy  rise
        0   0.33    0.07   1.0
        1   0.67    0.36   5.0
    """
    _check(weights, shares, stand_in, draws)
    if splits is None:
        splits = {name: Split(w, rule or "directions") for name, w in weights.items()}
    elif missing := [name for name in weights if name not in splits or rule not in (None, splits[name].rule)]:
        raise ValueError(f"splits has no split of {missing[0]}{f' by {rule}' if rule else ''}: leave it out, or add it")
    own, rows = float(loss()) if own is None else own, []
    if not math.isfinite(own):
        raise ValueError(f"the loss is {own} before anything is replaced: there is nothing it could rise from")
    chances = 1 if stand_in in ("zero", "signs") else draws
    steps = [(draw, share) for draw in range(chances) for share in shares]
    try:
        with restored(weights):
            for draw, share in tqdm(steps, f"replaced: {stand_in}", disable=not progress, leave=False, delay=1):
                rows.append((draw, *_replace(weights, splits, share, stand_in, (seed, draw)), float(loss()) - own))
    except KeyboardInterrupt:
        if not rows:
            raise
    found = pd.DataFrame(rows, columns=["draw", "share", "energy", "rise"])
    found.attrs |= {"loss": own, "interrupted": len(rows) < len(steps)}
    return found


def replaceable(found: pd.DataFrame, bound: float, of: str = "energy") -> pd.DataFrame:
    """The largest part that could be replaced before the rise of the loss exceeds ``bound``.

    Args:
        found: rows of `curve`, of one rule and stand-in.
        bound: in the unit of the loss, such as a hundredth of the gap between the model’s loss and the trivial one.
        of: "energy", the part's share of the squared norm; or "share", of directions, entries, ….

    Returns:
        Index: draw. Columns: ``of``, between 0 and 1, where the line between two measured points crosses the bound
        first; low and high, these points: the answer is known no better. Low is 0 where the first point is beyond the
        bound already, and both are the last point where none is.

    Notes:
        The share includes what the bound buys: on a planted signal of few directions it exceeds the noise by up to the
        bound. Signals near the edge of noise leave much of themselves below it; then it falls short.

    Raises:
        ValueError: the bound is not above 0, as where a model knows no more than what is trivial.

    Examples:
        >>> from lfmlib.losses import replace
        >>> found = pd.DataFrame({"draw": 0, "energy": [0.2, 0.4], "rise": [0.0, 0.1]})
        >>> replace.replaceable(found, 0.05).round(2).to_dict("records")
        [{'energy': 0.3, 'low': 0.2, 'high': 0.4}]
    """
    if not bound > 0:
        raise ValueError(f"the bound is {bound}: expected by how much the loss may rise, above 0")

    def crossed(rows: pd.DataFrame) -> pd.Series:
        rows = rows[rows[of] > 0].sort_values(of, kind="stable")
        return pd.Series(crossing(rows[of].to_numpy(float), rows["rise"].to_numpy(float), bound), [of, "low", "high"])

    if found.empty:
        return pd.DataFrame(columns=[of, "low", "high"], index=pd.Index([], name="draw"), dtype=float)
    return pd.DataFrame(found.groupby("draw")[[of, "rise"]].apply(crossed))


def _check(weights: Weights, shares: Sequence, stand_in: str, draws: int) -> None:
    """Refuse what would fail only after losses were paid for."""
    if not weights:
        raise ValueError("there are no weights to replace")
    check_stand_in(stand_in)
    check(draws=draws)
    places: dict[tuple, str] = {}
    for name, w in weights.items():
        other = places.setdefault((w.data_ptr(), tuple(w.shape), w.stride()), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one tensor: expected each once")
    for share in shares:
        if not isinstance(share, Mapping):
            checked(share)
            continue
        if missing := [name for name in weights if name not in share]:
            raise ValueError(f"a mapping of shares has none of {missing[0]}: expected one for each matrix")
        for name in weights:
            checked(share[name])


@torch.no_grad()
def _replace(
    weights: Weights, splits: Mapping[str, Split], share: Share | Mapping[str, float], stand_in: str, seed: tuple
) -> tuple[float, float]:
    """Replace, and say what share of all directions, entries, … and of the energy that was."""
    units = replaced = square = whole = 0.0
    for name, w in weights.items():
        part = splits[name].at(share[name] if isinstance(share, Mapping) else share)
        w.copy_(part.replaced(stand_in, rng(seed, name)))
        count = min(w.shape) if splits[name].rule == "directions" else w.numel()
        units, replaced = units + count, replaced + part.share * count
        square, whole = square + part.square, whole + part.whole
    return replaced / units, square / whole if whole else 0.0
