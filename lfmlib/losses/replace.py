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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from numbers import Real

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..structure.bulk import below_edge
from ..structure.shrinkage import denoised
from .weights import Weights, restored, rng

RULES = ("directions", "entries", "rows", "columns", "blocks")
"""What the part consists of, the least first."""
STAND_INS = ("zero", "noise", "permuted", "resampled", "rotated", "signs", "sizes")
"""What is put in its place, as explained above."""
CONTROL = "added"
"""Noise on top of everything, as far from W as fresh noise in the place of the part would be."""
BLOCK = 8
"""Rows and columns of a block."""
Share = float | tuple[float, float]
"""A share of a matrix, the least; or what lies between two such shares."""


class Part(ABC):
    """A part of a matrix, and what is left without it.

    Attributes:
        kept: W - B, float32.
        part: B, float32, of the shape of W.
        share: of the entries, directions, rows, columns or blocks that B is of.
        square, whole: squared norms of B and of W.
    """

    def __init__(self, kept: torch.Tensor, part: torch.Tensor, share: float):
        self.kept, self.part, self.share = kept, part, share
        self.square = part.double().square().sum().item()
        self.whole = self.square + kept.double().square().sum().item()  # the two are orthogonal

    def replaced(self, stand_in: str, rng: np.random.Generator) -> torch.Tensor:
        """The matrix with a stand-in for B, float32; of a B that is zero itself, W.

        Args:
            stand_in: one of `STAND_INS`, or `CONTROL`.
            rng: source of the draw.

        Raises:
            ValueError: an unknown stand-in, or "rotated" for scattered entries or blocks, which have no directions.
        """
        _check_stand_in(stand_in)
        if stand_in == "zero" or not self.square:
            return self.kept.clone()
        if stand_in == CONTROL:
            return self.kept + self.part + self._sized(self._noise(rng), 2 * self.square)
        if stand_in == "rotated":
            return self.kept + self._sized(self._rotated(rng), self.square)
        drawn = self._noise(rng) if stand_in == "noise" else self._laid_out(_drawn(self._values, stand_in, rng))
        return self.kept + self._sized(self._inside(drawn), self.square)

    @property
    def _values(self) -> torch.Tensor:
        """The entries that B consists of."""
        return self.part.flatten()

    def _laid_out(self, values: torch.Tensor) -> torch.Tensor:
        """Entries at their places in a matrix."""
        return values.view(self.part.shape)

    @abstractmethod
    def _inside(self, drawn: torch.Tensor) -> torch.Tensor:
        """A matrix brought to where B lies."""

    @abstractmethod
    def _rotated(self, rng: np.random.Generator) -> torch.Tensor:
        """The singular values of B in random directions."""

    def _noise(self, rng: np.random.Generator) -> torch.Tensor:
        return _normal(rng, tuple(self.part.shape)).to(self.part)

    @staticmethod
    def _sized(drawn: torch.Tensor, square: float) -> torch.Tensor:
        norm = drawn.double().square().sum().item()
        return drawn * math.sqrt(square / norm) if norm else drawn


class _Places(Part):
    """A part that consists of entries."""

    def __init__(self, w: torch.Tensor, mask: torch.Tensor, share: float):
        self.mask = mask
        super().__init__(w.masked_fill(mask, 0), w.masked_fill(~mask, 0), share)

    @property
    def _values(self) -> torch.Tensor:
        return self.part[self.mask]

    def _laid_out(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(self.part).masked_scatter_(self.mask, values)

    def _inside(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn.masked_fill(~self.mask, 0)

    def _rotated(self, rng: np.random.Generator) -> torch.Tensor:
        rows, columns = self.mask.any(dim=1), self.mask.any(dim=0)
        if not bool(self.mask[rows][:, columns].all()):
            raise ValueError(
                "entries and blocks that lie scattered have no directions of their own to be rotated: expected the "
                'rule "directions", "rows" or "columns"'
            )
        inner = self.part[rows][:, columns]
        values = torch.linalg.svdvals(inner)
        left, right = (_haar(rng, side, len(values)).to(inner) for side in inner.shape)
        return self._laid_out(((left * values) @ right.T).flatten())


class _Directions(Part):
    """A part that consists of singular directions."""

    def __init__(self, w: torch.Tensor, svd: tuple[torch.Tensor, ...], chosen: torch.Tensor, share: float):
        left, values, right = svd
        self.left, self.right, self.values = left[:, ~chosen], right[~chosen].T, values[chosen]
        kept = (self.left * values[~chosen]) @ self.right.T
        super().__init__(kept, w - kept, share)

    def _inside(self, drawn: torch.Tensor) -> torch.Tensor:
        drawn = drawn - self.left @ (self.left.T @ drawn)
        return drawn - (drawn @ self.right) @ self.right.T

    def _rotated(self, rng: np.random.Generator) -> torch.Tensor:
        left, right = (
            _haar(rng, len(kept), len(self.values), kept.double()).to(self.part) for kept in (self.left, self.right)
        )
        return (left * self.values) @ right.T


class Split:
    """A matrix that can be split at any share, by one rule.

    Args:
        w: ``(out, in)``, of a floating type; it is copied as float32.
        rule: one of `RULES`.

    Raises:
        ValueError: unknown rule, or no matrix of a floating type.
    """

    def __init__(self, w: torch.Tensor, rule: str = "directions"):
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join(RULES)}")
        if w.dim() != 2 or not w.numel() or not w.is_floating_point():
            raise ValueError(
                f"found shape {tuple(w.shape)} of {w.dtype}: expected a matrix (out, in) of a floating type"
            )
        self.w, self.rule = w.detach().float().clone(), rule

    def at(self, share: Share) -> Part:
        """The part that holds a share of the directions, entries, rows, columns or blocks, those of least size.

        Args:
            share: between 0 and 1; a pair of shares: those of the second that are not of the first.

        Raises:
            ValueError: a share outside [0, 1], or a pair that falls.
        """
        above, upto = _checked(share)
        total = min(self.w.shape) if self.rule == "directions" else self._order.numel()
        first, last = round(above * total), round(upto * total)
        chosen = torch.zeros(total, dtype=torch.bool, device=self.w.device)
        if self.rule == "directions":
            chosen[total - last : total - first] = True
            return _Directions(self.w, self._svd, chosen, (last - first) / total)
        chosen[self._order[first:last]] = True
        return _Places(self.w, self._mask(chosen), (last - first) / total)

    @property
    def singular_values(self) -> np.ndarray:
        """All of the matrix, descending, float64."""
        return self._svd[1].double().cpu().numpy()

    @property
    def directions(self) -> torch.Tensor:
        """The right singular vectors ``(min(out, in), in)``, in the same order: what of inputs each direction meets."""
        return self._svd[2]

    @property
    def share_below_edge(self) -> float:
        """Share of the directions that the edge of Marchenko and Pastur's law calls noise (see
        `lfmlib.structure.bulk.below_edge`)."""
        rows, columns = self.w.shape
        return below_edge(self.singular_values, (rows, columns)) / min(rows, columns)

    def denoised(self, how: str = "optimal") -> torch.Tensor:
        """The matrix with its singular values shrunk, float32 (see `lfmlib.structure.shrinkage`).

        Args:
            how: one of `lfmlib.structure.shrinkage.WAYS`.
        """
        return denoised(self.w, how, self._svd)

    @cached_property
    def _svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.linalg.svd(self.w, full_matrices=False)

    @cached_property
    def _order(self) -> torch.Tensor:
        """Numbers of the entries, rows, columns or blocks, the least first."""
        square = self.w.square()
        if self.rule == "blocks":
            rows, columns = (math.ceil(side / BLOCK) for side in self.w.shape)
            padded = square.new_zeros(rows * BLOCK, columns * BLOCK)
            padded[: self.w.shape[0], : self.w.shape[1]] = square
            square = padded.view(rows, BLOCK, columns, BLOCK).sum(dim=(1, 3))
        elif self.rule != "entries":
            square = square.sum(dim=1 if self.rule == "rows" else 0)
        return square.flatten().argsort(stable=True)

    def _mask(self, chosen: torch.Tensor) -> torch.Tensor:
        rows, columns = self.w.shape
        if self.rule == "entries":
            return chosen.view(rows, columns)
        if self.rule == "blocks":
            blocks = chosen.view(math.ceil(rows / BLOCK), -1)
            return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
        return (chosen[:, None] if self.rule == "rows" else chosen[None, :]).expand(rows, columns).contiguous()


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
    own, rows = loss() if own is None else own, []
    if not math.isfinite(own):
        raise ValueError(f"the loss is {own} before anything is replaced: there is nothing it could rise from")
    chances = 1 if stand_in in ("zero", "signs") else draws
    steps = [(draw, share) for draw in range(chances) for share in shares]
    try:
        with restored(weights):
            for draw, share in tqdm(steps, f"replaced: {stand_in}", disable=not progress, leave=False, delay=1):
                rows.append((draw, *_replace(weights, splits, share, stand_in, (seed, draw)), loss() - own))
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

    def crossing(rows: pd.DataFrame) -> pd.Series:
        rows = rows[rows[of] > 0].sort_values(of, kind="stable")
        shares, rises = (np.r_[0.0, rows[column].to_numpy(float)] for column in (of, "rise"))
        beyond = np.flatnonzero(~(rises <= bound))  # a rise that is infinite or NaN exceeds any bound
        last = int(beyond[0]) if len(beyond) else len(shares) - 1
        first = last - 1 if len(beyond) else last
        way = (bound - rises[first]) / (rises[last] - rises[first]) if len(beyond) else 0.0
        value = shares[first] + (way * (shares[last] - shares[first]) if math.isfinite(way) else 0.0)
        return pd.Series({of: value, "low": shares[first], "high": shares[last]})

    if found.empty:
        return pd.DataFrame(columns=[of, "low", "high"], index=pd.Index([], name="draw"), dtype=float)
    return pd.DataFrame(found.groupby("draw")[[of, "rise"]].apply(crossing))


def _check(weights: Weights, shares: Sequence, stand_in: str, draws: int) -> None:
    """Refuse what would fail only after losses were paid for."""
    if not weights:
        raise ValueError("there are no weights to replace")
    _check_stand_in(stand_in)
    if draws < 1:
        raise ValueError(f"draws is {draws}: expected 1 or more")
    places: dict[tuple, str] = {}
    for name, w in weights.items():
        other = places.setdefault((w.data_ptr(), tuple(w.shape), w.stride()), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one tensor: expected each once")
    for share in shares:
        if not isinstance(share, Mapping):
            _checked(share)
            continue
        if missing := [name for name in weights if name not in share]:
            raise ValueError(f"a mapping of shares has none of {missing[0]}: expected one for each matrix")
        for name in weights:
            _checked(share[name])


def _check_stand_in(stand_in: str) -> None:
    if stand_in not in (*STAND_INS, CONTROL):
        raise ValueError(f"unknown stand-in {stand_in!r}: expected one of {', '.join((*STAND_INS, CONTROL))}")


def _checked(share: Share) -> tuple[float, float]:
    """Where a part begins and ends, as shares of all."""
    ends = share if isinstance(share, tuple) and len(share) == 2 else (0.0, share)
    if not all(isinstance(end, Real) for end in ends) or not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError(f"{share!r} is no share of a matrix: expected a number between 0 and 1, or two that rise")
    return float(ends[0]), float(ends[1])


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


def _drawn(values: torch.Tensor, stand_in: str, rng: np.random.Generator) -> torch.Tensor:
    """Entries in the place of others, as a stand-in has them."""
    if stand_in == "signs":
        return values.sign()
    count = values.numel()
    if stand_in == "sizes":
        return values.abs() * torch.from_numpy(rng.integers(0, 2, count, dtype=np.int8)).to(values).mul_(2).sub_(1)
    order = rng.permutation(count) if stand_in == "permuted" else rng.integers(count, size=count)
    return values[torch.from_numpy(order).to(values.device)]


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _haar(rng: np.random.Generator, side: int, count: int, outside: torch.Tensor | None = None) -> torch.Tensor:
    """``(side, count)`` orthonormal columns in uniformly random directions, orthogonal to ``outside`` ``(side, k)``."""
    drawn = _normal(rng, (side, count)).double()
    if outside is not None:
        outside = outside.cpu()
        drawn -= outside @ (outside.T @ drawn)
    columns, triangle = torch.linalg.qr(drawn)
    return columns * triangle.diagonal().sign()
