"""A matrix split into what is kept and a part, and what can stand in the part's place.

The part consists of the entries of least magnitude, the singular directions of least singular value, or the rows,
columns or 8 × 8 blocks of least norm. What stands in for it is told in `lfmlib.losses.replace`, where a loss judges.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from numbers import Real

import numpy as np
import torch

from ..structure.bulk import below_edge
from ..structure.shrinkage import denoised

RULES = ("directions", "entries", "rows", "columns", "blocks")
"""What the part consists of, the least first."""
STAND_INS = ("zero", "noise", "permuted", "resampled", "rotated", "signs", "sizes")
"""What is put in its place (see `lfmlib.losses.replace`)."""
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
        check_stand_in(stand_in)
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
        above, upto = checked(share)
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


def check_stand_in(stand_in: str) -> None:
    """Raise ValueError for an unknown stand-in."""
    if stand_in not in (*STAND_INS, CONTROL):
        raise ValueError(f"unknown stand-in {stand_in!r}: expected one of {', '.join((*STAND_INS, CONTROL))}")


def checked(share: Share) -> tuple[float, float]:
    """Where a part begins and ends, as shares of all."""
    ends = share if isinstance(share, tuple) and len(share) == 2 else (0.0, share)
    if not all(isinstance(end, Real) for end in ends) or not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError(f"{share!r} is no share of a matrix: expected a number between 0 and 1, or two that rise")
    return float(ends[0]), float(ends[1])


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
