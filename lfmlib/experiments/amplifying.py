"""A merged ΔW of the lab, and what can be done to it: its outliers amplified, and what could pass for that."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from ..losses import outliers
from ..merging import methods
from .fine_tunes import Delta, Siblings, norm

WIDE = 2.0
"""Standard deviations beyond which an arm amplifies all entries, outliers or not."""


class Merge:
    """A merged ΔW, and what can be done to it; everything is in the units of its scale 1.

    Args:
        family: whose ΔW are merged.
        method: one of `lfmlib.findings.METHOD_NAMES`.
        seed: of what is random.
    """

    def __init__(self, family: Siblings, method: str, seed: int):
        self.family, deltas = family, list(family.deltas.values())
        shares = methods.shares([norm(some) for some in deltas])
        weights = [len(deltas) * one for one in shares] if method == "nan" else [1.0] * len(deltas)
        self.plain: Delta = {
            name: methods.combine([one[name] for one in deltas], method, weights, seed=f"{seed}/{name}")
            for name in family.base
        }
        self.seed = seed

    @functools.cached_property
    def cuts(self) -> dict[str, float]:
        """Name of a matrix → magnitude beyond which there are outliers."""
        return {name: methods.cut(one) for name, one in self.plain.items() if one.dim() == 2}

    @functools.cached_property
    def masks(self) -> Delta:
        """Name of a matrix → where its outliers are."""
        return {name: self.plain[name].abs() > cut for name, cut in self.cuts.items()}

    @functools.cached_property
    def wide(self) -> Delta:
        """Name of a matrix → where its entries lie beyond `WIDE` standard deviations."""
        return {name: self.plain[name].abs() > WIDE * self.plain[name].std(correction=0) for name in self.cuts}

    @functools.cached_property
    def random(self) -> Delta:
        """Name of a matrix → where other entries are, drawn at random, whose squared norm is that of its outliers."""
        return {
            name: outliers.as_large(self.plain[name], mask, np.random.default_rng([self.seed, *name.encode()]))
            for name, mask in self.masks.items()
        }

    @functools.cached_property
    def restoring(self) -> dict[str, float]:
        """Name of a matrix → the factor for its outliers that needs no data (`lfmlib.merging.methods.restoring`)."""
        return {
            name: methods.restoring(self.family.reaches[name], methods.reach(self.plain[name], cut))
            for name, cut in self.cuts.items()
        }

    @property
    def given_back(self) -> float:
        """The median data-free factor of the matrices that have outliers; NaN where none has."""
        found = [self.restoring[name] for name, mask in self.masks.items() if mask.any()]
        return float(np.median(found)) if found else math.nan

    @property
    def share(self) -> float:
        """The share of the entries of the matrices that are outliers."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    @property
    def energy(self) -> float:
        """The share of the squared norm of the matrices that lies in outliers."""
        outer, whole = (
            norm({name: self.plain[name][mask] if far else self.plain[name] for name, mask in self.masks.items()})
            for far in (True, False)
        )
        return (outer / whole) ** 2 if whole else 0.0

    def amplified(self, factor: float | dict[str, float], masks: Delta) -> Delta:
        """ΔW with some entries multiplied by a factor, or by one for each matrix."""
        changed = dict(self.plain)
        for name, mask in masks.items():
            by = factor[name] if isinstance(factor, dict) else factor
            changed[name] = torch.where(mask, by * changed[name], changed[name])
        return changed


def arms(merge: Merge) -> dict[str, Callable[[float], Delta]]:
    """Ways to change a merged ΔW: name → the ΔW for a factor; NaN for those that have none.

    ``amplified`` are the outliers; ``wide``, everything beyond `WIDE` standard deviations; ``random`` a random set of
    the same squared norm as the outliers; ``auto`` the outliers, by `lfmlib.merging.methods.restoring`; ``plain``
    nothing.
    """
    return {
        "plain": lambda factor: merge.plain,
        "auto": lambda factor: merge.amplified(merge.restoring, merge.masks),
        "amplified": lambda factor: merge.amplified(factor, merge.masks),
        "wide": lambda factor: merge.amplified(factor, merge.wide),
        "random": lambda factor: merge.amplified(factor, merge.random),
    }
