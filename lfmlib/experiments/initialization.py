"""The lab's long experiments, cell by cell; `lfmlib.records` measures and keeps them.

`initialization` (finding F2): trainings that differ in how they start. Its parts:

    plain       every start, three models, two scales, five seeds: what the verdict rests on
    decay       the same with so much weight decay that e⁻³ of the start is left
    optimizer   narrow starts under Adagrad, and SGD with momentum where it learns, without weight decay
    sweep       learning rate times weight decay, from a few starts
    long        four times the steps
    shuffled    labels drawn anew for every batch: motion without learning
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator

from .. import findings
from ..lab import starts as inits
from ..lab.problems import problem
from ..lab.train import Config, Trained, rate, train
from ..records import Experiment

PLAIN = {
    "decoder": {"task": "language", "steps": 250, "batch": 8},
    "vit": {"task": "class", "steps": 250, "batch": 64},
    "clip": {"task": "pairs", "steps": 400, "batch": 32},
}
"""The lab model of each modality, and how it is trained."""
GAINS = (1.0, 0.25)
"""Two scales of the start, in units of 1/√fan_in."""
RATES = {"decoder": 3e-3, "vit": 3e-3, "clip": 2e-3}
"""AdamW's learning rates, the largest at which held-out scores from both scales were near their best."""
OTHERS = {
    "adagrad": {
        "decoder": {"lr": 0.01, "steps": 500},
        "vit": {"lr": 0.02, "steps": 500},
        "clip": {"lr": 0.005, "steps": 800},
    },
    "sgd": {"decoder": {"lr": 0.3, "steps": 1000}, "vit": {"lr": 0.3, "steps": 1000}},
}
"""Other optimizers where they learn, with the rates at which narrow Gaussian starts learned best in single trainings;
SGD did not get CLIP beyond guessing at any rate."""
DECAY = 7.0
"""Weight decay that leaves about e⁻³ of the start: the learning rates of a training sum up to 0.41 to 0.44."""
MEDIANS = (
    "kl_bits", "ks", "excess_kurtosis", "tail_bits", "gg_shape", "moved", "left", "memory", "added_kl_bits",
    "rows_alike", "top_ratio", "zeros_seen",
)  # fmt: skip
"""Columns of a trace that a record keeps the median of, over the matrices."""
METRICS = {
    "rate_sum": 1e-9, "rate_norm": 1e-9, "share": 0.3, "share_matrices": 0.3,
    "sharp": 0.2, "inverted-t": 0.2, "linear": 0.2, "other": 0.2,
    "kl_bits": 0.3, "ks": 0.2, "excess_kurtosis": 0.2, "tail_bits": 0.4, "gg_shape": 0.15, "moved": 0.15, "left": 0.05,
    "memory": 0.04, "added_kl_bits": 1.0, "rows_alike": 0.25, "top_ratio": 0.2, "zeros_seen": 0.02, "rms": 0.03,
    "score": 0.1, "trivial": 1e-9,
}  # fmt: skip
"""Relative tolerances: two to eight times what one training of each model differed by under AVX2 and AVX-512; those of
shares, counts and ``left`` are a judgement. On one machine trainings repeat to the bit, but another rounding,
magnified by 250 steps, is another training."""
LEAST = {
    "share": 1.0, "share_matrices": 1.0, "sharp": 40, "inverted-t": 40, "linear": 40, "other": 40,
    "kl_bits": 0.01, "ks": 0.01, "excess_kurtosis": 1.0, "tail_bits": 0.02, "gg_shape": 1.0, "moved": 0.01,
    "left": 0.1, "memory": 0.1, "added_kl_bits": 0.01, "rows_alike": 1.0, "top_ratio": 1.0, "zeros_seen": 1.0,
}  # fmt: skip
"""Sizes below which these tolerances do not shrink. Shares and counts (of fewer than 40) are compared absolutely."""


def initialization() -> Experiment:
    """The experiment behind finding F2."""
    return Experiment(
        name="initialization",
        cells=list(_cells()),
        run=run,
        metrics=METRICS,
        least=LEAST,
        version=1,
        description="lab models trained from unlike starts: how Gaussian their weights become, and what is left",
        inputs=inputs,
        quick=list(_toy_cells()),
    )


def run(cell: dict) -> list[dict]:
    """Train as the cell says, whatever is cached; one row per snapshot.

    A row holds: ``step``; ``rate_sum`` and ``rate_norm``, the sum of the learning rates up to there and the root of the
    sum of their squares; ``matrices`` judged and their share of parameters ``share`` (of matrices: ``share_matrices``)
    within 0.02 bits; the number of each shape; medians over these matrices of `MEDIANS`; ``rms`` of all their entries.
    The last row also holds what the model can do on held-out data: ``score``, and ``trivial`` for the baseline.
    """
    plan = config(cell)
    model = retrained(plan)
    rates = [rate(plan, step) for step in range(plan.steps)]
    rows = []
    for step, table in model.snapshots.groupby("step"):
        body = findings.eligible(table)
        hits = findings.gaussian(body)
        labels = body["label"].value_counts()
        rows.append(
            {
                "step": int(step),
                "rate_sum": math.fsum(rates[:step]),
                "rate_norm": math.sqrt(math.fsum(r * r for r in rates[:step])),
                "matrices": len(body),
                "share": findings.share(body, hits),
                "share_matrices": float(hits.mean()),
                **{name: int(labels.get(name, 0)) for name in ("sharp", "inverted-t", "linear", "other")},
                **{name: float(body[name].median()) for name in MEDIANS},
                "rms": math.sqrt((body["numel"] * body["std"] ** 2).sum() / body["numel"].sum()),
            }
        )
    rows[-1] |= {"score": score(model.scores), "trivial": trivial(model.scores)}
    return rows


def config(cell: dict) -> Config:
    """What a cell trains."""
    return Config(**{name: value for name, value in cell.items() if name != "part"})


def retrained(plan: Config, snapshots: int | None = None) -> Trained:
    """Train, whatever is cached, and keep nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return train(plan, progress=False, snapshots=snapshots, folder=folder)


def score(scores: dict[str, float]) -> float:
    """A training's held-out figure: accuracy, or for language the loss in nats per byte."""
    return scores.get("accuracy", scores["loss"] if "trivial_loss" in scores else math.nan)


def trivial(scores: dict[str, float]) -> float:
    """The same of the trivial baseline."""
    return scores.get("trivial_accuracy", scores.get("trivial_loss", math.nan))


def inputs(cell: dict) -> dict[str, str]:
    """Hash of the data a cell is trained on."""
    return {"data": problem(cell["model"], cell["task"]).data_hash}


def _cells() -> Iterator[dict]:
    yield from grid("plain", gain=GAINS[0], seeds=5)
    yield from grid("plain", models=("decoder",), gain=GAINS[1], seeds=5, steps=500)  # it learns more slowly
    yield from grid("plain", models=("vit", "clip"), gain=GAINS[1], seeds=5)
    yield from grid("decay", weight_decay=DECAY, seeds=5)
    for optimizer, models in OTHERS.items():
        for model, settings in models.items():
            common = {"optimizer": optimizer, "gain": GAINS[1], "weight_decay": 0.0, **settings}
            yield from grid("optimizer", models=(model,), starts=("gaussian", *inits.UNLIKE_STARTS), **common)
    for lr in (3e-4, 1e-3, 3e-3, 1e-2):
        for decay in (0.0, 0.7, 2.0, 7.0):
            common = {"lr": lr, "weight_decay": decay, "first": 10}
            yield from grid("sweep", starts=("uniform", "sparse-90"), models=("vit",), seeds=1, **common)
            if decay in (0.0, 2.0):
                yield from grid("sweep", starts=("uniform",), models=("decoder", "clip"), seeds=1, **common)
    yield from grid("long", models=("vit",), starts=inits.UNLIKE_STARTS, seeds=1, steps=1000)
    yield from grid("shuffled", models=("vit",), starts=inits.UNLIKE_STARTS, gain=0.25, task="shuffled")


def grid(part: str, *, models=tuple(PLAIN), starts=inits.STARTS, seeds=3, first=0, **changed):
    """Cells of one part: every model, start and seed."""
    for model in models:
        for start in starts:
            for seed in range(first, first + seeds):
                settings = {"gain": 1.0, "optimizer": "adamw", "lr": RATES[model], "weight_decay": 0.01}
                yield {"part": part, "model": model, **PLAIN[model], "start": start, **settings, "seed": seed} | changed


def _toy_cells() -> Iterator[dict]:
    """Ten steps on few examples: enough to see every column move."""
    for model in PLAIN:
        for cell in grid("plain", models=(model,), gain=0.25, starts=inits.UNLIKE_STARTS, seeds=2):
            yield cell | {"steps": 10, "batch": 8 if model != "decoder" else 2}
