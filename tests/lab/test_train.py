"""The lab's trainings: the same bits twice, resumed or not; starts as asked for; a cache never wrong."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import lfmlib
from lfmlib.lab import models, smollm, starts
from lfmlib.lab import train as lab
from lfmlib.lab.problems import PROBLEMS, problem
from lfmlib.lab.train import Config, rate, start_of, train

SHORT = Config("vit", "class", start="uniform", steps=12, batch=16, lr=1e-3)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache that holds `SHORT`, trained once for the tests here, and what the training left."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFMLIB_CACHE", str(folder))
        return folder, train(SHORT, progress=False)


@pytest.fixture
def whole(shared):
    """`SHORT`, trained without a stop, in another cache."""
    return shared[1]


@pytest.fixture
def cached(shared, private_cache):
    """`SHORT`, in the test's own cache."""
    shutil.copytree(shared[0], private_cache)
    return shared[1]


def weights(config=SHORT, **options):
    return train(config, progress=False, **options).weights


@pytest.mark.slow
def test_two_trainings_with_one_seed_are_the_same_bits(whole):
    first = whole.weights
    assert weights() == first
    assert weights(dataclasses.replace(SHORT, seed=1)) != first


KILLED = """
import os, signal, sys
from lfmlib.lab import train as lab
from lfmlib.lab.train import Config
lab.SAVE_EVERY = 0.0
plain = lab._step
def step(model, optimizer, task, config, number, *more):
    if number == 7:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return plain(model, optimizer, task, config, number, *more)
lab._step = step
lab.train(Config("vit", "class", start="uniform", steps=12, batch=16, lr=1e-3), progress=False)
"""


@pytest.mark.slow  # a process that imports the lab
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_killed_training_resumes_to_the_same_bits(whole, tmp_path, monkeypatch, how):
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path / how))
    run = subprocess.run([sys.executable, "-c", KILLED, how], capture_output=True, timeout=120, encoding="utf-8")
    assert run.returncode != 0
    (state,) = (tmp_path / how).rglob("state.pt")
    assert torch.load(state, weights_only=True)["step"] == 7
    resumed = train(SHORT, progress=False)
    assert resumed.weights == whole.weights
    assert resumed.history["step"].tolist() == [0, 10]
    assert resumed.snapshots.equals(whole.snapshots)
    assert not list((tmp_path / how).rglob("state.pt"))


def test_an_interrupt_in_the_middle_of_a_step_saves_nothing_wrong(whole, monkeypatch):
    plain = lab._step

    def step(model, optimizer, task, config, number, *more):
        loss = plain(model, optimizer, task, config, number, *more)
        if number == 7:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(lab, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        weights()
    monkeypatch.setattr(lab, "_step", plain)
    assert weights() == whole.weights


def test_a_state_cut_short_is_begun_anew(whole, private_cache, monkeypatch):
    monkeypatch.setattr(lab, "SAVE_EVERY", 0.0)
    plain = lab._step

    def step(model, optimizer, task, config, number, *more):
        if number == 7:
            raise RuntimeError("stopped")
        return plain(model, optimizer, task, config, number, *more)

    monkeypatch.setattr(lab, "_step", step)
    with pytest.raises(RuntimeError):
        weights()
    monkeypatch.setattr(lab, "_step", plain)
    (state,) = private_cache.rglob("state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    assert weights() == whole.weights


def test_what_comes_from_the_cache_is_what_was_trained(cached, monkeypatch):
    monkeypatch.setattr(lab, "_train", None)  # it would be called, if it were trained anew
    first, again = cached, train(SHORT, progress=False)
    assert again.weights == first.weights and again.scores == first.scores
    assert (again.snapshots["kl_bits"] == first.snapshots["kl_bits"]).all()
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(again.model(pixel_values=images).logits, first.model(pixel_values=images).logits)


def test_without_scores_the_same_is_trained_and_kept_apart(cached):
    """What comes from the cache unasked for figures must not be taken for a training that has them."""
    found = train(SHORT, progress=False, scored=False)
    assert found.weights == cached.weights and found.scores == {}
    assert train(SHORT, progress=False).scores == cached.scores


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "manifest"])
def test_a_damaged_artefact_is_built_again(cached, private_cache, damage):
    (file,) = private_cache.rglob("model.safetensors")
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        file.unlink()
    else:
        (file.parent / "manifest.json").write_text("{", encoding="utf-8")
    assert weights() == cached.weights


@pytest.mark.slow  # two processes that import the lab
def test_two_processes_share_one_artefact(whole, private_cache):
    code = (
        "from lfmlib.lab.train import Config, train\n"
        "print(train(Config('vit', 'class', start='uniform', steps=12, batch=16, lr=1e-3), progress=False).weights)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    first, second = (process.communicate(timeout=180)[0].strip() for process in both)
    assert first == second == whole.weights
    assert len(list(private_cache.rglob("model.safetensors"))) == 1


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small tmpfs needs root")
def test_a_full_disk_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        monkeypatch.setenv("LFMLIB_CACHE", str(small))
        with pytest.raises(OSError, match=r"could not write to .*Free some space"):
            train(SHORT, progress=False)
        assert not list(small.rglob("model.safetensors"))
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("start", starts.STARTS)
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_starts_have_their_law_and_exactly_their_scale(start, gain):
    model = start_of(Config("decoder", "language", start=start, gain=gain))
    table = lfmlib.survey(model, progress=False)
    body = table[~table["role"].isin(["embed", "head"])]
    fan_in = body["shape"].str[1].to_numpy(float)
    rms = np.hypot(body["mean"], body["std"])
    assert rms.to_numpy() == pytest.approx(gain / np.sqrt(fan_in), rel=1e-5)
    label = {"uniform": "linear", "signs": "other", "laplace": "sharp", "sparse-90": "inverted-t"}.get(start)
    if label:
        assert (body["label"] == label).all()
    if start == "gaussian":
        assert (body["kl_bits"] < 0.005).all()
    if start in starts.UNLIKE_STARTS:
        assert (body["kl_bits"] > 0.05).all()


def test_orthogonal_is_orthogonal():
    matrix = starts.draw("orthogonal", (64, 64), torch.Generator().manual_seed(0))
    assert torch.allclose(matrix @ matrix.T, torch.eye(64), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        pytest.param(model, task, marks=[pytest.mark.slow] if model == smollm.NAME else [])
        for model in models.MODELS
        for task in (PROBLEMS[model][-1:] if model == smollm.NAME else PROBLEMS[model])  # its texts are all asked alike
    ],
)
def test_every_problem_gives_a_finite_gradient_and_scores(model, task, monkeypatch):
    config = Config(model, task, start="library" if model in models.PRETRAINED else "gaussian")
    net, posed = start_of(config), problem(model, task)
    loss = posed.loss(net, posed.batch(seed=0, step=3, size=1 if model == smollm.NAME else 4))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert torch.equal(_first(posed.batch(0, 3, 4)), _first(posed.batch(0, 3, 4)))
    assert not torch.equal(_first(posed.batch(0, 3, 4)), _first(posed.batch(0, 4, 4)))
    if model == "minilm":  # all its test items take 20 seconds a task; test_minilm.py does so for one
        monkeypatch.setattr(posed, "test", posed.test[:64])
    if model != "deep-decoder":
        scores = posed.evaluate(net.eval(), 1 if model == smollm.NAME else None)
        assert all(np.isfinite(value) for value in scores.values())


def _first(batch):
    return batch if isinstance(batch, torch.Tensor) else batch[0]


@pytest.mark.slow
def test_trained_models_do_their_job():
    """Far beyond the trivial baseline after half a minute."""
    plain = {"progress": False, "snapshots": 0}
    vit = train(Config("vit", "class", steps=80, batch=64, lr=2e-3), **plain).scores
    assert vit["accuracy"] > 0.85 > 3 * vit["trivial_accuracy"]
    clip = train(Config("clip", "pairs", steps=80, batch=64, lr=2e-3), **plain).scores
    assert clip["accuracy"] > 0.7 > 3 * clip["trivial_accuracy"]
    decoder = train(Config("decoder", "language", steps=40, batch=8), **plain).scores
    assert decoder["loss"] < 0.9 * decoder["trivial_loss"]


def test_rate_warms_up_and_falls_to_a_tenth():
    rates = [rate(SHORT, step) for step in range(SHORT.steps)]
    assert max(rates) == SHORT.lr
    assert rates[-1] == pytest.approx(0.1 * SHORT.lr, rel=0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "resnet"}, "expected one of decoder"),
        ({"task": "poetry"}, "vit: class, parity, rotation, inverted"),
        ({"start": "cauchy"}, "expected one of gaussian, orthogonal, uniform"),
        ({"optimizer": "lbfgs"}, "expected one of adamw, sgd, adagrad"),
    ],
)
def test_unknown_names_list_the_known(change, words):
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(SHORT, **change), progress=False)


def test_a_diverging_training_says_so():
    with pytest.raises(FloatingPointError, match="lower lr or gain"):
        train(dataclasses.replace(SHORT, optimizer="sgd", lr=1e30), progress=False)


def test_a_long_training_is_surveyed_nine_times_and_a_short_one_less_often(monkeypatch):
    asked = []
    monkeypatch.setattr(lab.cache, "artefact", lambda description, *_: asked.append(description["snapshots"]) or 1 / 0)
    for steps in (12, 239, 240, 1000):
        with pytest.raises(ZeroDivisionError):
            train(dataclasses.replace(SHORT, steps=steps))
    assert asked == [3, 8, lab.SNAPSHOTS, lab.SNAPSHOTS]


def test_snapshots_follow_the_weights(whole):
    trained = whole
    steps = trained.snapshots["step"].unique()
    assert steps[0] == 0 and steps[-1] == SHORT.steps
    at = trained.snapshots.set_index(["step", "tensor"])
    assert (at.loc[0, "moved"] == 0).all() and (at.loc[SHORT.steps, "moved"] > 0).all()
    table = lfmlib.survey(trained.model, progress=False).set_index("tensor")
    names = at.loc[SHORT.steps].index
    assert at.loc[SHORT.steps, "kl_bits"].to_numpy() == pytest.approx(table.loc[names, "kl_bits"].to_numpy())
