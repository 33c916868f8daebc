"""All verdicts at one look: a grid of claims and models, each cell a link to the chapter that measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..checkpoints.named import named, titled
from .finding import Finding
from .markup import escaped
from .rules import CHAPTERS, STATEMENTS
from .scoreboard import NOT_JUDGED, SIGNS, css, own_model, value

SHORT = {
    "F1": "Gaussian",
    "F2": "from any start",
    "F3": "odd shapes",
    "F4": "i.i.d.",
    "F5": "ΔW from noise",
    "F6": "ΔW raises σ",
    "F7": "ΔW grows with depth",
    "F8": "ΔW widens the radius",
    "F9": "zero-mean",
    "F10": "symmetric",
    "F11": "sparse",
    "F12": "truncated Gaussian",
    "F13": "helps adaptation",
    "F14": "helps editing",
}
"""The statements in two words."""


def grid(found: Sequence[Finding], sizes: Mapping[str, int]) -> str:
    """Claims × models as an HTML table: published models first, by size, then those trained here.

    A model that a claim was judged on in several ways, such as tasks or starts, has a sign for each in one cell.

    Args:
        found: of all models.
        sizes: model → its judged weights, for the order and the head; a model that is not in it comes last.
    """
    own = own_model(list(found))
    published = {column(one) for one in found if one.model == own or named(one.model)}
    sizes = {titled(name): size for name, size in sizes.items()}
    columns = sorted(
        dict.fromkeys(column(one) for one in found), key=lambda name: (name not in published, -sizes.get(name, 0))
    )
    head = "".join(f"<th scope='col'><span>{escaped(name)}{_size(sizes.get(name))}</span></th>" for name in columns)
    rows = [f"<thead><tr><td></td>{head}</tr></thead><tbody>"]
    for id_ in STATEMENTS:
        cells = "".join(_cell(id_, [one for one in found if one.id == id_ and column(one) == name]) for name in columns)
        title = escaped(STATEMENTS[id_])
        rows.append(f"<tr><th scope='row' title='{title}'><b>{id_}</b> <span>{SHORT[id_]}</span></th>{cells}</tr>")
    signs = " ".join(f"<span><b class='{css(one)}'>{sign}</b> {one}</span>" for one, sign in SIGNS.items())
    key = f"<p class='lfm-key'>{signs} <span><b>{NOT_JUDGED}</b> not judged</span></p>"
    table = f"<table class='lfm-grid'>{''.join(rows)}</tbody></table>"
    label = "aria-label='claims and models' role='region' tabindex='0'"
    return f"<div class='lfm-scroll lfm-grid-box mathjax_ignore' {label}>{table}</div>{key}\n"


def column(finding: Finding) -> str:
    """The model that a finding stands under: a fine-tune or a way of training under the model it is of."""
    return titled(finding.model.split(",")[0])


def _size(weights: int | None) -> str:
    return "" if weights is None else f" <small>{weights / 1e6:.3g}\u00a0M</small>"


def _cell(id_: str, some: list[Finding]) -> str:
    """The signs of one claim on one model, and in words what they say; empty where it was not asked."""
    if not some:
        return "<td></td>"
    told = "; ".join(f"{titled(one.model)}: {_verdict(one)}" for one in some)
    marks = "".join(
        f"<b class='{css(one.verdict)}'>{SIGNS[one.verdict]}</b>" if one.value is not None else f"<b>{NOT_JUDGED}</b>"
        for one in some
    )
    link = f"../notebooks/{CHAPTERS[id_]}.html"
    label = escaped(f"{id_}, {told}")
    return f"<td><a href='{link}' title='{label}' aria-label='{label}'>{marks}</a></td>"


def _verdict(one: Finding) -> str:
    return f"{one.verdict}, {value(one)}" if one.value is not None else "not judged"
