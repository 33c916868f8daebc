"""Transformation weights ΔW = W - W₀: how far fine-tuning moved each matrix, what it did to its spread, how ΔW looks.

Both checkpoints are read in step, some rows at a time. The budget Var W = Var W₀ + Var ΔW + 2 Cov(W₀, ΔW) is exact up
to float64's rounding, since means are taken in a first pass and squares in a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import stats

from . import nulls
from .checkpoint import Checkpoint, TensorInfo, open_checkpoint
from .executor import Rows, over
from .normality import measure
from .pairs import Pair, pair
from .shapes import classify
from .sketch import Sketch

BLOCK = 1 << 21
"""Entries that are held as float64 at a time."""
KIN = 0.2
"""Median correlation of W and W₀ below which two checkpoints are no fine-tune of one another."""
BUDGET = (
    "std_base", "std_tuned", "std_delta", "std_gain", "gain", "corr", "cov", "moved", "zeros", "rounding_std",
)  # fmt: skip
NORMALITY = ("skewness", "excess_kurtosis", "ks", "kl_bits", "tail_bits", "wasserstein", "gg_shape", "weibull_k")
_MANTISSA = {"float64": 52, "float32": 23, "bfloat16": 7, "float16": 10}
_LEAST_EXPONENT = {"float64": -1022, "float32": -126, "bfloat16": -126, "float16": -14}


def compare(
    base, tuned, select: str | None = None, executor: Executor | None = None, progress: bool = True
) -> pd.DataFrame:
    """Compare a model with the one it was fine-tuned from, matrix by matrix.

    Args:
        base, tuned: anything `open_checkpoint` takes, or a `Checkpoint`.
        select: regular expression; only tensors of ``tuned`` whose name it finds.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.

    Returns:
        One row per pair of matrices, in the order of ``tuned``: tensor, base_tensor, role, depth, shape, dtype, numel;
        std_base, std_tuned, std_delta (population standard deviations of W₀, W, ΔW); std_gain = std_tuned - std_base;
        gain = (Var W - Var W₀) / Var ΔW, which is 1 for independent noise; corr, the correlation of ΔW and W₀; cov,
        their covariance; moved = RMS(ΔW) / RMS(W₀); zeros, the share of entries of ΔW that are exactly 0;
        rounding_std, the standard deviation that rounding W to its stored type alone gives to ΔW; the figures of
        `normality` of ΔW with their nulls on noise, and its shape (``label``). ``attrs["skipped"]`` says of every other
        tensor of either checkpoint why it is not there.

    Raises:
        ValueError: the two have no matrix in common, or are no kin: ΔW is as large as between unrelated models.
        FileNotFoundError, CheckpointError: from `open_checkpoint`.
    """
    base, tuned = (one if isinstance(one, Checkpoint) else open_checkpoint(one) for one in (base, tuned))
    pairs, skipped = pair(base, tuned if select is None else tuned.select(select))
    by_name = {one.tuned: one for one in pairs}
    wanted = [info for info in tuned.tensors if info.name in by_name]
    measured = partial(_measure_batch, base=base.only([one.base for one in pairs]), pairs=by_name)
    rows, failed, interrupted = over(tuned, wanted, measured, executor, progress)
    table = pd.DataFrame([row for info in wanted for row in rows.get(info.name, ())], columns=list(_columns()))
    table["depth"] = table["depth"].astype("Int64")
    table.attrs.update(source=tuned.name, base=base.name, skipped=skipped | failed, interrupted=interrupted)
    _refuse_strangers(table, base, tuned)
    return table


def _refuse_strangers(table: pd.DataFrame, base: Checkpoint, tuned: Checkpoint) -> None:
    kinship = _kinship(table).median()
    if kinship < KIN:
        raise ValueError(
            f"{tuned.name} is no fine-tune of {base.name}: their matrices correlate by {kinship:.3f} in the median, as "
            f"unrelated models do; expected at least {KIN}. Name the model it was fine-tuned from"
        )


def _kinship(table: pd.DataFrame) -> pd.Series:
    """Correlation of W and W₀, from the budget."""
    return (table["std_base"] ** 2 + table["cov"]) / (table["std_base"] * table["std_tuned"])


def depth_trend(table: pd.DataFrame, column: str = "std_delta", resamples: int = 9999) -> pd.DataFrame:
    """Does a figure grow with depth? Spearman's correlation, role by role.

    Args:
        table: from `compare`; roles with fewer than four layers are left out.
        column: the figure.
        resamples: permutations drawn where there are too many (more than seven layers) to go through all.

    Returns:
        One row per role: role, layers, rho, p (one-sided for growth, by permutation), and rho_interior, p_interior of
        all layers but the first and the last (NaN where fewer than four are left). Where a role has several matrices at
        one depth, their median counts; towers are told apart as "vision.q".
    """
    known = table.dropna(subset=["depth", column])
    tower = known["tower"].fillna("") if "tower" in known else pd.Series("", index=known.index)
    several = tower.nunique() > 1
    known = known.assign(
        role=[f"{t}.{role}" if several and t else role for t, role in zip(tower, known["role"], strict=True)]
    )
    rows = []
    for role, some in known.groupby("role", sort=False):
        layers = some.groupby("depth")[column].median().sort_index()
        if len(layers) < 4:
            continue
        rho, p = _growth(layers, role, resamples)
        inner, p_inner = _growth(layers.iloc[1:-1], role, resamples) if len(layers) >= 6 else (np.nan, np.nan)
        found = {"role": role, "layers": len(layers), "rho": rho, "p": p, "rho_interior": inner, "p_interior": p_inner}
        rows.append(found)
    return pd.DataFrame(rows, columns=["role", "layers", "rho", "p", "rho_interior", "p_interior"])


def _growth(layers: pd.Series, role: str, resamples: int) -> tuple[float, float]:
    """Spearman's correlation of depth and value, and its one-sided permutation p; exact up to seven layers."""
    depth, values = stats.rankdata(layers.index.to_numpy(float)), stats.rankdata(layers.to_numpy(float))
    if np.ptp(values) == 0:
        return 0.0, 1.0

    def statistic(x, axis=-1):
        return (x * (depth - depth.mean())).sum(axis)

    exact = len(layers) <= 7
    found = stats.permutation_test(
        (values,), statistic, permutation_type="pairings", alternative="greater", vectorized=True,
        n_resamples=np.inf if exact else resamples, rng=zlib.crc32(role.encode()),
    )  # fmt: skip
    return float(np.corrcoef(depth, values)[0, 1]), float(found.pvalue)


def _measure_batch(checkpoint: Checkpoint, base: Checkpoint, pairs: dict[str, Pair]) -> Rows:
    results: Rows = []
    for info in checkpoint.tensors:
        try:
            results.append((info.name, [_row(info, pairs[info.name], checkpoint, base)]))
        except ValueError as error:
            results.append((info.name, str(error)))
    return results


def _row(info: TensorInfo, one: Pair, tuned: Checkpoint, base: Checkpoint) -> dict:
    about = asdict(info)
    about["tensor"] = about.pop("name")
    new, old = tuned.read(one.tuned), base.read(one.base)
    old = old.T if one.transposed else old
    new, old = (w if one.rows is None else w[: one.rows] for w in (new, old))
    budget, sketch = _budget(new, old, info.dtype)
    row = about | {"base_tensor": one.base} | budget
    figures = measure(sketch)
    row |= {name: figures.get(name, getattr(sketch, name, np.nan)) for name in NORMALITY}
    row["label"] = classify(sketch).label if sketch.std > 0 else "other"
    for name, (low, high) in nulls.band("float32", sketch.count).items():
        if name in NORMALITY:
            row |= {f"{name}_null_low": low, f"{name}_null_high": high}
    return row


def _blocks(new: torch.Tensor, old: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows = max(1, BLOCK // new.shape[1])
    for start in range(0, new.shape[0], rows):
        pieces = (w[start : start + rows].double() for w in (new, old))
        w, w0 = pieces
        if not (torch.isfinite(w).all() and torch.isfinite(w0).all()):
            raise ValueError("values that are not finite: mend them first")
        yield w, w0


def _budget(new: torch.Tensor, old: torch.Tensor, dtype: str) -> tuple[dict[str, float], Sketch]:
    """The variances of W, W₀ and ΔW and what goes with them, and the sketch of ΔW."""
    n = new.numel()
    sums = torch.zeros(2, dtype=torch.float64)
    sketch, zeros = None, 0
    for w, w0 in _blocks(new, old):
        delta = w - w0
        sums += torch.stack([delta.sum(), w0.sum()])
        zeros += int((delta == 0).sum())
        part = Sketch.of(delta.float())
        sketch = part if sketch is None else sketch + part
    mean, mean0 = (sums / n).tolist()
    squares = torch.zeros(5, dtype=torch.float64)
    for w, w0 in _blocks(new, old):
        d, c = w - w0 - mean, w0 - mean0
        squares += torch.stack(
            [d.square().sum(), c.square().sum(), (d * c).sum(), (d + c).square().sum(), _ulps(w, dtype).square().sum()]
        )
    var, var0, cov, whole, ulps = (squares / n).tolist()
    std, std0 = np.sqrt(var), np.sqrt(var0)
    return {
        "std_base": std0,
        "std_tuned": np.sqrt(whole),
        "std_delta": std,
        "std_gain": np.sqrt(whole) - std0,
        "gain": (whole - var0) / var if var > 0 else np.nan,
        "corr": cov / (std * std0) if std > 0 and std0 > 0 else np.nan,
        "cov": cov,
        "moved": np.sqrt((var + mean**2) / (var0 + mean0**2)) if var0 + mean0**2 > 0 else np.nan,
        "zeros": zeros / n,
        "rounding_std": np.sqrt(ulps / 12),
    }, sketch


def _ulps(w: torch.Tensor, dtype: str) -> torch.Tensor:
    """Spacing of the numbers of a storage type around each entry; 0 for types it is not known of."""
    if dtype not in _MANTISSA:
        return torch.zeros_like(w)
    exponent = torch.frexp(w).exponent - 1
    return torch.ldexp(torch.ones_like(w), exponent.clamp(min=_LEAST_EXPONENT[dtype]) - _MANTISSA[dtype])


def _columns() -> Iterator[str]:
    yield from (
        "tensor",
        "base_tensor",
        "role",
        "depth",
        "tower",
        "shape",
        "dtype",
        "numel",
        *BUDGET,
        *NORMALITY,
        "label",
    )
    for name in nulls.FIGURES:
        if name in NORMALITY:
            yield f"{name}_null_low"
            yield f"{name}_null_high"
