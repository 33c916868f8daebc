"""Made tensors whose law is known: what `lfmlib.distribution.law` says of them, again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ..distribution import nulls
from ..distribution.distances import asymmetry
from ..distribution.law import optimal_law
from ..distribution.sketch import Sketch
from ..findings import CLAIMED_LAW, METHOD_NAMES, PRUNED_SHARE
from ..merging import methods

PLANTED = {
    "mean": 0.1,
    "sigma": 1.0,
    "lower": 0.5,
    "upper": 2.5,
    "outlier_share": 0.005,
    "pruned": 0.4,
}
"""A truncated Gaussian with outliers, in units of its σ: what is planted, by the names that a `Law` has."""
SKEWNESS = 0.5
"""Of the skewed tensors, made by a gamma law."""
OTHERS: dict[str, tuple[float, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "Gaussian noise": (0.0, lambda rng, n: rng.standard_normal(n)),
    "Gaussian noise, pruned": (PRUNED_SHARE, lambda rng, n: rng.standard_normal(n)),
    "Gaussian, its tails cut": (0.0, lambda rng, n: stats.truncnorm.rvs(-2, 2, size=n, random_state=rng)),
    "logistic": (0.0, lambda rng, n: rng.logistic(size=n)),
    "logistic, pruned": (PRUNED_SHARE, lambda rng, n: rng.logistic(size=n)),
    "Laplace, pruned": (PRUNED_SHARE, lambda rng, n: rng.laplace(size=n)),
    "Student t₅, pruned": (PRUNED_SHARE, lambda rng, n: rng.standard_t(5, size=n)),
    "Gaussian noise, one value at 12 σ": (0.0, lambda rng, n: strewn(rng, n, 1)),
    "Gaussian noise, 0.5 % from 4 to 12 σ": (0.0, lambda rng, n: strewn(rng, n, n // 200)),
    "Gaussian noise, 1 % of four times its σ": (
        0.0,
        lambda rng, n: np.where(rng.random(n) < 0.01, 4, 1) * rng.standard_normal(n),
    ),
    "skewed (0.5), pruned": (PRUNED_SHARE, lambda rng, n: rng.gamma((2 / SKEWNESS) ** 2, size=n) - (2 / SKEWNESS) ** 2),
    "uniform": (0.0, lambda rng, n: rng.uniform(-1, 1, n)),
}
"""Laws that are not the claimed one: name → share that is pruned, and how draws are made."""


CUTS = (2.5, 3.0, 3.5, 4.0)
"""In σ: where cores are cut whose outliers all lie beyond 6 σ."""


def strewn(rng: np.random.Generator, size: int, strays: int) -> np.ndarray:
    """Gaussian noise, not cut, with some values between 4 and 12 σ; a single one at 12."""
    values = rng.standard_normal(size)
    values[:strays] = 12 if strays == 1 else rng.uniform(4, 12, strays) * rng.choice([-1, 1], strays)
    return values


def averaged(numbers: Sequence[int], size: int, seed: int) -> pd.DataFrame:
    """What an average does to outliers: unlike noise, in each 0.1 % of the values at 12 σ, at places of their own.

    Args:
        numbers: how many are averaged.
        size: number of values in each.
        seed: of the draws.
    """
    table = {}
    for count in numbers:
        rng = np.random.default_rng([seed, count])
        made = torch.from_numpy(rng.standard_normal((count, size), dtype=np.float32))
        for one in made:
            places = torch.from_numpy(rng.choice(size, round(0.001 * size), replace=False))
            one[places] = 12 * one[places].sign()
        merged = methods.combine(list(made), "average", [1.0] * count)
        beyond = methods.cut(merged)
        single, after = [methods.reach(one, methods.cut(one)) for one in made], methods.reach(merged, beyond)
        table[f"{count}"] = {
            "std of the core": merged[merged.abs() <= beyond].std().item(),
            "reach of single ones": float(np.mean(single)),
            "reach of the average": after,
            "that over √n": float(np.mean(single)) / math.sqrt(count),
            "found": f"{100 * (merged.abs() > beyond).double().mean().item():.2f} %",
            "planted": f"{0.1 * count:.1f} %",
            "data-free factor": methods.restoring(single, after),
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("averaged", axis=1)


def merged_noise(numbers: Sequence[int], size: int, seed: int) -> pd.DataFrame:
    """How much of merged Gaussian noise, which has no outliers, is called outliers, by method.

    Args:
        numbers: how many are merged.
        size: number of values in each.
        seed: of the draws.
    """
    table = {}
    for method, name in METHOD_NAMES.items():
        table[name] = {}
        for count in numbers:
            rng = np.random.default_rng([seed, count])
            made = list(torch.from_numpy(rng.standard_normal((count, size), dtype=np.float32)))
            merged = methods.combine(made, method, [1.0] * count, seed=str(seed))
            share = (merged.abs() > methods.cut(merged)).double().mean().item()
            table[name][f"of {count} merged"] = f"{100 * share:.2f} %"
    return pd.DataFrame.from_dict(table, orient="index")


def planted(rng: np.random.Generator, kept: int, nearest: float = 4, **other: float) -> np.ndarray:
    """Values of the planted law, float32: ``kept`` that are not zero, the zeros among them in random order.

    Outliers lie evenly between ``nearest`` and 12 σ, on either side; ``other`` changes what is `PLANTED`.
    """
    p = PLANTED | other
    values = np.empty(0)
    while len(values) < kept:
        more = rng.normal(p["mean"], p["sigma"], 2 * kept)
        values = np.append(values, more[(np.abs(more) >= p["lower"]) & (np.abs(more) <= p["upper"])])
    values = values[:kept]
    far = rng.random(kept) < p["outlier_share"]
    values[far] = rng.uniform(nearest, 12, far.sum()) * rng.choice([-1, 1], far.sum())
    zeros = np.zeros(round(kept * p["pruned"] / (1 - p["pruned"])))
    return rng.permutation(np.concatenate([values, zeros])).astype(np.float32)


def recovered(draws: int, kept: int, seed: int) -> pd.DataFrame:
    """What comes out of made tensors with known parameters.

    Returns:
        Index: parameter. Columns: planted; the mean found, its bias and the spread (standard deviation) over draws.
        ``attrs["called"]``: how often the claimed law was named.
    """
    rng, found = np.random.default_rng([seed, 8]), []
    for _ in range(draws):
        law = optimal_law(planted(rng, kept))
        shape = (2 / SKEWNESS) ** 2  # of a gamma law with that skewness
        skew = Sketch.of((rng.gamma(shape, size=kept) - shape).astype(np.float32)).skewness
        found.append(
            {name: getattr(law, name) for name in PLANTED} | {"skewness": skew, "called": law.name == CLAIMED_LAW}
        )
    each, truth = pd.DataFrame(found), PLANTED | {"skewness": SKEWNESS}
    table = pd.DataFrame({"planted": truth, "found": each.mean(), "spread": each.std()}).loc[list(truth)].astype(float)
    table.insert(2, "bias", table["found"] - table["planted"])
    table.attrs["called"] = int(each["called"].sum())
    return table


def cut_further_out(draws: int, kept: int, seed: int) -> pd.DataFrame:
    """Whether a cut is seen, and where, the further out the fewer values it takes away.

    Returns:
        Index: where it is. Columns: how many values a Gaussian would have beyond; how often the claimed law was named;
        and the mean of the cuts then.
    """
    rng, rows = np.random.default_rng([seed, 10]), {}
    for cut in CUTS:
        laws = [optimal_law(planted(rng, kept, nearest=6, upper=cut)) for _ in range(draws)]
        seen = [law.upper for law in laws if law.name == CLAIMED_LAW]
        p = stats.norm(PLANTED["mean"], PLANTED["sigma"])
        beyond = (p.sf(cut) + p.cdf(-cut)) / (p.sf(PLANTED["lower"]) + p.cdf(-PLANTED["lower"]))
        rows[f"cut at {cut} σ"] = {
            "taken away": round(kept * beyond),
            "called": f"{len(seen)} of {draws}",
            "found": f"{np.mean(seen):.3f} σ" if seen else "–",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def mirrored(size: int, seed: int) -> pd.DataFrame:
    """Mean, skewness and distance from the mirror image of made tensors: noise, noise that is shifted, and skewed ones.

    Returns:
        Index: tensor. Columns: abs(mean) / std; skewness; the distance beyond that of noise.
    """
    rng, rows = np.random.default_rng([seed, 7]), {}
    made = {"noise": rng.standard_normal(size), "shifted by 0.1 σ": rng.standard_normal(size) + 0.1}
    for skewness in (0.2, 0.5):
        shape = (2 / skewness) ** 2
        made[f"skewness {skewness}"] = rng.gamma(shape, size=size) - shape
    for name, values in made.items():
        sketch = Sketch.of(values.astype(np.float32))
        beyond = asymmetry(sketch) - nulls.typical("float32", size)["asymmetry"]
        rows[name] = {"abs(mean) / std": abs(sketch.mean) / sketch.std, "skewness": sketch.skewness, "D": beyond}
    return pd.DataFrame.from_dict(rows, orient="index")


def rejected(draws: int, size: int, seed: int) -> pd.DataFrame:
    """What other laws are called.

    Returns:
        Index: law. Columns: called, the variant named most often; times, how often the claimed law was named; misfit,
        bits per value between the shortest code and the entropy, in the median.
    """
    rng, rows = np.random.default_rng([seed, 9]), {}
    for name, (pruned, make) in OTHERS.items():
        laws = [optimal_law(make(rng, size), pruned=pruned) for _ in range(draws)]
        variants = pd.Series([law.variant for law in laws])
        rows[name] = {
            "called": variants.mode()[0],
            "times": int((variants == CLAIMED_LAW).sum()),
            "misfit": float(np.median([law.misfit for law in laws])),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
