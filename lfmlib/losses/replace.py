"""What part of the weights is worth: it is replaced by something that keeps less and less of it, and a loss judges.

Each matrix W is split into what is kept and a part B: its entries of least magnitude; its singular directions of least
singular value; its rows, columns or 8 × 8 blocks of least norm. In the place of B comes a stand-in:

    zero       nothing
    noise      fresh Gaussian noise
    permuted   the entries of B, in random order
    resampled  entries drawn from those of B, with replacement
    rotated    the singular values of B in random directions (Haar)
    signs      the signs of B's entries, all of one size
    sizes      the sizes of B's entries, with random signs

A stand-in lies where B lay and has its norm: of directions, it is orthogonal to those that are kept, on both sides. So,
were B the noise of a low-rank signal, fresh noise in its place would be another draw of the same law. The control
"added" replaces nothing: to W comes Gaussian noise as long as the step from B to a fresh one, √2 times B's norm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..structure.shrinkage import below_edge, denoised
from .pruning import largest_share
from .weights import Weights, restored

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
        """The matrix with a stand-in for B, float32.

        Args:
            stand_in: one of `STAND_INS`, or `CONTROL`.
            rng: source of the draw.

        Raises:
            ValueError: an unknown stand-in, or "rotated" for entries or blocks, which have no directions of their own.
        """
        if stand_in == "zero" or not self.square:
            return self.kept.clone()
        if stand_in == CONTROL:
            return self.kept + self.part + self._sized(self._noise(rng), 2 * self.square)
        if stand_in == "rotated":
            return self.kept + self._sized(self._rotated(rng), self.square)
        if stand_in not in STAND_INS:
            expected = ", ".join((*STAND_INS, CONTROL))
            raise ValueError(f"unknown stand-in {stand_in!r}: expected one of {expected}")
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
        w: ``(out, in)``.
        rule: one of `RULES`.

    Raises:
        ValueError: unknown rule.
    """

    def __init__(self, w: torch.Tensor, rule: str = "directions"):
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join(RULES)}")
        self.w, self.rule = w.detach().float().clone(), rule

    def at(self, share: Share) -> Part:
        """The part that holds a share of the directions, entries, rows, columns or blocks, those of least size.

        Args:
            share: between 0 and 1; a pair of shares: those of the second that are not of the first.

        Raises:
            ValueError: a share outside [0, 1], or a pair that falls.
        """
        above, upto = share if isinstance(share, tuple) else (0.0, share)
        if not 0 <= above <= upto <= 1:
            raise ValueError(f"{share} is no share of a matrix: expected a number between 0 and 1, or two that rise")
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
        `lfmlib.structure.shrinkage.below_edge`)."""
        return below_edge(self.singular_values, tuple(self.w.shape)) / min(self.w.shape)

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
    rule: str = "directions",
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
        rule: one of `RULES`.
        stand_in: one of `STAND_INS`, or `CONTROL`.
        draws: of the stand-in; of "zero", "signs" and other rules without chance, which draw nothing, one.
        splits: name → `Split` of that matrix, so that several curves share its decomposition; None: made here.
        own: the loss before; None: it is measured.
        seed: of the draws; each also depends on the name of the matrix.
        progress: show a bar.

    Returns:
        Columns: draw; share, of directions, entries, … over all matrices, each weighted with its number; energy, the
        share of the squared norm of all matrices that was replaced; rise, in the unit of the loss. ``attrs["loss"]``
        is the loss before. Ctrl-C returns the rows that are done, if there are any.

    Raises:
        ValueError: unknown rule or stand-in, a share outside [0, 1], no weights, or a loss that is not finite before
            anything is replaced.

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
    if not weights:
        raise ValueError("there are no weights to replace")
    if stand_in not in (*STAND_INS, CONTROL):
        raise ValueError(f"unknown stand-in {stand_in!r}: expected one of {', '.join((*STAND_INS, CONTROL))}")
    splits = {name: Split(w, rule) for name, w in weights.items()} if splits is None else splits
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
    found.attrs["loss"] = own
    return found


def replaceable(found: pd.DataFrame, bound: float, of: str = "energy") -> pd.DataFrame:
    """The largest part that could be replaced before the rise of the loss exceeds ``bound``.

    Args:
        found: rows of `curve`, of one rule and stand-in.
        bound: in the unit of the loss, such as a hundredth of the gap between the model’s loss and the trivial one.
        of: "energy", the part's share of the squared norm; or "share", of directions, entries, ….

    Returns:
        Index: draw. Columns: ``of``, between 0 and 1, interpolated as `lfmlib.pruning.largest_share` does; low and
        high, the parts that were measured on either side of it: the largest before the bound is exceeded (0 where the
        first exceeds it), and the next (itself, where none does).

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

    def of_draw(rows: pd.DataFrame) -> pd.Series:
        rows = rows.sort_values("share")
        beyond = np.flatnonzero(~(rows["rise"] <= bound))
        first = int(beyond[0]) if len(beyond) else len(rows)
        measured = [0.0, *rows["share"]]
        low, high = measured[first], measured[min(first + 1, len(rows))]
        return pd.Series({of: largest_share(rows, bound), "low": low, "high": high})

    one = found[["draw", of, "rise"]].rename(columns={of: "share"})
    return one.groupby("draw")[["share", "rise"]].apply(of_draw)


def rng(seed: Sequence[int], name: str) -> np.random.Generator:
    """The source of a draw for the matrix of that name.

    Args:
        seed: numbers, of the draw.
        name: of the matrix.
    """
    return np.random.default_rng([*seed, *name.encode()])


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
