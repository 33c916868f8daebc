"""Merging what several fine-tunes added to one base, tensor by tensor: the methods in use, and outlier amplification.

The methods are what peft’s functions (`peft.utils.merge_utils`) make of float32, to the bit: the weighted sum (task
arithmetic, Ilharco et al. 2022, arXiv 2212.04089), TIES (Yadav et al. 2023, arXiv 2306.01708), DARE and DARE-TIES (Yu
et al. 2023, arXiv 2311.03099). The average is task arithmetic with equal shares; NAN (Si et al. 2025, arXiv 2505.16148)
with shares in inverse proportion to the norms.

Outlier amplification splits a merged ΔW into the Gaussian core and the outliers of `lfmlib.optimal_law`, and scales
the outliers alone. Shrinking the core is the same up to the scale of ΔW, in matrices that have outliers.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Sequence

import torch

from ..distribution.law import optimal_law

METHODS = ("average", "task_arithmetic", "ties", "dare", "dare_ties", "nan")
"""Names of the methods."""
THINNING = ("ties", "dare", "dare_ties")
"""Methods that set a share 1 - density of every ΔW to zero."""
RANDOM = ("dare", "dare_ties")
"""Methods that choose these at random."""
WHOLE = ("ties",)
"""Methods that must see a tensor whole: which entries are kept depends on all of it."""
PROJECTIONS = ("zero-mean", "symmetric")
"""What a merged matrix can be made, see `projected`."""
_drawing = threading.Lock()  # peft draws from the one generator that all of torch has
DENSITY = {"ties": 0.2, "dare": 0.5, "dare_ties": 0.5}
"""Share that is kept where nothing else is said: of TIES, as its authors have it."""


def combine(
    deltas: Sequence[torch.Tensor],
    method: str,
    weights: Sequence[float],
    *,
    density: float | None = None,
    seed: str = "",
) -> torch.Tensor:
    """One ΔW out of several.

    Args:
        deltas: of the same shape, float32 or float64.
        method: one of `METHODS`.
        weights: what each is multiplied with; for "nan" from `shares`.
        density: of the methods in `THINNING`: the share of each ΔW that is kept, from 0 (nothing) to 1 (all); None: as
            in `DENSITY`.
        seed: of what is random; equal strings give equal masks.

    Raises:
        ValueError: unknown method, a density outside [0, 1], or not one weight for each ΔW.

    Examples:
        >>> from lfmlib.merging.methods import combine
        >>> deltas = [torch.tensor([1.0, -1.0, 0.5]), torch.tensor([2.0, 1.0, 0.5])]
        >>> combine(deltas, "task_arithmetic", [0.5, 0.5])
        tensor([1.5000, 0.0000, 0.5000])
    """
    check(method, len(deltas), weights, density)
    density = DENSITY.get(method, 1.0) if density is None else density
    shares = [float(one) / (len(deltas) if method == "average" else 1) for one in weights]
    if method in THINNING and density == 0:  # nothing is kept: what would be divided by it is not there
        return torch.zeros_like(deltas[0])
    if method not in THINNING or (density == 1 and method == "dare"):
        return _sum(deltas, shares)
    if method == "ties" or density == 1:  # all is kept, and signs are elected all the same
        return _elected([trimmed(one, density) for one in deltas], shares)
    from peft.utils import merge_utils  # here, because importing it takes seconds

    merge = {"dare": merge_utils.dare_linear, "dare_ties": merge_utils.dare_ties}[method]
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"))
        return merge(list(deltas), torch.tensor(shares, dtype=deltas[0].dtype), density)


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """The first step of TIES: the largest magnitudes of a whole ΔW, and zeros. What follows goes entry by entry.

    As in peft, of a tensor too small for one entry to be kept nothing is.
    """
    if density == 1:
        return delta
    from peft.utils import merge_utils

    return merge_utils.prune(delta, density, method="magnitude")


def _elected(kept: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The other steps of TIES: the sign of the sum is elected, and those that agree with it are averaged."""
    from peft.utils import merge_utils

    stacked = torch.stack(list(kept))
    elected = merge_utils.calculate_majority_sign_mask(stacked)
    stacked *= merge_utils.reshape_weight_task_tensors(stacked, torch.tensor(shares, dtype=stacked.dtype))
    return merge_utils.disjoint_merge(stacked, elected)


def _sum(deltas: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """peft’s `task_arithmetic`, to the bit, without importing it."""
    weighted = (delta * torch.tensor(share, dtype=delta.dtype) for delta, share in zip(deltas, shares, strict=True))
    if len(deltas) > 4:  # PyTorch sums more in another order
        return torch.stack(list(weighted)).sum(0)
    total = next(weighted)
    for one in weighted:
        total += one
    return total


def check(method: str, count: int, weights: Sequence[float], density: float | None) -> None:
    """Raise what `combine` raises, before anything is read."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    if density is not None and not 0 <= density <= 1:
        raise ValueError(f"density is {density}: expected a share of each ΔW that is kept, between 0 and 1")
    if not count:
        raise ValueError("there is nothing to merge: expected at least one tuned model")
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise ValueError(f"weights are {list(weights)}: expected a number for each of the {count} tuned models")


def shares(norms: Sequence[float]) -> list[float]:
    """The coefficients of NAN: in inverse proportion to the norms of the ΔW, and 1 in all.

    A ΔW of zero has no norm to divide by: it adds nothing, and gets no share.

    Raises:
        ValueError: a norm is infinite or NaN.
    """
    if not all(map(math.isfinite, norms)):
        raise ValueError(f"the norms of ΔW are {list(norms)}: some weights are infinite or NaN, mend them first")
    inverse = [1 / norm if norm > 0 else 0.0 for norm in norms]
    return [one / (sum(inverse) or 1.0) for one in inverse]


def cut(delta: torch.Tensor | Iterable[torch.Tensor]) -> float:
    """Magnitude beyond which an entry of ΔW is an outlier of its Gaussian core; math.inf where there are none.

    Args:
        delta: the tensor, or pieces of it. Of one too small or too even for a law nothing is an outlier.
    """
    try:
        return optimal_law(delta, families=("gaussian",)).outlier_cut
    except ValueError:
        return math.inf


def amplified(delta: torch.Tensor, factor: float, beyond: float) -> torch.Tensor:
    """ΔW with its outliers, the entries of a magnitude ``beyond``, multiplied by a factor."""
    return torch.where(delta.abs() > beyond, factor * delta, delta)


def reach(delta: torch.Tensor, beyond: float) -> float:
    """How far out outliers lie: their root mean square over that of the rest; NaN where there are none.

    Zeros count among the rest: of what TIES or DARE have thinned out it is no measure that single ΔW compare with.
    """
    far = delta.abs() > beyond
    outer, inner = (part.double().square().mean().sqrt().item() for part in (delta[far], delta[~far]))
    return outer / inner if inner else math.nan


def restoring(before: Sequence[float], after: float) -> float:
    """A factor that needs no data: outliers are to lie as far out as those of the single ΔW do, in the mean.

    Where ΔW are unlike, an average makes their core smaller by the root of their number, and an outlier, which only one
    of them has, by their number.

    Args:
        before, after: `reach` of every ΔW, and of what they were merged to.

    Returns:
        Never below 1; 1 where either has no outliers.
    """
    known = [one for one in before if math.isfinite(one)]
    return max(1.0, sum(known) / len(known) / after) if known and after > 0 else 1.0


def projected(w: torch.Tensor, how: str) -> torch.Tensor:
    """A tensor made zero-mean, or symmetric, as the paper says that optimal weights are.

    "symmetric" is the nearest symmetric distribution in the sense that ranks are kept: the value at rank i of n becomes
    half its difference to the value at rank n - 1 - i. It is zero-mean as well.

    Raises:
        ValueError: another projection.
    """
    return _PROJECTED[how](w) if how in _PROJECTED else _refuse(how)


def _symmetric(w: torch.Tensor) -> torch.Tensor:
    values, order = w.flatten().sort(stable=True)
    return torch.empty_like(values).scatter_(0, order, (values - values.flip(0)) / 2).view_as(w)


def _refuse(how: str) -> torch.Tensor:
    raise ValueError(f"unknown projection {how!r}: expected one of {', '.join(PROJECTIONS)}")


_PROJECTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zero-mean": lambda w: w - w.double().mean().to(w.dtype),
    "symmetric": _symmetric,
}
