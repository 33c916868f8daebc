"""F1: weights predominantly follow a Gaussian distribution."""

from __future__ import annotations

import pandas as pd

from .finding import Finding
from .shares import TOO_SMALL, eligible, gaussian, interval_over_samples, share


def agreement(table: pd.DataFrame) -> pd.Series:
    """Spearman correlation of `kl_bits` with other distances from the Gaussian, over the rows of a survey.

    Args:
        table: from `lfmlib.survey`.

    Returns:
        Index: the other distances.
    """
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
    """Finding F1 of a checkpoint; not judged where no matrix is eligible.

    Args:
        table: from `lfmlib.survey`.
        noise: its `lfmlib.noise_twin`.
        model: its name.
        provenance: of the model.
    """
    body = eligible(table)
    if body.empty:
        return Finding.of("F1", model, provenance, {"reason": TOO_SMALL})
    control, hits = noise[noise["tensor"].isin(body["tensor"])], gaussian(body)
    details = {
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
    interval, null = interval_over_samples(body, gaussian), share(control, gaussian(control))
    return Finding.of("F1", model, provenance, details, share(body, hits), interval, null)
