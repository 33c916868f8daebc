"""What a snapshot keeps of a model in training: the survey of its matrices, and what each still has of its start."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from ..distribution.distances import measure
from ..surveys.values import survey

_SURVEY = (
    "tensor", "role", "depth", "numel", "zeros", "std", "skewness", "excess_kurtosis", "ks", "kl_bits",
    "kl_bits_null_high", "tail_bits", "gg_shape", "label",
)  # fmt: skip


@torch.no_grad()
def trace(now: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> pd.DataFrame:
    """One row per matrix: columns of its survey, and those of `kept`.

    Args:
        now: name → matrix.
        start: the same matrices before the first step.
    """
    now = {name: value.detach().cpu() for name, value in now.items()}
    table = survey(now, progress=False)[list(_SURVEY)]
    return table.join(pd.DataFrame([kept(now[name], start[name].cpu()) for name in table["tensor"]], index=table.index))


def kept(now: torch.Tensor, start: torch.Tensor) -> dict[str, float]:
    """What one matrix W (out, in) has kept of its start W₀.

    Returns:
        moved: root mean square of W - W₀ over that of W₀.
        left: slope of the regression of W on W₀, the part of the start that is still there.
        memory: Pearson correlation of the entries of W and W₀.
        added_kl_bits: `kl_bits` of what training added, the residual of W after regression on W₀; NaN at step 0.
        rows_alike: mean squared cosine between rows (columns, where they are fewer) times their length: 1 for
            independent entries, 0 for an orthogonal matrix.
        top_ratio: largest singular value over the Marchenko–Pastur edge RMS(W) (√out + √in): about 1 for noise.
        zeros_seen: how well abs(W) still tells the entries that began at zero from the others, as the area under the
            ROC curve: 1 perfectly, 0.5 not at all; NaN where less than a hundredth, or all, began there.
    """
    w, w0 = now.double().numpy(), start.double().numpy()
    change, scale = w - w0, math.sqrt(np.mean(w0**2))
    centred = w0 - w0.mean()
    slope = np.mean(w * centred) / np.mean(centred**2)
    began = w0.ravel() != 0
    tellable = 0 < began.mean() < 0.99
    return {
        "moved": math.sqrt(np.mean(change**2)) / scale,
        "left": float(slope),
        "memory": float(slope * centred.std() / w.std()),
        "added_kl_bits": measure((w - slope * w0).astype(np.float32))["kl_bits"] if change.any() else math.nan,
        **_arrangement(w),
        "zeros_seen": _told_apart(np.abs(w).ravel(), began) if tellable else math.nan,
    }


def _told_apart(values: np.ndarray, larger: np.ndarray) -> float:
    """Area under the ROC curve of values that are to be larger where ``larger`` is true: Mann and Whitney's U."""
    from scipy.stats import rankdata

    one, other = int(larger.sum()), int((~larger).sum())
    return float((rankdata(values)[larger].sum() - one * (one + 1) / 2) / (one * other))


def _arrangement(w: np.ndarray) -> dict[str, float]:
    """`rows_alike` and `top_ratio`, both from one Gram matrix."""
    w = w if w.shape[0] <= w.shape[1] else w.T
    count, length = w.shape
    gram = w @ w.T
    squares = np.diag(gram)
    whole = squares > 0  # a sparse start can leave a row empty
    cosines = gram[whole][:, whole] ** 2 / np.outer(squares[whole], squares[whole])
    off = (cosines.sum() - whole.sum()) / (count * (count - 1))
    edge = math.sqrt(np.mean(w**2)) * (math.sqrt(count) + math.sqrt(length))
    return {"rows_alike": float(off * length), "top_ratio": math.sqrt(np.linalg.eigvalsh(gram)[-1]) / edge}
