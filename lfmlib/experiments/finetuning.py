"""What fine-tuning adds: the experiment `finetuning`, behind findings F6 and F7.

Its parts, all from bases of their own (MiniLM and SmolLM2, the real ones, are one each for all seeds):

    plain        full fine-tuning, five seeds (SmolLM2 three), without weight decay and with the usual one: what the
                 verdicts rest on
    rank         LoRA and DoRA, at several ranks
    text         SmolLM2 in full and with LoRA 16, on another text: whether what is found hangs on the first
    samples      an eighth, a quarter and a half of the training data, at equal steps and at equal passes over them
    cause        one setting changed at a time: rate, warm-up, weight decay, optimizer, steps, labels without meaning
    decay        weight decays, from none to one that narrows the weights, at several rates, steps and optimizers
    pretraining  the bases themselves, from their own starts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from .. import findings
from ..deltas.comparison import compare
from ..deltas.stand_ins import low_rank
from ..distribution.distances import measure, qq_r2
from ..lab import smollm
from ..lab.models import PRETRAINED
from ..lab.problems import problem
from ..lab.train import Config, Trained, start_of, train
from ..lab.tuning import gradients
from ..records import Experiment
from . import trainings
from .initialization import PLAIN, RATES
from .trainings import GAIN, config, origin, retrained, scored, tolerances

BASES = {
    "deep-decoder": {"task": "language", "steps": 600, "batch": 8, "lr": RATES["decoder"]},
    "vit": {**PLAIN["vit"], "lr": RATES["vit"]},
}
"""How the lab's own bases are trained, from narrow Gaussian starts. No cell holds it: a change raises the version."""
ONLY_PRETRAINED = {
    "decoder": {**PLAIN["decoder"], "steps": 500, "lr": RATES["decoder"]},
    "clip": {**PLAIN["clip"], "lr": RATES["clip"]},
}
"""Models whose pre-training is looked at, and which are not fine-tuned."""
TASKS = {
    "minilm": {"task": "library", "steps": 80, "batch": 16},
    "deep-decoder": {"task": "prose", "steps": 200, "batch": 8},
    "vit": {"task": "rotation", "steps": 200, "batch": 64},
}
"""What the bases are fine-tuned for."""
LARGE = {smollm.NAME: {"task": "docstrings", "steps": 30, "batch": 4}}
"""The same of a language model that people use; windows of 256 tokens."""
OTHER_TEXT = {smollm.NAME: "english"}
"""What else it is fine-tuned for, with the same settings, in the part `text`; judged by the same rules on its own."""
LARGE_SEEDS = 3
"""Its seeds: a step of it takes ten core-seconds."""
FULL_RATES = {smollm.NAME: 1e-4, "minilm": 2e-4, "deep-decoder": 3e-3, "vit": 1e-3}
ADAPTER_RATES = {smollm.NAME: 1e-3, "minilm": 1e-3, "deep-decoder": 3e-3, "vit": 3e-3}
"""Learning rates of full fine-tuning and of adapters, by held-out score in single runs (see the Methods page); for the
decoder's adapters the largest at which rank 64 learns as well."""
TOY_BATCH = 2
"""Batch size of toys, whose bases are toys too."""
DECAY = 0.01
"""Weight decay where nothing else is said: PyTorch's default for AdamW."""
RANKS = {smollm.NAME: (4, 8, 16, 64), "deep-decoder": (4, 8, 16, 32, 64), "minilm": (4, 16, 64)}
"""Ranks of LoRA and DoRA that are compared."""
CAUSES = {
    "rate / 10": {"lr": 3e-4},
    "rate / 3": {"lr": 1e-3},
    "rate × 3": {"lr": 9e-3},
    "no warm-up": {"warmup": 0.0},
    "half warm-up": {"warmup": 0.5},
    "decay 1": {"weight_decay": 1.0},
    "Adagrad": {"optimizer": "adagrad", "lr": 3e-2, "weight_decay": 0.0},
    "SGD": {"optimizer": "sgd", "lr": 0.3, "weight_decay": 0.0},
    "half the steps": {"steps": 100},
    "twice the steps": {"steps": 400},
    "shuffled labels": {"labels": "shuffled"},
    "own labels": {"labels": "own"},
}
"""What the part `cause` changes on the 12-layer decoder. Another optimizer comes with its own rate, by held-out score,
and without decay, which SGD and Adagrad would have inside the gradient."""
DECAYS = {"minilm": (0.0, 0.01, 0.03, 0.1), "deep-decoder": (0.0, 0.1, 0.3, 1.0)}
"""Weight decays of the part `decay`; where it foretells the spread from no decay, the others are measured."""
SGD_DECAYS = {"minilm": (0.0, 3e-6, 1e-5, 3e-5), "deep-decoder": (0.0, 1e-4, 3e-4, 1e-3)}
"""The same with SGD, whose decay is in the gradient, and ten times as strong for its momentum."""
PACES = {
    "minilm": ({}, {"lr": 1e-4}, {"lr": 4e-4}, {"steps": 40}, {"steps": 160}, {"optimizer": "sgd", "lr": 0.1}),
    "deep-decoder": ({}, {"lr": 1e-3}, {"lr": 9e-3}, {"steps": 100}, {"steps": 400}, {"optimizer": "sgd", "lr": 0.3}),
}
"""Settings at which the part `decay` tries every decay: three seeds of the first, as the part `plain` trains, and one
of each other."""
ALL_FIGURES = (
    "std_base", "std_delta", "std_gain", "gain", "corr", "kl_bits", "kl_bits_null_high", "qq_r2", "top_ratio",
    "top_ratio_null_high",
)  # fmt: skip
"""Figures of `lfmlib.compare` that a row of the parts plain, rank and text holds, on which findings rest."""
SPREAD_FIGURES = ("std_base", "std_delta", "std_gain", "gain", "corr")
"""Those that a row of the part decay holds."""
SIZE_FIGURES = ("std_delta", "std_gain", "gain", "top_ratio")
"""Those that a row of the other parts holds, which ask for the size of ΔW and the std of W alone."""
FIGURES = {**dict.fromkeys(("plain", "rank", "text"), ALL_FIGURES), "decay": SPREAD_FIGURES}
"""Part → figures of its rows; of others `SIZE_FIGURES`."""
TOLERANCES = tolerances({
    ("std_base", "qq_r2", "rank_qq_r2"): 0.05,
    ("std_delta", "gradient", "agreement"): 0.3,
    ("gain", "noise_gain", "rises"): (0.3, 1.0),
    "moved": (0.3, 0.05), "corr": (0.3, 0.1),
    ("std_gain", "noise_std_gain", "top_ratio"): 0.5,
    ("kl_bits", "rank_kl_bits"): (1.0, 0.02),
    ("kl_bits_null_high", "top_ratio_null_high", "trivial"): 1e-9,
    "score": (0.15, 1.0),
})  # fmt: skip
"""Wide: another processor trains another model, as in `initialization`."""


def experiment() -> Experiment:
    """Fine-tunings of SmolLM2, MiniLM, the 12-layer decoder and the ViT; and the pre-trainings of the lab's models."""
    return Experiment(
        name="finetuning",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="what fine-tuning adds to every matrix, by depth, rank, samples, optimizer; and pre-training",
        inputs=inputs,
        quick=list(_toys()),
        alone=alone,
    )


def alone(cell: dict) -> bool:
    """Whether a cell can be measured without a base that takes minutes to train."""
    return cell["model"] != "deep-decoder"


def _cells() -> Iterator[dict]:
    for decay in (DECAY, 0.0):
        for model in TASKS:
            yield from _grid("plain", model, seeds=5, weight_decay=decay)
        for model in LARGE:
            yield from _grid("plain", model, seeds=LARGE_SEEDS, weight_decay=decay)
    for model in (*LARGE, *TASKS):
        yield from _grid("rank", model, seeds=LARGE_SEEDS if model in LARGE else 5, adapter="lora", rank=16)
    for model, ranks in RANKS.items():
        for adapter in ("lora", "dora"):
            for rank in ranks:
                if (adapter, rank) != ("lora", 16):
                    yield from _grid("rank", model, seeds=2, adapter=adapter, rank=rank)
    for model, task in OTHER_TEXT.items():
        for method in ({}, {"adapter": "lora", "rank": 16}):
            yield from _grid("text", model, seeds=LARGE_SEEDS, task=task, **method)
    yield from _grid("cause", "vit", seeds=5, cause="shuffled labels", labels="shuffled")
    for cause, changed in CAUSES.items():
        yield from _grid("cause", "deep-decoder", seeds=3, cause=cause, **changed)
    yield from _grid("cause", "minilm", seeds=3, cause="shuffled labels", labels="shuffled")
    for model, paces in PACES.items():
        for pace in paces:
            for decay in (SGD_DECAYS if "optimizer" in pace else DECAYS)[model]:
                if pace or decay not in (0.0, DECAY):  # the part plain has these
                    yield from _grid("decay", model, seeds=1 if pace else 3, weight_decay=decay, **pace)
    for model in ("deep-decoder", "minilm"):
        for share in (0.125, 0.25, 0.5):
            yield from _grid("samples", model, seeds=3, samples=share)
            steps = round(share * TASKS[model]["steps"])
            yield from _grid("samples", model, seeds=3, samples=share, steps=steps)
    for model, settings in (BASES | ONLY_PRETRAINED).items():
        for seed in range(5):
            yield {
                "part": "pretraining",
                "model": model,
                **settings,
                "start_gain": GAIN,
                "weight_decay": DECAY,
                "seed": seed,
            }


def _grid(part: str, model: str, seeds: int, cause: str = "", **changed) -> Iterator[dict]:
    plain = {
        "lr": (ADAPTER_RATES if changed.get("adapter") else FULL_RATES)[model],
        "weight_decay": DECAY,
        "adapter": "",
        "rank": 0,
    }
    settings = {**(TASKS | LARGE)[model], **plain, "samples": 1.0, "cause": cause} | changed
    for seed in range(seeds):
        yield {"part": part, "model": model, **settings, "seed": seed}


def _toys() -> Iterator[dict]:
    """A few steps on few examples, of the small models: enough to see every column move."""
    for cell in _cells():
        if cell["model"] not in PRETRAINED and cell["seed"] < _toy_seeds(cell):
            yield cell | {"steps": 4, "batch": TOY_BATCH}


def _toy_seeds(cell: dict) -> int:
    """How many seeds of a cell are toys: two where a finding rests on them, one or none elsewhere."""
    model, part = cell["model"], cell["part"]
    if part == "cause":
        return int(model == "deep-decoder" and cell["cause"] in ("rate × 3", "shuffled labels", "own labels"))
    if part == "samples":
        return int(cell["samples"] == 0.125 and cell["steps"] == TASKS[model]["steps"])
    if part == "rank":
        lora = model == "deep-decoder" and cell["adapter"] == "lora"
        return 2 * (lora and cell["rank"] == 16) + (lora and cell["rank"] == 4)
    if part == "decay":
        return int(
            model == "deep-decoder" and cell["lr"] == FULL_RATES[model] and cell["steps"] == TASKS[model]["steps"]
        )
    return 2 if part == "plain" else int(model in ("vit", "decoder"))


def fine_tuned(cell: dict) -> Trained:
    """Train as a cell says (see `trained`)."""
    return trained(plan(cell))


def trained(settings: Config) -> Trained:
    """Train anew, whatever is cached; a `LARGE` model once for all cells, of all experiments, of the same training."""
    if settings.model in LARGE:
        return train(settings, progress=False, snapshots=0)
    return retrained(settings, snapshots=0)


def plan(cell: dict) -> Config:
    """What a cell trains: a fine-tuning of its base, or for a base a training from a narrow Gaussian start."""
    if cell["part"] == "pretraining":
        return config(cell, gain=cell["start_gain"])
    return config(cell, **origin(cell, BASES, **({"steps": 6, "batch": 4} if cell["batch"] == TOY_BATCH else {})))


def run(cell: dict) -> list[dict]:
    """Train as the cell says; a row for each judged matrix, or for a pre-training one for each snapshot.

    A row of a fine-tuning holds role, depth and numel, and figures of `lfmlib.compare`, those of `FIGURES`. For plain,
    and full text, also ``noise_gain`` and ``noise_std_gain`` of norm-matched noise; for adapters ``rank_kl_bits`` and
    ``rank_qq_r2`` of Gaussian factors of the same rank; for full fine-tuning on real labels, but not for decay,
    ``gradient`` and ``agreement`` before the first step (see `lfmlib.lab.tuning.gradients`). A row of a pre-training
    holds ``step``; the share of the judged matrices whose std ``rises``; medians of gain, corr and ``moved`` over them.
    The first row (of a pre-training the last) has ``score`` and ``trivial``.
    """
    settings = plan(cell)
    if cell["part"] == "pretraining":
        return _pretraining(settings)
    trained = retrained(settings, snapshots=0)
    before = start_of(replace(settings, adapter="", rank=0))
    with_noise = ("noise",) if cell["part"] in ("plain", "text") and not settings.adapter else ()
    table = findings.eligible(compare(before, trained.model, progress=False, controls=with_noise, seed=cell["seed"]))
    wanted = FIGURES.get(cell["part"], SIZE_FIGURES)
    body = table[table["control"] == "none"].set_index("tensor")
    rows = body[["role", "depth", "numel", *wanted]]
    if with_noise:
        noise = table[table["control"] == "noise"].set_index("tensor")
        rows = rows.assign(noise_gain=noise["gain"], noise_std_gain=noise["std_gain"])
    if settings.adapter:
        rows = rows.join(_of_factors(body, settings.rank, cell["seed"]))
    elif settings.labels == "real" and cell["part"] != "decay":
        found = gradients(before, problem(settings.model, settings.task), seed=cell["seed"], size=settings.batch)
        rows = rows.join(found.set_index("tensor"))
    listed = [{name: _brief(value) for name, value in row.items()} for row in rows.to_dict("records")]
    listed[0] |= scored(trained.scores)
    return listed


def _of_factors(body: pd.DataFrame, rank: int, seed: int) -> pd.DataFrame:
    """`kl_bits` and `qq_r2` of BA with Gaussian factors, in place of every matrix."""
    found = {}
    for name, shape in body["shape"].items():
        made = low_rank(shape, rank, 1.0, np.random.default_rng([seed, *name.encode()]))
        found[name] = {"rank_kl_bits": measure(made)["kl_bits"], "rank_qq_r2": qq_r2(made)}
    return pd.DataFrame.from_dict(found, orient="index")


def _pretraining(settings: Config) -> list[dict]:
    trained = train(settings, progress=False)
    rows = []
    for step, table in growth(trained).groupby("step"):
        body = findings.eligible(table)
        if step:
            rows.append({"step": int(step), "rises": _brief((body["std_gain"] > 0).mean())})
            rows[-1] |= {name: _brief(body[name].median()) for name in ("gain", "corr", "moved")}
    rows[-1] |= scored(trained.scores)
    return rows


def growth(trained: Trained) -> pd.DataFrame:
    """The std budget along a training, from its snapshots: one row per matrix and snapshot.

    With a the slope of the regression of W on W₀, Cov(W, W₀) = a Var W₀, and the rest follows.

    Returns:
        The snapshots with std_gain, gain and corr (of ΔW and W₀) as `lfmlib.compare` has them; NaN at step 0.
    """
    table = trained.snapshots
    start = table[table["step"] == 0].set_index("tensor")["std"]
    var0 = table["tensor"].map(start) ** 2
    var, cov = table["std"] ** 2, (table["left"] - 1) * var0
    added = (var - var0 - 2 * cov).clip(lower=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return table.assign(
            std_gain=table["std"] - np.sqrt(var0), gain=(var - var0) / added, corr=cov / np.sqrt(added * var0)
        )


def _brief(value):
    """Five digits of a float: what a record needs."""
    return float(f"{value:.5g}") if isinstance(value, float | np.floating) else value


def inputs(cell: dict) -> dict[str, str]:
    """Hash of the data a cell is trained on, and of what it starts from, which a base does not share."""
    return trainings.inputs(cell, {} if cell["part"] == "pretraining" else BASES)
