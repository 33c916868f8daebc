"""Positions of the outliers of weight matrices: in rows and columns, and along the residual stream.

An outlier is an entry whose magnitude exceeds a cut, such as `lfmlib.distribution.law.Law.outlier_cut`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import special

from ..checkpoints.checkpoint import Checkpoint

RESIDUAL = {"q": 1, "k": 1, "v": 1, "gate": 1, "up": 1, "o": 0, "down": 0}
"""Role → axis of a matrix (out, in) that is the residual stream's: 1 if it reads the stream, 0 if it writes to it."""


def beyond(w: torch.Tensor, cut: float) -> torch.Tensor:
    """Boolean matrix of the entries whose magnitude exceeds ``cut``."""
    return w.detach().abs() > cut


def largest(checkpoint: Checkpoint, names: Sequence[str], count: int = 10) -> pd.DataFrame:
    """The ``count`` entries of several matrices that lie farthest from the mean, in std of their own matrix.

    Returns:
        One row per entry, farthest first; columns: tensor, row, column, value, size ((value - mean) / std).
    """
    rows = []
    for name in names:
        w = checkpoint.read(name).double()
        z = (w - w.mean()) / w.std(correction=0)
        for place in z.abs().flatten().topk(min(count, z.numel())).indices.tolist():
            row, column = divmod(place, w.shape[1])
            rows.append((name, row, column, float(w[row, column]), float(z[row, column])))
    found = pd.DataFrame(rows, columns=["tensor", "row", "column", "value", "size"])
    return found.iloc[found["size"].abs().argsort(kind="stable")[::-1]].head(count).reset_index(drop=True)


def places(checkpoint: Checkpoint, table: pd.DataFrame, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Concentration of the outliers of each matrix in few rows and columns.

    Args:
        checkpoint: holds the matrices.
        table: rows of `lfmlib.surveys.optimal_laws.laws`.
        draws, seed: number of draws of random positions for the control, and their seed.

    Returns:
        One row per matrix with outliers: tensor, role, depth, outliers (their number), share (of the entries), largest
        (in std); ``rows`` and ``columns``, the share of the outliers in the 1 % of the rows (columns) that hold the
        most; ``rows_noise`` and ``columns_noise``, the same for random positions, median over draws; ``begins``, the
        cut in std; and ``gaussian``, the share of a Gaussian of that std beyond the cut.
    """
    found = []
    for one in table[np.isfinite(table["outlier_cut"])].to_dict("records"):
        w = checkpoint.read(one["tensor"])
        mask = beyond(w, one["outlier_cut"])
        total = int(mask.sum())
        if not total:
            continue
        row = {name: one[name] for name in ("tensor", "role", "depth")}
        row |= {"outliers": total, "share": total / w.numel()}
        finite = w[w.isfinite()].double()
        std = float(finite.std(correction=0))
        row["begins"] = one["outlier_cut"] / std
        row["gaussian"] = float(2 * special.ndtr(-row["begins"]))
        row["largest"] = float((finite - finite.mean()).abs().max() / std)
        rng = np.random.default_rng([seed, *one["tensor"].encode()])
        for side, axis in (("rows", 1), ("columns", 0)):
            counts = mask.sum(dim=axis).numpy()
            made = rng.multinomial(total, np.full(len(counts), 1 / len(counts)), size=draws)
            row |= {side: _top_share(counts), f"{side}_noise": float(np.median([_top_share(one) for one in made]))}
        found.append(row)
    return pd.DataFrame(found)


def line_up(checkpoint: Checkpoint, table: pd.DataFrame, share: float = 0.01) -> pd.DataFrame:
    """Whether the outliers of different layers share the same dimensions of the residual stream.

    Args:
        checkpoint, table: as in `places`.
        share: of the dimensions; those are compared that hold most outliers in all other layers.

    Returns:
        One row per matrix that reads or writes the residual stream and has outliers: tensor, role, depth, outliers
        (their number), ``there``, the share of them in these dimensions, and ``chance``, the share of the dimensions.
        Empty for a model of one layer.
    """
    counts, about = {}, {}
    for one in table[table["role"].isin(RESIDUAL) & np.isfinite(table["outlier_cut"])].to_dict("records"):
        mask = beyond(checkpoint.read(one["tensor"]), one["outlier_cut"])
        if mask.any():
            counts[one["tensor"]] = mask.sum(dim=1 - RESIDUAL[one["role"]]).numpy()
            about[one["tensor"]] = {name: one[name] for name in ("tensor", "role", "depth")}
    rows = []
    for name, count in counts.items():
        others = [
            counts[other] / counts[other].sum()
            for other in counts
            if about[other]["depth"] != about[name]["depth"] and len(counts[other]) == len(count)
        ]
        if others:
            top = np.argsort(-np.sum(others, axis=0), kind="stable")[: max(1, round(share * len(count)))]
            there = {
                "outliers": int(count.sum()),
                "there": count[top].sum() / count.sum(),
                "chance": len(top) / len(count),
            }
            rows.append(about[name] | there)
    return pd.DataFrame(rows, columns=["tensor", "role", "depth", "outliers", "there", "chance"])


def _top_share(counts: np.ndarray) -> float:
    """Share of the sum of ``counts`` in the 1 % of them that are largest, at least one."""
    return float(np.sort(counts)[-max(1, round(len(counts) / 100)) :].sum() / counts.sum())
