"""Numbers that others have published, with their source, to lay beside ours."""

from __future__ import annotations

import numpy as np
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


def recipes() -> pd.DataFrame:
    """Published training recipes, and what weight decay alone leaves of the start.

    Decoupled weight decay multiplies the weights by 1 - rate × decay in every step, so that after training exp(-decay ×
    sum of the rates) of the start is left, whatever the gradients added. Warm-up of rates and batches is left out.

    Sources: BERT (Devlin et al. 2019, arXiv 1810.04805, A.2), GPT-3 (Brown et al. 2020, arXiv 2005.14165, Table 2.1 and
    Appendix B), CLIP (Radford et al. 2021, arXiv 2103.00020, Tables 18 and 20), Llama 2 (Touvron et al. 2023, arXiv
    2307.09288, Section 2.2).

    Returns:
        One row per model: peak rate, steps, mean rate over peak, weight decay, part of the start that is left.
    """
    gpt3 = (260 * 0.55 + 40 * 0.1) / 300  # cosine to a tenth over 260 of 300 billion tokens, then flat
    rows = [
        ("BERT base", 1e-4, 1_000_000, 0.5, 0.01),  # linear to zero
        ("GPT-3 175B", 0.6e-4, 300_000_000_000 // 3_200_000, gpt3, 0.1),
        ("GPT-3 125M", 6e-4, 300_000_000_000 // 500_000, gpt3, 0.1),
        ("CLIP ViT-B/32", 5e-4, 32 * 400_000_000 // 32_768, 0.5, 0.2),  # cosine to zero
        ("Llama 2 7B", 3e-4, 2_000_000_000_000 // 4_000_000, 0.55, 0.1),  # cosine to a tenth
    ]
    table = pd.DataFrame(rows, columns=["model", "peak rate", "steps", "mean / peak", "weight decay"])
    spent = table["peak rate"] * table["steps"] * table["mean / peak"] * table["weight decay"]
    return table.assign(left=np.exp(-spent))
