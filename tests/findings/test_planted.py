"""Noise and planted effects of the size that each rule names, called right in at least 19 of 20 draws: census findings.

Those of the others stand where they are measured: F4 in `tests/surveys/test_arrangements.py`, F6 and F7 in
`tests/deltas/test_comparison.py`, F2 and F11 to F14 with their records, F5 and F8 in `test_f5_to_f8.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import lfmlib
from lfmlib import findings


def gaussian(rng):
    return rng.standard_normal((128, 128))


def student(rng):
    """kl_bits of 0.04: twice the bound."""
    return rng.standard_t(6, (128, 128))


def shifted(rng):
    """A mean of 0.08 standard deviations, over a bound of 0.05."""
    return rng.standard_normal((128, 128)) + 0.08


def skewed(rng):
    """A gamma law of skewness 0.5: 0.06 from its mirror image, over a bound of 0.02, and kl_bits of 0.028."""
    return (rng.gamma(16, size=(128, 128)) - 16) / 4


def inverted_t(rng):
    spike = rng.random((128, 128)) < 0.7
    return np.where(spike, 1.0, 8.0) * rng.standard_normal((128, 128))


def spiky(rng):
    return rng.laplace(size=(128, 128))


def straight(rng):
    return rng.triangular(-1, 0, 1, (128, 128))


TRUE = findings.OF_NOISE_TOO
PLANTED = [
    ([gaussian] * 4, {"F1": TRUE, "F9": TRUE, "F10": TRUE, "F3": "contradicted"}),
    ([student] * 4, {"F1": "contradicted", "F9": TRUE, "F10": TRUE}),
    ([gaussian, gaussian, student, gaussian], {"F1": "partly"}),
    ([shifted] * 4, {"F1": TRUE, "F9": "contradicted", "F10": TRUE}),
    ([skewed] * 4, {"F1": "contradicted", "F9": TRUE, "F10": "contradicted"}),
    ([inverted_t, inverted_t, spiky, spiky, straight, straight], {"F3": "supported", "F1": "contradicted"}),
    ([spiky, spiky, gaussian, gaussian], {"F3": "partly"}),
    ([spiky, gaussian, gaussian, gaussian], {"F3": "contradicted"}),
]


@pytest.mark.parametrize(
    ("laws", "expected"), PLANTED, ids=[" ".join(law.__name__ for law in laws) for laws, _ in PLANTED]
)
def test_planted_truths_come_out_in_19_of_20(laws, expected):
    right = dict.fromkeys(expected, 0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = {f"layers.{k}.q_proj.weight": (0.02 * law(rng)).astype("float32") for k, law in enumerate(laws)}
        table = lfmlib.survey(model, progress=False)
        noise = lfmlib.noise_twin(table, seed=seed)
        about = table, noise, "made"
        found = {"F1": findings.f1(*about, {}), "F9": findings.f9(*about, {}), "F10": findings.f10(*about, {})}
        found["F3"] = findings.f3(*about, [], ["sharp", "inverted-t", "linear"], {})
        for name, verdict in expected.items():
            right[name] += found[name].verdict == verdict
    assert min(right.values()) >= 19, right
