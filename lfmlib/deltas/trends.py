"""Whether a figure of ΔW grows with depth: Spearman's correlation role by role, with permutation tests."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch

from ..checkpoints.roles import in_order
from ..options import check, check_table
from ..surveys.rows import by_tower


def depth_trend(table: pd.DataFrame, column: str = "std_delta", *, resamples: int = 9999) -> pd.DataFrame:
    """Whether a figure grows with depth: Spearman's correlation of both, role by role.

    Args:
        table: from `compare`; rows of controls, and roles with fewer than four layers, are left out.
        column: the figure.
        resamples: number of permutations drawn of roles with more than seven layers; of fewer layers all permutations
            are used. 0: no p.

    Returns:
        One row per role: role; layers, their number; rho; p, one-sided for growth, by permutation; rho_interior and
        p_interior, of all layers but the first and the last (NaN where fewer than four are left). Where a role has
        several matrices at one depth, their median counts; roles of several towers are named as "vision.q".

    Examples:
        >>> table = pd.DataFrame({"role": "q", "depth": range(6), "std_delta": [1, 3, 2, 4, 5, 6]})
        >>> lfmlib.depth_trend(table)[["role", "layers", "rho", "p"]].round(3)
          role  layers    rho      p
        0    q       6  0.943  0.008
    """
    check(resamples=resamples)
    rows = []
    for role, layers in profiles(table, column).items():
        if len(layers) < 4:
            continue
        rho, p = _growth(layers, role, resamples)
        inner, p_inner = _growth(layers.iloc[1:-1], role, resamples) if len(layers) >= 6 else (np.nan, np.nan)
        found = {"role": role, "layers": len(layers), "rho": rho, "p": p, "rho_interior": inner, "p_interior": p_inner}
        rows.append(found)
    return pd.DataFrame(rows, columns=["role", "layers", "rho", "p", "rho_interior", "p_interior"])


def log_slopes(table: pd.DataFrame, column: str = "std_delta", *, least: int = 6, resamples: int = 0) -> pd.DataFrame:
    """How fast a figure grows with depth: the least-squares slope of its logarithm over relative depth, role by role.

    Args:
        table: as for `depth_trend`.
        column: a figure of at least 0; 0, which has no logarithm (a frozen layer), counts as the smallest above it.
        least: layers that a role needs.
        resamples: permutations drawn for p; 0: no p.

    Returns:
        One row per role: role; layers; slope, in nepers from the first layer to the last (0.69 doubles); p, one-sided
        for growth, by permutation of the layers.

    Examples:
        >>> table = pd.DataFrame({"role": "q", "depth": range(6), "std_delta": [2.0 ** (i / 5) for i in range(6)]})
        >>> from lfmlib.deltas.trends import log_slopes
        >>> log_slopes(table)[["role", "layers", "slope"]].round(3)
          role  layers  slope
        0    q       6  0.693
    """
    rows = []
    for role, layers in profiles(table, column).items():
        if len(layers) < least:
            continue
        layers = layers.clip(lower=layers[layers > 0].min() if (layers > 0).any() else 1.0)
        depth = layers.index.to_numpy(float)
        place = (depth - depth.mean()) / np.ptp(depth)
        logs = np.log(layers.to_numpy(float))
        slope, p = float(place @ logs / (place @ place)), np.nan
        if resamples:
            rng = np.random.default_rng([*role.encode()])
            shuffled = rng.permuted(np.tile(logs, (resamples, 1)), axis=1) @ place / (place @ place)
            p = (1 + int((shuffled >= slope - 1e-12).sum())) / (1 + resamples)
        rows.append({"role": role, "layers": len(layers), "slope": slope, "p": p})
    return pd.DataFrame(rows, columns=["role", "layers", "slope", "p"])


def profiles(table: pd.DataFrame, column: str = "std_delta") -> dict[str, pd.Series]:
    """A figure over depth, by role; arguments as for `depth_trend`.

    Returns:
        Role → series whose index is the depth, ascending.

    Raises:
        ValueError: no table of `lfmlib.compare`, or a column that holds no figures.
    """
    check(column=column)
    check_table(table, ("role", "depth", column), "lfmlib.compare")
    if not pd.api.types.is_numeric_dtype(table[column]):
        raise ValueError(f"the column {column!r} holds {table[column].dtype}: expected a figure, as in std_delta")
    known = table.dropna(subset=["depth", column])
    if "control" in known:
        known = known[known["control"] == "none"]
    known = known.assign(role=by_tower(known))
    rows = dict(iter(known.groupby("role", sort=False)))
    return {role: rows[role].groupby("depth")[column].median().sort_index() for role in in_order(known["role"])}


def _growth(layers: pd.Series, role: str, resamples: int) -> tuple[float, float]:
    """Spearman's correlation of depth and figure, and its one-sided p by permutation; NaN without ``resamples``."""
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
