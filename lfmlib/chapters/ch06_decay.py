"""F6 as a law, in chapter 6: where weight decay turns a training that widens the weights into one that narrows them.

Rows are those of the record `finetuning`, full fine-tunings of its parts plain and decay; what is foretold of a
training comes from one of the same seed and settings without a decay (see `lfmlib.deltas.decay`), and from no other.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..deltas.decay import turning_point, widened
from ..lab.train import Config, left_by_decay
from .names import NAMES
from .sentences import MISSING

SETTING = ["model", "task", "optimizer", "lr", "steps"]
"""What a training is told apart by, beside its seed and its decay."""
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}
GRID = 2001
"""Decays between none and the largest tried at which the law is looked at for its turning point."""
NEAR = 2.0
"""Ratio of what the path gives to what decay takes, either way, up to which a forecast counts as a close call."""
SEEDS = 3
"""Seeds with which every decay was tried."""
SAME_SCORE = 0.02
"""Relative difference up to which two mean scores are called equal."""


def trials(record: pd.DataFrame) -> pd.DataFrame:
    """Every matrix of every training with weight decay, beside the same matrix trained without.

    Returns:
        Columns: `SETTING`, seed, weight_decay, role, depth; ``kept``, the share of W₀ that decay leaves; ``moved`` and
        ``along``, δ and δ∥ of `lfmlib.deltas.decay`, from the training without; ``rise``, Var W / Var W₀ - 1 as
        measured; ``rise_foretold``, what the path has ``given`` less what decay has ``taken``; ``name`` of the model.
    """
    rows = record[record["part"].isin(["plain", "decay"])].dropna(subset="corr")
    named = rows["optimizer"].fillna("adamw") if "optimizer" in rows else "adamw"
    rows = rows.assign(optimizer=named)
    size = rows["std_delta"] / rows["std_base"]
    rows = rows.assign(moved=size, along=rows["corr"] * size, rise=rows["gain"] * size**2)
    own, place = [*SETTING, "seed"], ["role", "depth"]
    without = rows[rows["weight_decay"] == 0].set_index([*own, *place])[["moved", "along"]]
    decayed = rows.loc[rows["weight_decay"] > 0, [*own, *place, "weight_decay", "rise"]]
    found = decayed.join(without, on=[*own, *place], how="inner")
    settings = found[[*SETTING, "weight_decay"]].drop_duplicates()
    kept = settings.assign(kept=[left_by_decay(_config(one)) for one in settings.to_dict("records")])
    found = found.merge(kept, on=[*SETTING, "weight_decay"])
    foretold, taken = widened(found["kept"], found["moved"], found["along"]), 1 - found["kept"] ** 2
    return found.assign(rise_foretold=foretold, taken=taken, given=foretold + taken, name=found["model"].map(NAMES))


def _config(setting: dict) -> Config:
    known = {name: setting[name] for name in (*SETTING, "weight_decay")} | {"steps": int(setting["steps"])}
    return Config(**known, start="library")


def turning_points(found: pd.DataFrame) -> pd.DataFrame:
    """The weight decay at which the median matrix keeps its spread, foretold and measured, for every setting.

    It is foretold from the trainings without a decay alone. Measured is where the median rise changes its sign: that of
    the law, corrected by what it was off at the decays on both sides, on a straight line between them; on one side this
    may be the training without. Beyond the decays that were tried nothing is measured.

    Args:
        found: from `trials`.

    Returns:
        Columns: `SETTING`; runs; ``foretold``, ``measured`` (NaN where no sign changes), ``error`` (foretold over
        measured, less 1); ``right``, the share of matrices and decays for which the sign of the rise was foretold.
    """
    return pd.DataFrame([_turning_point(rows) for _, rows in found.groupby(SETTING, sort=False)])


def _turning_point(rows: pd.DataFrame) -> dict:
    one, path = rows.iloc[0], rows.drop_duplicates(["seed", "role", "depth"])[["moved", "along"]].to_numpy()
    spent = -math.log(one["kept"]) / one["weight_decay"]  # per unit of decay
    kept = np.nan_to_num([turning_point(*some) for some in path], nan=1.0)  # some narrow without any decay
    medians = rows.groupby("weight_decay")[["rise", "rise_foretold"]].median()
    tried, off = np.array([0.0, *medians.index]), np.array([0.0, *(medians["rise"] - medians["rise_foretold"])])
    decays = np.linspace(0, tried[-1], GRID)
    law = np.array([np.median(widened(math.exp(-spent * decay), *path.T)) for decay in decays])
    below = np.flatnonzero(law + np.interp(decays, tried, off) <= 0)
    measured = float(decays[below[0]]) if len(below) and below[0] else math.nan
    foretold = float(np.median(-np.log(kept) / spent))
    about = {name: one[name] for name in SETTING} | {"runs": rows["seed"].nunique()}
    return about | {"foretold": foretold, "measured": measured, "error": foretold / measured - 1, "right": _right(rows)}


def _right(rows: pd.DataFrame) -> float:
    """Share of matrices and decays for which the sign of the rise was foretold."""
    return float((np.sign(rows["rise"]) == np.sign(rows["rise_foretold"])).mean())


def table_of_turning_points(points: pd.DataFrame) -> pd.DataFrame:
    """`turning_points` in words, a row for each setting."""
    listed = {}
    for one in points.to_dict("records"):
        name = f"{NAMES[one['model']]}, {OPTIMIZERS[one['optimizer']]} {one['lr']:g}, {one['steps']:.0f} steps"
        known = not math.isnan(one["measured"])
        listed[name] = {
            "foretold": f"{one['foretold']:.3g}",
            "measured": f"{one['measured']:.3g}" if known else "not reached",
            "error": f"{one['error']:+.1%}" if known else MISSING,
            "sign right": f"{one['right']:.1%}",
            "runs": one["runs"],
        }
    return pd.DataFrame.from_dict(listed, orient="index")


def of_turning_points(found: pd.DataFrame, points: pd.DataFrame) -> str:
    """How good the forecast is, in sentences.

    Args:
        found: from `trials`.
        points: from `turning_points`.
    """
    known = points.dropna(subset="measured")
    if known.empty:
        return "No setting was tried here with decays on both sides of its turning point."
    words = []
    for model, some in known.groupby("model", sort=False):
        worst = some.loc[some["error"].abs().idxmax(), "error"]
        words.append(
            f"{NAMES[model]} {some['error'].abs().median():.1%} (at most {abs(worst):.1%}, {len(some)} settings)"
        )
    close = found[found["given"].between(found["taken"] / NEAR, found["taken"] * NEAR)]
    return (
        f"Error of the foretold decay, median: **{'; '.join(words)}**. Over all {len(found):,} matrices and decays the "
        f"sign of the change was foretold for **{_right(found):.1%}**; of the {len(close):,} where the path gives "
        f"within a factor of {NEAR:g} of what decay takes, for {_right(close):.1%}."
    )


def at_equal_score(record: pd.DataFrame) -> str:
    """What the held-out scores are at the least and at the largest decay that was tried, in sentences."""
    rows = record[record["part"].isin(["plain", "decay"]) & record["score"].notna()]
    words, equal = [], True
    for model, some in rows.groupby("model", sort=False):
        pace = some[(some["lr"] == some["lr"].mode()[0]) & (some["steps"] == some["steps"].mode()[0])]
        scores = pace[pace["seed"] < SEEDS].groupby("weight_decay")["score"].mean()
        if len(scores) > 2:
            (first, own), (last, other) = ((scores.index[at], scores.iloc[at]) for at in (0, -1))
            words.append(f"{NAMES[model]} {own:.3f} at {first:g} and {other:.3f} at {last:g}")
            equal &= abs(other / own - 1) <= SAME_SCORE
    if not words:
        return "One decay alone was tried here."
    return f"Held-out score without a decay and at the largest one: {'; '.join(words)}." + (
        " At equal score the weights widen or narrow, as the recipe has it." if equal else ""
    )
