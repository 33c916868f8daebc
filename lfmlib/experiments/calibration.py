"""How far the tests of arrangement can be trusted: false alarms on noise, and power against planted departures.

The experiment `calibration`: each cell draws many made matrices of one kind, measures them with `iid` and `spectrum`,
and counts how often each figure lies outside the central 95 % of its null, and how often each leg of finding F4 fails.
`table` and `power` read the record.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from .. import findings
from ..records import Experiment
from ..structure import made_matrices
from ..structure.entries import FIGURES, FURTHER
from ..surveys.arrangements import beyond_excess, figures
from .trainings import tolerances

SHAPES = ((64, 64), (96, 256), (384, 384), (384, 1536))
DTYPES = ("float32", "bfloat16")
"""Shapes and number formats of the made matrices."""
STRENGTHS = {
    "neighbours": (0.02, 0.05, 0.1, 0.2),
    "row scales": (0.05, 0.1, 0.2, 0.5),
    "column scales": (0.05, 0.1, 0.2, 0.5),
    "blocks": (0.05, 0.1, 0.2, 0.5),
    "spikes": (1, 3, 10),
    "rank three": (0.05, 0.1, 0.2, 0.4),
    "orthogonal": (0.1, 0.2, 0.5, 1.0),
    "symmetric": (0.05, 0.1, 0.2, 1.0),
}
"""Sizes of the planted departures (see `lfmlib.structure.made_matrices.DEPARTURES`)."""
INDEPENDENT = {"Laplace": 0.0, "t3": 0.0, "sparse": 0.9, "outliers": 1e-4}
"""Laws of independent, identical entries that are not Gaussian, and their sizes."""
TESTS = (*FIGURES, *FURTHER, "block_excess", "mp_ks", "top_ratio", "stable_rank", "effective_rank")
"""Figures with a two-sided null at 95 %; `transpose_corr` is known of square matrices alone."""
EDGE = "outliers"
"""The count of singular values beyond the edge: one is an alarm, on noise once in a hundred by construction."""
COUNTS = (*TESTS, EDGE, *(f"fails_{leg}" for leg in (*findings.LEGS, "all")))
"""What a row counts: alarms of each test, and failures of each leg of F4."""


def calibration() -> Experiment:
    """The experiment behind the calibration page."""
    return Experiment(
        name="calibration",
        cells=list(_cells()),
        run=run,
        **tolerances({COUNTS: (0.02, 100)}),
        version=3,  # 3: the second rule of F4, likeness at one width, zeros left out of scales
        description="made matrices: false alarms of the tests of arrangement on noise, and their power",
        quick=[cell | {"draws": 10} for cell in _cells() if cell["rows"] <= 96 and cell["seed"] == 0],
    )


def run(cell: dict) -> list[dict]:
    """Draw and measure; one row: for each of `COUNTS` how many of the ``draws`` were outside, or failed."""
    shape = cell["rows"], cell["columns"]
    stream = zlib.crc32(f"{cell['departure']} {cell['size']} {shape} {cell['dtype']}".encode())
    rng = np.random.default_rng([cell["seed"], stream])
    rows = []
    for _ in range(cell["draws"]):
        values = 0.02 * made_matrices.matrix(cell["departure"], cell["size"], shape, rng)
        matrix = torch.tensor(values, dtype=getattr(torch, cell["dtype"]))
        rows.append(figures(matrix))
        rows[-1]["beyond_excess"] = beyond_excess(matrix, rows[-1]["beyond_variance"], seed=len(rows))
    found = pd.DataFrame(rows).assign(shape=[shape] * len(rows), numel=shape[0] * shape[1])
    alarms = {name: _outside(found, name) for name in TESTS}
    alarms[EDGE] = found[EDGE] > 0
    failed = ~findings.legs(found)
    return [
        {name: int(hit.sum()) for name, hit in alarms.items()} | {f"fails_{n}": int(failed[n].sum()) for n in failed}
    ]


def _outside(found: pd.DataFrame, name: str) -> pd.Series:
    return ~found[name].between(found[f"{name}_null_low"], found[f"{name}_null_high"]) & found[name].notna()


def _cells() -> Iterator[dict]:
    def cells(departure, size, shape, dtype="float32", draws=250, seeds=1):
        for seed in range(seeds):
            rows, columns = shape
            where = {"rows": rows, "columns": columns, "dtype": dtype}
            yield {"departure": departure, "size": size, **where, "draws": draws, "seed": seed}

    for shape in SHAPES:
        for dtype in DTYPES:
            yield from cells("noise", 0.0, shape, dtype, seeds=4)
    for departure, size in INDEPENDENT.items():
        for shape in ((96, 256), (384, 384)):
            yield from cells(departure, size, shape)
    for departure, sizes in STRENGTHS.items():
        for size in sizes:
            for shape in ((96, 256), (384, 384)):
                yield from cells(departure, size, shape, draws=200)
