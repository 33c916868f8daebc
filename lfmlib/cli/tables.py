"""Tables on stdout: on a terminal the columns that matter and fit, elsewhere plain text with all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SURVEY = (
    "tensor", "kl_bits", "kl_bits_low", "kl_bits_high", "kl_bits_null_high", "gg_shape", "excess_kurtosis", "label",
    "std", "shape", "dtype", "tail_bits", "ks", "role", "quantized",
)  # fmt: skip
COMPARE = (
    "tensor", "control", "std_delta", "std_gain", "gain", "corr", "kl_bits", "kl_bits_null_high", "label", "top_ratio",
    "moved", "zeros", "rounding_std", "shape", "dtype",
)  # fmt: skip
OVERLAP = ("tensor", "size", "alike", "conflict", "outliers", "energy", "reach_single", "reach", "factor", "numel")
MODELS = ("name", "here", "megabytes", "what", "licence", "modality", "family", "base", "package", "citation", "place")
"""Columns on a terminal, as many as fit from the left; the first one always."""
REASONS = 4
"""Reasons for skipping tensors that are named."""


def show(table: pd.DataFrame, columns: Sequence[str], rows: int) -> str:
    """Print a table, and return what was left out and how to get it; empty where nothing was.

    Args:
        table: any.
        columns: to be shown on a terminal, the most important first.
        rows: at most, on a terminal; 0: all.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        print("\n".join(_lines(table)))
        return ""
    shown = table.head(rows) if rows else table
    text = _fitting({name: [_text(one, 4) for one in shown[name]] for name in columns if name in table}, console.width)
    console.print(_rich(text, table))
    if len(shown) == len(table) and len(text) == len(table.columns):
        return ""
    parts = f"{len(shown):,} of {len(table):,} rows and {len(text)} of {len(table.columns)} columns"
    more = "; all rows here: --rows 0" if len(shown) < len(table) else ""
    return f"shown are {parts}; all of them: --out table.csv (or .parquet, .json){more}"


def skipped(table: pd.DataFrame) -> str:
    """How many tensors have no row, and why, in a line; empty where all have one."""
    reasons = Counter(table.attrs.get("skipped", {}).values())
    named = [f"{count} × {reason}" for reason, count in reasons.most_common(REASONS)]
    if others := reasons.total() - sum(count for _, count in reasons.most_common(REASONS)):
        named.append(f"{others} for other reasons")
    return f"skipped {reasons.total():,} tensors: {'; '.join(named)}" if named else ""


def visible(text: object) -> str:
    r"""Words on one line, what a terminal would obey and not show as its code; names in a file may hold anything.

    Examples:
        >>> from lfmlib.cli.tables import visible
        >>> visible("\x1b[31mred\n")
        '\\x1b[31mred\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _lines(table: pd.DataFrame) -> list[str]:
    """All of a table as aligned text, numbers to the right."""
    columns = []
    for name in table:
        cells = [str(name), *(_text(one, 6) for one in table[name])]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if _numeric(table[name]) else cell.ljust(width) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _fitting(text: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """The first columns that fit side by side; the very first is folded where it is longer than half of the width."""
    kept, left = {}, width
    for name, cells in text.items():
        needed = max(map(len, [name, *cells]))
        left -= needed + 2 if kept else min(needed, max(20, width // 2))
        if kept and left < 0:
            break
        kept[name] = cells
    return kept


def _rich(text: dict[str, list[str]], table: pd.DataFrame):
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, name in enumerate(text):
        found.add_column(
            name, justify="right" if _numeric(table[name]) else "left", no_wrap=i > 0, overflow="fold",
        )  # fmt: skip
    for row in zip(*text.values(), strict=True):
        found.add_row(*map(Text, row))  # a name in brackets is no style of rich's
    return found


def _numeric(column: pd.Series) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(column) and not is_bool_dtype(column)


def _text(value: object, digits: int) -> str:
    """A cell on one line: floats with so many digits, shapes as 64×96, a dash for what is not there."""
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.{digits}g}"
    return "–" if value is None or str(value) in ("", "<NA>") else visible(value)
