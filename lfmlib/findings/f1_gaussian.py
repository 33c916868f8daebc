"""F1: weights predominantly follow a Gaussian distribution."""

from __future__ import annotations

import pandas as pd

from .finding import Finding
from .rules import RULES, STATEMENTS, judge
from .shares import TOO_SMALL, eligible, gaussian, sampled, share


def agreement(table: pd.DataFrame) -> pd.Series:
    """Spearman correlation of `kl_bits` with other distances from the Gaussian, over the rows of a survey."""
    others = pd.DataFrame(
        {
            "ks": table["ks"],
            "wasserstein": table["wasserstein"],
            "abs(gg_shape − 2)": (table["gg_shape"] - 2).abs(),
            "abs(excess kurtosis)": table["excess_kurtosis"].abs(),
        }
    )
    return others.corrwith(table["kl_bits"], method="spearman")


def f1(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F1 from a survey and its noise twin; not judged where no matrix is eligible."""
    body = eligible(table)
    control = noise[noise["tensor"].isin(body["tensor"])]
    hits, rule = gaussian(body), RULES["F1"]
    value, interval = share(body, hits), sampled(body, gaussian)  # none where every weight was read
    details = {"reason": TOO_SMALL} if body.empty else _f1_details(body, hits, control)
    return Finding(
        id="F1",
        model=model,
        statement=STATEMENTS["F1"],
        metric="share of parameters in matrices with kl_bits ≤ 0.02",
        value=None if body.empty else value,
        interval=None if body.empty else interval,
        null=None if body.empty else share(control, gaussian(control)),
        rule=rule.text,
        verdict="undecided" if body.empty else judge(rule, value, interval),
        provenance=provenance,
        details=details,
    )


def _f1_details(body: pd.DataFrame, hits: pd.Series, control: pd.DataFrame) -> dict:
    return {
        "matrices": len(body),
        "parameters": int(body["numel"].sum()),
        "share_of_matrices": float(hits.mean()),
        "share_at_0.05": share(body, gaussian(body, 0.05)),
        "kl_bits_median": float(body["kl_bits"].median()),
        "kl_bits_max": float(body["kl_bits"].max()),
        "tail_bits_median": float(body["tail_bits"].median()),
        "tail_bits_max": float(body["tail_bits"].max()),
        "noise_kl_bits_max": float(control["kl_bits"].max()),
    }
