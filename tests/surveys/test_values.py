"""One row per matrix, the same on every executor, and what becomes of tensors that cannot have one."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib import findings
from lfmlib.distribution import nulls
from lfmlib.surveys.rows import by_tower
from lfmlib.surveys.values import noise_twin, survey

MEASURED = {"q": torch.randn(64, 64, generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module")
def minilm():
    return survey("minilm", progress=False)


def mapping():
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.q_proj.weight": torch.randn(64, 64, generator=generator).bfloat16(),
        "layers.1.q_proj.weight": torch.randn(64, 96, generator=generator),
        "layers.0.bias": torch.randn(64, generator=generator),
        "ids": torch.arange(6).reshape(2, 3),
        "mask": torch.ones(2, 2, dtype=torch.bool),
        "conv.weight": torch.randn(4, 4, 3, 3, generator=generator),
        "empty": torch.empty(0, 5),
        "constant": torch.full((64, 64), 0.5),
        "lost": torch.full((64, 64), float("nan")),
        "holes": torch.where(torch.arange(4096).reshape(64, 64) % 100 == 0, torch.inf, torch.ones(64, 64)),
        "huge": torch.full((2, 2), 1e300, dtype=torch.float64),
    }


def test_minilm_has_its_forty_matrices(minilm):
    assert len(minilm) == 40
    assert minilm["role"].value_counts().to_dict() == dict.fromkeys("qkvo", 6) | {
        "up": 6,
        "down": 6,
        "embed": 3,
        "pooler": 1,
    }
    assert "int64" in minilm.attrs["skipped"]["embeddings.position_ids"]
    assert "1-D" in minilm.attrs["skipped"]["encoder.layer.0.output.dense.bias"]
    checkpoint = lfmlib.open_checkpoint("minilm")
    listed = [info.name for info in checkpoint.tensors]
    assert minilm["tensor"].tolist() == [name for name in listed if name in set(minilm["tensor"])]
    assert len(minilm) + len(minilm.attrs["skipped"]) == len(listed) + len(checkpoint.skipped)


def test_minilm_figures(minilm):
    rows = minilm.set_index("tensor")
    assert rows.loc["encoder.layer.0.output.dense.weight", "excess_kurtosis"] == pytest.approx(1582, abs=0.5)
    encoder = minilm[minilm["role"].isin(["q", "k", "v", "o", "up", "down"])]
    assert encoder["kl_bits"].median() == pytest.approx(0.013, abs=0.0005)
    assert encoder["gg_shape"].between(1.15, 1.95).all()


def test_the_pooler_is_noise(minilm):
    """Each band holds 95 % of noise, so of ten figures one may miss; the distance that leads may not."""
    pooler = minilm[minilm["role"] == "pooler"].iloc[0]
    inside = {name: pooler[f"{name}_null_low"] <= pooler[name] <= pooler[f"{name}_null_high"] for name in nulls.FIGURES}
    assert inside["kl_bits"] and inside["ks"] and inside["gg_shape"]
    assert sum(inside.values()) >= len(inside) - 1, inside


def test_rows_equal_the_statistics_of_the_values(minilm):
    checkpoint = lfmlib.open_checkpoint("minilm")
    row = minilm.iloc[7]
    values = checkpoint.read(row["tensor"]).double().numpy()
    assert row["mean"] == pytest.approx(values.mean(), rel=1e-12, abs=1e-18)
    assert row["std"] == pytest.approx(values.std(), rel=1e-12)
    assert row["count"] == row["numel"] == values.size
    assert row["shape"] == values.shape
    assert row["kl_bits"] == lfmlib.normality(checkpoint.read(row["tensor"])).kl_bits


def test_every_executor_gives_the_same_table():
    select = r"layer\.[01]\."
    alone = survey("minilm", select=select, progress=False)
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(2) as processes:
        for executor in (threads, processes):
            pd.testing.assert_frame_equal(survey("minilm", select=select, executor=executor, progress=False), alone)
            assert executor.submit(int, 3).result() == 3  # it is the caller's, and still open


def test_what_cannot_be_measured_is_said_and_the_rest_is_kept():
    table = survey(mapping(), progress=False)
    skipped = table.attrs["skipped"]
    assert table["tensor"].tolist() == ["layers.0.q_proj.weight", "layers.1.q_proj.weight", "constant", "lost", "holes"]
    for name, words in {
        "layers.0.bias": "1-D",
        "ids": "int64",
        "mask": "bool",
        "conv.weight": "4-D",
        "empty": "no values",
        "huge": "outside float32's range",
    }.items():
        assert words in skipped[name]
    rows = table.set_index("tensor")
    assert rows.loc["constant", "std"] == 0 and np.isnan(rows.loc["constant", "kl_bits"])
    assert rows.loc["lost", ["count", "nonfinite"]].tolist() == [0, 4096]
    assert rows.loc["holes", "nonfinite"] == 41


@pytest.mark.parametrize("measure", [lfmlib.survey, lfmlib.arrangement, lfmlib.laws, partial(lfmlib.compare, MEASURED)])
def test_warnings_name_the_line_that_asked(measure):
    wrong = MEASURED | {"zeros": torch.zeros(64, 64), "w": torch.zeros(64, 64, dtype=torch.int8)}
    with pytest.warns(UserWarning) as caught:
        measure(wrong, progress=False)
    assert {one.filename for one in caught} == {__file__}


def test_an_empty_model_has_an_empty_table():
    table = survey({"bias": torch.zeros(3)}, progress=False)
    assert table.empty and "kl_bits" in table
    with pytest.raises(ValueError, match="nothing to measure"):
        findings.shown(table)


def test_noise_twin_is_noise_like_the_table(minilm):
    twin = noise_twin(minilm, seed=3)
    assert twin["tensor"].tolist() == minilm["tensor"].tolist()
    assert twin["std"].to_numpy() == pytest.approx(minilm["std"].to_numpy(), rel=0.2)
    assert (twin["count"] == minilm["count"]).all()
    big = twin["numel"] > 10_000
    assert (twin["kl_bits"] < 0.001)[big].all()
    some = noise_twin(minilm[minilm["role"] == "q"], seed=3)
    pd.testing.assert_frame_equal(some, twin[twin["role"] == "q"].reset_index(drop=True))
    assert not (noise_twin(minilm, seed=4)["ks"] == twin["ks"]).any()


INTERRUPTED = """
import os, signal, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
import torch, lfmlib
from lfmlib.surveys import values
plain = values._measured
done = []
def slow(*tensor, **options):
    if len(done) >= 3:
        time.sleep(0.5)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)
    done.append(1)
    return plain(*tensor, **options)
values._measured = slow
weights = {f"layers.{i}.q_proj.weight": torch.randn(2048, 2048) for i in range(12)}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with ThreadPoolExecutor(1) as one:
        table = lfmlib.survey(weights, executor=one, progress=False)
print(len(table), table.attrs["interrupted"], caught[0].message, sorted(set(table.attrs["skipped"].values())))
"""


@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_that_were_finished():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, timeout=120, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert "True interrupted: 3 of 12 tensors measured ['interrupted before it was measured']" in run.stdout
    assert run.stdout.startswith("3 ")


def test_select_reports_only_its_own(minilm):
    table = survey("minilm", select="pooler", progress=False)
    assert table["tensor"].tolist() == ["pooler.dense.weight"]
    assert set(table.attrs["skipped"]) == {"pooler.dense.bias"}


def test_the_towers_of_a_model_are_told_apart():
    """Their layers share their depths: a column names the tower, and roles do where there are several."""
    weights = {
        f"{tower}.layers.{i}.fc1.weight": torch.randn(64, 64) for tower in ("encoder", "decoder") for i in (0, 1)
    }
    weights["decoder.embed_tokens.weight"] = torch.randn(64, 64)
    table = lfmlib.survey(weights, progress=False)
    assert table["tower"].tolist() == ["encoder", "encoder", "decoder", "decoder", "decoder"]
    assert by_tower(table).tolist() == ["encoder.up", "encoder.up", "decoder.up", "decoder.up", "embed"]
    assert lfmlib.noise_twin(table)["tower"].tolist() == table["tower"].tolist()
    one = lfmlib.survey({name: weights[name] for name in list(weights)[:2]}, progress=False)
    assert by_tower(one).tolist() == ["up", "up"] and set(one["tower"]) == {""}
    arranged = lfmlib.arrangement(weights, progress=False)
    assert set(arranged["tower"]) == set(lfmlib.laws(weights, progress=False)["tower"]) == {"encoder", "decoder"}
