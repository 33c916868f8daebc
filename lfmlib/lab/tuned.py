"""What chapters 6 and 8 read off their record, `finetuning`: tables of fine-tunings and pre-trainings.

Every function takes rows of the record (see `lfmlib.lab.finetuning.run`), of which those of fine-tunings are one per
judged matrix.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .. import evidence
from ..checkpoint import Checkpoint, open_checkpoint
from ..delta import compare, delta, opened
from ..findings import Finding
from ..provenance import recorded
from .finetuning import CAUSES, DECAY, FULL, TASKS, TOY, plan
from .initialization import where
from .train import Config, rate, start_of, train

NAMES = {
    "minilm": "all-MiniLM-L6-v2, fine-tuned",
    "deep-decoder": "lab 12-layer decoder",
    "vit": "lab ViT",
}
"""The models that are fine-tuned; the first is real."""
SHORT = {"minilm": "MiniLM", "deep-decoder": "decoder", "vit": "ViT"}
PRETRAINED = {"deep-decoder": "12-layer decoder", "decoder": "decoder", "vit": "ViT", "clip": "CLIP"}
"""The models whose own training is looked at."""
METHODS = {"": "full", "lora": "LoRA", "dora": "DoRA"}


def plain(record: pd.DataFrame, model: str) -> pd.DataFrame:
    """Full fine-tunings of a model with the usual weight decay."""
    return where(record, part="plain", model=model, weight_decay=DECAY)


def methods(record: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """The ways a model was fine-tuned, by a name such as "LoRA 16": full, and every adapter and rank."""
    found = {"full": plain(record, model)}
    ranked = where(record, part="rank", model=model)
    for (adapter, rank), rows in sorted(ranked.groupby(["adapter", "rank"]), key=lambda one: one[0][0] == "dora"):
        found[f"{METHODS[adapter]} {int(rank)}"] = rows
    return {name: rows for name, rows in found.items() if len(rows)}


def shuffled(record: pd.DataFrame, model: str) -> pd.DataFrame:
    """Full fine-tunings of a model on labels that were exchanged."""
    return where(record, part="cause", model=model, cause="shuffled labels")


def f6_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F6 of every model, fully fine-tuned; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("finetuning", record, **parameters)
    return [
        evidence.f6_over_runs(rows, name, origin | {"source": name})
        for model, name in NAMES.items()
        if len(rows := where(record, part="plain", model=model))
    ]


def f7_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F7 of every model, fully fine-tuned and with LoRA of rank 16."""
    origin = recorded("finetuning", record, **parameters)
    found = []
    for model, name in NAMES.items():
        ways = methods(record, model)
        for way, words in (("full", name), ("LoRA 16", f"{name}, LoRA")):
            if way in ways:
                control = shuffled(record, model) if way == "full" else None
                found.append(evidence.f7_over_runs(ways[way], words, origin | {"source": words}, control))
    return found


def pair(model: str, base: str, revision: str, profile: str, seed: int) -> tuple[Checkpoint, Checkpoint, str]:
    """The pair a chapter looks at, and what it says of it: the reader's own, or `example`.

    Args:
        model, base, revision: the chapter's parameters; without a base there is no pair.
        profile, seed: of the chapter.
    """
    if model and base:
        before, after = opened(base, model, revision or None)
        return before, after, f"The pair: **{after.name}**, tuned from **{before.name}**."
    before, after = example(profile, seed)
    words = f"The pair: **{after.name}**, trained here or fetched from the lab’s cache."
    if model or base:
        given, missing = (model, "base") if model else (base, "model")
        words += f" {given} was given without `-p {missing} …`; ΔW needs both, so it is not looked at."
    return before, after, words


def rounding(base: Checkpoint, tuned: Checkpoint, rows: pd.DataFrame, most: int = 12) -> pd.DataFrame:
    """What storing a pair in bfloat16 does to ΔW and to noise in its place, at its own size and at a tenth of it.

    Args:
        base, tuned: the pair.
        rows: of `lfmlib.compare`, for the pair itself; at most so many of them, evenly chosen, are looked at.
        most: see there.

    Returns:
        Medians over these matrices of std_delta, rounding_std, zeros, kl_bits and qq_r2.
    """
    new, moved = {}, {}
    for name in rows.iloc[:: -(-len(rows) // most)]["tensor"]:
        moved[name] = delta(base, tuned, name)
        new[name] = tuned.read(name)[: len(moved[name])].float()
    columns = ["std_delta", "rounding_std", "zeros", "kl_bits", "qq_r2"]
    found = {"as it is": rows.loc[rows["tensor"].isin(new), columns].astype(float).median()}
    for share, words in ((1.0, ""), (0.1, ", a tenth")):
        stored = [{name: (new[name] - s * moved[name]).bfloat16() for name in new} for s in (1.0, 1.0 - share)]
        table = compare(*stored, controls=["noise"], progress=False)
        for kind, name in (("none", "ΔW"), ("noise", "noise")):
            part = table.loc[table["control"] == kind, columns].astype(float)
            found[f"{name} in bfloat16{words}"] = part.median()
    return pd.DataFrame(found).T


def lost(small: pd.DataFrame) -> str:
    """Whether noise that went through the same rounding still passes for Gaussian, in a sentence; from `rounding`."""
    noise = small.loc[["noise in bfloat16", "noise in bfloat16, a tenth"], "qq_r2"]
    words = [
        f"{size} the R² of noise is {value:.3f}: {'passed' if value >= evidence.QQ_BOUND else '**failed**'}"
        for size, value in zip(("at its own size", "at a tenth of it"), noise, strict=True)
    ]
    return (
        f"After rounding, {'; '.join(words)}. What noise fails says nothing of ΔW. "
        "`kl_bits` sees the number format long before: read it beside its twin."
    )


def main_effect(weights: pd.DataFrame) -> str:
    """How the change of the std compares with the size of ΔW, and what it is made of, in a sentence.

    Args:
        weights: rows of `lfmlib.compare`.
    """
    change = (weights["std_gain"] / weights["std_base"]).median()
    own = ((weights["std_delta"] / weights["std_base"]) ** 2 / 2).median()
    tie = (weights["cov"] / weights["std_base"] ** 2).median()
    return (
        f"The standard deviation changed by **{change:+.3%}** in the median matrix, while the weights moved by "
        f"{weights['moved'].median():.2%} of their size. For a small ΔW the change is half of Var ΔW / Var W₀, here "
        f"{own:+.3%}, plus Cov(ΔW, W₀) / Var W₀, here {tie:+.3%}. Of the variance of ΔW, the part that only "
        f"rescales W₀, the squared correlation of the two, {(weights['corr'] ** 2).median():.2g} in the median."
    )


def example(profile: str, seed: int) -> tuple[Checkpoint, Checkpoint]:
    """A pair to look at: MiniLM and a full fine-tune of it, as in the record; quick: a toy ViT."""
    model = "vit" if profile == "quick" else "minilm"
    cell = {"part": "plain", "model": model, **TASKS[model], "lr": FULL[model], "weight_decay": DECAY, "seed": seed}
    config = plan(cell | ({"steps": 8, "batch": TOY} if profile == "quick" else {}))
    base, tuned = (open_checkpoint(one) for one in (start_of(config), train(config, snapshots=0).model))
    name = "all-MiniLM-L6-v2" if model == "minilm" else "a toy ViT"
    return replace(base, name=name), replace(tuned, name=f"{name}, tuned for “{cell['task']}”")


def laws(record: pd.DataFrame) -> pd.DataFrame:
    """The law of ΔW for every model and method: medians over matrices and runs.

    Returns:
        `kl_bits` of ΔW; what noise has at most (97.5 %); what BA of Gaussian factors of the same rank has (NaN for full
        fine-tuning); share of parameters with R² of the Q–Q plot ≥ 0.99; top_ratio.
    """
    found = {}
    for model, name in SHORT.items():
        for way, rows in methods(record, model).items():
            good = [evidence.share(run, run["qq_r2"] >= evidence.QQ_BOUND) for _, run in rows.groupby("seed")]
            found[f"{name}, {way}"] = {
                "kl_bits": rows["kl_bits"].median(),
                "noise, at most": rows["kl_bits_null_high"].median(),
                "Gaussian factors": rows["rank_kl_bits"].median() if "rank_kl_bits" in rows else np.nan,
                "R² ≥ 0.99": f"{np.mean(good):.1%}",
                "top / edge": rows["top_ratio"].median(),
            }
    return pd.DataFrame.from_dict(found, orient="index")


def budgets(record: pd.DataFrame) -> pd.DataFrame:
    """What ΔW does to the std, for every model, method and weight decay, in words: mean [95 % interval over seeds]."""
    found = {}
    for model, name in SHORT.items():
        ways = {f"{way}": rows for way, rows in methods(record, model).items() if way in ("full", "LoRA 16", "DoRA 16")}
        ways |= {"full, no decay": where(record, part="plain", model=model, weight_decay=0.0)}
        for way, rows in ways.items():
            if rows["seed"].nunique() > 1:
                size = (rows["std_delta"] / rows["std_base"]).median()
                found[f"{name}, {way}"] = _widening(rows) | {"ΔW / W₀": f"{size:.3f}"}
    return pd.DataFrame.from_dict(found, orient="index")


def beside_noise(record: pd.DataFrame, more: dict[str, tuple[dict, dict]]) -> pd.DataFrame:
    """What ΔW does to the std and, in brackets, what norm-matched noise does; all matrices and runs together.

    Args:
        record: as everywhere.
        more: name → (`lfmlib.evidence.widening` of ΔW, of noise), to stand above.
    """
    for model, name in SHORT.items():
        if len(rows := plain(record, model)):
            more |= {f"{name}, full": tuple(evidence.widening(rows, prefix) for prefix in ("", "noise_"))}
    columns = {"rises": "share that rises (noise)", "gain_median": "median g (noise)", "gain_mean": "mean g (noise)"}
    table = {
        name: {words: f"{own[column]:.2f} ({noise[column]:.2f})" for column, words in columns.items()}
        for name, (own, noise) in more.items()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def decay_cost(record: pd.DataFrame) -> pd.DataFrame:
    """What the usual weight decay takes off g, measured and foretold.

    Decay alone shrinks W₀ by λ times the sum of the rates, so that Cov(ΔW, W₀) falls by that times Var W₀, and g by
    twice that times Var W₀ / Var ΔW.

    Returns:
        Index: model. Columns, in words: change of the median g, with its 95 % interval over seeds, and ``foretold``.
    """
    found = {}
    for model, name in SHORT.items():
        with_decay, without = plain(record, model), where(record, part="plain", model=model, weight_decay=0.0)
        if not len(with_decay) or not len(without):
            continue
        medians = [rows.groupby("seed")["gain"].median() for rows in (with_decay, without)]
        one = with_decay.iloc[0]
        config = Config(model, one["task"], lr=one["lr"], steps=int(one["steps"]), start="library")
        spent = sum(rate(config, step) for step in range(config.steps))
        ratio = (without["std_base"] / without["std_delta"]) ** 2
        told = -2 * DECAY * spent * ratio.median()
        found[name] = {"change of median g": over(medians[0] - medians[1]), "foretold": f"{told:.2f}"}
    return pd.DataFrame.from_dict(found, orient="index")


def _widening(rows: pd.DataFrame) -> dict[str, str]:
    own = evidence.widening_over_runs(rows)
    return {
        "std rises": _span(own.loc["rises"], 100, ".0f") + "\u00a0%",
        "median g": _span(own.loc["gain_median"]),
        "mean g": _span(own.loc["gain_mean"]),
    }


def causes_of_width(record: pd.DataFrame) -> pd.DataFrame:
    """The same for every setting of the decoder that was changed, and its held-out loss."""
    found = {}
    for cause, rows in by_cause(record).items():
        found[cause] = _widening(rows) | {"held-out loss": f"{rows['score'].mean():.2f}"}
    return pd.DataFrame.from_dict(found, orient="index")


def pretraining(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the lab models' own trainings, by name: step, rises, gain, corr, moved."""
    rows = where(record, part="pretraining")
    return {name: some for model, name in PRETRAINED.items() if len(some := where(rows, model=model))}


def by_cause(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Full fine-tunings of the decoder as they are, without weight decay, and with each setting changed."""
    model = "deep-decoder"
    found = {"unchanged": plain(record, model)}
    found["no decay"] = where(record, part="plain", model=model, weight_decay=0.0)
    for cause in CAUSES:
        found[cause] = where(record, part="cause", model=model, cause=cause)
    return {cause: rows for cause, rows in found.items() if len(rows)}


def over(values: pd.Series, least: float = -np.inf, most: float = np.inf) -> str:
    """Mean and 95 % interval over runs, in words, within the range that the figure can have."""
    mean, low, high = evidence.over_runs(values.dropna())
    return f"{mean:.2f} [{max(low, least):.2f}, {min(high, most):.2f}]"


def _span(row: pd.Series, scale: float = 1.0, form: str = ".2f") -> str:
    mean, low, high = (format(scale * row[name], form) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
