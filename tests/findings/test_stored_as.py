"""A chapter says of a quantized model that it is quantized, and how."""

import torch

import lfmlib
from lfmlib import findings


def test_types_and_quantizations_are_said():
    weights = {"layers.0.q_proj.weight": torch.randn(64, 64), "layers.0.k_proj.weight": torch.randn(64, 64).half()}
    assert findings.stored_as(lfmlib.open_checkpoint(weights)) == "Stored as float16, float32."
    weights["layers.0.v_proj.weight"] = torch.randint(-127, 127, (64, 64), dtype=torch.int8)
    weights["layers.0.v_proj.weight_scale"] = torch.rand(64, 1)
    words = findings.stored_as(lfmlib.open_checkpoint(weights))
    assert words.startswith("**1 of 3 matrices are quantized** (int8, a scale for 1 × 64). What is said of their")
    assert "values spread evenly over the steps of their codes; all else" in words
    assert words.endswith("The others are stored as float16, float32.")


def test_levels_that_are_no_intervals_are_said():
    weights = {"layers.0.v_proj.weight": torch.quantize_per_tensor(torch.randn(64, 64), 0.1, 0, torch.qint8)}
    words = findings.stored_as(lfmlib.open_checkpoint(weights))
    assert "**1 of 1 matrices are quantized**" in words and "is said of the quantizer’s own levels" in words
