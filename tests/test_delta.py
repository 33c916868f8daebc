"""ΔW: the budget adds up and equals numpy's, planted truths come out, pairs are found or refused with a reason."""

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib.delta import compare, depth_trend

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


@pytest.mark.parametrize("seed", range(20))
def test_planted_truths_come_out(seed):
    base = made(seed)
    growing = moved(base, lambda w, noise, layer: 0.05 * (1 + 0.2 * layer) * noise, seed)
    table = compare(base, growing, progress=False)
    assert (table["std_gain"] > 0).mean() > 0.6  # independent noise widens, on average
    trend = depth_trend(table)
    assert trend["role"].tolist() == ["q", "v", "down"] and (trend["rho"] > 0.9).all() and (trend["p"] < 0.01).all()
    shrinking = compare(base, moved(base, lambda w, noise, layer: -0.1 * w + 0.02 * noise, seed), progress=False)
    assert (shrinking["std_gain"] < 0).all() and (shrinking["corr"] < -0.9).all()
    sparse = compare(
        base, moved(base, lambda w, noise, layer: torch.where(noise > 0.04, noise, 0.0), seed), progress=False
    )
    assert (sparse["zeros"] > 0.9).all() and (sparse["kl_bits"] > 0.1).all()


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
    assert reasons["score.weight"] == "only in mapping"
    assert reasons["model.layers.1.mlp.down_proj.weight"] == "only in mapping"


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
    with pytest.raises(ValueError, match=r"no fine-tune of mapping: .* correlate by -?0\.0\d\d in the median"):
        compare(base, made(seed=9), progress=False)
    with pytest.raises(ValueError, match=r"no matrix in common: found other\.0"):
        compare(base, {"other.0": torch.randn(50, 60)}, progress=False)
