"""What the calibration page and chapters 4 and 5 read off the record `calibration`: false alarms and power."""

from __future__ import annotations

import pandas as pd
from scipy import stats

from ..experiments.calibration import COUNTS, EDGE, INDEPENDENT, TESTS
from ..structure import made_matrices


def false_alarms(record: pd.DataFrame) -> pd.DataFrame:
    """Each test's alarms on noise.

    Returns:
        Index: test. Columns: level (what it should be), draws, rate, low, high (95 % Clopper–Pearson interval of the
        rate), worst (shape and type with the most alarms), worst_rate, and beyond: how many of the combinations have an
        interval that leaves the level out. `transpose_corr` is counted on square matrices alone.
    """
    noise = record[record["departure"] == "noise"]
    found = {}
    for name in (*TESTS, EDGE):
        level = 0.01 if name == EDGE else 0.05
        known = noise[noise["rows"] == noise["columns"]] if name == "transpose_corr" else noise
        each = known.groupby(["rows", "columns", "dtype"])[[name, "draws"]].sum()
        rates = each[name] / each["draws"]
        r, c, dtype = rates.idxmax()
        inside = [
            _interval(k, n)[0] <= level <= _interval(k, n)[1] for k, n in zip(each[name], each["draws"], strict=True)
        ]
        alarms, draws = int(each[name].sum()), int(each["draws"].sum())
        low, high = _interval(alarms, draws)
        found[name] = {
            **{"level": level, "draws": draws, "rate": alarms / draws, "low": low, "high": high},
            **{"worst": f"{r} × {c} {dtype}", "worst_rate": float(rates.max()), "beyond": len(inside) - sum(inside)},
            "combinations": len(inside),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def power(record: pd.DataFrame, rows: int, columns: int) -> pd.DataFrame:
    """Share of made matrices of one shape that each test finds unlike noise.

    Returns:
        Index: departure and size. Columns: tests and legs.
    """
    some = record[(record["rows"] == rows) & (record["columns"] == columns) & (record["dtype"] == "float32")]
    grouped = some.groupby(["departure", "size"], sort=False)[[*COUNTS, "draws"]].sum()
    return grouped[list(COUNTS)].div(grouped["draws"], axis=0)


def page(record: pd.DataFrame) -> str:
    """The tables of the calibration page, in Markdown."""
    rates = false_alarms(record)
    lines = [
        "## False alarms on noise",
        "",
        "| Test | Should be | Is | 95 % interval | Worst | Combinations beyond their interval |",
        "|---|---:|---:|---|---|---:|",
    ]
    for name, row in rates.iterrows():
        lines.append(
            f"| `{name}` | {row['level']:.0%} | {row['rate']:.2%} | {row['low']:.2%} to {row['high']:.2%} "
            f"| {row['worst_rate']:.1%} ({row['worst']}) | {row['beyond']} of {row['combinations']} |"
        )
    beyond, cells = int(rates["beyond"].sum()), int(rates["combinations"].sum())
    lines += [
        "",
        f"{int(rates['draws'].min()):,} noise matrices for each test. Of {cells} combinations of test, shape and type, "
        f"{beyond} have an interval that leaves out what should be; chance alone would give about {0.05 * cells:.0f}.",
        "",
        "## Independent and identical, but not Gaussian",
        "",
        *_shares(power(record, 384, 384), ["noise", *INDEPENDENT]),
        "",
        "## Power",
    ]
    for departure, meaning in made_matrices.DEPARTURES.items():
        lines += ["", f"### {departure.capitalize()}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
        lines += _shares(power(record, 384, 384), [departure])
    return "\n".join(lines) + "\n"


def _shares(found: pd.DataFrame, departures: list[str]) -> list[str]:
    """Lines of a table: tests downwards, departures and their sizes across, whole per cent."""
    some = found.loc[departures]
    heads = [
        f"{departure} {size:g}".removesuffix(" 0") if len(departures) > 1 else f"{size:g}"
        for departure, size in some.index
    ]
    lines = [f"| Test | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    lines += [f"| `{name}` | {' | '.join(f'{value:.0%}' for value in some[name])} |" for name in some]
    return lines


def _interval(alarms: int, draws: int) -> tuple[float, float]:
    found = stats.binomtest(alarms, draws).proportion_ci()
    return float(found.low), float(found.high)
