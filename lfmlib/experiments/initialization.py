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
from collections.abc import Iterator

from .. import findings
from ..lab import starts as inits
from ..lab.train import rate
from ..records import Experiment
from .trainings import GAIN, config, inputs, retrained, scored, tolerances

PLAIN = {
    "decoder": {"task": "language", "steps": 250, "batch": 8},
    "vit": {"task": "class", "steps": 250, "batch": 64},
    "clip": {"task": "pairs", "steps": 400, "batch": 32},
}
"""The lab model of each modality, and how it is trained."""
GAINS = (1.0, GAIN)
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
TOLERANCES = tolerances({
    ("rate_sum", "rate_norm", "trivial"): 1e-9,
    ("share", "share_matrices"): (0.3, 1.0),
    ("sharp", "inverted-t", "linear", "other"): (0.2, 40),
    "kl_bits": (0.3, 0.01), "ks": (0.2, 0.01), "excess_kurtosis": (0.2, 1.0), "tail_bits": (0.4, 0.02),
    "gg_shape": (0.15, 1.0), "moved": (0.15, 0.01), "left": (0.05, 0.1), "memory": (0.04, 0.1),
    "added_kl_bits": (1.0, 0.01), "rows_alike": (0.25, 1.0), "top_ratio": (0.2, 1.0), "zeros_seen": (0.02, 1.0),
    "rms": 0.03, "score": 0.1,
})  # fmt: skip
"""Two to eight times what one training of each model differed by under AVX2 and AVX-512; those of shares, counts and
``left`` are a judgement. On one machine trainings repeat to the bit, but another rounding, magnified by 250 steps, is
another training. Shares and counts (of fewer than 40) are compared absolutely."""


def initialization() -> Experiment:
    """The experiment behind finding F2."""
    return Experiment(
        name="initialization",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
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
    rows[-1] |= scored(model.scores)
    return rows


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
    """Four steps of two models on few examples: enough to see every column move."""
    for model in ("decoder", "vit"):
        for cell in grid("plain", models=(model,), gain=0.25, starts=inits.UNLIKE_STARTS, seeds=2):
            yield cell | {"steps": 4, "batch": 8 if model != "decoder" else 2}
