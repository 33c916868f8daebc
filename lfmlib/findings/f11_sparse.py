"""F11: optimal weights are sparse: many can be set to zero before the loss says so."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..losses.pruning import largest_share
from .finding import Finding
from .readings import FIRST_RULES
from .rules import RULES, judge
from .runs import over_runs, span, whole_mean

MAX_LOSS_RISE = 0.01
"""Rise of the held-out loss that is allowed, as a share of the loss itself."""
ARMS_BESIDE = {"Wanda": "Wanda", "at random": "random"}
"""Other ways of pruning that stand beside the verdict, by the name they are printed under."""


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


def gap_closed(rows: pd.DataFrame, share: float) -> pd.Series:
    """Rise of the held-out loss at a share of weights pruned, as a share of the gap to guessing by frequencies, by run.

    Args:
        rows: as for `free_share`; pruned by magnitude.
        share: one that the record holds.

    Returns:
        Index: seed; a rise that was too large to be written down counts as the whole gap.
    """
    at = rows[(rows["what"] == "curve") & (rows["arm"] == "magnitude") & np.isclose(rows["share"], share)]
    about = rows[rows["what"] == "model"].set_index("seed")
    rise = at.groupby("seed")["rise"].agg(whole_mean) / (about["prior"] - about["own"])
    return rise.reindex(about.index).fillna(1.0)


def f11_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F11 of a model: magnitude pruning within matrices, without any training after it.

    Args:
        rows: of the record `optimal`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    own, noise = (free_share(rows, arm, of="gap") for arm in ("magnitude", "noise"))
    if len(own) < 2:
        raise ValueError(f"F11 of {model} needs at least two runs: measure the record")
    farther = over_runs(own - noise)
    rises = {f"{share:.0%}".replace("%", " %"): float(gap_closed(rows, share).mean()) for share in (0.3, 0.5)}
    parts: dict[str, float | str] = {"beyond noise, points": span(100 * (own - noise), 1, "+")}
    tried = {name: arm for name, arm in ARMS_BESIDE.items() if (rows["arm"] == arm).any()}
    parts |= {name: float(free_share(rows, arm, of="gap").mean()) for name, arm in tried.items()}
    first, first_low, first_high = over_runs(free_share(rows))
    value, low, high = over_runs(own)
    verdict, control = judge(RULES["F11"], value, (low, high)), judge(RULES["F11"], noise.mean())
    if verdict == "supported" and not farther[1] > 0:  # tolerant, as noise shows, and not sparse
        verdict = "supported" if control == "supported" else "partly"
    elif control == "supported":
        control = "partly"  # noise goes no farther than noise
    details = {"parts": parts, "gap_closed": rises, "runs": len(own), "first_value": [first, first_low, first_high]}
    return Finding.of(
        "F11", model, provenance, details, value, (max(low, 0.0), min(high, 1.0)), float(noise.mean()), verdict,
        control, judge(FIRST_RULES["F11"], first, (first_low, first_high)),
    )  # fmt: skip


def f11(model: str, provenance: dict) -> Finding:
    """Finding F11 of a checkpoint alone: not judged, since what can be pruned is told by a loss."""
    reason = (
        "What pruning may take is said by a loss: it takes the model’s task and held-out data. "
        "`lfmlib.pruning.curve` measures it for any loss."
    )
    return Finding.of("F11", model, provenance, {"reason": reason})
