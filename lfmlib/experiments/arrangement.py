"""How training arranges weights that began as Gaussian noise: the experiment `arrangement`, behind finding F4.

The starts are noise, so step 0 passes every test; what the trained weights fail, training has done.
"""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..lab.train import start_of
from ..records import Experiment
from ..structure.entries import FIGURES
from ..surveys.arrangements import BEYOND, DERIVED, SPECTRAL, arrangement
from .initialization import GAINS, PLAIN, grid
from .trainings import config, inputs, retrained, score, tolerances

WAYS = {"wide start": GAINS[0], "narrow start": GAINS[1]}
"""The ways of training: scales of the start."""
CONTROLS = ("permuted", "rescaled", "fresh")
"""Controls of the trained weights (see `lfmlib.arrangement`)."""
SHARES = (*findings.LEGS, "all")
"""Legs of F4 that the share of parameters is recorded of that passes them, and all of them together; by the first rule
as ``first_…``."""
ALIKE = ("row_alike_64", "col_alike_64")
MEDIANS = (*FIGURES, *ALIKE, *DERIVED, "block_excess", *SPECTRAL.values(), *BEYOND)
"""Figures that a record keeps the median of, over the matrices."""
TOLERANCES = tolerances({
    (*SHARES, *(f"first_{name}" for name in SHARES)): (0.3, 1.0),
    MEDIANS: 0.25,
    ("lag_row", "lag_col", "lag_diagonal", "lag_max", "lag_one", "ljung_box", "mutual_information"): (0.25, 0.05),
    ("row_corr", "col_corr"): (0.25, 0.02),
    ("row_share", "col_share", "block_share", "unequal", "block_excess", "outlier_share", *BEYOND): (0.25, 0.1),
    ("row_drift", "col_drift", "row_alike", "col_alike", *ALIKE, "top_ratio", "mp_ks", "outlier_variance"): (0.25, 1.0),
    "outliers": (0.25, 10), "runs_z": (1.0, 3.0), "score": (0.1, 1.0),
})  # fmt: skip
"""Wide as those of `initialization`: another processor trains another model. Later lines replace that of `MEDIANS`."""


def experiment() -> Experiment:
    """Trainings from narrow and wide Gaussian starts, five seeds of each lab model."""
    return Experiment(
        name="arrangement",
        cells=[cell for gain in GAINS for cell in _cells(gain)],
        run=run,
        **TOLERANCES,
        version=2,  # 2: likeness at one width, blocks, the spectrum beside permuted entries
        description="lab models trained from Gaussian noise: independence, identity and spectrum before and after",
        inputs=inputs,
        quick=[
            cell | {"steps": 8, "batch": 2} for cell in _cells(GAINS[1]) if cell["seed"] < 2 and cell["model"] != "clip"
        ],
    )


def _cells(gain: float):
    for model in PLAIN:
        longer = {"steps": 500} if model == "decoder" and gain == GAINS[1] else {}  # as in `initialization`
        yield from grid("arrangement", models=(model,), starts=("gaussian",), gain=gain, seeds=5, **longer)


def run(cell: dict) -> list[dict]:
    """Train as the cell says; a row for the start, one for the end, and one for each control of the end.

    A row holds: ``step``; ``control`` ("none" for the weights themselves); ``matrices`` judged; the share of their
    parameters that passes each leg of F4, and ``all``, by either rule (`SHARES`); medians over these matrices of the
    figures of `arrangement`.
    """
    before = start_of(config(cell))
    trained = retrained(config(cell), snapshots=2)
    tables = (
        arrangement(dict(before.named_parameters()), progress=False).assign(step=0),
        arrangement(trained.model, controls=CONTROLS, seed=cell["seed"], progress=False).assign(step=cell["steps"]),
    )
    rows = []
    for (step, control), table in pd.concat(tables).groupby(["step", "control"], sort=False):
        body = findings.eligible(table)
        medians = {name: _median(body[name]) for name in MEDIANS}
        about = {"step": int(step), "control": control, "matrices": len(body)}
        first = {f"first_{leg}": one for leg, one in findings.leg_shares(table, findings.first_legs).items()}
        rows.append(about | findings.leg_shares(table) | first | medians)
    rows[1] |= {"score": score(trained.scores)}
    return rows


def _median(figures: pd.Series) -> float | None:
    """Seven digits of the median; nothing where a figure is not known, as without a control."""
    return float(f"{figures.median():.7g}") if figures.notna().any() else None
