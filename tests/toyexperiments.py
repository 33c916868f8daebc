"""Experiments for the tests of records: in a module of their own, which workers import quickly."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path

import torch

from lfmlib.records import Experiment


def waves(cell: dict) -> list[dict]:
    """A few numbers that the cell decides; what else it does is for the tests."""
    if cell.get("fails"):
        raise RuntimeError("no such wave")
    if cell.get("dies"):
        os._exit(9)
    while "gate" in cell and not Path(cell["gate"]).exists():
        time.sleep(0.01)
    if cell.get("threads"):
        return [{"omp": os.getenv("OMP_NUM_THREADS"), "torch": torch.get_num_threads()}]
    return [{"step": step, "height": math.sin(cell["seed"] + step / 3), "label": "crest"} for step in range(4)]


def cells(count: int, **settings) -> list[dict]:
    return [{"seed": seed, "lr": 0.1, **settings} for seed in range(count)]


def inputs(cell: dict) -> dict[str, str]:
    return {"sea": "00ff"}


def tides(cell: dict) -> list[dict]:
    """One number that the environment lifts, as instructions do what is trained: the more, the larger the seed."""
    if cell.get("fails"):
        raise RuntimeError("no such tide")
    return [{"height": 1 + cell["seed"] * float(os.getenv("TOY_WIND", "0")), "label": os.getenv("TOY_FLAG", "none")}]


TOY = Experiment("toy", cells(4), waves, {"height": 1e-9}, 1, "waves of a toy sea", inputs, quick=cells(1, toy=True))


def from_environment() -> Experiment:
    """The toy in a process of its own: two cells, and two that wait for a file."""
    gate = os.environ["TOY_GATE"]
    return dataclasses.replace(TOY, cells=cells(2) + [{"seed": seed, "gate": gate} for seed in (7, 8)])
