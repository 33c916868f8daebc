"""What chapter 7 reads off its record, `derived`: the work that stand-ins for ΔW do, and what is built from noise.

Every function takes rows of the record (see `lfmlib.experiments.stand_ins.run`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import Checkpoint
from ..deltas.comparison import delta
from ..deltas.stand_ins import STAND_INS, stand_in
from ..distribution.distances import qq_r2
from ..findings import Finding, markup
from ..findings.runs import sides
from ..lab.adapters import NOISE_BUILT
from ..provenance import recorded
from ..structure.spectra import top_ratio
from .names import NAMES, by_model, key, stored_tuned, where
from .sentences import half
from .tuned import MEASURED

ARMS = {"lora": "LoRA", "noise-gaussian": "Gaussian", "noise-uniform": "uniform", "noise-signs": "±1"}
"""Adapters of the record, as tables name them; the last three by the law of their frozen noise."""


def f5_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F5 of every model; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("derived", record, **parameters)
    found = []
    for model in NAMES:
        built, replaced = (where(record, part=part, model=model) for part in ("built", "stand-in"))
        if len(built) and len(replaced):
            name = stored_tuned(model)
            about = origin | {"source": name}
            found.append(findings.f5_over_runs(built, replaced, name, about, score=MEASURED[model]))
    return found


def kept(record: pd.DataFrame) -> pd.DataFrame:
    """How much of ΔW's gain every stand-in keeps.

    Returns:
        One row per stand-in and model: kind, keeps (in words), model, share, low, high (mean and 95 % over seeds), loss
        (mean held-out loss in nats).
    """
    rows = []
    for name, some in by_model(record, part="stand-in"):
        for kind in STAND_INS:
            share, low, high = findings.kept_share(some, kind, score=MEASURED[key(some)])
            if np.isnan(share):
                continue
            loss = some.loc[some["kind"] == kind, "loss"].mean()
            rows.append((kind, STAND_INS[kind], name, share, low, high, loss))
    return pd.DataFrame(rows, columns=["kind", "keeps", "model", "share", "low", "high", "loss"])


def replaced(shares: pd.DataFrame) -> pd.DataFrame:
    """Of `kept` the stand-ins that keep one thing each, and none of them twice."""
    return shares[~shares["kind"].isin(["trained", "none", "reversed", "resampled"])]


def kept_in_words(shares: pd.DataFrame) -> pd.DataFrame:
    """`kept` as a table: a row per stand-in, for every model the share of the gain and, in brackets, the loss."""
    words = [f"{round(100 * row.share)} % ({row.loss:.2f})" for row in shares.itertuples()]
    wide = shares.assign(words=words).pivot(index=["kind", "keeps"], columns="model", values="words")
    wide = wide.loc[list(STAND_INS.items()), [name for name in NAMES.values() if name in wide]]
    return wide.reset_index().rename(columns={"kind": "in ΔW’s place"}).rename_axis(columns=None)


def what_it_takes(shares: pd.DataFrame) -> str:
    """What the stand-ins say, in a sentence: the order of the entries, their signs, their histogram."""

    def span(kind: str) -> str:
        some = shares.loc[shares["kind"] == kind, "share"]
        return markup.ends(*(f"{one:.0%}" for one in (some.min(), some.max())))

    words = (
        f"Keep the order of the entries and replace their values, and **{span('gaussianized')}** of the gain stays; "
        f"keep the signs alone: {span('flattened')}. Keep the values and lose their places, and "
        f"**{span('permuted')}** is left; keep the sizes and lose the signs: {span('signs-drawn')}."
    )
    of = shares.groupby("kind")["share"].agg(["min", "max"])
    if of.loc[["resampled", "permuted", "noise"], "max"].max() < 0.1:
        words += " So **a histogram is worth nothing to the task**: what ΔW does is in where its values are"
        words += ", and their signs alone do most of the work." if of.loc["flattened", "min"] > 0.5 else "."
    return words


def in_disorder(base: Checkpoint, tuned: Checkpoint, rows: pd.DataFrame, most: int = 8, seed: int = 0) -> pd.DataFrame:
    """What the stand-ins keep that needs no task to be seen, on one pair: medians over some matrices.

    Args:
        base, tuned: the pair.
        rows: of `lfmlib.compare`, for the pair itself; at most so many of them, evenly chosen, are looked at.
        most: see there.
        seed: of the stand-ins.

    Returns:
        Index: stand-in. Columns: R² of the Q–Q plot; correlation of the entries with those of ΔW; largest singular
        value over the edge of noise; how unlike the rows are: std over rows of their root mean square, over its mean.
    """
    found = {kind: [] for kind in STAND_INS if kind not in ("none", "reversed")}
    for name in rows.iloc[:: -(-len(rows) // most)]["tensor"]:
        moved = delta(base, tuned, name).float()
        for kind in found:
            made = stand_in(moved, kind, np.random.default_rng([seed, *name.encode()]))
            sizes = made.square().mean(1).sqrt()
            found[kind].append(
                {
                    "R²": qq_r2(made),
                    "correlation with ΔW": float(np.corrcoef(made.ravel(), moved.ravel())[0, 1]),
                    "top / edge": top_ratio(made),
                    "rows unlike": float(sizes.std() / sizes.mean()),
                }
            )
    return pd.DataFrame({kind: pd.DataFrame(some).median() for kind, some in found.items()}).T


def built(record: pd.DataFrame) -> pd.DataFrame:
    """Scores of adapters with as many trained parameters, in words: mean ± half of the 95 % interval over seeds.

    Returns:
        One column per model and number of random matrices (or rank of LoRA). Rows: what the score is; numbers trained
        in the body; floor (the head alone, or the base as it is); the arms of `ARMS`; full fine-tuning.
    """
    found = {}
    for name, budget, some in _budgets(record):
        same, floor = where(some, rank=budget), where(some, rank=0)
        full = where(record, part="stand-in", model=key(some), kind="trained")
        found[f"{name}, {budget}"] = {
            "score": MEASURED[key(some)],
            "trained": f"{int(same['parameters'].iloc[0] - floor['parameters'].iloc[0]):,}",
            "floor": half(floor["score"]),
            **{words: half(where(same, adapter=arm)["score"]) for arm, words in ARMS.items()},
            "full": half(full["whole"]),
        }
    return pd.DataFrame(found)


def _budgets(record: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Model as printed, each number of random matrices (or rank of LoRA), and the rows of all the model's adapters."""
    for name, some in by_model(record, part="built"):
        for budget in sorted(set(some["rank"]) - {0}):
            yield name, int(budget), some


def shares(record: pd.DataFrame) -> pd.DataFrame:
    """Share of LoRA's gain in held-out loss that ΔW built from noise reaches.

    Returns:
        One row per model, number of random matrices and law: model, bases, law, share, low, high.
    """
    rows = []
    for name, budget, some in _budgets(record):
        each = {arm: findings.built_share(findings.in_loss(some), arm, budget, score="loss") for arm in NOISE_BUILT}
        rows += [(name, budget, ARMS[arm], *found) for arm, found in each.items() if not np.isnan(found[0])]
    return pd.DataFrame(rows, columns=["model", "bases", "law", "share", "low", "high"])


def rivals(record: pd.DataFrame) -> pd.DataFrame:
    """Gain of Gaussian noise less that of a rival law, as a share of LoRA's gain, paired by seed, in words.

    Returns:
        Index: model and bases. Columns: "− uniform", "− ±1": mean and 95 % interval over seeds.
    """
    found = {}
    for name, budget, law, ahead in _differences(record):
        found.setdefault(f"{name}, {budget}", {})[f"− {law}"] = findings.bracketed(*ahead, 2, "+")
    return pd.DataFrame.from_dict(found, orient="index")


def ahead(record: pd.DataFrame) -> pd.DataFrame:
    """`rivals` as numbers: columns row (model and bases), rival, mean, low, high."""
    found = [(f"{name}, {budget}", f"less {law}", *span) for name, budget, law, span in _differences(record)]
    return pd.DataFrame(found, columns=["row", "rival", "mean", "low", "high"])


def _differences(record: pd.DataFrame) -> Iterator[tuple[str, int, str, tuple[float, float, float]]]:
    """Model, number of random matrices, rival law, and the share that Gaussian noise reaches less the rival's."""
    first, *rest = NOISE_BUILT
    for name, budget, some in _budgets(record):
        for arm in rest:
            ahead = findings.built_ahead(findings.in_loss(some), first, arm, budget, score="loss")
            if not np.isnan(ahead[0]):
                yield name, budget, ARMS[arm], ahead


def differ(record: pd.DataFrame) -> str:
    """In how many of the comparisons with uniform noise and ±1 Gaussian noise is better, beyond the interval."""
    spans = [ahead for *_, ahead in _differences(record) if np.isfinite(ahead).all()]
    better, worse = sides(spans)
    count, widest = len(spans), max([(high - low) / 2 for _, low, high in spans], default=0.0)
    if not count:
        return "One run has no interval: Gaussian noise is not compared with uniform noise or signs here."
    verdict = "**“Gaussian” is not what matters here**" if not better else "the law of the noise matters in some"
    return (
        f"Gaussian noise does better than uniform noise or signs, beyond the 95 % interval, in **{better} of {count}** "
        f"comparisons, and worse in {worse}: {verdict}. (A difference of less than {widest:.2f} of LoRA’s gain can be "
        "missed in the widest of these intervals.)"
    )


def takeaways(shares: pd.DataFrame, maps: Mapping[str, pd.DataFrame], built: pd.DataFrame) -> str:
    """The chapter in three sentences.

    Args:
        shares: from `kept`.
        maps: name → from `lfmlib.deltas.stand_ins.transport`, of matrices of one pair, and of "noise".
        built: from `shares`.
    """

    def span(values: pd.Series) -> str:
        return markup.ends(*(f"{one:.0%}" for one in (values.min(), values.max())))

    of = shares.set_index("kind")["share"]
    worst = min(one.attrs["r2"] for name, one in maps.items() if name != "noise")
    straight = "and so does a straight line, nearly" if worst >= findings.QQ_BOUND else "a straight line does not"
    gauss, other = (built[(built["law"] == ARMS["noise-gaussian"]) == own] for own in (True, False))
    lead = (
        f"- ΔW with its entries in another order keeps {span(of['permuted'])} of its gain in the task; its signs alone "
        f"keep {span(of['flattened'])}.\n"
        f"- A map from noise gives every ΔW its histogram, {straight} (least R² {worst:.4f}). On the task such values "
        f"keep {span(of['resampled'])}; noise keeps {span(of['noise'])}.\n"
        f"- Built from frozen Gaussian noise, a ΔW reaches {span(gauss['share'])} of LoRA’s gain"
    )
    return lead + (f"; built from other noise, {span(other['share'])}." if len(other) else ".")


def on_disk(model) -> int:
    """Bytes of an adapter as peft saves it, without its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
