"""Compute the tables of nulls again: the figures of Gaussian noise for every storage type and size, and its spectra.

`python -m lfmlib.structure.calibrate` writes the tables that `lfmlib.distribution.nulls`,
`lfmlib.structure.random_matrices` and `lfmlib.structure.krylov` read, in about twenty minutes.
"""

from __future__ import annotations

import csv
import math
from importlib import resources

import numpy as np
from tqdm import tqdm

from ..distribution.distances import measure
from ..distribution.nulls import FIGURES, draw
from . import krylov
from .random_matrices import MAX_SIMULATED_SIDE, simulate

SIZES = tuple(2**power for power in range(6, 35))
"""Tabulated numbers of values, 64 to 17 billion."""
#: storage type -> standard deviation of the noise: a typical weight's; for float8, which is stored scaled, mid-range
STD = {
    "bfloat16": 0.02,
    "float16": 0.02,
    "float32": 0.02,
    "float8_e4m3fn": 16.0,
    "float8_e5m2": 64.0,
    "float8_e4m3fnuz": 8.0,
    "float8_e5m2fnuz": 64.0,
}
DRAWS = 1000
SEED = 20260101


def sample(dtype: str, count: int, draws: int = DRAWS, seed: int = SEED, mean: float = 0.0, std: float | None = None):
    """Figures of ``draws`` sketches of ``count`` values of noise.

    Without ``std`` each draw's is log-uniform over one octave, from `STD` to twice that, since its position between two
    powers of two decides how coarse the rounding is.

    Returns:
        Figure → float64 ``(draws,)``.
    """
    rng = np.random.default_rng([seed, *dtype.encode(), count])
    rows = []
    for _ in range(draws):
        scale = STD[dtype] * 2 ** rng.random() if std is None else std
        sketch = draw(dtype, count, rng, mean, scale)
        rows.append(measure(sketch) | {"mean_ratio": abs(sketch.mean) / sketch.std if sketch.std else math.nan})
    return {name: np.array([row[name] for row in rows]) for name in FIGURES}


def tabulate(path) -> None:
    """Write the central 95 % and the median of every figure, for every storage type and size, to ``path``."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dtype", "count", "figure", "low", "median", "high"])
        for dtype in STD:
            for count in tqdm(SIZES, desc=dtype):
                for name, values in sample(dtype, count).items():
                    known = values[~np.isnan(values)]
                    bounds = np.quantile(known, [0.025, 0.5, 0.975]) if known.size else [math.nan] * 3
                    writer.writerow([dtype, count, name, *(f"{bound:.4g}" for bound in bounds)])


def tabulate_spectra(path, draws: int = 20_000) -> None:
    """Write the central 95 % of `simulate` for p = `MAX_SIMULATED_SIDE` and 28 ratios p / n, to ``path``."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ratio", "ks_low", "ks_high", "rank_low", "rank_high"])
        for ratio in tqdm(np.geomspace(1 / 512, 1, 28), desc="spectra"):
            longer = round(MAX_SIMULATED_SIDE / ratio)
            ks, rank, _ = np.quantile(simulate(MAX_SIMULATED_SIDE, longer, draws), [0.025, 0.975], axis=0).T
            writer.writerow([f"{value:.6g}" for value in (MAX_SIMULATED_SIDE / longer, *ks, *rank)])


def tabulate_fast(path, side: int = 2048, draws: int = 500) -> None:
    """Write the central 95 % of `lfmlib.structure.krylov.simulate` for 14 ratios p / n, to ``path``."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ratio", "ks_low", "ks_high", "rank_low", "rank_high"])
        for ratio in tqdm(np.geomspace(1 / 64, 1, 14), desc="estimated spectra"):
            longer = round(side / ratio)
            ks, rank = np.quantile(krylov.simulate(side, longer, draws), [0.025, 0.975], axis=0).T
            writer.writerow([f"{value:.6g}" for value in (side / longer, *ks, *rank)])


if __name__ == "__main__":
    tabulate_fast(resources.files("lfmlib.structure") / "nulls_krylov.csv")
    tabulate_spectra(resources.files("lfmlib.structure") / "nulls_spectrum.csv")
    tabulate(resources.files("lfmlib.distribution") / "nulls.csv")
