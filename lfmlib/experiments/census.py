"""What published models look like: the experiment `census`, of every model that `lfmlib models` lists.

Each model is measured as the chapters measure the reader's own: nothing here is trained. What is kept is one row for
each matrix, so that findings, pictures and a reader's own model can be laid beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from .. import findings
from ..checkpoints.cells import Spread
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.named import MODELS, named
from ..checkpoints.names import matched
from ..checkpoints.quantizers import quantize
from ..deltas.comparison import compare
from ..distribution.distances import normality
from ..distribution.shapes import classify
from ..distribution.sketch import Sketch
from ..health import order, states
from ..records import Experiment
from ..records.experiment import brief
from ..surveys.arrangements import arrangement
from ..surveys.counted import law_sketch
from ..surveys.optimal_laws import laws
from ..surveys.values import noise_twin, survey

PARTS = ("values", "arrangement", "laws", "health", "shapes")
"""What is measured of a model; of one that was fine-tuned from another here, "pair" and "idle" as well."""
STRANGERS = ("minilm-l3", "minilm")
"""Two models with a parent in common, long ago: what remains of it is the part "kin"."""
FORMATS = (
    "Q4_0 of GGUF, blocks of 32", "Q4_1 of GGUF, blocks of 32", "Q5_0 of GGUF, blocks of 32",
    "Q8_0 of GGUF, blocks of 32", "Q4_K of GGUF, blocks of 256", "Q6_K of GGUF, blocks of 256",
    "int8 of bitsandbytes", "int4 of GPTQ, groups of 128", "nf4 of bitsandbytes, blocks of 64", "MXFP4, blocks of 32",
)  # fmt: skip
"""Formats in which one model is quantized, in the words of `lfmlib.checkpoints.quantizers`: the part "quantized"."""
IDLE = 1e-3
"""What an embedding's row differs by from a multiple of its base's, as a share of that, at most, where no data used it:
rounding in float32 at every step leaves a few 10⁻⁴."""
STEP, REACH = 0.2, 6.0
"""Width of a histogram's cells, and how far it reaches, in standard deviations."""
CONTROLS = ("permuted", "rescaled", "fresh")
"""Controls of the arrangement (see `lfmlib.arrangement`)."""
ABOUT = ("tensor", "role", "depth", "tower", "numel", "dtype", "quantized")
_NULLS = ("kl_bits", "tail_bits", "gg_shape", "mean_ratio", "asymmetry", "weibull_k")
VALUES = (
    "nonfinite", "zeros", "min", "max", "mean", "std", "mean_ratio", "skewness", "excess_kurtosis", "ks", "kl_bits",
    "tail_bits", "wasserstein", "gg_shape", "weibull_k", "asymmetry", "asymmetry_excess", "label_margin",
    *(f"{name}_null_{end}" for name in _NULLS for end in ("low", "high")),
)  # fmt: skip
ARRANGED = (
    "lag_one", "transpose_corr", "row_corr", "col_corr", "row_share", "col_share", "row_alike", "col_alike",
    "row_alike_64", "col_alike_64", "unequal", "block_excess", "mp_ks", "top_ratio", "outliers", "outlier_share",
    "outlier_variance", "stable_rank", "beyond_variance", "beyond_excess",
)  # fmt: skip
JUDGED = (
    "transpose_corr", "row_corr", "col_corr", "row_alike", "col_alike", "row_alike_64", "col_alike_64", "unequal",
    "block_excess", "top_ratio", "outlier_variance", "beyond_variance", "beyond_excess", "row_share", "col_share",
)  # fmt: skip
"""Figures of an arrangement whose null is kept."""
LAWS = ("sigma", "gg_shape", "outlier_share", "outlier_cut", "misfit")
CHANGED = (
    "std_base", "std_tuned", "std_delta", "std_gain", "gain", "corr", "cov", "moved", "zeros", "rounding_std",
    "skewness", "excess_kurtosis", "kl_bits", "tail_bits", "gg_shape", "qq_r2", "top_ratio", "factor",
    "kl_bits_null_low", "kl_bits_null_high", "top_ratio_null_low", "top_ratio_null_high",
)  # fmt: skip
OTHERS = ("neighbours", "distant", "exchanged", "z", "density", "likeness", "left", "left_low", "left_high")
CODED = ("stored", "spread", "read", "kl_stored", "kl_spread", "kl_read", "labels")
TOLERANCES = dict.fromkeys((*VALUES, *LAWS, *CHANGED), 1e-4) | dict.fromkeys(
    (*ARRANGED, *(f"{name}_null_{end}" for name in JUDGED for end in ("low", "high")), *OTHERS, *CODED), 1e-3
)
"""What is counted comes out to the digit; what is multiplied is summed in another order by another processor."""
LEAST = {"lag_one": 0.05, "transpose_corr": 0.05, "beyond_variance": 0.01, "beyond_excess": 0.01}
LEAST |= {"outlier_variance": 0.01, "block_excess": 0.01, "unequal": 0.01, "corr": 0.01, "cov": 1e-6, "std_gain": 1e-5}


def experiment() -> Experiment:
    """Every named model, and every pair of a base and its fine-tune among them."""
    cells = [{"part": part, "model": one.name, "base": "", "seed": 0} for one in MODELS for part in PARTS]
    cells += [{"part": "pair", "model": one.name, "base": one.base, "seed": 0} for one in MODELS if one.base]
    cells += [{"part": "idle", "model": one.name, "base": one.base, "seed": 0} for one in MODELS if one.base]
    cells.append(dict(zip(("part", "model", "base", "seed"), ("kin", *STRANGERS, 0), strict=True)))
    cells.append({"part": "quantized", "model": "minilm", "base": "", "seed": 0})
    toys = [{"part": part, "model": "minilm", "base": "", "seed": 0, "select": r"layer\.[01]\."} for part in PARTS]
    return Experiment(
        name="census",
        cells=cells,
        run=run,
        metrics=TOLERANCES,
        least=LEAST,
        version=1,
        description="nine published models, matrix by matrix: law, arrangement, order; and two real fine-tunes",
        inputs=inputs,
        quick=toys,
        alone=is_installed,
        repeated=is_installed,
    )


def is_installed(cell: dict) -> bool:
    """Whether a cell's model comes with the packages of this book, so that nothing must be fetched."""
    return cell["model"] == "minilm"


def inputs(cell: dict) -> dict[str, str]:
    """Hashes of the weights that a cell reads."""
    return {name: model.sha256 for name in ("model", "base") if (model := named(cell[name])) is not None}


def run(cell: dict) -> list[dict]:
    """Measure what the cell says; a row for each matrix and control, of "health" one for each tower and state, of
    "shapes" one for each cell of a histogram, of "kin" one for each pair of matrices, of "quantized" one a format,
    of "idle" one for each embedding."""
    checkpoint = open_checkpoint(cell["model"], select=cell.get("select"))
    return _RUNS[cell["part"]](checkpoint, cell)


def _values(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """The survey; its noise twins; and those about a mean of 0, which are the control of F9 and F10."""
    table = survey(checkpoint, progress=False)
    twins = {"none": table, "noise": noise_twin(table, seed=cell["seed"])}
    twins["centred"] = noise_twin(table.assign(mean=0.0), seed=cell["seed"])
    return [row for control, one in twins.items() for row in _rows(one.assign(control=control), VALUES, ("label",))]


def _arrangement(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    nulls = [f"{name}_null_{end}" for name in JUDGED for end in ("low", "high")]
    part = findings.judged(checkpoint)
    return _rows(arrangement(part, controls=CONTROLS, seed=cell["seed"], progress=False), (*ARRANGED, *nulls))


def _laws(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    table = laws(findings.judged(checkpoint), pruned=findings.PRUNED_SHARE, progress=False)
    return _rows(table.assign(control="none"), LAWS, ("variant",))


def _health(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """Matrices that look untrained or damaged, and whether a tower's layers stand in their order.

    Survey and arrangement are measured here again, as other parts measure them: a cell stands alone, so that any one
    can be measured, and checked, in whatever process and order, and what one got wrong is not handed to the next.
    """
    table = survey(checkpoint, progress=False)
    part = findings.judged(checkpoint)
    found = states.examine(part, table, arrangement(part, controls=("permuted",), seed=cell["seed"], progress=False))
    rows = [{"tensor": one.tensor, "role": one.role, "state": one.state} for one in found.itertuples(index=False)]
    for tower in order.towers(checkpoint) or [""]:
        try:
            result = order.Likeness.of(order.profiles(checkpoint, 1 << 20, [], tower), seed=cell["seed"]).order()
        except ValueError as error:
            rows.append({"tower": tower, "state": f"order not known: {error}"})
            continue
        state = "layers in order" if result.exchanged.empty else "layers exchanged"
        figures = {"neighbours": brief(result.neighbours), "distant": brief(result.distant)}
        state = state if result.judged else "order not known"
        rows.append({"tower": tower, "state": state, **figures, "exchanged": len(result.exchanged)})
    return rows


def _shapes(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """Histograms: of each shape but the Gaussian that two matrices have, the one that has it most clearly."""
    table = survey(checkpoint, progress=False)
    body, rows = findings.eligible(table), []
    for label in findings.shapes_found(body):
        best = body[body["label"] == label].sort_values("label_margin").iloc[-1]
        sketch = law_sketch(checkpoint, best["tensor"])
        edges = np.arange(-REACH, REACH + STEP / 2, STEP)
        density = np.diff(sketch.cdf(sketch.mean + edges * sketch.std)) / STEP
        about = {"tensor": best["tensor"], "role": best["role"], "label": label}
        for left, one in zip(edges, density, strict=False):
            rows.append(about | {"z": brief(float(left + STEP / 2)), "density": brief(float(one))})
    return rows or [{"label": "gaussian"}]


def _quantized(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """F1's share, and the median `kl_bits`: as stored, as read of a format, and of values spread over its cells; and
    the share of matrices whose label these keep."""
    body = findings.eligible(survey(checkpoint, progress=False))
    weight, rows = body["numel"] / body["numel"].sum(), []
    for kind in FORMATS:
        found = {"read": [], "spread": []}
        for name in body["tensor"]:
            entry = quantize(checkpoint.read(name).float().numpy(), kind)
            read, spread = Spread(entry).span(0, math.prod(entry.shape))
            for how, values in (("read", read), ("spread", spread)):
                sketch = Sketch.of(values)
                found[how].append((normality(sketch).kl_bits, classify(sketch).label))
        row = {"quantized": kind, "stored": findings.share(body, findings.gaussian(body))}
        row["kl_stored"] = body["kl_bits"].median()
        for how, each in found.items():
            bits, labels = map(np.array, zip(*each, strict=True))
            row[how], row[f"kl_{how}"] = float(weight[bits <= findings.KL_BOUND].sum()), float(np.median(bits))
        row["labels"] = float((labels == body["label"].to_numpy()).mean())
        rows.append({name: one if isinstance(one, str) else brief(one) for name, one in row.items()})
    return rows


def _kin(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """The correlation of every matrix with those of the same role and shape in another model, at all depths."""
    base, rows = open_checkpoint(cell["base"]), []
    for info in (one for one in checkpoint.tensors if len(one.shape) == 2):
        own = checkpoint.read(info.name).double().flatten()
        for other in base.tensors:
            if (other.role, other.shape) != (info.role, info.shape) or (other.depth is None) != (info.depth is None):
                continue
            alike = torch.corrcoef(torch.stack([own, base.read(other.name).double().flatten()]))[0, 1].item()
            about = {"tensor": info.name, "role": info.role, "depth": info.depth, "other_depth": other.depth}
            rows.append(about | {"likeness": brief(alike)})
    return rows


def _pair(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """The comparison with noise and permuted entries in ΔW's place; and norms and biases, which have no control.

    The ``factor`` is the share of W₀ that is left in W: the slope of W on W₀, both about their means.
    """
    base = open_checkpoint(cell["base"])
    table = compare(base, checkpoint, controls=("noise", "permuted"), seed=cell["seed"], progress=False)
    both = table["std_tuned"] ** 2 + table["std_base"] ** 2 - table["std_delta"] ** 2
    rows = _rows(table.assign(factor=both / (2 * table["std_base"] ** 2)), CHANGED, ("label",))
    return rows + _vectors(base, checkpoint)


def _idle(checkpoint: Checkpoint, cell: dict) -> list[dict]:
    """The rows of each embedding that are a multiple of their base's: of words, say, that no text had. What shrank them
    was no gradient. A row has how many there are, how many of them are the base's to the bit, and ``left``, the median
    multiple of the others, with the least and the largest.
    """
    base, rows = open_checkpoint(cell["base"]), []
    shapes = [{one.name: one.shape for one in side.tensors} for side in (base, checkpoint)]
    pairs = matched(*shapes)
    for info in (one for one in checkpoint.tensors if one.role == "embed" and len(one.shape) == 2):
        before, after = base.read(pairs[info.name]).double(), checkpoint.read(info.name).double()
        size = (before * before).sum(1)
        left = (before * after).sum(1) / size
        rest = ((after - left[:, None] * before).norm(dim=1) / size.sqrt()) <= IDLE
        same = (before == after).all(1)
        moved = left[rest & ~same]
        about = {"tensor": info.name, "role": info.role, "numel": info.numel, "rows": info.shape[0]}
        counts = {"idle": int(rest.sum()), "same": int(same.sum())}
        ends = moved.quantile(torch.tensor([0, 0.5, 1]).double()).tolist() if len(moved) else []
        multiples = zip(("left_low", "left", "left_high"), map(brief, ends), strict=False)
        rows.append(about | counts | dict(multiples))
    return rows


def _vectors(base: Checkpoint, tuned: Checkpoint) -> list[dict]:
    """A row for each norm and bias that both have: ``factor`` and ``gain``, NaN of one that is constant in the base."""
    known, wanted = ({one.name: one.shape for one in side.tensors} for side in (base, tuned))
    pairs, rows = matched(known, wanted), []
    for info in tuned.tensors:
        if len(info.shape) != 1 or info.role not in ("norm", "bias") or info.name not in pairs:
            continue
        before, after = base.read(pairs[info.name]).double(), tuned.read(info.name).double()
        if before.shape != after.shape or not (spread := before.var(correction=0).item()):
            continue
        slope = torch.mean((before - before.mean()) * (after - after.mean())).item() / spread
        changed = (after - before).var(correction=0).item()
        gain = (after.var(correction=0).item() - spread) / changed if changed else math.nan
        about = {"tensor": info.name, "role": info.role, "depth": info.depth, "tower": info.tower, "numel": info.numel}
        rows.append(about | {"control": "none", "factor": brief(slope), "gain": brief(gain)})
    return rows


def _rows(table: pd.DataFrame, figures: tuple[str, ...], words: tuple[str, ...] = ()) -> list[dict]:
    """Rows of a record from those of a table: five digits of its figures, the shape as ``rows`` and ``columns``."""
    found = []
    for row in table.to_dict("records"):
        about = {name: row[name] for name in ABOUT if name in row} | {"control": row["control"]}
        about["depth"] = None if pd.isna(about["depth"]) else int(about["depth"])
        about |= dict(zip(("rows", "columns"), row["shape"], strict=True))
        numbers = {name: brief(float(row[name])) for name in figures if not pd.isna(row[name])}
        found.append(about | {name: row[name] for name in words} | numbers)
    return found


_RUNS: dict[str, Callable[[Checkpoint, dict], list[dict]]] = {
    "values": _values, "arrangement": _arrangement, "laws": _laws, "health": _health, "shapes": _shapes,
    "quantized": _quantized, "kin": _kin, "pair": _pair, "idle": _idle,
}  # fmt: skip
