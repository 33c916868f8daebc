"""The sentences of chapter 5 follow from what was measured."""

import numpy as np
import pandas as pd
import pytest

import lfmlib
from lfmlib.chapters import ch05_spectrum
from lfmlib.structure import controls, made_matrices
from lfmlib.structure.bulk import bulks


@pytest.mark.parametrize(
    "departure, size, cause, bulk",
    [
        ("noise", 0, "there was little to explain", "the bulk passes for noise"),
        ("rank three", 0.4, "most of it is ties between rows", "the bulk passes for noise"),
        ("row scales", 0.5, "most of it is the work of unequal scales", "the bulk is not noise either"),
    ],
)
def test_takeaways_say_what_came_out(departure, size, cause, bulk):
    matrix = made_matrices.matrix(departure, size, (128, 160), np.random.default_rng(0))
    table = lfmlib.arrangement({"layers.0.mlp.up_proj.weight": matrix}, controls=controls.CONTROLS, progress=False)
    said = ch05_spectrum.takeaways(table, bulks([matrix]), "minilm").split("\n")
    assert len(said) == 3 and said[0].startswith("- The median matrix of MiniLM has ")
    assert said[1].endswith(f"{cause}.") and said[2].endswith(f"{bulk}.")


def test_the_share_unlike_noise_is_told_by_side():
    leading = pd.DataFrame({"side": ["left", "left", "right"], "excess_kurtosis": [0.0, 9.0, 9.0]})
    said = ch05_spectrum.concentrated(leading.assign(null_low=-1.0, null_high=1.0))
    assert "left **50%**, right **100%**" in said


def test_the_estimate_is_near_the_exact_distribution():
    matrix = np.random.default_rng(0).standard_normal((96, 128))
    assert "standard errors" in ch05_spectrum.estimated(matrix)
