"""Does a figure of ΔW grow with depth? Role by role, with permutation tests."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch


def depth_trend(table: pd.DataFrame, column: str = "std_delta", *, resamples: int = 9999) -> pd.DataFrame:
    """Does a figure grow with depth? Spearman's correlation, role by role.

    Args:
        table: from `compare`; roles with fewer than four layers are left out, and rows of controls.
        column: the figure.
        resamples: permutations drawn where there are too many (more than seven layers) to go through all; 0 for no p.

    Returns:
        One row per role: role, layers, rho, p (one-sided for growth, by permutation), and rho_interior, p_interior of
        all layers but the first and the last (NaN where fewer than four are left). Where a role has several matrices at
        one depth, their median counts; towers are told apart as "vision.q".
    """
    rows = []
    for role, layers in profiles(table, column).items():
        if len(layers) < 4:
            continue
        rho, p = _growth(layers, role, resamples)
        inner, p_inner = _growth(layers.iloc[1:-1], role, resamples) if len(layers) >= 6 else (np.nan, np.nan)
        found = {"role": role, "layers": len(layers), "rho": rho, "p": p, "rho_interior": inner, "p_interior": p_inner}
        rows.append(found)
    return pd.DataFrame(rows, columns=["role", "layers", "rho", "p", "rho_interior", "p_interior"])


def profiles(table: pd.DataFrame, column: str = "std_delta") -> dict[str, pd.Series]:
    """A figure over depth, by role (see `depth_trend`): index depth, ascending."""
    known = table.dropna(subset=["depth", column])
    if "control" in known:
        known = known[known["control"] == "none"]
    tower = known["tower"].fillna("") if "tower" in known else pd.Series("", index=known.index)
    several = tower.nunique() > 1
    known = known.assign(
        role=[f"{t}.{role}" if several and t else role for t, role in zip(tower, known["role"], strict=True)]
    )
    return {
        role: some.groupby("depth")[column].median().sort_index() for role, some in known.groupby("role", sort=False)
    }


def _growth(layers: pd.Series, role: str, resamples: int) -> tuple[float, float]:
    """Spearman's correlation of depth and value, and its one-sided permutation p; exact up to seven layers."""
    depth, values = scipy.stats.rankdata(layers.index.to_numpy(float)), scipy.stats.rankdata(layers.to_numpy(float))
    if np.ptp(values) == 0:
        return 0.0, 1.0

    rho = float(np.corrcoef(depth, values)[0, 1])
    if not resamples:
        return rho, np.nan

    def statistic(x, axis=-1):
        return (x * (depth - depth.mean())).sum(axis)

    exact = len(layers) <= 7
    found = scipy.stats.permutation_test(
        (values,), statistic, permutation_type="pairings", alternative="greater", vectorized=True,
        n_resamples=np.inf if exact else resamples, rng=zlib.crc32(role.encode()),
    )  # fmt: skip
    return rho, float(found.pvalue)
