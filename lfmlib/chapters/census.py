"""Published models beside the reader's own: the record `census` as tables, and as findings for the chapters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from .. import findings, records
from ..checkpoints.named import named, titled
from ..findings import Finding
from ..findings.markup import plain
from ..provenance import recorded
from .names import where
from .sentences import MISSING, median, number, table

SHIPPED = Path(__file__).parents[1] / "_records"
"""Where an installed library has the record; the source tree has it in book/records."""
RECIPE = {"decay": 0.01, "rate": 2e-5}
"""Weight decay and first learning rate with which encoders are customarily fine-tuned (Devlin and others 2019)."""


def part(record: pd.DataFrame, model: str, name: str, control: str = "") -> pd.DataFrame:
    """What one part of the record holds of a model, as the library's own table has it; empty where it holds nothing.

    Args:
        record: `census`.
        model: a name of `lfmlib models`.
        name: of the part.
        control: rows of one control only; "none" are the weights themselves.
    """
    rows = where(record, model=model, part=name, **({"control": control} if control else {}))
    rows = rows.dropna(axis="columns", how="all").drop(columns=["cell", "part", "model", "seed"], errors="ignore")
    if "rows" not in rows:
        return rows
    rows = rows[rows["rows"].notna()]  # norms and biases have none
    shape = list(zip(rows["rows"].astype(int), rows["columns"].astype(int), strict=True))
    told = {name: rows[name].fillna("") for name in ("tower", "quantized") if name in rows}
    depth = rows["depth"].astype("Int64") if "depth" in rows else pd.array([pd.NA] * len(rows), "Int64")
    return rows.assign(shape=shape, depth=depth, **({"tower": "", "quantized": ""} | told)).reset_index(drop=True)


def models(record: pd.DataFrame, but: str = "") -> list[str]:
    """The models of the record, all `but` one, that with the most judged weights first."""
    rows = where(record, part="values", control="none") if len(record) else record
    weights = findings.eligible(rows).groupby("model")["numel"].sum() if len(rows) else {}
    return sorted(set(record["model"]) - {but}, key=lambda name: (-weights.get(name, 0), name))


def bodies(record: pd.DataFrame, but: str = "") -> dict[str, pd.DataFrame]:
    """The judged matrices of each model of the record, rows as of a survey, in the order of `models`."""
    tables = {name: part(record, name, "values", "none") for name in models(record, but)}
    return {name: findings.eligible(table) for name, table in tables.items() if len(table)}


def judged(record: pd.DataFrame, id_: str, but: str = "", grown: Sequence[str] = ()) -> list[Finding]:
    """A finding on every model of the record that has what it takes.

    Args:
        record: `census`.
        id_: of the finding: F1, F3, F4, F9, F10 or F12; of the fine-tunes among them F5, F6 or F7.
        but: a model that the chapter measures itself.
        grown: F3: the shapes that lab models grew in training.
    """
    if record.empty:
        return []
    origin = recorded("census", record)
    if id_ == "F3":
        several = [_f3(record, name, origin, [], grown) for name in models(record)]
        return [_f3(record, name, origin, several, grown) for name in models(record, but)]
    judge = _JUDGES[id_]
    return [judge(record, name, origin) for name in models(record, but) if id_ not in PAIRED or named(name).base]


def kept() -> pd.DataFrame:
    """The record, of this source tree or else as the installed library brings it; empty where neither has one."""
    for folder in (None, SHIPPED):
        with suppress(FileNotFoundError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chapter 1 says what there is to say of the record
            return records.load("census", folder=folder)
    return pd.DataFrame({"model": [], "part": []})


def beside(record: pd.DataFrame, body: pd.DataFrame | None = None, name: str = "") -> pd.DataFrame:
    """The share of Gaussian parameters of each model of the record, and of another one that it is not.

    Args:
        record: `census`.
        body: judged rows of a survey of the other model; None: there is none.
        name: of the other model.

    Returns:
        Columns model (as in print), modality, parameters, share, low, high, base (of a fine-tune of a model that is
        here); the modality of the other model is "", and a model of the record that has its name is left out.
    """
    known = bodies(record, name)
    rows = [
        {
            "model": titled(one),
            "modality": named(one).modality,
            "base": named(one).base if named(one).base in known else "",
        }
        | _place(table)
        for one, table in known.items()
    ]
    if body is not None and len(body):
        rows.append({"model": titled(name), "modality": "", "base": ""} | _place(body))
    return pd.DataFrame(rows)


def _place(body: pd.DataFrame) -> dict[str, float]:
    value, low, high = findings.gaussian_share(body)
    return {"parameters": int(body["numel"].sum()), "share": value, "low": low, "high": high}


def found(
    id_: str, profile: str, but: str = "", grown: Sequence[str] = (), known: Sequence[Finding] = ()
) -> list[Finding]:
    """A finding on every published model, for a chapter that judges one itself; arguments as for `judged`.

    ``known`` are findings that the chapter has from another record, on models that are not judged twice.
    They are those of the record, also under ``full``, where chapter 1 measures all of it again; under ``quick`` there
    are none, since toys are no models.
    """
    twice = {one.model for one in known}
    listed = [] if profile == "quick" else judged(kept(), id_, but, grown)
    return [one for one in listed if one.model not in twice]


def gaussian(record: pd.DataFrame) -> pd.DataFrame:
    """How Gaussian the judged matrices of each model are, beside noise: a row for each, the largest first."""
    return table(bodies(record), {
        "weights": number(lambda body: body["numel"].sum(), ".1f", " M", times=1e-6),
        "Gaussian": number(lambda body: findings.gaussian_share(body)[0], ".0%"),
        "median kl_bits": median("kl_bits", ".4f"),
        "noise": median("kl_bits_null_high", ".5f"),
        "largest": number(lambda body: body["kl_bits"].max(), ".3f"),
    })  # fmt: skip


def pairs(record: pd.DataFrame | None = None) -> pd.DataFrame:
    """What two real fine-tunes left of W₀ and what they did to the spread, a row for each.

    *W₀ left* is the slope of W on W₀, in the median over matrices (from the smallest to the largest) and over norms;
    ΔW / W₀ the ratio of their standard deviations and g the gain, medians over matrices too.

    Args:
        record: `census`; None: as recorded, whatever the profile.
    """
    record = kept() if record is None else record
    rows = where(record, part="pair", control="none")
    norms = rows[(rows["role"] == "norm") & rows["rows"].isna()]
    names = dict.fromkeys(rows["model"])
    each = {name: (findings.eligible(part(record, name, "pair", "none")), where(norms, model=name)) for name in names}
    return table(each, {
        "W₀ left": lambda both: _range(both[0]["factor"]),
        "of norms": median(lambda both: both[1]["factor"], ".3f"),
        "ΔW / W₀": median(lambda both: both[0]["std_delta"] / both[0]["std_base"], ".3f"),
        "g": median(lambda both: both[0]["gain"], ".2f"),
        "g of norms": median(lambda both: both[1]["gain"], ".2f"),
    })  # fmt: skip


def idle(record: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of embeddings that no training text used: how many are the base's to the bit, and what decay left of others.

    Args:
        record: `census`; None: as recorded, whatever the profile.
    """
    record = kept() if record is None else record
    rows = where(record, part="idle")
    each = {(one.model, one.tensor.split(".")[-2]): one for one in rows.itertuples()}
    return table({f"{model}, {name.replace('_', ' ')}": one for (model, name), one in each.items()}, {
        "rows": lambda one: f"{int(one.rows):,}",
        "of them a multiple of W₀’s": lambda one: f"{int(one.idle):,}",
        "and the same": lambda one: f"{int(one.same):,}",
        "left of the others": lambda one: MISSING if math.isnan(one.left) else
            f"{one.left:.4f} ({one.left_low:.4f} to {one.left_high:.4f})",
    })  # fmt: skip


def of_decay(record: pd.DataFrame | None = None) -> str:
    """What rows that no text used say of the weight decay of the fine-tunes, in a sentence."""
    record = kept() if record is None else record
    rows, told = where(record, part="idle"), []
    for name, some in rows.groupby("model", sort=False):
        if some["same"].sum() > some["idle"].sum() / 2:
            told.append(
                f"in {plain(name)} **{int(some['same'].sum())} rows are the base’s to the bit**, so nothing but "
                "gradients moved its weights"
            )
        elif some["idle"].sum():
            left = float((some["left"] * some["idle"]).sum() / some["idle"].sum())
            shrunk = -math.log(left)
            steps = shrunk / (RECIPE["decay"] * RECIPE["rate"] / 2)
            told.append(
                f"in {plain(name)} **{int(some['idle'].sum())} rows are {left:.4f} times the base’s**, so that "
                f"λ Σ η was {shrunk:.4f}. At a decay of {RECIPE['decay']:g} and a rate that falls from "
                f"{RECIPE['rate']:g} to 0, these are about {steps / 1000:,.0f},000 steps"
            )
    return ". ".join(one[0].upper() + one[1:] for one in told or ["no embedding has such rows"]) + "."


def _range(values: pd.Series) -> str:
    return f"{values.median():.3f} ({values.min():.3f} to {values.max():.3f})"


def _survey(record: pd.DataFrame, model: str, control: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model's survey, and that of a control."""
    return part(record, model, "values", "none"), part(record, model, "values", control)


def _f1(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f1(*_survey(record, model, "noise"), model, origin)


def _f3(record: pd.DataFrame, model: str, origin: dict, others: list[Finding], grown: Sequence[str]) -> Finding:
    return findings.f3(*_survey(record, model, "noise"), model, others, grown, origin)


def _f4(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f4(part(record, model, "arrangement"), model, origin)


def _f5(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f5(part(record, model, "pair"), model, origin)


def _f6(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f6(part(record, model, "pair"), model, origin)


def _f7(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f7(part(record, model, "pair", "none"), model, origin)


def _f9(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f9(*_survey(record, model, "centred"), model, origin)


def _f10(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f10(*_survey(record, model, "centred"), model, origin)


def _f12(record: pd.DataFrame, model: str, origin: dict) -> Finding:
    return findings.f12(part(record, model, "laws"), model, origin)


PAIRED = ("F5", "F6", "F7")
"""Findings on a base and its fine-tune."""
_JUDGES: dict[str, Callable[[pd.DataFrame, str, dict], Finding]] = {
    "F1": _f1, "F4": _f4, "F5": _f5, "F6": _f6, "F7": _f7, "F9": _f9, "F10": _f10, "F12": _f12,
}  # fmt: skip
