"""A survey that was stopped goes on from what it has, and never from what is no longer true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib.provenance import ROOT
from lfmlib.surveys import run, values


def save(path: Path, seed: int, count: int = 6, rows: int = 64) -> Path:
    rng = np.random.default_rng(seed)
    tensors = {
        f"layers.{i}.{path.stem}.weight": torch.tensor(rng.standard_normal((rows, 48)), dtype=torch.float32)
        for i in range(count)
    }
    save_file(tensors, path)
    return path


@pytest.fixture
def shards(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    names = {}
    for number, stem in enumerate(("q_proj", "up_proj"), start=1):
        path = save(folder / f"{stem}.safetensors", number)
        path = path.rename(folder / f"model-{number:05}-of-00002.safetensors")
        names |= {f"layers.{i}.{stem}.weight": path.name for i in range(6)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    return folder


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """How many values each tensor has that is measured from here on."""
    counts, measure = [], values._figures

    def counted(found, name):
        counts.append(found.values.count)
        return measure(found, name)

    monkeypatch.setattr(values, "_figures", counted)
    return counts


def test_what_is_kept_is_not_measured_again_and_the_table_is_the_same(shards, measured, tmp_path):
    plain = lfmlib.survey(shards, progress=False)
    first = lfmlib.survey(shards, progress=False, keep=tmp_path / "kept")
    measured.clear()
    second = lfmlib.survey(shards, progress=False, keep=tmp_path / "kept")
    assert measured == []
    pd.testing.assert_frame_equal(first, plain)
    pd.testing.assert_frame_equal(second, plain)
    assert second.attrs == plain.attrs
    some = lfmlib.survey(shards, select="q_proj", progress=False, keep=tmp_path / "kept")
    assert measured == [] and len(some) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "table", [partial(lfmlib.arrangement, controls=("permuted", "rescaled")), lfmlib.laws], ids=["arrangement", "laws"]
)
def test_other_tables_keep_their_rows_too(table, shards, tmp_path, monkeypatch):
    plain = table(shards, progress=False)
    pd.testing.assert_frame_equal(table(shards, progress=False, keep=tmp_path / "kept"), plain)
    monkeypatch.setattr(run, "each", lambda *_: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(table(shards, progress=False, keep=tmp_path / "kept"), plain)


def test_another_shard_and_another_sample_are_measured(shards, measured, tmp_path):
    lfmlib.survey(shards, progress=False, keep=tmp_path / "kept")
    measured.clear()
    save(shards / "up_proj.safetensors", 9).rename(shards / "model-00002-of-00002.safetensors")
    changed = lfmlib.survey(shards, progress=False, keep=tmp_path / "kept")
    assert len(measured) == 6  # of twelve
    pd.testing.assert_frame_equal(changed, lfmlib.survey(shards, progress=False))
    measured.clear()
    lfmlib.survey(shards, progress=False, sample=4096, keep=tmp_path / "kept")
    assert len(measured) == 12


def test_lines_that_a_crash_cut_short_do_not_count(shards, measured, tmp_path):
    kept = tmp_path / "kept"
    whole = lfmlib.survey(shards, progress=False, keep=kept)
    lines = (kept / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (kept / "rows.jsonl").write_bytes(b"".join(lines[:5]) + b"\xff{}\n[]\n" + lines[5][:100])
    measured.clear()
    pd.testing.assert_frame_equal(lfmlib.survey(shards, progress=False, keep=kept), whole)
    assert len(measured) == 7
    measured.clear()
    pd.testing.assert_frame_equal(lfmlib.survey(shards, progress=False, keep=kept), whole)
    assert measured == []


def test_what_is_only_in_memory_is_measured_every_time(measured, tmp_path):
    model = {"layers.0.q_proj.weight": torch.randn(1024, 1024)}
    for _ in range(2):
        lfmlib.survey(model, progress=False, keep=tmp_path)
    assert len(measured) == 2


def test_quantized_tensors_are_known_by_all_their_pieces(measured, tmp_path):
    codes = torch.randn(64, 64).to(torch.float8_e4m3fn)
    for scale, times in ((1.0, 1), (1.0, 1), (2.0, 2)):
        if times > 1 or not (tmp_path / "q.safetensors").exists():
            save_file({"q.weight": codes, "q.weight_scale_inv": torch.full((1, 1), scale)}, tmp_path / "q.safetensors")
        lfmlib.survey(tmp_path / "q.safetensors", progress=False, keep=tmp_path / "kept")
        assert len(measured) == times


SURVEY = """
import sys, lfmlib
print("ready", flush=True)
table = lfmlib.survey(sys.argv[1], progress=False, keep=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_random_again_and_again_it_ends_in_the_same_table(tmp_path):
    """Here twice; `python tests/surveys/test_journal.py 20` by hand."""
    assert hunt(tmp_path, 2) == 2


def hunt(folder: Path, times: int) -> int:
    """Kill a survey at random places so many times, and compare the table that it ends in; how many of the kills left
    some rows and not all."""
    path = save(folder / "model.safetensors", 3, count=400, rows=2048)
    whole = lfmlib.survey(path, progress=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rng, useful = np.random.default_rng(0), 0
    for turn in range(times):
        rows = folder / f"kept{turn}" / "rows.jsonl"
        command = [sys.executable, "-c", SURVEY, str(path), str(rows.parent)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
            process.stdout.readline()
            few = rng.integers(1, 250)
            while process.poll() is None and lines(rows) < few:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL if turn % 2 else signal.SIGINT)
        useful += 0 < lines(rows) < len(whole)
        pd.testing.assert_frame_equal(lfmlib.survey(path, progress=False, keep=rows.parent), whole)
    return useful


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        count = int(sys.argv[1])
        print(f"{hunt(Path(place), count)} of {count} kills came in the middle; the table was always the same")
