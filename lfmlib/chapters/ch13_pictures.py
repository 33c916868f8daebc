"""What the report draws beside its tables, and what is taken from it: on any model, also one that has none of what is
asked about.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import Checkpoint
from ..findings import markup, scoreboard
from ..findings.markup import plain
from ..health import planted
from ..provenance import HOME
from .ch13_matrices import passed
from .ch13_report import farthest

LEGS = {"independence": "independent", "identity": "identically distributed", "spectrum": "of noise’s spectrum"}
"""Leg of F4 → what weights that pass it are."""


def reach(table: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """How far the farthest weights lie, and those of noise, by matrix: columns matrix, of, mean; no low and high."""
    far = farthest(table, most)
    far = far.assign(matrix=[_called(row) for row in far.to_dict("records")]).drop_duplicates("matrix")
    each = [far.assign(of=of, mean=far[column]) for of, column in (("this model", "reach"), ("noise", "noise"))]
    found = pd.concat(each).assign(low=float("nan"), high=float("nan"))
    return found[["matrix", "of", "mean", "low", "high"]]


def legs(arranged: pd.DataFrame) -> pd.DataFrame:
    """The share of the weights, and of their controls, that passes each leg of F4: columns leg, of, mean, low, high
    (missing)."""
    rows = [
        {"leg": LEGS[leg], "of": name, "mean": shares[leg]}
        for name, shares in (passed(arranged) if len(arranged) else {}).items()
        for leg in LEGS
    ]
    return pd.DataFrame(rows, columns=["leg", "of", "mean", "low", "high"], dtype=object).astype({"mean": float})


def self_test(part: Checkpoint, seed: int) -> pd.DataFrame:
    """`lfmlib.health.planted.self_test`; that some of what it plants cannot be measured is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return planted.self_test(part, seed)


def place(folder: Path) -> Path:
    """A folder of results as the page names it: from where its reader stands, if it lies below the project."""
    return Path(os.path.relpath(folder)) if folder.is_relative_to(HOME) else folder


def takeaways(body: pd.DataFrame, arranged: pd.DataFrame, states: pd.DataFrame, of: int, tested: pd.DataFrame) -> str:
    """Three sentences on a model: how Gaussian it is, how its entries are arranged, and whether it is whole.

    Args:
        body: judged rows of its survey.
        arranged: its arrangement, with controls.
        states: from `lfmlib.health.states.examine`.
        of: matrices that were examined.
        tested: from `self_test`.
    """
    return "\n".join(f"- {one}" for one in (_of_bell(body), _of_legs(arranged), _of_states(states, of, tested)))


def _of_bell(body: pd.DataFrame) -> str:
    if body.empty:
        return "**No matrix** of this model is judged, so nothing is said of the bell."
    share, low, high = findings.gaussian_share(body)
    within = "" if low == high == share else f" [{100 * low:.1f}, {100 * high:.1f}]"
    far = body.loc[body["kl_bits"].idxmax()]
    return (
        f"**{100 * share:.1f}{within}\u00a0%** of the judged weights lie in matrices within {findings.KL_BOUND:g} bits "
        f"of a Gaussian; the farthest is {plain(_called(far.to_dict()))}, with {far['kl_bits']:.3f} bits."
    )


def _of_legs(arranged: pd.DataFrame) -> str:
    shares = passed(arranged) if len(arranged) else {}
    if not shares or math.isnan(shares["weights"]["all"]):
        return "Of **no judged matrix** the arrangement of the entries could be measured."
    said = [f"{scoreboard.part(shares['weights'][leg])} as {words}" for leg, words in LEGS.items()]
    noise = scoreboard.part(min(shares["fresh"][leg] for leg in LEGS))
    return f"Of the weights looked at pass **{markup.enumerated(said)}**. Of fresh noise {noise} or more pass as each."


def _of_states(states: pd.DataFrame, of: int, tested: pd.DataFrame) -> str:
    right = int((tested["planted"] == tested["called"]).sum())
    seen = (
        f"of {len(tested)} damages planted in copies {right} are named rightly" if len(tested) else "none was planted"
    )
    return f"Of {of} matrices **{len(states)}** look{'s' if len(states) == 1 else ''} untrained or damaged; {seen}."


def _called(row: dict) -> str:
    """A matrix by its role and layer; by its name where it has no layer."""
    if pd.isna(row["depth"]):
        return str(row["tensor"])
    tower = f"{row['tower']} " if row.get("tower") else ""
    return f"{tower}{row['role']}, layer {row['depth']}"
