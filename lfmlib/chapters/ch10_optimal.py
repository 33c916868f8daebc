"""What chapter 10 reads off its record, `optimal`: what can be pruned, by which law the rest goes, what outliers cost.

Every function takes rows of the record (see `lfmlib.experiments.optimal.run`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..distribution.coding import MAX_OUTLIER_SHARE, VARIANTS
from ..distribution.law import Law
from ..experiments.loss_probes import ARMS
from ..experiments.optimal import BITS, PRUNED, PRUNED_SHARE
from ..findings import Finding
from ..losses.outliers import RANGES
from ..provenance import recorded
from .names import where

NAMES = {
    "minilm": "minilm",
    "decoder": "lab decoder",
    "deep-decoder": "lab 12-layer decoder",
    "vit": "lab ViT",
    "clip": "lab CLIP",
}
"""The models; the first is real, and named as in the chapters on its checkpoint."""
SHORT = {"minilm": "MiniLM", "decoder": "decoder", "deep-decoder": "12-layer decoder", "vit": "ViT", "clip": "CLIP"}
NEARLY = 0.9
"""Of the most outliers that a matrix may have: where they are more, the limit decides where they begin."""
ASKED = {
    "minilm": "halves of docstrings",
    "decoder": "next byte",
    "deep-decoder": "next byte",
    "vit": "digit",
    "clip": "digit ↔ caption",
}


def found(record: pd.DataFrame, **parameters) -> dict[str, list[Finding]]:
    """Findings by id: F9 and F10 of the lab's models, F11 and F12 of these and MiniLM.

    ``parameters`` of the chapter go into their provenance.
    """
    origin = recorded("optimal", record, **parameters)
    by_id: dict[str, list[Finding]] = {"F9": [], "F10": [], "F11": [], "F12": []}
    for model, name, rows in _by_model(record, NAMES):
        about = origin | {"source": name}
        listed = [findings.f11_over_runs(rows, name, about), findings.f12_over_runs(rows, name, about)]
        if model != "minilm":
            listed += findings.f9_f10_over_runs(rows[rows["what"] == "model"], name, about)
        for one in listed:
            by_id[one.id].append(one)
    return by_id


def asked(record: pd.DataFrame) -> pd.DataFrame:
    """What the models are asked, and how well they answer before anything is taken from them."""
    table = {}
    for model, name, rows in _by_model(record):
        one = rows[rows["what"] == "model"][["own", "prior", "score"]].mean()
        table[name] = {
            "asked for": ASKED[model],
            "loss": f"{one['own']:.3f}",
            "by frequencies": f"{one['prior']:.3f}",
            "accuracy": "–" if np.isnan(one["score"]) else f"{one['score']:.2f}",
        }
    return pd.DataFrame.from_dict(table, orient="index")


def curves(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Pruning curves: model → rows with arm, share, and the relative ``rise`` of the loss: mean, low, high of runs."""
    table = {}
    for _, name, rows in _by_model(record):
        own = rows[rows["what"] == "model"].set_index("seed")["own"]
        some = rows[rows["what"] == "curve"].groupby(["arm", "share", "seed"])["rise"].mean().reset_index()
        some["rise"] /= some["seed"].map(own)
        over = some.groupby(["arm", "share"], sort=False)["rise"]
        table[name] = over.agg(rise="mean", low="min", high="max").reset_index()
    return table


def free(record: pd.DataFrame, of: str = "own") -> pd.DataFrame:
    """The share of weights that can go for one per cent, by model and arm, in per cent: mean and 95 % over runs.

    Args:
        of: one per cent of the loss itself ("own"), or of the gap to knowing nothing but frequencies ("gap").
    """
    table = {}
    for _, name, rows in _by_model(record):
        table[name] = {}
        for arm in ARMS:
            shares = 100 * findings.free_share(rows, arm, of)
            table[name][arm.removeprefix("magnitude, ")] = findings.span(shares, 0, least=0, most=100)
    return pd.DataFrame.from_dict(table, orient="index")


def against_noise(record: pd.DataFrame) -> str:
    """Whether magnitude pruning goes further than noise of the size of what it takes, in a sentence."""
    words, lows = [], []
    for _, name, rows in _by_model(record):
        more = 100 * (findings.free_share(rows) - findings.free_share(rows, "noise"))
        words.append(f"{name} {findings.span(more, 0, '+')}")
        lows += [findings.over_runs(more)[1]] if len(more) > 1 else []
    return (
        f"One-per-cent point of magnitude pruning less that of noise, in points: {'; '.join(words)}. Beyond the "
        f"interval, pruning goes further in **{sum(low > 0 for low in lows)} of {len(lows)}** models."
    )


def scores(record: pd.DataFrame, shares: tuple[float, ...] = (0.3, 0.5, 0.7)) -> pd.DataFrame:
    """Accuracy after pruning by magnitude, in per cent: mean and 95 % over runs; models that have one."""
    table = {}
    for _, name, rows in _by_model(record):
        whole = rows[rows["what"] == "model"]["score"]
        some = rows[(rows["what"] == "curve") & (rows["arm"] == "magnitude")]
        if whole.notna().all():
            each = {"whole": whole}
            each |= {f"{share:.0%} pruned": some.loc[some["share"] == share, "scored"] for share in shares}
            table[name] = {what: findings.span(100 * values, 1, most=100) for what, values in each.items()}
    return pd.DataFrame.from_dict(table, orient="index")


def layers(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Model → rows with depth and the relative rise of the loss without half of that layer: mean, low, high of runs."""
    table = {}
    for _, name, rows in _by_model(record):
        own = rows[rows["what"] == "model"].set_index("seed")["own"]
        some = rows[rows["what"] == "layer"]
        some = some.assign(rise=some["rise"] / some["seed"].map(own))
        table[name] = some.groupby("depth")["rise"].agg(rise="mean", low="min", high="max").reset_index()
    return table


def fragile(record: pd.DataFrame) -> str:
    """Which layer can least do without half of its weights, in a sentence."""
    words = []
    for name, rows in layers(record).items():
        worst, best = rows.loc[rows["rise"].idxmax()], rows.loc[rows["rise"].idxmin()]
        if len(rows) > 1:
            words.append(
                f"{name} layer {worst['depth']:.0f} ({100 * worst['rise']:+.1f} %; least: layer {best['depth']:.0f}, "
                f"{100 * best['rise']:+.1f} %)"
            )
    return f"Half of one layer’s weights, by magnitude, cost most in: {'; '.join(words)}."


def wins(record: pd.DataFrame, pruned: float = PRUNED_SHARE, column: str = "wins") -> pd.DataFrame:
    """Share of the parameters in matrices where a law has the shortest code, means over runs.

    Args:
        pruned: share of the weights left out first, one of those in the record.
        column: "wins"; "near", the shortest or at most 0.01 bits above it; or "noise_wins", on pruned noise.

    Returns:
        Index: model. Columns: laws that are the shortest anywhere.
    """
    table = {}
    for _, name, rows in _by_model(record):
        some = rows[(rows["what"] == "law") & (rows["pruned"] == pruned)]
        table[name] = some.groupby("variant")[column].mean().reindex(VARIANTS)
    table = pd.DataFrame(table).T.astype(float).rename_axis(columns=None)
    return table.loc[:, table.max() > 0]


def above(laws: pd.DataFrame) -> pd.DataFrame:
    """In how many matrices each law is the shortest, and how many bits it lies above that in the median and at most.

    Args:
        laws: rows of `lfmlib.laws`, or those of the record that are about matrices.
    """
    bits = laws[list(BITS)].set_axis(list(VARIANTS), axis=1)
    over = bits.sub(bits.min(axis=1), axis=0)
    return pd.DataFrame({"matrices": (over == 0).sum(), "median": over.median(), "largest": over.max()})


def code_lengths(record: pd.DataFrame) -> pd.DataFrame:
    """The same of every model of the record, in words: matrices won, of all runs; median of the bits above.

    Returns:
        Index: law, shortened. Columns: models, with the number of their matrices.
    """
    table = {}
    for _, name, rows in _by_model(record):
        some = rows[rows["what"] == "matrix"]
        table[f"{name} ({len(some)})"] = {
            law.replace("generalized-", "gen. "): f"{one['matrices']:.0f}; {one['median']:.4f}"
            for law, one in above(some).iterrows()
        }
    return pd.DataFrame(table)


def claimed(record: pd.DataFrame) -> pd.DataFrame:
    """The claimed law, in words: where it is the shortest, where within 0.01 bits, and how far above in the median."""
    table = {}
    for _, name, rows in _by_model(record):
        table[name] = {}
        for pruned in PRUNED:
            some = where(rows, what="law", variant=findings.CLAIMED_LAW, pruned=pruned)
            if len(some):
                wins, near, bits = some[["wins", "near", "bits"]].mean()
                table[name][f"{pruned:.0%} pruned"] = f"{wins:.0%}, {near:.0%}, {bits:.4f}"
    return pd.DataFrame.from_dict(table, orient="index")


def by_role(places: pd.DataFrame) -> pd.DataFrame:
    """How unevenly outliers lie, by role: medians over the matrices that have any.

    Args:
        places: from `lfmlib.structure.outlier_places.places`.
    """
    columns = {
        "share": "outliers",
        "rows": "in 1 % of the rows",
        "rows_noise": "rows, by chance",
        "columns": "in 1 % of the columns",
        "columns_noise": "columns, by chance",
    }
    if places.empty:
        return pd.DataFrame(columns=list(columns.values()))
    return places.groupby("role", sort=False)[list(columns)].median().rename(columns=columns).rename_axis(None)


def core(law: Law, std: float) -> str:
    """Where the outliers of a matrix with that standard deviation begin, and how many they are, in a sentence."""
    if np.isinf(law.outlier_cut):
        return "A Gaussian codes what pruning keeps shorter without outliers than with them."
    return (
        f"Outliers of its Gaussian core begin at {law.outlier_cut / std:.1f}; {law.gaussian.outlier_share:.2%} of what "
        "pruning keeps lie there."
    )


def begins(places: pd.DataFrame) -> str:
    """Where outliers begin, how many they are, and how many noise has there, in a sentence; from `places`."""
    if places.empty:
        return "No matrix has outliers."
    middle = places[["begins", "share", "gaussian"]].median()
    capped = (places["share"] >= NEARLY * MAX_OUTLIER_SHARE * (1 - PRUNED_SHARE)).sum()
    return (
        f"In the median of {len(places)} matrices they begin at **{middle['begins']:.1f} standard deviations**, and "
        f"are {middle['share']:.2%} of the entries; a Gaussian of that standard deviation has {middle['gaussian']:.2%} "
        f"there. In **{capped}** the limit of 1 % of what is kept is all but reached: it decides there where "
        "outliers begin, not a gap in the weights."
    )


def lined_up(table: pd.DataFrame) -> str:
    """Whether outliers of different layers lie at the same places, in a sentence.

    Args:
        table: from `lfmlib.structure.outlier_places.line_up`.
    """
    if table.empty:
        return "Nothing can be said of places that several layers share: too few layers have outliers."
    there, chance = np.average(table[["there", "chance"]], axis=0, weights=table["outliers"])
    more = (table["there"] > table["chance"]).sum()
    return (
        f"**{there:.1%}** of the outliers lie there; by chance it would be {chance:.1%}. It is more than chance in "
        f"{more} of {len(table)} matrices."
    )


def damage(record: pd.DataFrame) -> pd.DataFrame:
    """What it costs to zero the outliers, in words: relative rises of the loss, mean and 95 % over runs; and ratios."""
    table = {}
    for _, name, rows in _by_model(record):
        sizes = 100 * rows[rows["what"] == "damage"].groupby("entries")["sets"].mean()
        table[name] = {
            "outliers": f"{sizes['outliers']:.2f} %",
            "zeroed": _rise(rows, "outliers", "zeroed"),
            "as many": _rise(rows, "as many", "zeroed"),
            "as large": _rise(rows, "as large", "zeroed"),
            "which are": f"{sizes['as large']:.1f} %",
            "ratio": findings.span(findings.damage_ratio(rows), 1),
        }
    return pd.DataFrame.from_dict(table, orient="index")


def changed(record: pd.DataFrame) -> pd.DataFrame:
    """Outliers clipped or amplified, in words: relative rises of the loss, beside random sets of equal squared norm."""
    table = {}
    for _, name, rows in _by_model(record):
        table[name] = {
            "clipped": _rise(rows, "outliers", "clipped"),
            "amplified": _rise(rows, "outliers", "amplified"),
            "random ones amplified": _rise(rows, "as large", "amplified"),
        }
    return pd.DataFrame.from_dict(table, orient="index")


def quantized(record: pd.DataFrame) -> pd.DataFrame:
    """What rounding to few bits costs, by where the range comes from: relative rises of the loss, in words."""
    table = {}
    for _, name, rows in _by_model(record):
        own = rows[rows["what"] == "model"].set_index("seed")["own"]
        some = rows[rows["what"] == "quantized"]
        each = some.assign(rise=some["rise"] / some["seed"].map(own)).groupby("range_of")["rise"]
        table[name] = {f"range of {one}": _percent(each.get_group(one), sign="+") for one in RANGES}
    return pd.DataFrame.from_dict(table, orient="index")


def singles(record: pd.DataFrame, model: str = "minilm", most: int = 5) -> pd.DataFrame:
    """The entries that cost most when zeroed: where they are, how large, and what random ones of their norm cost."""
    rows = record[(record["part"] == "single") & (record["model"] == model)].sort_values("rise", ascending=False)
    return _entries(rows.head(most))


def largest(record: pd.DataFrame, model: str = "minilm", most: int = 5) -> pd.DataFrame:
    """The same of the entries that are largest in standard deviations of their matrix."""
    rows = record[(record["part"] == "single") & (record["model"] == model)]
    return _entries(rows.loc[rows["size"].abs().sort_values(ascending=False).index].head(most))


def _entries(rows: pd.DataFrame) -> pd.DataFrame:
    """Single entries, in words."""
    return pd.DataFrame(
        {
            "tensor": rows["tensor"].str.removesuffix(".weight"),
            "row": rows["row"].astype(int).astype(str),
            "column": rows["column"].astype(int).astype(str),
            "size in std": rows["size"].map("{:+.1f}".format),
            "found by": rows["found"],
            "rise": rows["rise"].map("{:+.4f}".format),
            "random sets": rows["beside"].map("{:+.4f}".format),
        }
    )


def worst(record: pd.DataFrame) -> str:
    """What the worst single entry of every model costs, in a sentence."""
    words = []
    for model, name in SHORT.items():
        rows = record[(record["part"] == "single") & (record["model"] == model)]
        own = record[(record["what"] == "model") & (record["model"] == model)]["own"].mean()
        if len(rows):
            one = rows.loc[rows["rise"].idxmax()]
            words.append(
                f"{name} {100 * one['rise'] / own:+.2f} % ({abs(one['size']):.1f} std, found by {one['found']})"
            )
    return f"The worst single entry that was found, zeroed, moves the loss of: {'; '.join(words)}."


def _by_model(record: pd.DataFrame, names: dict[str, str] = SHORT):
    """Model, its name, and its rows, of the models that are in the record."""
    for model, name in names.items():
        rows = where(record, part="whole", model=model)
        if len(rows):
            yield model, name, rows


def _rise(rows: pd.DataFrame, entries: str, change: str) -> str:
    """Relative rise of the loss when entries are changed: draws averaged, mean and 95 % over runs."""
    own = rows[rows["what"] == "model"].set_index("seed")["own"]
    some = rows[(rows["what"] == "damage") & (rows["entries"] == entries) & (rows["change"] == change)]
    return _percent(some.groupby("seed")["rise"].mean() / own, sign="+", digits=2)


def _percent(values: pd.Series, sign: str = "", digits: int = 1) -> str:
    return findings.span(100 * values, digits, sign, unit=" %")
