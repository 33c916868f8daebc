"""What the page on the lab prints of rehearsals: how recorded cells came out under other instruction sets."""

from __future__ import annotations

import math

from .. import records
from ..findings.markup import code


def table() -> str:
    """One row for each record, as Markdown."""
    lines = [
        "| Record | Cells | Rehearsed | Drawn from | Came apart | Largest part of a tolerance, of those that did not |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in records.EXPERIMENTS:
        found = records.rehearsed(name)
        largest = "–" if math.isnan(found.largest) else f"{found.largest:.2g}"
        where = f" ({code(found.metric)})" if found.metric else ""
        lines.append(
            f"| {code(name)} | {found.recorded} | {found.cells} | {found.steady} | {found.apart} | {largest}{where} |"
        )
    return "\n".join(lines) + "\n"
