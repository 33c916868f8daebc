"""The page on published models: the record `census` in pictures and sentences, made while the book is staged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from .. import findings, plots
from ..checkpoints.named import named, titled
from ..checkpoints.roles import in_order
from ..distribution.shapes import NOT_GAUSSIAN
from ..findings.markup import cell, code
from ..findings.shares import SUPPORTED_SHARE
from . import census

FIRST = 0.1
"""Share of a model's layers that count as its first ones, at least one."""


def pages(record: pd.DataFrame, folder: Path) -> dict[str, str]:
    """What `book/atlas.md` includes, by the name of the file.

    Args:
        record: `census`.
        folder: where the figures go, which the page finds as `_static/atlas`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots.style()
    known = census.bodies(record)
    if not known:
        return dict.fromkeys(_PAGES, "No model has been measured yet: `make records census` does.\n")
    return {name: page(record, known, folder) for name, page in _PAGES.items()}


def _figure(fig: plt.Figure, folder: Path, name: str, alt: str, caption: str) -> str:
    """Keep a figure, and the directive that shows it."""
    fig.savefig(folder / f"{name}.png", dpi=200, transparent=True)
    plt.close(fig)
    return (
        f"```{{figure}} _static/atlas/{name}.png\n:alt: {alt}\n:class: dark-light\n:name: fig-atlas-{name}\n\n"
        f"{caption}\n```\n"
    )


def _markdown(head: list[str], align: str, rows: Iterable[Iterable[str]]) -> str:
    """A table; ``align`` has a letter for each column, l or r."""
    lines = [head, ["---:" if one == "r" else "---" for one in align], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _count(body: pd.DataFrame) -> int:
    return int(body["numel"].sum())


def _share(body: pd.DataFrame) -> float:
    """F1's share of the parameters."""
    return findings.gaussian_share(body)[0]


def _own(known: dict[str, pd.DataFrame]) -> list[str]:
    """The models that are no fine-tune of another one here, which would say the same again."""
    return [name for name in known if not named(name).base]


def _all(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """Two pictures of all models, and a table."""
    fig, ax = plots.figure(3.6)
    plots.landscape(ax, census.beside(record), SUPPORTED_SHARE)
    first = _figure(
        fig, folder, "landscape", "Scatter plot of nine models: share of Gaussian parameters against size.",
        "Share of the judged parameters in matrices within 0.02 bits of a Gaussian, against their number. Dotted: the "
        "80 % that claim F1 asks for. Hollow: fine-tunes of a model that is here. Gaussian noise of the same sizes and "
        "types lies at 100 %.",
    )  # fmt: skip
    fig, ax = plots.figure(0.9 + 0.42 * len(known))
    noise = {name: census.part(record, name, "values", "noise") for name in known}
    called = ({titled(name): some for name, some in each.items()} for each in (known, noise))
    plots.by_model(ax, *called, findings.KL_BOUND)
    second = _figure(
        fig, folder, "matrices", "Rows of dots on a logarithmic axis, one row for each model.",
        "Every judged matrix of every model (blue), and noise of the same size and type (green): bits per weight that "
        "a Gaussian code wastes. Dotted: the bound of 0.02 bits.",
    )  # fmt: skip
    return f"{first}\n{_said_of_all(known)}\n\n{second}\n{_table(known)}"


def _said_of_all(known: dict[str, pd.DataFrame]) -> str:
    shares = {name: _share(body) for name, body in known.items()}
    high = [name for name, one in shares.items() if one >= SUPPORTED_SHARE]
    order = sorted(shares, key=lambda name: -shares[name])
    own = _own(known)
    sizes = pd.Series({name: known[name]["numel"].sum() for name in own})
    rho, p = stats.spearmanr(sizes, pd.Series(shares)[own]) if len(own) > 2 else (math.nan, math.nan)
    return (
        f"**{len(high)} of {len(known)} models** have 80 % of their judged parameters within 0.02 bits of a Gaussian"
        f"{f' ({_names(high)})' if high else ''}. The share runs from {shares[order[0]]:.0%} ({titled(order[0])}) to "
        f"{shares[order[-1]]:.0%} ({titled(order[-1])}); its rank correlation with size, fine-tunes left out, is "
        f"{_signed(rho)} (p {p:.2f}, {len(own)} models). These are the models that could be had from a package index, "
        "not a sample of all models: what differs between two of them may be their size, modality, training or format."
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _names(names: list[str]) -> str:
    return ", ".join(map(titled, names))


def _table(known: dict[str, pd.DataFrame]) -> str:
    rows = []
    for name, body in known.items():
        shapes = ", ".join(f"{count} {label}" for label, count in body["label"].value_counts().items())
        middle, worst = body["kl_bits"].median(), body["kl_bits"].max()
        about = f"{_count(body) / 1e6:.1f} M", f"{_share(body):.0%}", f"{middle:.4f}", f"{worst:.3f}", cell(shapes)
        rows.append((f"[{titled(name)}](#atlas-{name})", *about))
    return _markdown(["model", "judged weights", "Gaussian", "median kl_bits", "largest", "shapes"], "lrrrrl", rows)


def _models(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """A map for each model, all with the same colours, and where it comes from."""
    return "\n".join(_model(record, name, body, folder) for name, body in known.items())


def _model(record: pd.DataFrame, name: str, body: pd.DataFrame, folder: Path) -> str:
    about = named(name)
    fig, ax = plots.figure(max(plots.map_height(body), 3.0))
    plots.depth_role_map(ax, body, "kl_bits", findings.KL_BOUND, "kl_bits", span=(1e-3, 0.2))
    figure = _figure(
        fig, folder, name, f"Heat map of kl_bits of {titled(name)} by layer and role.",
        f"{titled(name)}: kl_bits by layer and role. Framed: beyond 0.02 bits. All maps of this page have the same "
        "colours.",
    )  # fmt: skip
    kind = body["quantized"].iloc[0] if (body["quantized"] != "").any() else ", ".join(body["dtype"].unique())
    origin = f"; published as {about.origin}" if about.origin else ""
    worst = body.loc[body["kl_bits"].idxmax()]
    lead = (
        f"(atlas-{name})=\n### {titled(name)}\n\n`{name}`: {about.what}. {about.family}, {about.modality}, "
        f"stored as {kind}. From the package `{about.package}` ({about.licence}){origin}; {_cited(about.citation)}.\n"
    )
    told = (
        f"{len(body)} matrices, {_count(body):,} weights, **{_share(body):.1%}** in Gaussian ones. The farthest "
        f"is {code(worst['tensor'])} ({worst['kl_bits']:.3f} bits, {worst['label']}). {_health(record, name)}\n"
    )
    return f"{lead}\n{figure}\n{told}"


def _cited(citation: str) -> str:
    kind, _, number = citation.partition(":")
    return f"[{citation}]({'https://arxiv.org/abs/' if kind == 'arXiv' else 'https://doi.org/'}{number})"


def _health(record: pd.DataFrame, name: str) -> str:
    """What the checks of chapter 13 say of the model: untrained or damaged matrices, layers in order."""
    rows = census.part(record, name, "health")
    if rows.empty:
        return ""
    matrices = rows[rows["tensor"].notna()] if "tensor" in rows else rows.head(0)
    counts = matrices["state"].value_counts()
    some = [f"{count} {state} ({', '.join(matrices.loc[matrices['state'] == state, 'role'].unique())})"
            for state, count in counts.items()]  # fmt: skip
    found = ", ".join(some) or "none untrained or damaged"
    towers = rows.loc[rows.index.difference(matrices.index), "state"].str.partition(": ")[[0, 2]]
    words = towers[0].where(~towers[2].str.contains("fewer than"), "too few to see an order").unique()
    return f"Matrices: {found}. Layers: {', '.join(word.removeprefix('layers ') for word in words)}."


def _shapes(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """The clearest real matrix of each shape but the Gaussian."""
    rows = record[(record["part"] == "shapes") & record["density"].notna()] if "density" in record else record.head(0)
    if rows.empty:
        return "No model has two matrices of one of the three shapes.\n"
    groups = list(rows.groupby(["label", "model"], sort=True))
    fig, axes = plots.figure(0.9 + 1.7 * len(groups), nrows=len(groups), sharex=True, squeeze=False)
    for ax, ((label, model), some) in zip(axes[:, 0], groups, strict=True):
        ax.set_yscale("log")
        ax.step(some["z"], some["density"].where(some["density"] > 0), where="mid", color=plots.COLOURS["data"], lw=1.4)
        plots.gaussian(ax, reach=6)
        name = plots.literal(some["tensor"].iloc[0].removesuffix(".weight"), 36)
        ax.set(title=f"{label}, {titled(model)}:\n{name}", ylim=(1e-6, 5), xlim=(-6, 6))
    axes[-1, 0].set_xlabel("(weight − mean) / std")
    fig.supylabel("density")
    figure = _figure(
        fig, folder, "shapes", "Histograms of real matrices on logarithmic axes beside the Gaussian.",
        "Of each shape that at least two matrices of a model have, the matrix that shows it most clearly (blue), "
        "beside the Gaussian (orange), on a logarithmic axis.",
    )  # fmt: skip
    counts = pd.DataFrame({name: body["label"].value_counts() for name, body in known.items()}).fillna(0).astype(int)
    words = []
    for label in NOT_GAUSSIAN:
        of = counts.loc[label] if label in counts.index else counts.iloc[0] * 0
        some = ", ".join(f"{n} in {titled(name)}" for name, n in of[of > 0].items())
        words.append(f"**{label}**: {some or 'none'}")
    return f"{figure}\nMatrices of each shape among those judged: {'; '.join(words)}.\n"


def _roles(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """Which roles and layers depart most, as ratios to the model's own median."""
    ratios = {name: body.groupby("role")["kl_bits"].median() / body["kl_bits"].median() for name, body in known.items()}
    table = pd.DataFrame(ratios).T
    roles = [role for role in in_order(table.columns) if role != "other"]
    firsts = {name: _first_layers(body) for name, body in known.items()}
    figures = {name: (*table.loc[name, roles], firsts[name]) for name in known}
    rows = [(titled(name), *("–" if np.isnan(one) else f"{one:.2g}" for one in some)) for name, some in figures.items()]
    own = _own(known)
    each = {role: table.loc[own, role].dropna() for role in roles}
    told = [f"{role} {int((some > 1).sum())} of {len(some)}" for role, some in each.items()]
    first = pd.Series(firsts)[own].dropna()
    said = (
        f"Above the model’s own median: {'; '.join(told)}; first layers {int((first > 1).sum())} of {len(first)} "
        f"models; fine-tunes of a model that is here are not counted. Of {len(own)} models, {_needed(len(own))} must "
        "agree for a sign test at 5 %, and there are as many tests as columns."
    )
    return f"{_markdown(['model', *roles, 'first layers'], 'l' + 'r' * (len(roles) + 1), rows)}\n{said}\n"


def _first_layers(body: pd.DataFrame) -> float:
    """Median `kl_bits` of the first layers over that of all; NaN of fewer than three layers."""
    depth = body["depth"].dropna()
    if depth.nunique() < 3:
        return float("nan")
    first = body["depth"] < max(1, round(FIRST * depth.nunique()))
    return float(body.loc[first.fillna(False), "kl_bits"].median() / body["kl_bits"].median())


def _needed(count: int) -> str:
    """How many of so many signs must agree for a two-sided sign test at 5 %."""
    for agreeing in range(count // 2, count + 1):
        if stats.binomtest(agreeing, count).pvalue <= 0.05 and agreeing > count / 2:
            return str(agreeing)
    return "more than there are"


def _pairs(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """The real fine-tunes: the share of W₀ that is left, and g; and two models that are no longer kin."""
    found = census.pairs(record)
    rows = ((f"[{titled(name)}](#atlas-{name})", *map(cell, row)) for name, *row in found.itertuples())
    made = _markdown(["", *found.columns], "l" + "r" * len(found.columns), rows)
    return f"{made}\n{census.of_decay(record)}\n\n{_kin(record)}\n"


def _kin(record: pd.DataFrame) -> str:
    rows = record[record["part"] == "kin"]
    if rows.empty:
        return ""
    one, other = rows["model"].iloc[0], rows["base"].iloc[0]
    layers, around = rows[rows["depth"].notna()], rows[rows["depth"].isna()]
    words, most = around.loc[around["likeness"].abs().idxmax()], layers.loc[layers["likeness"].abs().idxmax()]
    noise = 3 / math.sqrt(_sizes(record, one)[most["tensor"]])
    return (
        f"**A control for kinship.** {titled(one)} and {titled(other)} bear one parent’s name, and their "
        f"{code(words['tensor'].split('.')[-2])} still correlate by {words['likeness']:.2f}. Of {len(layers)} pairs "
        f"of matrices of one role, at all depths, the largest correlation is {most['likeness']:.3f}, of {most['role']} "
        f"matrices (three standard errors of noise: {noise:.3f}): no layer is a copy of another, though a trace may be "
        "left. Neither is compared with the other as if it were its fine-tune."
    )


def _sizes(record: pd.DataFrame, model: str) -> pd.Series:
    """Entries of each matrix of a model."""
    return census.part(record, model, "values", "none").set_index("tensor")["numel"]


def _quantized(record: pd.DataFrame, known: dict[str, pd.DataFrame], folder: Path) -> str:
    """One model in several formats: what of the distance from the Gaussian is the format's."""
    rows = record[record["part"] == "quantized"]
    if rows.empty:
        return ""
    lines = []
    for row in rows.itertuples():
        shares, bits = (row.read, row.spread), (row.kl_read, row.kl_spread)
        figures = *(f"{one:.0%}" for one in shares), *(f"{one:.4f}" for one in bits), f"{row.labels:.0%}"
        lines.append((cell(row.quantized), *figures))
    first = rows.iloc[0]
    published = f"*as published, {titled(first['model'])} in float32*"
    lines.append((published, f"{first['stored']:.0%}", "", f"{first['kl_stored']:.4f}", "", ""))
    head = ["format", "F1, dequantized", "F1, spread", "kl_bits, dequantized", "kl_bits, spread", "labels kept"]
    return f"{_markdown(head, 'lrrrrr', lines)}\n{_near_the_bound(known)}\n"


def _near_the_bound(known: dict[str, pd.DataFrame]) -> str:
    """F1's share of quantized models at a tenth less and more than its bound, in sentences."""
    told = []
    for name, body in known.items():
        if (body["quantized"] != "").any():
            low, high = (findings.gaussian_share(body, findings.KL_BOUND * by)[0] for by in (0.9, 1.1))
            told.append(f"{titled(name)} {low:.1%} and {high:.1%} instead of {_share(body):.1%}")
    if not told:
        return ""
    return (
        f"With a bound a tenth lower or higher F1’s share would be, of the model that is quantized: {'; '.join(told)}."
    )


_PAGES = {
    "_atlas_all.md": _all, "_atlas_models.md": _models, "_atlas_shapes.md": _shapes, "_atlas_roles.md": _roles,
    "_atlas_pairs.md": _pairs, "_atlas_quantized.md": _quantized,
}  # fmt: skip
