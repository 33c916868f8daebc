"""A Dask cluster gives what one thread gives, to the bit, also when a worker is killed in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster
from safetensors.torch import save_file

import lfmlib
from lfmlib.surveys import run as executors

HUGE = "model.embed_tokens.weight"
DEADLINE = 300
"""Seconds, of tests that take half a minute."""


def cluster_of_two():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


client = pytest.fixture(cluster_of_two, scope="module")
"""For tests that leave its workers alive."""


@pytest.fixture
def doomed():
    """Another one for each test that kills: a nanny does not replace a worker that dies before it knows that it
    started. A test that waits for such a one fails, and does not hold up the others for ever."""

    def ring(*_):
        raise TimeoutError(f"the cluster has not finished in {DEADLINE} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with contextmanager(cluster_of_two)() as connected:
            signal.alarm(DEADLINE)
            yield connected
            signal.alarm(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A made base in three shards, and two models tuned from it; made Gaussian values."""
    root = tmp_path_factory.mktemp("models")
    shapes = {HUGE: (3000, 128)}
    shapes |= {f"model.layers.{i}.self_attn.q_proj.weight": (128, 128 + 7 * (i % 3)) for i in range(20)}
    shapes |= {"model.layers.0.input_layernorm.weight": (128,)}
    names = list(shapes)
    parts = [names[:1], names[1:10], names[10:]]
    found = {}
    for kind, model in enumerate(("base", "one", "two")):
        (root / model).mkdir()
        for number, some in enumerate(parts, start=1):
            tensors = {}
            for name in some:
                rng = np.random.default_rng([1, names.index(name)])
                own = np.random.default_rng([kind, 2, names.index(name)])
                start = 0.02 * rng.standard_normal(shapes[name])
                moved = (kind > 0) * 0.002 * own.standard_normal(shapes[name])
                tensors[name] = torch.tensor(start + moved).to(torch.float32 if name == HUGE else torch.bfloat16)
            save_file(tensors, root / model / f"model-{number:05}-of-00003.safetensors")
        (root / model / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        found[model] = root / model
    return found


@pytest.fixture
def small_tasks(monkeypatch):
    """Tensors of the size of these models are cut into as many tasks as those of large ones."""
    monkeypatch.setattr(executors, "PART_VALUES", 128 * 500)
    monkeypatch.setattr(executors, "MIN_TASK_VALUES", 1)


def fingerprint(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def alone(work, **options):
    with ThreadPoolExecutor(1) as one:
        return work(executor=one, progress=False, **options)


@pytest.mark.slow
def test_tables_are_the_same_on_one_thread_on_many_and_on_a_cluster(client, models, small_tasks):
    with client.get_executor(retries=3) as cluster:
        for work in (
            lambda **options: lfmlib.survey(models["one"], **options),
            lambda **options: lfmlib.compare(models["base"], models["one"], select=r"layers\.[0-5]\.", **options),
            lambda **options: lfmlib.arrangement(models["one"], select=r"layers\.[0-2]\.", **options),
        ):
            expected = alone(work)
            for other in (work(progress=False), work(executor=cluster, progress=False)):
                pd.testing.assert_frame_equal(other, expected)
                assert fingerprint(other) == fingerprint(expected) and other.attrs == expected.attrs


def test_a_huge_tensor_is_shared_out(client, models, monkeypatch):
    whole = alone(lambda **options: lfmlib.survey(models["one"], select="embed", **options))
    sizes = []
    monkeypatch.setattr(executors, "PART_VALUES", 30_000)  # no multiple of a row
    with client.get_executor(retries=3) as cluster:
        submit = executors._submit
        counted = lambda workers, call: sizes.append(call.args[-1] - call.args[-2]) or submit(workers, call)  # noqa: E731
        monkeypatch.setattr(executors, "_submit", counted)
        pd.testing.assert_frame_equal(
            lfmlib.survey(models["one"], select="embed", executor=cluster, progress=False), whole
        )
    assert len(sizes) == 13 and max(sizes) == 234 * 128 and sum(sizes) == 3000 * 128


def test_a_huge_tensor_with_a_fault_is_told_once(small_tasks):
    weights = {HUGE: torch.full((3000, 128), 1e300, dtype=torch.float64)}
    table = lfmlib.survey(weights, progress=False)
    assert table.empty and "outside float32's range" in table.attrs["skipped"][HUGE]


def test_two_clusters_make_halves_of_one_table(client, models, small_tasks, tmp_path):
    """Each keeps the rows of its layers; both files together are the whole table: nothing is measured again."""
    whole = alone(lambda **options: lfmlib.survey(models["one"], **options))
    kept = [tmp_path / name / "rows.jsonl" for name in ("a", "b", "both")]
    for select, rows in zip((r"embed|layers\.\d\.", r"layers\.1\d\."), kept, strict=False):
        with client.get_executor(retries=3) as cluster:
            lfmlib.survey(models["one"], select=select, executor=cluster, progress=False, keep=rows.parent)
    kept[2].parent.mkdir()
    kept[2].write_bytes(b"".join(rows.read_bytes() for rows in kept[:2]))
    assert [rows.read_bytes().count(b"\n") for rows in kept] == [11, 10, 21]
    with ProcessPoolExecutor(1) as broken:
        broken.shutdown()  # nothing can be measured on it
        joined = lfmlib.survey(models["one"], executor=broken, progress=False, keep=kept[2].parent)
    assert fingerprint(joined) == fingerprint(whole)
    # of one tensor: two sketches of half of it each
    checkpoint = lfmlib.open_checkpoint(models["one"])
    size = checkpoint.read(HUGE).numel()
    parts = [
        client.submit(lambda a, b: lfmlib.Sketch.of(checkpoint.chunks(HUGE, start=a, stop=b)), *ends).result()
        for ends in ((0, size // 2 + 1), (size // 2 + 1, size))
    ]
    assert parts[1] + parts[0] == parts[0] + parts[1] == lfmlib.Sketch.of(checkpoint.read(HUGE))


def kill_one(client: Client, when) -> tuple[threading.Thread, str]:
    """Kill a worker as soon as ``when`` says so; also where it was."""
    address, pid = next(iter(client.run(os.getpid).items()))

    def wait():
        while not when():
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, address


def until(true, seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (
            "from sys import modules; modules['lfmlib'] = None",
            r"has no lfmlib, or an old one \(.*install it on every worker",
        ),
        (
            "import lfmlib.provenance as p; p.sources = lambda: 64 * '0'",
            "has another lfmlib .*hash to 0{12}, those here",
        ),
    ],
)
def test_workers_without_this_library_are_an_error_and_not_an_endless_wait(models, tmp_path, hidden, words):
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, preload=[hidden])
    with cluster, Client(cluster) as connected, connected.get_executor(retries=3) as executor:
        with pytest.raises(RuntimeError, match=words):
            lfmlib.survey(models["one"], executor=executor, progress=False)
        with pytest.raises(RuntimeError, match=words):
            lfmlib.merge(models["base"], models["one"], out=tmp_path / "out", executor=executor, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_worker_that_was_mended_is_asked_again(models):
    """Dask keeps the answers to equal questions."""
    hide = ["from sys import modules; modules['lfmlib'] = None"]
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, preload=hide)
    with cluster, Client(cluster) as connected, connected.get_executor(retries=3) as executor:
        with pytest.raises(RuntimeError, match="has no lfmlib"):
            lfmlib.survey(models["one"], select="embed", executor=executor, progress=False)
        connected.run(exec, "from sys import modules; del modules['lfmlib']")
        assert len(lfmlib.survey(models["one"], select="embed", executor=executor, progress=False)) == 1


@pytest.mark.slow
def test_a_worker_killed_in_a_survey_changes_nothing(doomed, models, small_tasks, tmp_path):
    expected = fingerprint(alone(lambda **options: lfmlib.survey(models["one"], **options)))
    rows = tmp_path / "kept" / "rows.jsonl"
    killer, address = kill_one(doomed, lambda: rows.exists() and rows.read_bytes().count(b"\n") > 5)
    with doomed.get_executor(retries=3) as cluster:
        table = lfmlib.survey(models["one"], executor=cluster, progress=False, keep=rows.parent)
    killer.join()
    assert fingerprint(table) == expected
    until(lambda: address not in doomed.scheduler_info()["workers"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nan", "ties", "dare"])
def test_merges_are_the_same_bytes(client, models, tmp_path, method):
    options = {"method": method, "density": 0.5, "progress": False}
    sources = models["base"], [models["one"], models["two"]]
    here = hashes(lfmlib.merge(*sources, out=tmp_path / "here", **options))
    with client.get_executor(retries=3) as cluster:
        there = hashes(lfmlib.merge(*sources, out=tmp_path / "there", executor=cluster, **options))
    assert here == there and len(here) == 6


@pytest.mark.slow
def test_a_worker_killed_in_a_merge_changes_nothing(doomed, models, tmp_path):
    options = {"method": "average", "amplify": 1.5, "progress": False}
    sources = models["base"], [models["one"], models["two"]]
    here = hashes(lfmlib.merge(*sources, out=tmp_path / "here", **options))
    killer, address = kill_one(doomed, lambda: list((tmp_path / "there.partial").glob("*.part")))
    with doomed.get_executor(retries=3) as cluster:
        lfmlib.merge(*sources, out=tmp_path / "there", executor=cluster, **options)
    killer.join()
    assert hashes(tmp_path / "there") == here
    until(lambda: address not in doomed.scheduler_info()["workers"])


def test_what_kills_every_worker_is_told_and_the_rest_is_kept(models, small_tasks):
    """A pool breaks at once and takes the tensors that wait with it; what was finished stays."""
    checkpoint = lfmlib.open_checkpoint(models["one"]).select("layers")
    wanted, _ = executors.matrices(checkpoint)
    with ProcessPoolExecutor(1) as pool, pytest.warns(UserWarning, match=r"\d+ of 20 tensors were not measured: their"):
        call = lambda names: _Dying(executors.light(checkpoint, names))  # noqa: E731
        outcome = executors.over(checkpoint, wanted, call, executor=pool, progress=False)
    rows, failed = outcome.rows, outcome.failed
    assert not outcome.interrupted and len(rows) + len(failed) == 20 and len(rows) <= 7
    assert all(reason.startswith(executors.LOST) and BrokenProcessPool.__name__ in reason for reason in failed.values())


class _Dying:
    """A task that kills its process at one tensor."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def __call__(self):
        if "layers.7." in self.checkpoint.tensors[0].name:
            os.kill(os.getpid(), signal.SIGKILL)
        return [(info.name, [{"tensor": info.name}]) for info in self.checkpoint.tensors]


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_shards_that_are_merged_side_by_side_draw_what_they_draw_alone(models, tmp_path, method):
    options = {"method": method, "density": 0.5, "progress": False}
    sources = models["base"], [models["one"], models["two"]]
    alone_ = hashes(lfmlib.merge(*sources, out=tmp_path / "alone", **options))
    before = torch.get_num_threads()
    for turn in range(3):
        with ThreadPoolExecutor(3) as pool:
            assert hashes(lfmlib.merge(*sources, out=tmp_path / f"{turn}", executor=pool, **options)) == alone_
    assert torch.get_num_threads() == before


def test_a_broken_pool_does_not_lose_what_was_not_handed_over(models, small_tasks):
    checkpoint = lfmlib.open_checkpoint(models["one"])
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
        with pytest.warns(UserWarning, match="21 of 21 tensors were not measured"):
            table = lfmlib.survey(checkpoint, executor=pool, progress=False)
    assert table.empty and all(executors.LOST in table.attrs["skipped"][info.name] for info in checkpoint.tensors[:3])


def test_an_error_in_a_task_cancels_the_others(models, small_tasks, monkeypatch):
    checkpoint, asked = lfmlib.open_checkpoint(models["one"]).select("layers"), []

    def task(names):
        def call():
            asked.append(names)
            time.sleep(0.1)
            raise RuntimeError("a fault")

        return call

    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="a fault"):
        executors.over(checkpoint, executors.matrices(checkpoint)[0], task, executor=pool, progress=False)
    assert len(asked) < 15  # of 20; one, where nothing else keeps the machine busy


def test_parts_are_let_go_of_when_they_are_added(monkeypatch):
    alive, most = set(), []

    class Part:
        def __init__(self):
            alive.add(id(self))
            most.append(len(alive))

        def __add__(self, other):
            return Part()

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(executors, "PART_VALUES", 100)
    spread = executors.Spread(lambda *_: Part(), lambda info, _: [{"tensor": info.name}], worth=1)
    checkpoint = lfmlib.open_checkpoint({"w": torch.zeros(200, 100)})
    with ThreadPoolExecutor(1) as one:
        rows = executors.over(checkpoint, checkpoint.tensors, None, executor=one, progress=False, spread=spread).rows
    assert rows.keys() == {"w"} and len(most) >= 399
    assert len(alive) <= 2


NEAR, FAR = 1 << 22, 1 << 26
CASES = [(64, FAR, 32), (33, FAR, 32), (65, FAR, 32), (640, FAR, 160), (64, NEAR, 64), (6, FAR, 6), (3000, NEAR, 2048)]


@pytest.mark.parametrize(("matrices", "worth", "tasks"), CASES)
@pytest.mark.parametrize("huge", [0, 3])
def test_tasks_hold_what_is_worth_one_but_there_are_some_for_everyone(matrices, worth, tasks, huge):
    info = lfmlib.open_checkpoint({"w": torch.zeros(1, 1).bfloat16()}).tensors[0]
    wanted = [replace(info, name=f"{i}", shape=(4096, 4096), numel=1 << 24) for i in range(matrices)]
    wanted[:0] = [replace(info, name=f"huge {i}", shape=(1 << 15, 1 << 15), numel=1 << 30) for i in range(huge)]
    batches = list(executors._batches(wanted, worth, huge=executors.PART_VALUES))
    assert [one for batch in batches for one in batch] == wanted
    assert len(batches) == pytest.approx(tasks + huge, abs=1)


class _Elsewhere(Executor):
    """Not threads, as far as anyone can tell; runs what it is given at once."""

    tasks = 0

    def submit(self, call, /, *arguments, **options):
        self.tasks += call is not eval  # with which the library asks workers who they are
        done: Future = Future()
        done.set_result(call(*arguments, **options))
        return done


@pytest.mark.slow
def test_only_other_processes_get_large_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "MIN_TASK_VALUES", 100)
    save_file({f"{i:03}": torch.randn(10, 10) for i in range(320)}, tmp_path / "model.safetensors")
    other = _Elsewhere()
    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(threads, "submit", counted := Mock(wraps=threads.submit))
        here, there = (lfmlib.survey(tmp_path, executor=one, progress=False) for one in (threads, other))
    assert (counted.call_count, other.tasks) == (320, 32)
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.slow
def test_dask_gives_up_a_task_that_kills_and_finishes_the_others(doomed, models, small_tasks):
    checkpoint = lfmlib.open_checkpoint(models["one"]).select("layers")
    wanted, _ = executors.matrices(checkpoint)
    doomed.cluster.scheduler.allowed_failures = 1  # of 3 by default: each takes a worker with it
    with doomed.get_executor(retries=3) as cluster, pytest.warns(UserWarning, match=r"\d+ of 20 tensors were not"):
        call = lambda names: _Dying(executors.light(checkpoint, names))  # noqa: E731
        outcome = executors.over(checkpoint, wanted, call, executor=cluster, progress=False)
    rows, failed = outcome.rows, outcome.failed
    assert "model.layers.7.self_attn.q_proj.weight" in failed and len(rows) + len(failed) == 20 and len(rows) > 10
    assert all(reason.startswith(executors.LOST) for reason in failed.values())
