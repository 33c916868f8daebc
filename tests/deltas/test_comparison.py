"""ΔW: the budget adds up and equals numpy's, planted truths come out, pairs are found or refused with a reason."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import lfmlib
from lfmlib import findings
from lfmlib.deltas.budget import blocks
from lfmlib.deltas.comparison import compare, delta, figures
from lfmlib.deltas.trends import depth_trend

ROLES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def made(seed: int = 0, layers: int = 8, shape=(64, 96), dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{layer}.{role}.weight": (0.02 * torch.randn(shape, generator=generator)).to(dtype)
        for layer in range(layers)
        for role in ROLES
    }


def moved(base: dict, change, seed: int = 1) -> dict[str, torch.Tensor]:
    """The base with ``change(w, noise, layer)`` added, noise of the standard deviation of w."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, w in base.items():
        noise = w.double().std() * torch.randn(w.shape, generator=generator, dtype=torch.float64)
        found[name] = (w.double() + change(w.double(), noise, int(name.split(".")[2]))).to(w.dtype)
    return found


def test_the_budget_adds_up_and_is_numpys():
    base = made()
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise - 0.05 * w + 1e-4)
    table = compare(base, tuned, progress=False)
    assert table["tensor"].tolist() == list(tuned)
    total = table["std_base"] ** 2 + table["std_delta"] ** 2 + 2 * table["cov"]
    assert (total / table["std_tuned"] ** 2 - 1).abs().max() < 1e-10
    for row in table.to_dict("records"):
        w, w0 = (some[row["tensor"]].double().numpy() for some in (tuned, base))
        d = w - w0
        expected = {
            **{"std_base": w0.std(), "std_tuned": w.std(), "std_delta": d.std(), "std_gain": w.std() - w0.std()},
            "gain": (w.var() - w0.var()) / d.var(),
            "corr": np.corrcoef(d.ravel(), w0.ravel())[0, 1],
            "moved": np.sqrt(np.mean(d**2) / np.mean(w0**2)),
            "rounding_std": np.sqrt(np.mean(np.spacing(np.abs(w).astype(np.float32)).astype(float) ** 2) / 12),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-10)
        assert row["ks"] == pytest.approx(lfmlib.normality(d).ks, abs=1e-3)


def test_rounding_alone_leaves_its_floor():
    base = made(dtype=torch.bfloat16, layers=2)
    tuned = moved(base, lambda w, noise, layer: 1e-4 * noise)
    row = compare(base, tuned, progress=False).iloc[0]
    assert row["zeros"] > 0.9 and row["std_delta"] < row["rounding_std"]
    tuned = moved(base, lambda w, noise, layer: 0.3 * noise)
    row = compare(base, tuned, progress=False).iloc[0]
    assert row["zeros"] < 0.05 and row["std_delta"] > 10 * row["rounding_std"]


#: what is planted → the change of W₀, and whether the table of the pair says so
PLANTED = {
    "independent noise widens": (
        lambda w, noise, layer: 0.2 * noise,
        lambda table, own: (
            findings.f6(table, "made", {}).verdict == findings.OF_NOISE_TOO and abs(own["gain"].median() - 1) < 0.2
        ),
    ),
    "a known growth of the std": (
        lambda w, noise, layer: 0.1 * w,
        lambda table, own: np.allclose(own["std_gain"] / own["std_base"], 0.1, atol=1e-4) and (own["gain"] > 5).all(),
    ),
    "negative covariance narrows": (
        lambda w, noise, layer: -0.1 * w + 0.02 * noise,
        lambda table, own: findings.f6(table, "made", {}).verdict == "contradicted" and (own["corr"] < -0.9).all(),
    ),
    "a trend with depth": (
        lambda w, noise, layer: 0.05 * (1 + 0.2 * layer) * noise,
        lambda table, own: findings.f7(own, "made", {}).verdict == "supported",
    ),
    "a trend that falls": (
        lambda w, noise, layer: 0.05 * (1 + 0.2 * (5 - layer)) * noise,
        lambda table, own: findings.f7(own, "made", {}).value == 0 and (depth_trend(own)["rho"] < -0.9).all(),
    ),
    "no trend": (
        lambda w, noise, layer: 0.05 * noise,
        lambda table, own: findings.f7(own, "made", {}).verdict == "contradicted",
    ),
    "a sparse update": (
        lambda w, noise, layer: torch.where(noise > 0.04, noise, 0.0),
        lambda table, own: (
            np.allclose(own["zeros"], 1 - 0.0228, atol=0.01)
            and (own["kl_bits"] > 0.1).all()
            and findings.qq_share(own) == 0
        ),
    ),
    "a Gaussian update": (
        lambda w, noise, layer: 0.1 * noise,
        lambda table, own: findings.qq_share(own) == 1 and (own["kl_bits"] < 0.01).all(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_truths_come_out_in_19_of_20(name):
    change, seen = PLANTED[name]
    right = 0
    for seed in range(20):
        base = made(seed, layers=6)
        tuned = moved(base, change, seed + 100)
        controls = ["noise"] if "f6" in seen.__code__.co_names else []
        table = compare(base, tuned, progress=False, controls=controls, seed=seed)
        own = table[table["control"] == "none"]
        right += bool(seen(table, own))
    assert right >= 19


def test_noise_so_small_that_chance_gives_g_its_sign_is_not_judged():
    for seed in range(20):
        base = made(seed, layers=3, shape=(64, 64))
        tuned = moved(base, lambda w, noise, layer: 0.01 * noise, seed + 100)
        found = findings.f6(compare(base, tuned, progress=False, controls=["noise"], seed=seed), "made", {})
        assert found.verdict == found.control_verdict == "undecided" and found.interval == (0, 1)


def test_noise_in_place_of_delta_is_of_its_size_and_type():
    base = made(dtype=torch.bfloat16, layers=2)
    tuned = moved(base, lambda w, noise, layer: torch.where(noise > 0.02, noise, 0.0))
    table = compare(base, tuned, progress=False, controls=["noise"])
    assert table["control"].tolist() == ["none", "noise"] * 6
    own, noise = (table[table["control"] == kind].reset_index() for kind in ("none", "noise"))
    assert np.allclose(own["std_delta"], noise["std_delta"], rtol=0.05)
    assert (noise["kl_bits"] < own["kl_bits"]).all() and (noise["gain"] - 1).abs().max() < 0.3
    again = compare(base, tuned, progress=False, controls=["noise"])
    assert again.equals(table)
    assert not compare(base, tuned, progress=False, controls=["noise"], seed=1).equals(table)
    with pytest.raises(ValueError, match="unknown control 'fresh'"):
        compare(base, tuned, progress=False, controls=["fresh"])


def test_the_delta_of_one_matrix():
    base = made(layers=1)
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(
        delta({"model.layers.0.self_attn.q_proj.weight": base[name]}, tuned, name), tuned[name] - base[name]
    )
    with pytest.raises(ValueError, match=r"no pair for 'x': mapping has no such matrix"):
        delta(base, tuned, "x")


def test_square_matrices_stored_the_other_way_round():
    base = made(layers=2, shape=(64, 64))
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise)
    turned = {name: w.T.contiguous() if "v_proj" in name else w for name, w in tuned.items()}
    straight, found = (compare(base, one, progress=False) for one in (tuned, turned))
    assert np.allclose(found["std_delta"], straight["std_delta"], rtol=1e-9)


@pytest.mark.slow
@settings(max_examples=25)
@example(rows=4, columns=16, shift=0.619140625, size=1e-06, seed=0)  # all of ΔW in one cell of the sketch
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    shift=st.floats(-1, 1),
    size=st.floats(1e-6, 10),
    seed=st.integers(0, 10**6),
)
def test_the_budget_adds_up_for_any_shape_and_size(rows, columns, shift, size, seed):
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(rows, columns, generator=generator)
    new = old + shift + size * torch.randn(rows, columns, generator=generator)
    row = figures(blocks(new), old, "float32")
    if row["std_tuned"] > 0:
        total = row["std_base"] ** 2 + row["std_delta"] ** 2 + 2 * row["cov"]
        assert total == pytest.approx(row["std_tuned"] ** 2, rel=1e-10, abs=1e-14)


def test_no_trend_is_seldom_taken_for_one():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(100):
        rows = [{"role": "q", "depth": layer, "std_delta": rng.random()} for layer in range(6)]
        alarms += depth_trend(pd.DataFrame(rows)).iloc[0]["p"] <= 0.05
    assert alarms <= 12  # 5 expected


def test_exact_p_of_a_perfect_rise():
    rows = [{"role": "q", "depth": layer, "std_delta": layer**2} for layer in range(6)]
    found = depth_trend(pd.DataFrame(rows)).iloc[0]
    assert (found["rho"], found["rho_interior"]) == (1.0, 1.0)
    assert found["p"] == pytest.approx(1 / 720) and found["p_interior"] == pytest.approx(1 / 24)


# --- pairing --------------------------------------------------------------------------------------------------------


def test_other_prefixes_reordered_and_missing_tensors():
    base = made(layers=3)
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise)
    renamed = {f"wrapped.{name}": w for name, w in reversed(tuned.items())}
    del renamed["wrapped.model.layers.1.mlp.down_proj.weight"]
    renamed["score.weight"] = torch.randn(64, 96)
    table = compare(base, renamed, progress=False)
    assert table["tensor"].tolist() == list(renamed)[:-1]
    assert (table["base_tensor"] == table["tensor"].str.removeprefix("wrapped.")).all()
    assert (table["corr"].abs() < 0.2).all() and (table["moved"] < 0.12).all()
    reasons = table.attrs["skipped"]
    assert reasons["score.weight"] == "only in the tuned model (mapping)"
    assert reasons["model.layers.1.mlp.down_proj.weight"] == "only in the base (mapping)"


def test_transposed_storage_and_a_grown_vocabulary():
    base = made(layers=2) | {"model.embed_tokens.weight": torch.randn(100, 96)}
    tuned = moved({name: w for name, w in base.items() if "layers" in name}, lambda w, noise, layer: 0.1 * noise)
    tuned = {name: w.T.contiguous() if "v_proj" in name else w for name, w in tuned.items()}
    tuned["model.embed_tokens.weight"] = torch.cat([base["model.embed_tokens.weight"], torch.randn(8, 96)])
    tuned["model.layers.0.self_attn.q_proj.weight"] = torch.randn(32, 96)
    table = compare(base, tuned, progress=False).set_index("tensor")
    assert (table.loc[[name for name in table.index if "v_proj" in name], "moved"] < 0.12).all()
    assert table.loc["model.embed_tokens.weight", "zeros"] == 1.0
    assert "of shape (32, 96)" in table.attrs["skipped"]["model.layers.0.self_attn.q_proj.weight"]


def test_strangers_are_refused():
    base = made()
    with pytest.raises(ValueError, match=r"no fine-tune of the base \(mapping\): .* by -?0\.0\d\d in the median"):
        compare(base, made(seed=9), progress=False)
    with pytest.raises(ValueError, match=r"no matrix in common: found other\.0"):
        compare(base, {"other.0": torch.randn(50, 60)}, progress=False)


def test_one_layer_alone_finds_its_own_place():
    """Its short names would fit every layer; the long one decides, whatever the order."""
    base = made(layers=4)
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise)
    alone = {f"wrapped.{name}": w for name, w in tuned.items() if ".2." in name}
    table = compare(dict(reversed(base.items())), alone, progress=False)
    assert (table["base_tensor"] == table["tensor"].str.removeprefix("wrapped.")).all() and len(table) == 3


def test_a_head_of_other_classes_is_not_a_grown_one():
    base = made(layers=1) | {"classifier.weight": torch.randn(3, 96)}
    tuned = {name: w + 0.01 * torch.randn(w.shape) for name, w in base.items()}
    tuned["classifier.weight"] = torch.randn(6, 96)
    table = compare(base, tuned, progress=False)
    assert "unlike those of classifier.weight" in table.attrs["skipped"]["classifier.weight"]


def test_a_selection_does_not_miss_what_it_left_out():
    base = made(layers=2)
    table = compare(base, moved(base, lambda w, noise, layer: 0.1 * noise), select=r"layers\.1\.", progress=False)
    assert len(table) == 3 and not any("layers.0." in name for name in table.attrs["skipped"])


def test_the_rounding_floor_of_zeros_and_of_eight_bits():
    generator = torch.Generator().manual_seed(0)
    dense = 0.02 * torch.randn(256, 256, generator=generator)
    sparse = torch.where(torch.rand(256, 256, generator=generator) < 0.5, dense, 0.0)
    whole, half = (figures(blocks(w), w, "bfloat16")["rounding_std"] for w in (dense.bfloat16(), sparse.bfloat16()))
    assert half == pytest.approx(whole / 2**0.5, rel=0.02)
    eight = (100 * dense).to(torch.float8_e4m3fn)
    error = (eight.float() - 100 * dense).square().mean().sqrt().item()
    assert figures(blocks(eight), eight, "float8_e4m3fn")["rounding_std"] == pytest.approx(error, rel=0.1)


def test_noise_beside_an_unrounded_adapter_is_not_rounded():
    base = {"layers.0.q_proj.weight": (0.02 * torch.randn(128, 128)).bfloat16()}
    tuned = {"layers.0.q_proj.weight": base["layers.0.q_proj.weight"].float() + 2e-4 * torch.randn(128, 128)}
    table = compare(base, tuned, progress=False, controls=["noise", "permuted"]).set_index("control")
    assert (table["zeros"] < 0.01).all() and (table["kl_bits"] < 0.01).all()
    assert table.loc["permuted", "std_delta"] == pytest.approx(table.loc["none", "std_delta"], rel=1e-4)


def test_factors_of_an_adapter_are_no_model(tmp_path):
    factors = {"layers.0.q_proj.lora_A.weight": torch.randn(4, 96), "layers.0.q_proj.lora_B.weight": torch.randn(64, 4)}
    with pytest.raises(ValueError, match=r"the tuned model \(mapping\) holds factors of an adapter.*adapter_config"):
        compare(made(layers=1), factors, progress=False)


def test_towers_and_experts_have_profiles_of_their_own():
    rows = [
        {"role": "q", "tower": tower, "depth": depth, "std_delta": sign * depth + expert}
        for tower, sign in (("text", 1), ("vision", -1))
        for depth in range(5)
        for expert in (0, 0, 100)
    ]
    found = depth_trend(pd.DataFrame(rows)).set_index("role")
    assert found.loc[["text.q", "vision.q"], "rho"].tolist() == pytest.approx([1, -1])


def test_a_large_delta_is_streamed_and_says_the_same(monkeypatch):
    base = made(layers=1)
    tuned = moved(base, lambda w, noise, layer: 0.1 * noise)
    whole = compare(base, tuned, progress=False, controls=["noise"])
    monkeypatch.setattr("lfmlib.deltas.comparison.HELD", 100)
    monkeypatch.setattr("lfmlib.deltas.budget.BLOCK_VALUES", 500)
    streamed = compare(base, tuned, progress=False, controls=["noise", "permuted"])
    assert streamed["control"].tolist() == whole["control"].tolist() and streamed["top_ratio"].isna().all()
    for name in ("std_delta", "gain", "corr", "ks", "kl_bits", "qq_r2", "zeros"):
        assert streamed[name].to_numpy() == pytest.approx(whole[name].to_numpy(), rel=1e-10), name


def test_with_one_shard_gone_every_table_has_its_other_rows_and_says_why(tmp_path):
    torch.manual_seed(0)
    for model, moved in (("base", 0.0), ("tuned", 0.01)):
        (tmp_path / model).mkdir()
        weight_map = {}
        for i in range(3):
            shard, name = f"model-{i + 1:05}-of-00003.safetensors", f"layers.{i}.q_proj.weight"
            w = torch.randn(64, 96, generator=torch.Generator().manual_seed(i))
            save_file({name: w + moved * torch.randn(64, 96)}, tmp_path / model / shard)
            weight_map[name] = shard
        (tmp_path / model / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": weight_map}), encoding="utf-8"
        )
    base, tuned = (lfmlib.open_checkpoint(tmp_path / model) for model in ("base", "tuned"))
    (tmp_path / "tuned" / "model-00002-of-00003.safetensors").unlink()
    tables = (
        lfmlib.survey(tuned, progress=False),
        lfmlib.survey(tuned, progress=False, keep=tmp_path / "kept"),
        lfmlib.survey(tuned, progress=False, sample=16_384),
        lfmlib.arrangement(tuned, progress=False),
        lfmlib.laws(tuned, progress=False),
        lfmlib.compare(base, tuned, progress=False),
        lfmlib.compare(tuned, base, progress=False),
        lfmlib.overlap(base, tuned, progress=False),
    )
    for table in tables:
        assert table["tensor"].tolist() == ["layers.0.q_proj.weight", "layers.2.q_proj.weight"]
        assert "model-00002-of-00003.safetensors" in table.attrs["skipped"]["layers.1.q_proj.weight"]


def test_equal_weights_are_told():
    weights = {"layers.0.q_proj.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    with pytest.warns(UserWarning, match="ΔW is exactly zero in all 1 matrices: mapping and mapping hold the same"):
        table = lfmlib.compare(weights, dict(weights), progress=False)
    assert table["std_delta"].tolist() == [0.0]
    with pytest.raises(ValueError, match=r"the column 'role' holds .*: expected a figure, as in std_delta"):
        lfmlib.depth_trend(table, column="role")


def test_two_sizes_of_a_family_are_told_apart_by_their_shapes():
    models = ({"layers.0.q_proj.weight": torch.randn(side, side)} for side in (64, 96))
    with pytest.raises(ValueError, match=r"have no matrix of one shape: layers.0.q_proj.weight is of shape \(96, 96\)"):
        lfmlib.compare(*models, progress=False)
