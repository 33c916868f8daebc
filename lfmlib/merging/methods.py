"""Methods of merging the ΔW of several fine-tunes of one base, tensor by tensor, and the amplification of outliers.

The results are those of peft’s functions (`peft.utils.merge_utils`) on float32, to the bit: the weighted sum (task
arithmetic, Ilharco et al. 2022, arXiv 2212.04089), TIES (Yadav et al. 2023, arXiv 2306.01708), DARE and DARE-TIES (Yu
et al. 2023, arXiv 2311.03099). The average is task arithmetic with equal coefficients; NAN (Si et al. 2025, arXiv
2505.16148) with coefficients in inverse proportion to the norms of the ΔW.

Others are defined as in mergekit: DELLA (Deep et al. 2024, arXiv 2406.11617), which thins each ΔW by chances that grow
with the rank of an entry in its row; spherical interpolation of a base and one tuned model (Shoemake 1985); and the one
tuned model as it is.

Outlier amplification splits a merged ΔW into the Gaussian core and the outliers of `lfmlib.optimal_law`, and multiplies
the outliers alone. In matrices that have outliers it equals shrinking the core, up to the scale of ΔW.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable, Sequence
from numbers import Real

import torch

from ..distribution.law import optimal_law
from ..extras import need

METHODS = (
    "average", "task_arithmetic", "ties", "dare", "dare_ties", "nan", "della", "della_linear", "slerp", "passthrough",
)  # fmt: skip
"""Names of the methods."""
THINNING = ("ties", "dare", "dare_ties", "della", "della_linear")
"""Methods that set a share 1 - density of every ΔW to zero."""
RANDOM = ("dare", "dare_ties", "della", "della_linear")
"""Methods that choose at random which entries these are."""
WHOLE = ("ties", "della", "della_linear")
"""Methods that need a tensor whole, because which entries are kept depends on all of them."""
MIXING = ("slerp", "passthrough")
"""Methods that take a base and one tuned model themselves, not ΔW (see `mix`)."""
PROJECTIONS = ("zero-mean", "symmetric")
"""What `projected` can make a tensor."""
DENSITY = {"ties": 0.2, "dare": 0.5, "dare_ties": 0.5, "della": 0.5, "della_linear": 0.5}
"""Default share of the entries of each ΔW that is kept; for TIES that of its authors."""
EPSILON = 0.15
"""How far the chances of DELLA reach below and above the density, unless it is said: mergekit's."""
PARALLEL = 0.9995
"""Cosine of two tensors above which, or below its negative, they are interpolated on a line: mergekit's."""
MIN_NORM = 1e-8
"""Norm up to which a tensor has no direction: mergekit's."""
MIN_SUM = 1e-7
"""Sum of magnitudes below which a thinned ΔW is not scaled: mergekit's."""
RANKED = 1 << 20
"""Values that are ranked at a time, in whole rows."""
_drawing = threading.Lock()  # peft draws from the global generator of torch, which all threads share


def combine(
    deltas: Sequence[torch.Tensor],
    method: str,
    weights: Sequence[float],
    *,
    density: float | None = None,
    epsilon: float | None = None,
    seed: str = "",
) -> torch.Tensor:
    """One ΔW out of several, by a method that is not in `MIXING`.

    Args:
        deltas: of the same shape, float32 or float64.
        method: one of `METHODS`.
        weights: the coefficient of each; for "nan" from `shares`.
        density: share of the entries of each ΔW that is kept, from 0 (none) to 1 (all), by the methods in `THINNING`;
            None: as in `DENSITY`.
        epsilon: how far the chances of DELLA reach below and above ``density``; None: `EPSILON`.
        seed: of the methods in `RANDOM`; equal strings give equal masks.

    Returns:
        Of the shape and type of each.

    Raises:
        ValueError: unknown method, a density outside [0, 1], chances outside (0, 1), or not one weight for each ΔW.

    Examples:
        >>> from lfmlib.merging.methods import combine
        >>> deltas = [torch.tensor([1.0, -1.0, 0.5]), torch.tensor([2.0, 1.0, 0.5])]
        >>> combine(deltas, "task_arithmetic", [0.5, 0.5])
        tensor([1.5000, 0.0000, 0.5000])
    """
    if method in MIXING:
        raise ValueError(f"{method} takes a base and a model, not ΔW: see lfmlib.merging.methods.mix")
    check(method, len(deltas), weights, density, epsilon)
    density = DENSITY.get(method, 1.0) if density is None else density
    shares = [float(one) / (len(deltas) if method == "average" else 1) for one in weights]
    if method in THINNING and density == 0:  # nothing is kept, and DARE would divide by it
        return torch.zeros_like(deltas[0])
    if method not in THINNING or (density == 1 and method == "dare"):
        return _sum(deltas, shares)
    if method.startswith("della"):
        generator = drawing(seed)
        kept = [thinned(one, density, epsilon, generator) for one in deltas]
        return _agreed(kept, shares) if method == "della" else _sum(kept, shares)
    if method == "ties" or density == 1:  # DARE-TIES that keeps all entries still elects signs
        return _elected([trimmed(one, density) for one in deltas], shares)
    from peft.utils import merge_utils  # here, because importing it takes seconds

    merge = {"dare": merge_utils.dare_linear, "dare_ties": merge_utils.dare_ties}[method]
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(_number(seed))
        return merge(list(deltas), torch.tensor(shares, dtype=deltas[0].dtype), density)


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")


def drawing(seed: str) -> torch.Generator:
    """The random numbers that `combine` draws for DELLA from this seed, one ΔW after the other."""
    return torch.Generator().manual_seed(_number(seed))


def thinned(delta: torch.Tensor, density: float, epsilon: float | None, generator: torch.Generator) -> torch.Tensor:
    """The first step of DELLA: entries of a whole ΔW set to zero by chance, the smaller of a row the more often.

    An entry is kept with a chance that grows with the rank of its magnitude in its row, from density - epsilon to
    density + epsilon; of equal magnitudes the first ranks lowest. What is kept is scaled so that the sum of magnitudes
    is that of ΔW, as in mergekit (the authors divide every entry by its chance).

    Args:
        delta: one ΔW, in its shape; a vector is one row.
        density: share of the entries that is kept, above 0; 1 changes nothing.
        epsilon: None: `EPSILON`.
        generator: from `drawing`.
    """
    if density == 1 or not delta.numel():
        return delta
    epsilon = EPSILON if epsilon is None else epsilon
    rows = delta.reshape(1, -1) if delta.dim() < 2 else delta
    kept = torch.empty_like(rows)
    count = max(1, RANKED // rows[0].numel())
    for some, place in zip(rows.split(count), kept.split(count), strict=True):
        ranks = some.abs().argsort(dim=1, stable=True).argsort(dim=1).float()
        shares = ranks / (rows.shape[1] - 1) if rows.shape[1] > 1 else torch.full_like(ranks, 0.5)
        chances = (density - epsilon) + shares * 2 * epsilon
        torch.mul(some, torch.bernoulli(chances, generator=generator), out=place)
    before, after = (one.abs().sum(dtype=torch.float64).item() for one in (rows, kept))
    if min(before, after) >= MIN_SUM:
        kept *= before / after
    return kept.view_as(delta)


def mix(method: str, weight: float, products: tuple[float, float, float]) -> tuple[float, float]:
    """What a tensor of the base, W₀, and of a tuned model, W, are multiplied with before they are added.

    Args:
        method: "slerp", which goes from W₀ (weight 0) to W (weight 1) on a circle, or on a line where they are
            parallel; or "passthrough", W times the weight.
        weight: a number; between 0 and 1 for what lies between the two.
        products: W₀ · W₀, W₀ · W and W · W, over all entries of the tensor.

    Examples:
        >>> from lfmlib.merging.methods import mix
        >>> start, model = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> a, b = mix("slerp", 0.5, (1.0, 0.0, 1.0))
        >>> a * start + b * model
        tensor([0.7071, 0.7071])
    """
    if method == "passthrough":
        return 0.0, weight
    norms = [math.sqrt(one) for one in (products[0], products[2])]
    cosine = products[1] / math.prod(norm if norm > MIN_NORM else 1.0 for norm in norms)
    if abs(cosine) > PARALLEL:
        return 1 - weight, weight
    angle = math.acos(cosine)
    return math.sin((1 - weight) * angle) / math.sin(angle), math.sin(weight * angle) / math.sin(angle)


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """The first step of TIES: all but the largest magnitudes of a whole ΔW set to zero. The other steps are entrywise.

    Args:
        delta: one ΔW.
        density: share of the entries that is kept, rounded down as in peft: of a very small tensor it may be none.
    """
    if density == 1:
        return delta
    from peft.utils import merge_utils

    return merge_utils.prune(delta, density, method="magnitude")


def _elected(kept: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The other steps of TIES: in each entry, the mean of the values whose sign is that of their sum."""
    from peft.utils import merge_utils

    stacked = torch.stack(list(kept))
    elected = merge_utils.calculate_majority_sign_mask(stacked)
    stacked *= merge_utils.reshape_weight_task_tensors(stacked, torch.tensor(shares, dtype=stacked.dtype))
    return merge_utils.disjoint_merge(stacked, elected)


def _agreed(kept: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The other steps of DELLA: in each entry, the weighted mean of the values with the sign of the weighted sum."""
    weights = torch.tensor(shares, dtype=kept[0].dtype)
    weighted = [one * weight for one, weight in zip(kept, weights, strict=True)]
    sign = torch.where(_sum(kept, shares) >= 0, 1, -1)
    agree = [one.sign() == sign for one in weighted]
    total = torch.stack([one * yes for yes, one in zip(agree, weighted, strict=True)]).sum(0)
    divisor = torch.stack([yes * weight for yes, weight in zip(agree, weights, strict=True)]).sum(0)
    return torch.where(divisor == 0, total, total / divisor)


def _sum(deltas: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """peft’s `task_arithmetic`, to the bit, without importing peft."""
    weighted = (delta * torch.tensor(share, dtype=delta.dtype) for delta, share in zip(deltas, shares, strict=True))
    if len(deltas) > 4:  # above four terms torch.sum adds in another order than one after the other
        return torch.stack(list(weighted)).sum(0)
    total = next(weighted)
    for one in weighted:
        total += one
    return total


def check(
    method: str, count: int, weights: Sequence[float], density: float | None, epsilon: float | None = None
) -> None:
    """Raise what `combine` raises for these arguments, before anything is read; ``count`` is the number of ΔW."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    if method in ("ties", "dare", "dare_ties"):
        need("adapters", f"merging by {method}")
    if density is not None and not (isinstance(density, Real) and 0 <= density <= 1):
        raise ValueError(f"density is {density!r}: expected a share of each ΔW that is kept, between 0 and 1")
    if method.startswith("della"):
        _check_chances(DENSITY[method] if density is None else density, EPSILON if epsilon is None else epsilon)
    if not count:
        raise ValueError("there is nothing to merge: expected at least one tuned model")
    if method in MIXING and count != 1:
        raise ValueError(
            f"{method} takes a base and one tuned model, and {count} were given: expected one. Merge two at a time"
        )
    if len(weights) != count or not all(isinstance(one, Real) and math.isfinite(one) for one in weights):
        raise ValueError(f"weights are {list(weights)}: expected a number for each of the {count} tuned models")


def _check_chances(density: float, epsilon: float) -> None:
    if density not in (0, 1) and not 0 <= epsilon < min(density, 1 - density):
        raise ValueError(
            f"density is {density} and epsilon {epsilon}: expected chances from density - epsilon to density + epsilon "
            "between 0 and 1. Choose a smaller epsilon"
        )


def shares(norms: Sequence[float]) -> list[float]:
    """The coefficients of NAN: in inverse proportion to the norms of the ΔW, with a sum of 1.

    Args:
        norms: of each ΔW; one that is zero gets the coefficient 0.

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
        delta: ΔW, or pieces of it.

    Returns:
        math.inf also where `optimal_law` refuses ΔW, for too few values or too few different ones.
    """
    try:
        return optimal_law(delta, families=("gaussian",)).outlier_cut
    except ValueError:
        return math.inf


def amplified(delta: torch.Tensor, factor: float, beyond: float) -> torch.Tensor:
    """ΔW with its outliers, the entries whose magnitude is above ``beyond``, multiplied by a factor."""
    return torch.where(delta.abs() > beyond, factor * delta, delta)


def reach(delta: torch.Tensor, beyond: float) -> float:
    """How far out the outliers lie: their root mean square over that of the other entries; NaN where there are none.

    Args:
        delta: ΔW. Zeros count among the other entries, so that ΔW thinned by TIES or DARE are not comparable to others.
        beyond: magnitude above which an entry is an outlier.
    """
    far = delta.abs() > beyond
    outer, inner = (part.double().square().mean().sqrt().item() for part in (delta[far], delta[~far]))
    return outer / inner if inner else math.nan


def restoring(before: Sequence[float], after: float) -> float:
    """The factor by which the outliers of a merged ΔW lie as far out as those of the single ΔW did, in the mean.

    It needs no data. An average of n uncorrelated ΔW divides their core by √n, but an outlier that only one of them has
    by n.

    Args:
        before: `reach` of each ΔW.
        after: `reach` of the merged ΔW.

    Returns:
        Never below 1; 1 where either has no outliers.
    """
    known = [one for one in before if math.isfinite(one)]
    return max(1.0, sum(known) / len(known) / after) if known and after > 0 else 1.0


def projected(w: torch.Tensor, how: str) -> torch.Tensor:
    """A tensor made zero-mean, or symmetric, as the paper says that optimal weights are.

    Args:
        w: any tensor.
        how: "zero-mean"; or "symmetric", which changes each value and keeps the order of all: the value at rank i of n
            becomes half its difference to that at rank n - 1 - i. The mean is zero then as well.

    Raises:
        ValueError: another projection.
    """
    if how == "zero-mean":
        return w - w.double().mean().to(w.dtype)
    if how == "symmetric":
        values, order = w.flatten().sort(stable=True)
        return torch.empty_like(values).scatter_(0, order, (values - values.flip(0)) / 2).view_as(w)
    raise ValueError(f"unknown projection {how!r}: expected one of {', '.join(PROJECTIONS)}")
