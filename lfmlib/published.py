"""Numbers that others have published, with their source, to lay beside ours."""

from __future__ import annotations

import pandas as pd

HALF_NORMAL_K = 1.2054
"""Weibull k of the absolute values of a Gaussian, middle 80 % (Ding 2026, arXiv 2605.18898, Appendix A.1)."""


def weibull_k() -> pd.DataFrame:
    """Published Weibull k of 12 public models, from the benchmark that ships with `npm-weibull-py`.

    Source: Ding (2026), arXiv 2605.18898, DATABASE_v9_1 (CC BY 4.0). Its entries are the intervals in which the median
    k over the layers of a component is expected.

    Returns:
        One row per model and component: model, component ("q", "k", "v, o" or, where stored fused, "qkv"), low, high.
    """
    from npm_weibull import DATABASE_v9_1

    names = {"q": "q", "k": "k", "v_o": "v, o", "qkv": "qkv"}
    rows = [
        {"model": model, "component": label, "low": entry[key][0], "high": entry[key][1]}
        for model, entry in DATABASE_v9_1.items()
        for component, label in names.items()
        if (key := f"expected_{component}_med_k") in entry
    ]
    return pd.DataFrame(rows)


def summarize_k(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Weibull k of one model in the same form: the middle half of the layers of each published component.

    Args:
        table: from `lfmlib.survey`.
        model: its name.
    """
    component = table["role"].replace({"v": "v, o", "o": "v, o"})
    middle = table["weibull_k"].groupby(component).quantile([0.25, 0.75]).unstack()
    rows = middle.set_axis(["low", "high"], axis=1).rename_axis("component").reset_index()
    rows = rows[rows["component"].isin(["q", "k", "v, o", "qkv"])]
    return rows.assign(model=f"this model: {model}")
