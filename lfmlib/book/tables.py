"""Tables in a chapter: small ones as they are, the numbers behind a figure folded, long ones as files to take away."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from pathlib import Path

import pandas as pd
from IPython.display import HTML, display

from ..findings.finding import whole
from ..findings.markup import escaped, to_html
from . import TEMPORARY

__all__ = ["download", "say", "table"]

LINKED = 2_000_000
"""Bytes up to which a table travels inside the page that links to it."""


def say(text: str, fold: str = "") -> None:
    """Show sentences that hold measured numbers (see `lfmlib.findings.markup`).

    Args:
        text: the sentences.
        fold: words on the line that opens them, where they are to be folded; empty: they stand open.
    """
    said = to_html(text)
    shown = _folded(fold, said) if fold else said
    display({"text/html": shown, "text/plain": text}, raw=True)


def table(
    frame: pd.DataFrame, index: bool = True, percent: bool = False, most: int | None = None, fold: str = ""
) -> None:
    """Show a small table: floats with four decimals or as per cent, whole numbers with thousands separated, and words
    as they are, never as markup.

    Args:
        frame: what is shown.
        index: with its index.
        percent: floats as per cent.
        most: of a longer table the first rows are shown, and a sentence says so.
        fold: words on the line that opens the table, as of the numbers behind a figure, with a link to it as a CSV
            file; empty: it stands open.
    """
    if most is not None and len(frame) > most:
        table(frame.head(most), index, percent, fold=fold)
        return say(f"The first {most} of {len(frame):,} rows.")
    shown = _html(frame, index, percent)
    if fold:
        flat = frame.reset_index() if index else frame
        name = re.sub(r"[^a-z0-9]+", "-", fold.lower()).strip("-")[:60]
        shown = _folded(fold, f"<p>{_link(f'{name}.csv', _csv(flat))}</p>{shown}")
    display(HTML(shown))


def _html(frame: pd.DataFrame, index: bool, percent: bool) -> str:
    def shown(value) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, float):
            return f"{100 * value:.1f}\u00a0%" if percent else f"{value + 0.0:.4f}".replace("-0.0000", "0.0000")
        return f"{value:,}" if isinstance(value, int) else escaped(value)

    text = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    floats = [] if percent else frame.select_dtypes("float")
    whole = [name for name in floats if frame[name].notna().any() and (frame[name].dropna() % 1 == 0).all()]
    frame = frame.astype(dict.fromkeys(whole, "Int64")).astype(object)
    frame = frame.rename_axis(index=_axis_name, columns=_axis_name)  # which pandas puts into HTML as they are
    style = frame.style.format(shown).format_index(escaped, axis=0).format_index(escaped, axis=1)
    style = style.set_table_attributes('class="dataframe lfm-table mathjax_ignore"')
    style = style.set_properties(subset=text, **{"text-align": "left"})
    return (style if index else style.hide(axis="index")).to_html()


def _axis_name(name: object) -> str | None:
    return None if name is None else escaped(name)


def _folded(line: str, html: str) -> str:
    return f'<details class="lfm-fold mathjax_ignore"><summary>{escaped(line)}</summary>{html}</details>'


def download(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write tables as CSV and Parquet into ``folder``, and show where; the CSV files also as links that hold them."""
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for name, frame in tables.items():
        flat = frame.assign(shape=frame["shape"].map(str)) if "shape" in frame else frame.copy()
        flat.attrs = {}  # what a survey notes there is not JSON, which Parquet would make of it
        text = _csv(flat)
        with whole(folder / f"{name}.csv") as part:
            part.write_text(text, encoding="utf-8")
        with whole(folder / f"{name}.parquet") as part:
            flat.to_parquet(part, index=False)
        size = f"{len(flat):,} rows, {len(text) / 1000:,.0f} kB"
        link = _link(f"{name}.csv", text)
        links.append(f"{link if len(text) < LINKED else f'{name}.csv'} ({size})")
    where = f"They lie, also as Parquet, in <code>{escaped(folder)}</code>."
    if any(part.startswith(TEMPORARY) for part in folder.resolve().parts):
        where = "<code>lfmlib report --results FOLDER</code> keeps them as files, also as Parquet."
    display(HTML(f"<p>{'; '.join(links)}. {where}</p>"))


def _csv(flat: pd.DataFrame) -> str:
    words = flat.select_dtypes(exclude="number").columns
    return flat.assign(**{str(one): flat[one].map(_no_formula) for one in words}).to_csv(index=False)


def _link(name: str, text: str) -> str:
    """A link that holds a CSV file."""
    data = b64encode(text.encode()).decode()
    return f'<a download="{name}" href="data:text/csv;base64,{data}">{name}</a>'


def _no_formula(value: object) -> object:
    """A cell of a CSV file; a word that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
