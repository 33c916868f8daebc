"""The shapes of chapter 3: made examples, what the classifier calls them, and what was found in one model, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .. import findings
from ..distribution import shapes
from ..findings import Finding
from ..findings.markup import code, plain

POWERS = (2.0, 1.7, 1.5, 1.4, 1.3, 1.2, 1.0, 0.8, 0.7, 0.6, 0.5)
"""Powers s of the generalized Gaussians exp(-abs(x)^s) that are named: 2 is a Gaussian, 1 a Laplace density."""
SIZES = (4_096, 16_384, 65_536)
"""Values of the noise that must have no shape: from the smallest matrix that is judged."""


def examples(n: int, seed: int) -> dict[str, np.ndarray]:
    """Made values of six laws, n of each."""
    rng = np.random.default_rng(seed)
    made = {"Gaussian": rng.standard_normal(n), "Laplace": rng.laplace(size=n)}
    made["spike on floor"] = np.where(rng.random(n) < 0.3, 8, 1) * rng.standard_normal(n)
    made |= {"triangle": rng.triangular(-1, 0, 1, n), "uniform": rng.uniform(-1, 1, n)}
    made["two peaks"] = rng.choice([-1, 1], n) + 0.4 * rng.standard_normal(n)
    return made


def alarms(draws: int, seed: int) -> str:
    """How often pure noise of each size is called anything but Gaussian, in a sentence."""
    rng, words = np.random.default_rng(seed), []
    for size in SIZES:
        labels = [shapes.classify(rng.standard_normal(size)).label for _ in range(draws)]
        words.append(f"{sum(name != 'gaussian' for name in labels)} of {draws} draws of {size:,} values")
    return f"Not called Gaussian: **{', '.join(words)}**."


def sweep(n: int, seed: int) -> pd.DataFrame:
    """Made generalized Gaussians and what they are called: columns β, label, margin, and the cost as each family."""
    rng, found = np.random.default_rng(seed), []
    for power in POWERS:
        shape = shapes.classify(rng.choice([-1, 1], n) * rng.gamma(1 / power, size=n) ** (1 / power))
        found.append({"β": str(power), "label": shape.label, "margin": shape.margin} | shape.scores)
    return pd.DataFrame(found)


def counts(model: str, body: pd.DataFrame) -> str:
    """How many matrices have which name.

    Args:
        model: its name in print.
        body: judged rows of a survey.
    """
    named = ", ".join(f"**{count} {name}**" for name, count in body["label"].value_counts().items())
    return f"Of the {len(body)} matrices of **{plain(model)}**: {named}."


def borderline(body: pd.DataFrame, noise: pd.DataFrame, margin: float) -> str:
    """Which matrices are within ``margin`` bits of another name, at most six by name, and what the twins are called."""
    near = _near(body, margin)
    some = [f"{code(row.tensor)} ({row.label})" for row in near.head(6).itertuples()]
    more = f" and {len(near) - 6} more" if len(near) > 6 else ""
    twins = ", ".join(f"{count} {name}" for name, count in noise["label"].value_counts().items())
    return f"Borderline: {', '.join(some) or 'none'}{more}. Noise twins: {twins}."


def by_role(body: pd.DataFrame) -> pd.DataFrame:
    """The generalized-Gaussian shape of each role: columns role, mean (the median), low and high (the ends)."""
    found = findings.by_role(body)["gg_shape"].agg(["median", "min", "max"])
    return found.set_axis(["mean", "low", "high"], axis=1).rename_axis("role").reset_index()


def roles(body: pd.DataFrame) -> pd.DataFrame:
    """How many matrices of each role have which name, with the median generalized-Gaussian shape."""
    middle = findings.by_role(body)["gg_shape"].median()
    cross = findings.by_role(body)["label"].value_counts().unstack(fill_value=0).loc[middle.index]
    return cross.rename_axis(None).rename_axis(None, axis=1).assign(**{"median gg_shape": middle})


def ranks(body: pd.DataFrame) -> str:
    """Whether sharpness goes with depth or with size, in a sentence."""
    rank = body[["depth", "numel"]].astype(float).corrwith(-body["gg_shape"], method="spearman")
    return (
        f"Rank correlation of sharpness (low β) with depth {rank['depth']:+.2f}, with size {rank['numel']:+.2f}, over "
        f"{len(body)} matrices."
    )


def apart(table: pd.DataFrame, body: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What stands outside the verdict: a sentence, and the rows."""
    rows = table[~table["tensor"].isin(body["tensor"])]
    named = ", ".join(f"{count} {name}" for name, count in rows["label"].value_counts().items())
    said = f"Outside the verdict stand {len(rows)} embeddings, heads, poolers and small matrices"
    return f"{said}{f': {named}' if named else ''}.", rows[["tensor", "role", "label", "label_margin", "gg_shape"]]


def by_margin(body: pd.DataFrame, margins: Sequence[float]) -> pd.DataFrame:
    """How many matrices would have which name by each margin between the names."""
    columns = [f"score_{name}" for name in shapes.FAMILIES]
    scores = body[columns].set_axis(shapes.FAMILIES, axis=1).to_dict("records")
    found = {
        str(margin): pd.Series([shapes.label(row, margin)[0] for row in scores]).value_counts() for margin in margins
    }
    return pd.DataFrame(found).reindex(shapes.LABELS).fillna(0).astype(int)


def witnesses(model: str, finding: Finding, grown: Mapping[str, Sequence[str]]) -> str:
    """What was seen in this model, and which shapes lab models grew, in how many ways of training.

    Args:
        model: its name in print.
        finding: F3 of it.
        grown: shape → ways of training (see `lab_runs.shapes_grown`).
    """
    seen = ", ".join(finding.details["found"]) or "none"
    lab = ", ".join(f"{name} in {len(ways)}" for name, ways in grown.items()) or "none"
    return (
        f"Seen in at least two matrices of {plain(model)}: **{seen}**.\n\n"
        f"Grown in the lab, in at least two seeds of so many ways of training: {lab}."
    )


def takeaways(
    model: str, body: pd.DataFrame, noise: pd.DataFrame, right: float, sweep: pd.DataFrame, margin: float
) -> str:
    """The chapter in three sentences, each with its numbers.

    Args:
        model: its name in print.
        body: judged rows of a survey.
        noise: their twins.
        right: share of the made tensors that got the name of the law they were drawn from.
        sweep: from `sweep`.
        margin: bits below which a name is borderline.
    """
    told = (_named(noise, right), _found(model, body), _continuum(body, sweep, margin))
    return "\n".join(f"- {one}" for one in told)


def _named(noise: pd.DataFrame, right: float) -> str:
    wrong = int((noise["label"] != "gaussian").sum())
    lead = "Names can be checked before they are believed" if right > 0.9 and not wrong else "Names are not safe here"
    return (
        f"{lead}: {right:.1%} of made tensors get that of their law, and {wrong} of {len(noise)} noise twins are "
        "called anything but Gaussian."
    )


def _found(model: str, body: pd.DataFrame) -> str:
    odd = body["label"] != "gaussian"
    if not odd.any():
        return f"Shapes are occasional at most: all {len(body)} matrices of {plain(model)} are called Gaussian."
    share = odd.groupby(body["role"]).agg(["sum", "count"])
    most = share.sort_values(["sum", "count"], ascending=[False, True]).iloc[0]
    lead = "Another shape is the exception" if odd.mean() < 0.5 else "Another shape is the rule"
    return (
        f"{lead}: {int(odd.sum())} of {len(body)} matrices of {plain(model)} are not called Gaussian, most of them of "
        f"role *{plain(most.name)}* ({int(most['sum'])} of {int(most['count'])})."
    )


def _continuum(body: pd.DataFrame, sweep: pd.DataFrame, margin: float) -> str:
    powers = sweep["β"].astype(float)
    gaussian, sharp = powers[sweep["label"] == "gaussian"].min(), powers[sweep["label"] == "sharp"].max()
    near = len(_near(body, margin))
    return (
        f"Gaussian and sharp are ends of a continuum, with a name down to β = {gaussian:g} and from β = {sharp:g}: "
        f"{near} of {len(body)} matrices lie within {margin:g} bits of another name."
    )


def _near(body: pd.DataFrame, margin: float) -> pd.DataFrame:
    return body[(body["label_margin"] < margin) & (body["label"] != "other")]
