"""What several ΔW have in common: planted likeness, conflict and outliers come out; noise shows what chance gives."""

import math

import numpy as np
import pytest
import torch

import lfmlib

NAME = "model.layers.3.mlp.up_proj.weight"
SHAPE = (120, 100)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def looked_at(*deltas: torch.Tensor, **options):
    base = {NAME: noise(99), "model.norm.weight": torch.ones(100)}
    tuned = [{NAME: base[NAME] + 0.1 * one, "model.norm.weight": torch.ones(100)} for one in deltas]
    table = lfmlib.overlap(base, tuned, progress=False, **options)
    assert list(table["tensor"]) == [NAME]
    return table.iloc[0]


def test_unlike_noise_is_what_chance_gives():
    row = looked_at(noise(0), noise(1), noise(2))
    assert row["size"] == pytest.approx(0.1, rel=0.02) and (row["role"], row["depth"]) == ("up", 3)
    assert abs(row["alike"]) < 3 / math.sqrt(12_000)
    assert row["conflict"] == pytest.approx(0.75, abs=0.02)
    assert row["outliers"] == row["energy"] == 0 and row["factor"] == 1 and np.isnan(row["reach"])


def test_planted_likeness_conflict_and_outliers_come_out():
    one = noise(0)
    row = looked_at(one, 0.6 * one + 0.8 * noise(1))
    assert row["alike"] == pytest.approx(0.6, abs=0.03)
    assert row["conflict"] == pytest.approx(math.acos(0.6) / math.pi, abs=0.02)  # of two Gaussians (Sheppard 1899)
    first, second = noise(2), noise(3)
    first.view(-1)[::300], second.view(-1)[7::300] = 20.0, -20.0
    row = looked_at(first, second)
    assert row["outliers"] == pytest.approx(2 / 300, rel=0.1) and row["energy"] > 0.5
    assert row["reach_single"] == pytest.approx(20, rel=0.1) and row["factor"] == pytest.approx(math.sqrt(2), rel=0.1)


def test_a_single_model_has_no_pairs():
    row = looked_at(noise(0))
    assert np.isnan(row["alike"]) and np.isnan(row["conflict"]) and row["size"] > 0


def test_what_cannot_be_looked_at_says_so():
    base = {NAME: noise(0)}
    with pytest.raises(ValueError, match="expected at least one, beside the base"):
        lfmlib.overlap(base, [])
    with pytest.raises(ValueError, match="lacks 1 of the 1 tensors"):
        lfmlib.overlap(base, [{"other.weight": noise(0)}])
    with pytest.raises(ValueError, match="ΔW is exactly zero in all 1 matrices"):
        lfmlib.overlap(base, [base])
    small = {"w": torch.ones(3, 3)}
    with pytest.raises(ValueError, match="no matrix of 4,096 or more entries"):
        lfmlib.overlap(small, [small])
    with pytest.raises(ValueError, match="matches none of the 1 tensors"):
        lfmlib.overlap(base, [base], select="attention")


def test_what_has_no_row_is_told():
    base = {"experts.up_proj": torch.randn(4, 64, 96), "q_proj.weight": noise(0), "k_proj.weight": noise(1)}
    base |= {"small.weight": torch.randn(8, 8), "norm.weight": torch.ones(8)}
    tuned = {name: w + 0.1 * torch.randn(w.shape) for name, w in base.items()}
    tuned["k_proj.weight"][0, 0] = torch.nan
    with pytest.warns(UserWarning, match="2 tensors were not read, and the table lacks what it holds"):
        table = lfmlib.overlap(base, [tuned], progress=False)
    said = table.attrs["skipped"]
    assert table["tensor"].tolist() == ["q_proj.weight"] and set(said) == set(base) - {"q_proj.weight", "norm.weight"}
    assert said["experts.up_proj"].startswith("a stack of matrices (4, 64, 96)")
    assert said["k_proj.weight"] == "1 values of ΔW are not finite"
    assert said["small.weight"] == "of 64 entries: 4,096 or more are looked at"


def test_a_vocabulary_that_grew_leaves_out_the_embedding_alone():
    base = {"embed_tokens.weight": torch.randn(96, 64), "q_proj.weight": noise(0)}
    tuned = {"embed_tokens.weight": torch.randn(100, 64), "q_proj.weight": noise(0) + 0.1 * noise(1)}
    with pytest.warns(UserWarning, match="1 tensor was not read.*their vocabularies differ"):
        table = lfmlib.overlap(base, [tuned], progress=False)
    assert table["tensor"].tolist() == ["q_proj.weight"]
    said = table.attrs["skipped"]["embed_tokens.weight"]
    assert 'lfmlib.merge` merges what they have in common by vocabulary="common"' in said
    with pytest.raises(ValueError, match="their vocabularies differ"):
        lfmlib.overlap(base, [tuned], select="embed", progress=False)


def test_fused_matrices_are_looked_at_as_they_are_stored():
    base = {
        "transformer.h.0.attn.c_attn.weight": torch.randn(64, 192),
        "transformer.h.0.attn.c_attn.bias": torch.ones(192),
    }
    tuned = {name: one + 0.01 * torch.randn(one.shape) for name, one in base.items()}
    table = lfmlib.overlap(base, [tuned, tuned], progress=False)
    assert list(table["numel"]) == [64 * 192] and table["alike"].item() == pytest.approx(1)


def test_a_base_of_zeros_is_not_called_the_same_weights():
    rng = np.random.default_rng(0)
    zeros, tuned = {"a.weight": torch.zeros(64, 64)}, [{"a.weight": torch.from_numpy(rng.standard_normal((64, 64)))}]
    assert math.isnan(lfmlib.overlap(zeros, tuned, progress=False)["size"].iloc[0])


def test_strangers_are_refused():
    rng = np.random.default_rng(0)
    one, other = ({"a.weight": torch.from_numpy(rng.standard_normal((64, 64)))} for _ in range(2))
    with pytest.raises(ValueError, match="is no fine-tune of the base"):
        lfmlib.overlap(one, [other], progress=False)
