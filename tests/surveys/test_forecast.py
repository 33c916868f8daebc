"""What a run will take: said once, after the first tasks, and only where it is long."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import lfmlib
from lfmlib.surveys import arrangements, forecast, rows, run
from lfmlib.surveys.forecast import Cost, Forecast
from lfmlib.surveys.outcome import Task

SIDES = [64, 96, 64, 160, 64, 224, 96, 64, 192, 128, 64, 96, 128, 160, 224, 64]
"""Of matrices as unequal as those of a model: the largest has forty times the cost of the smallest."""
MADE = {f"layers.{i}.q.weight": np.zeros((side, side), np.float32) + np.eye(side, dtype=np.float32) * i
        for i, side in enumerate(SIDES)}  # fmt: skip
CUBE = Cost(lambda info: info.shape[0] ** 3, lambda info: info.shape[0] << 20)


def lasting(checkpoint, info) -> list[dict]:
    """A measurement that takes as long as the cube of the side, two seconds for all on one worker."""
    time.sleep(2.0 * info.shape[0] ** 3 / sum(side**3 for side in SIDES))
    return [rows.about(info)]


def measured(monkeypatch, capsys, progress=True, calm=0.0, workers=2) -> tuple[str, float]:
    """What is said on stderr, and how long it took."""
    monkeypatch.setattr(forecast, "CALM_SECONDS", calm)
    monkeypatch.setattr(forecast, "MIN_SECONDS", 0.2)
    monkeypatch.setattr(run, "MIN_TASK_VALUES", 1)
    monkeypatch.setattr(run, "MAX_TASKS", 1 << 20)
    columns, started = ["tensor", "depth"], time.perf_counter()
    with ThreadPoolExecutor(workers) as executor:
        run.tabulate(MADE, lasting, columns, select=None, executor=executor, progress=progress, cost=CUBE)
    return capsys.readouterr().err, time.perf_counter() - started


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_right_within_a_factor_of_two(monkeypatch, capsys, workers):
    told = []
    plain = Forecast.seconds
    monkeypatch.setattr(Forecast, "seconds", lambda self, *a: told.append(plain(self, *a)) or told[-1])
    _, took = measured(monkeypatch, capsys, workers=workers)
    assert took / 2 < told[0] < 2 * took


def test_it_is_said_once_with_the_memory_of_all_workers(monkeypatch, capsys):
    said, _ = measured(monkeypatch, capsys)
    (line,) = re.findall(r"16 matrices, .*?GiB", said)
    assert re.fullmatch(r"16 matrices, 273\.4 k weights: about \d+ s on 2 workers, 0\.4 GiB", line)


@pytest.mark.parametrize(("progress", "calm"), [(False, 0.0), (True, 20.0)])
def test_nothing_is_said_without_progress_nor_of_what_is_short(monkeypatch, capsys, progress, calm):
    said, _ = measured(monkeypatch, capsys, progress, calm)
    assert "weights: about" not in said and (progress or said == "")


def test_words():
    infos = lfmlib.open_checkpoint(MADE).tensors
    tasks = [Task(len, [info], 1.0) for info in infos]
    said = {
        seconds: Forecast(infos, tasks, Cost(), None, 0.0).after(tasks[8:], now=seconds / 2)
        for seconds in (10, 50, 600, 9000)
    }
    assert [line.split("about ")[-1] for line in said.values()] == [
        "", "50 s, 0.1 GiB for each worker", "10 min, 0.1 GiB for each worker", "2.5 h, 0.1 GiB for each worker",
    ]  # fmt: skip
    one = Forecast(infos[:1], tasks[:1], Cost(), 4, 0.0)
    assert one.after([], now=30.0).startswith("1 matrix, 4.1 k weights: about 30 s on 1 worker,")


@pytest.mark.parametrize(
    ("effort", "rows", "shape", "least", "most"),
    [
        ("exact", 1, (4096, 4096), 5e9, 12e9),
        ("exact", 1, (5000, 5000), 5e9, 12e9),
        ("fast", 1, (4096, 4096), 1e9, 3e9),
        ("fast", 3, (4096, 11008), 10e9, 25e9),
    ],
)
def test_spectra_cost_more_than_their_entries(effort, rows, shape, least, most):
    info = replace(lfmlib.open_checkpoint(MADE).tensors[0], shape=shape, numel=shape[0] * shape[1])
    assert least < arrangements._time(info, rows, effort == "fast") < most
    assert arrangements._memory((), info, effort == "fast") <= 4 * 4 * shape[0] * shape[1]
