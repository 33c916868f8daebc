"""F11: optimal weights are sparse: many can be set to zero before the loss says so."""

from __future__ import annotations

import pandas as pd

from ..losses.pruning import largest_share
from .finding import Finding
from .shares import over_runs

MAX_LOSS_RISE = 0.01
"""Rise of the held-out loss that is allowed, as a share of the loss itself."""


def free_share(rows: pd.DataFrame, arm: str = "magnitude", of: str = "own") -> pd.Series:
    """Share of the weights that can be pruned while the held-out loss rises by at most `MAX_LOSS_RISE`, by run.

    Args:
        rows: of the record `optimal`, of one model.
        arm: way of pruning: a key of `lfmlib.experiments.loss_probes.ARMS`.
        of: what the rise is a share of: "own", the loss itself, as in the rule; "gap", the difference between the loss
            and that of guessing by the frequencies alone.

    Returns:
        Index: seed.
    """
    curves, about = rows[(rows["what"] == "curve") & (rows["arm"] == arm)], rows[rows["what"] == "model"]
    about = about.set_index("seed")
    whole = about["own"] if of == "own" else about["prior"] - about["own"]
    # a rise that is NaN was too large to be written down, and counts as above the bound
    shares = {seed: largest_share(some, MAX_LOSS_RISE * whole[seed]) for seed, some in curves.groupby("seed")}
    return pd.Series(shares, dtype=float)


def f11_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F11 of a model: magnitude pruning within matrices, without any training after it.

    Args:
        rows: of the record `optimal`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    each = free_share(rows)
    if len(each) < 2:
        raise ValueError(f"F11 of {model} needs at least two runs: measure the record")
    value, low, high = over_runs(each)
    arms = {"all matrices together": "magnitude, all together", "Wanda": "Wanda", "at random": "random"}
    parts = {name: float(free_share(rows, arm).mean()) for name, arm in arms.items()}
    details = {"parts": parts, "runs": len(each)}
    null = float(free_share(rows, "noise").mean())
    return Finding.of("F11", model, provenance, details, value, (max(low, 0.0), min(high, 1.0)), null)


def f11(model: str, provenance: dict) -> Finding:
    """Finding F11 of a checkpoint alone: not judged, since what can be pruned is told by a loss."""
    reason = (
        "What pruning may take is said by a loss: it takes the model’s task and held-out data. "
        "`lfmlib.pruning.curve` measures it for any loss."
    )
    return Finding.of("F11", model, provenance, {"reason": reason})
