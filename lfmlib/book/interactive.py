"""Pictures that answer a reader's hand: curves asked for a value, histograms of a model, a direction lost in noise.

Each is a table that was computed here and travels in the page; `book/_static/lfm-touch.js` only looks up and draws.
Where no script runs, as in JupyterLab and in a one-file report, a sentence of the same numbers stands instead.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
from IPython.display import display
from scipy import linalg

from ..checkpoints.checkpoint import Checkpoint
from ..distribution.bits import coding_cells
from ..distribution.sketch import Sketch
from ..findings.markup import escaped, printable
from ..structure.random_matrices import mp_pdf, spiked, support
from ..surveys.counted import law_sketch, noise_like

__all__ = ["edge", "explore", "histograms"]

MOST_MATRICES = 40
"""Histograms in a page."""
MOST_WEIGHTS = 1 << 28
"""Weights that are counted again for them: about two seconds of one core."""
CELL_STD = 0.15
"""Width of a cell in standard deviations: 80 from -6 to 6."""
STRENGTHS = np.round(np.arange(0, 1.7001, 0.01), 2)
"""Strengths of a planted direction on the slider, in edges of noise; the largest value then lies below 2 edges."""
PLANTED = np.round(np.arange(0.1, 1.7001, 0.1), 2)
"""Strengths at which one is planted in a made matrix."""


def explore(curves: dict[str, dict[str, list[tuple[float, float]]]], sentence: str, otherwise: str) -> None:
    """Show curves that a reader of the book can ask for a value: a list of first names, one of second names, and a
    slider on a logarithmic axis.

    Args:
        curves: first name → second name → points ``(x, y)``, x above 0 and rising, at most 1; y a share.
        sentence: what is read off, with {first}, {second}, {x} and {y}.
        otherwise: what stands in the place of it where no script runs.
    """
    _show("explore", {"curves": curves, "sentence": sentence}, otherwise)


def histograms(checkpoint: Checkpoint, table: pd.DataFrame, *, seed: int = 0) -> None:
    """Show the histogram of each matrix against the Gaussian and against noise of its size and type; a reader of the
    book chooses the matrix and the axis.

    Args:
        checkpoint: the model.
        table: its matrices, from `lfmlib.survey`.
        seed: of the noise, as of `lfmlib.noise_twin`.
    """
    some = sampled(table)
    drawn = pd.DataFrame(
        binned(row, law_sketch(checkpoint, row["tensor"]), seed) for row in some.to_dict("records")
    ).to_dict("list")
    part = f"all {len(table)}" if len(some) == len(table) else f"{len(some)} of {len(table)}, evenly chosen by kl_bits"
    data = drawn | {
        "list": f"matrix ({part}, the closest to a Gaussian first)",
        "sentence": "It costs {kl} bits per weight (kl_bits); 97.5 % of noise of its size and type stay below "
        "{kl_noise}. Coding inside its tails costs {tail} more (tail_bits; noise: {tail_noise}). Of its {count} "
        "weights the farthest lies at {farthest} standard deviations, and {far} beyond six.",
    }
    words = f"The histograms ({part} judged matrices, from {drawn['kl'][0]} to {drawn['kl'][-1]} bits per weight)"
    _show("histograms", data, f"{words} can be seen one by one in the book on the web, here.")


def sampled(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_MATRICES` rows and about `MOST_WEIGHTS` weights of a survey, evenly chosen by rank, by kl_bits."""
    ranked = table.sort_values("kl_bits", kind="stable")
    most = min(MOST_MATRICES, max(2, int(MOST_WEIGHTS / ranked["numel"].mean())), len(ranked))
    return ranked.iloc[np.linspace(0, len(ranked) - 1, most).round().astype(int)]


def binned(row: dict, sketch: Sketch, seed: int) -> dict:
    """What the page holds of a matrix: edges of cells in thousandths of a standard deviation, counts of the weights and
    of noise between them, and the figures of its sentence.

    Args:
        row: of the matrix, from `lfmlib.survey`.
        sketch: of the matrix.
        seed: of the noise.
    """
    edges, counts = coding_cells(sketch, CELL_STD)
    z = (edges - sketch.mean) / sketch.std
    noise = noise_like(row, seed).law
    far = sketch.count - int(counts.sum())
    return {
        "name": _short(row["tensor"]),
        "edges": np.round(1000 * z).astype(int).tolist(),
        "counts": counts.tolist(),
        "noise": np.diff(np.round(noise.count * noise.cdf(noise.mean + noise.std * z))).astype(int).tolist(),
        "noise_count": noise.count,
        "weights": sketch.count,
        "count": f"{sketch.count:,}",
        "far": f"{far:,}" if far else "none",
        "farthest": f"{max(sketch.max - sketch.mean, sketch.mean - sketch.min) / sketch.std:.1f}",
        "kl": f"{row['kl_bits']:.4f}",
        "kl_noise": _two_digits(row["kl_bits_null_high"]),
        "tail": f"{row['tail_bits']:.4f}",
        "tail_noise": _two_digits(row["tail_bits_null_high"]),
    }


def _two_digits(value: float) -> str:
    """A small number with two significant digits, and no power of ten."""
    if math.isnan(value):
        return "unknown"
    return np.format_float_positional(value, precision=2, unique=False, fractional=False, trim="-")


def _short(name: str, most: int = 72) -> str:
    """A name that cannot fill a page: the middle of a long one is left out."""
    word = printable(name)
    return word if len(word) <= most else f"{word[: most // 2]}…{word[-(most - 1) // 2 :]}"


def edge(shape: tuple[int, int], *, seed: int = 0) -> None:
    """Show the singular values of noise, and a direction planted in it whose strength a reader of the book chooses:
    where the largest singular value lies, and how much of the direction is recovered. All in edges of noise.

    Args:
        shape: of the matrix.
        seed: of the noise that is drawn.
    """
    rows, columns = shape
    data = planted(shape, seed)
    sentences = {
        "picture": "Singular values of noise end at 1; with a direction of strength {strength} planted, the largest "
        "lies at {top}.",
        "nothing": "Nothing is planted. The largest singular value is the noise’s own, and lies at the edge.",
        "lost": "Strength {strength}: lost. Up to {threshold} the largest singular value stays at the edge, where "
        "noise has its own, and nothing of the direction is recovered.",
        "seen": "Strength {strength}: seen. The largest singular value lies at {top}, outside the noise. Of the "
        "planted direction, {left} is recovered over the rows and {right} over the columns.",
    }
    points = zip(data["strength"], data["top"], data["left"], data["right"], strict=True)
    read = " ".join(
        f"At {strength:g} it lies at {top:.2f}, and {100 * left:.0f}\u00a0% of the direction is recovered over the "
        f"rows, {100 * right:.0f}\u00a0% over the columns."
        for strength, top, left, right in points
        if strength in (0.6, 1.0, 1.5)
    )
    otherwise = (
        f"In noise of {rows:,} × {columns:,}, a direction planted with a strength of up to {data['threshold']:.2f} "
        f"edges is lost: the largest singular value stays at the edge. {read} In the book on the web, the strength can "
        "be chosen here."
    )
    _show("edge", data | sentences, otherwise)


def planted(shape: tuple[int, int], seed: int) -> dict:
    """What the page holds of a direction planted in noise: the limit of large matrices by strength, the law of the
    noise, and what was found in one made matrix for each strength of `PLANTED`. Values in edges of noise.

    Args:
        shape: of the matrix.
        seed: of the noise.
    """
    rows, columns = shape
    limit = math.sqrt(rows) + math.sqrt(columns)
    top, left, right = spiked(STRENGTHS * limit, rows, columns)
    rng = np.random.default_rng(seed)
    values = linalg.svdvals(rng.standard_normal(shape)) / limit
    counts, edges = np.histogram(values, bins=max(40, min(100, min(shape) // 4)), range=(0, 2))
    return {
        "shape": [rows, columns],
        "threshold": round((rows * columns) ** 0.25 / limit, 4),
        "strength": STRENGTHS.tolist(),
        "top": _rounded(top / limit),
        "left": _rounded(left),
        "right": _rounded(right),
        "edges": _rounded(edges),
        "counts": counts.tolist(),
        "law": law(shape),
        "made": [[float(one), *_rounded(found(one * limit, shape, rng))] for one in PLANTED],
    }


def law(shape: tuple[int, int], points: int = 121) -> list[list[float]]:
    """Points of Marchenko and Pastur's density of a singular value in edges of noise, near both ends the closer."""
    p, n = sorted(shape)
    low, high = (math.sqrt(end) for end in support(p / n))
    z = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, points))) / 2
    z[0] = max(z[0], 1e-6)  # of a square matrix the eigenvalues' density is unbounded at 0, not that of their roots
    density = 2 * z * high * mp_pdf(z**2, p / n)
    return [_rounded((x, y)) for x, y in zip(z / high, density, strict=True)]


def found(strength: float, shape: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float]:
    """What `lfmlib.structure.random_matrices.spiked` is the limit of, in a made matrix: the largest singular value over
    the edge, and the squared cosines of its vectors with the planted direction."""
    u, v = (_unit(rng.standard_normal(size)) for size in shape)
    w = rng.standard_normal(shape) + strength * np.outer(u, v)
    short = w if shape[0] <= shape[1] else w.T
    last = len(short) - 1
    value, vector = linalg.eigh(short @ short.T, subset_by_index=[last, last])
    one, other = vector[:, 0], _unit(short.T @ vector[:, 0])
    left, right = (one, other) if shape[0] <= shape[1] else (other, one)
    top = math.sqrt(value[0]) / (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    return top, float(left @ u) ** 2, float(right @ v) ** 2


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _rounded(values) -> list[float]:
    return np.round(values, 4).tolist()


def _show(kind: str, data: dict, otherwise: str) -> None:
    """A place for the script to draw in, with its table and the sentence that stands where no script runs."""
    held = escaped(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    said = f'<p class="lfm-otherwise">{escaped(otherwise)}</p>'
    place = f'<div class="lfm-touch lfm-{kind} mathjax_ignore" data-kind="{kind}" data-table="{held}">{said}</div>'
    display({"text/html": place, "text/plain": otherwise}, raw=True)
