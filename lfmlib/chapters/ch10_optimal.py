"""What chapter 10 reads off its record, `optimal`: what can be pruned, and by which law the rest goes.

Every function takes rows of the record (see `lfmlib.experiments.optimal.run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd

from .. import findings
from ..distribution.coding import VARIANTS
from ..experiments.loss_probes import ARMS
from ..experiments.optimal import BITS, PRUNED, PRUNED_SHARE
from ..findings import Finding, markup
from ..findings.runs import whole_mean
from ..provenance import recorded
from .names import PUBLISHED, by_model, key, stored, where
from .sentences import Cell, mean, span, table, within

ASKED = {
    "smollm2-135m": "next token of code",
    "minilm": "halves of docstrings",
    "decoder": "next byte",
    "deep-decoder": "next byte",
    "vit": "digit",
    "clip": "digit ↔ caption",
}


def found(record: pd.DataFrame, **parameters) -> dict[str, list[Finding]]:
    """Findings by id: F9 and F10 of the lab's models, F11 and F12 of these and of published ones.

    ``parameters`` of the chapter go into their provenance.
    """
    origin = recorded("optimal", record, **parameters)
    by_id: dict[str, list[Finding]] = {"F9": [], "F10": [], "F11": [], "F12": []}
    for _, rows in by_model(record, part="whole"):
        name = stored(key(rows))
        about = origin | {"source": name}
        listed = [findings.f11_over_runs(rows, name, about), findings.f12_over_runs(rows, name, about)]
        if key(rows) not in PUBLISHED:
            listed += findings.f9_f10_over_runs(rows[rows["what"] == "model"], name, about)
        for one in listed:
            by_id[one.id].append(one)
    return by_id


def of_centre(survey: pd.DataFrame) -> str:
    """How far matrices are from zero-mean and from symmetric, in sentences.

    Args:
        survey: rows of `lfmlib.survey`, of the judged matrices.
    """
    words = []
    for column, name in (("mean_ratio", "abs(mean) / std"), ("asymmetry_excess", "asymmetry beyond noise")):
        worst = survey.loc[survey[column].idxmax()]
        words.append(
            f"{name}: median {survey[column].median():.4f}, largest **{worst[column]:.4f}** "
            f"({markup.code(worst['tensor'])})."
        )
    return f"Of {len(survey)} matrices, {' '.join(words)}"


def asked(record: pd.DataFrame) -> pd.DataFrame:
    """What the models are asked, and how well they answer before anything is taken from them."""
    columns = {
        "asked for": lambda rows: ASKED[key(rows)],
        "loss": mean("own", ".3f"),
        "by frequencies": mean("prior", ".3f"),
        "accuracy": mean("score", ".2f"),
    }
    return table(by_model(record, part="whole", what="model"), columns)


def in_other_units(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What stands behind a line to open → the table: the one-per-cent points of all ways of pruning, and accuracies."""
    points = free(record, of="gap").T
    return {"One-per-cent points, in %": points, "The same in accuracy, in per cent": scores(record)}


def curves(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Pruning curves: model → rows with arm, share, and the ``rise`` of the loss as a share of what the model knows, of
    the gap between its loss and that of the frequencies alone: mean, low, high of runs."""
    found = {}
    for name, rows in each_model(record):
        some = where(rows, what="curve").groupby(["arm", "share", "seed"])["rise"].agg(whole_mean).reset_index()
        about = where(rows, what="model").set_index("seed")
        lost = some["rise"] / some["seed"].map(about["prior"] - about["own"])
        found[name] = _over_runs(some.assign(rise=lost).groupby(["arm", "share"], sort=False))
    return found


def relative(some: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Some rows of a model, their ``rise`` relative to the loss of the model as it is."""
    return some.assign(rise=some["rise"] / some["seed"].map(own_loss(rows)))


def own_loss(rows: pd.DataFrame) -> pd.Series:
    """The loss of the model as it is, by seed."""
    return where(rows, what="model").set_index("seed")["own"]


def _over_runs(groups) -> pd.DataFrame:
    """The rise over the runs of each group: mean, low and high."""
    return groups["rise"].agg(rise=whole_mean, low="min", high="max").reset_index()


def free(record: pd.DataFrame, of: str = "own") -> pd.DataFrame:
    """The share of weights that can go for one per cent, by model and arm, in per cent: mean and 95 % over runs.

    Args:
        of: one per cent of the loss itself ("own"), or of the gap to knowing nothing but frequencies ("gap").
    """
    columns = {
        arm.removeprefix("magnitude, "): span(
            partial(findings.free_share, arm=arm, of=of), 0, times=100, least=0, most=100
        )
        for arm in ARMS
    }
    return table(each_model(record), columns)


def against_noise(record: pd.DataFrame) -> str:
    """Whether magnitude pruning goes further than noise of the size of what it takes, for one per cent of what a
    model knows, in a sentence."""
    words, lows = [], []
    for name, rows in each_model(record):
        shares = (findings.free_share(rows, arm, of="gap") for arm in ("magnitude", "noise"))
        more = 100 * next(shares) - 100 * next(shares)
        words.append(f"{name} {findings.span(more, 0, '+')}")
        lows += [findings.over_runs(more)[1]] if len(more) > 1 else []
    return (
        f"Beyond the interval, pruning goes further than noise in **{sum(low > 0 for low in lows)} of {len(lows)}** "
        f"models. The one less the other, in points: {'; '.join(words)}."
    )


def scores(record: pd.DataFrame, shares: tuple[float, ...] = (0.3, 0.5, 0.7)) -> pd.DataFrame:
    """Accuracy after pruning by magnitude, in per cent: mean and 95 % over runs; models that have one."""
    known = {name: rows for name, rows in each_model(record) if where(rows, what="model")["score"].notna().all()}
    whole, pruned = (span(figure, 1, times=100, most=100) for figure in ("score", "scored"))
    columns = {"whole": within(whole, what="model")} | {
        f"{share:.0%} pruned": within(pruned, what="curve", arm="magnitude", share=share) for share in shares
    }
    return table(known, columns)


def layers(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Model → rows with depth and the relative rise of the loss without half of that layer: mean, low, high of runs."""
    return {
        name: _over_runs(relative(where(rows, what="layer"), rows).groupby("depth"))
        for name, rows in each_model(record)
    }


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
    found = {}
    for name, rows in each_model(record):
        found[name] = where(rows, what="law", pruned=pruned).groupby("variant")[column].mean().reindex(VARIANTS)
    shares = pd.DataFrame(found).T.astype(float).rename_axis(columns=None)
    return shares.loc[:, shares.max() > 0]


def above(laws: pd.DataFrame) -> pd.DataFrame:
    """In how many matrices each law is the shortest, and how many bits it lies above that in the median and at most.

    Args:
        laws: rows of `lfmlib.laws`, or those of the record that are about matrices.
    """
    bits = laws[list(BITS)].set_axis(list(VARIANTS), axis=1)
    over = bits.sub(bits.min(axis=1), axis=0)
    return pd.DataFrame({"matrices": (over == 0).sum(), "median": over.median(), "largest": over.max()})


def code_lengths(record: pd.DataFrame) -> pd.DataFrame:
    """How each law codes the matrices of every model of the record, of all runs, in words: how many it codes shortest,
    and the median of the bits above the shortest; beside each model stands the number of its matrices."""
    laws = ((name, where(rows, what="matrix")) for name, rows in each_model(record))
    found = {f"{name} ({len(rows)})": above(rows) for name, rows in laws}

    def of(law: str) -> Cell:
        return lambda some: f"{some.loc[law, 'matrices']:.0f}; {some.loc[law, 'median']:.4f}"

    return table(found, {law.replace("generalized-", "gen. "): of(law) for law in VARIANTS}).T


def claimed(record: pd.DataFrame) -> pd.DataFrame:
    """The claimed law, in words: where it is the shortest, where within 0.01 bits, and how far above in the median."""

    def told(rows: pd.DataFrame) -> str | None:
        wins, near, bits = rows[["wins", "near", "bits"]].mean()
        return f"{wins:.0%}, {near:.0%}, {bits:.4f}" if len(rows) else None

    columns = {
        f"{pruned:.0%} pruned": within(told, what="law", variant=findings.CLAIMED_LAW, pruned=pruned)
        for pruned in PRUNED
    }
    return table(each_model(record), columns)


def of_claimed(record: pd.DataFrame) -> str:
    """How the claimed law fares at all pruned shares of the record, in a sentence."""
    rows = where(record, part="whole", what="law", variant=findings.CLAIMED_LAW)
    if rows.empty:
        return "No law was measured here."
    each = rows.groupby(["model", "pruned"])[["wins", "near"]].mean()
    near = f"{each['near'].min():.0%} to {each['near'].max():.0%}"
    return (
        f"Whatever share is pruned, the claimed law is the shortest for at most **{each['wins'].max():.0%}** of a "
        f"model’s parameters, and within {findings.NEAR_BITS:g} bits of the shortest for {near}."
    )


def of_rejected(table: pd.DataFrame, draws: int) -> str:
    """How often another law passes for the claimed one, in a sentence.

    Args:
        table: from `lfmlib.experiments.made_laws.rejected`.
        draws: of each law.
    """
    passed = table[table["times"] > 0]
    names = f": {', '.join(f'{name}, {int(times)}' for name, times in passed['times'].items())}" if len(passed) else ""
    return (
        f"Of {len(table)} other laws, {draws} draws each, **{int(table['times'].sum())}** passed for a truncated "
        f"Gaussian + outliers{names}."
    )


def each_model(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each model, as printed, and the rows of its measurements but for single entries."""
    return by_model(record, part="whole")
