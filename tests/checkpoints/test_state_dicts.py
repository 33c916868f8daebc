"""Which dictionary of a training checkpoint is the model: the largest that is no optimizer's; the rest is named."""

import argparse
import pathlib
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch

from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

W, V, LOSS = torch.ones(4, 3), torch.ones(3), torch.tensor(2.9)
SMALL = {"w": torch.ones(2, 2)}
ADAM = {"state": {0: {"step": LOSS, "exp_avg": torch.ones(9, 9), "exp_avg_sq": torch.ones(9, 9)}}, "param_groups": [{}]}


class AttributeDict(dict):
    """As Lightning keeps hyperparameters: of a class that whoever opens the file may not have."""


# what was saved, the names that are listed, and the keys that are named as left out
CASES = {
    "a loss beside the model": ({"model": {"a": W, "b": V}, "best_val_loss": LOSS}, ["a", "b"], ["best_val_loss"]),
    "Lightning": (
        {
            "epoch": 3,
            "state_dict": OrderedDict(a=W),
            "optimizer_states": [ADAM],
            "callbacks": {"ModelCheckpoint": {"best": LOSS}},
            "hyper_parameters": {"lr": 0.1},
        },
        ["a"],
        ["callbacks", "optimizer_states"],
    ),
    "a list of modules": ({"layers": [{"a": W}, {"a": W + 0}]}, ["0.a", "1.a"], []),
    "a moving average in a list": ({"state_dict": {"a": W}, "ema": {"shadow": [W[:2]]}}, ["a"], ["ema"]),
    "DeepSpeed": (
        {"module": {"a": W}, "optimizer": {"fp32_groups": [W]}, "ds_version": "0.14", "lr": V},
        ["a"],
        ["lr", "optimizer"],
    ),
    "weights": ({"weights": {"a": W}, "iteration": 7}, ["a"], []),
    "a generator larger than its judge": (
        {"discriminator": SMALL, "generator": {"a": W}, "steps": 7},
        ["a"],
        ["discriminator"],
    ),
    "a run in a run": ({"checkpoint": {"model": {"a": W}, "optimizer": ADAM}}, ["a"], ["checkpoint.optimizer"]),
    "an optimizer larger than the model": ({"net": {"a": W}, "opt_g": ADAM}, ["a"], ["opt_g"]),
    "an optimizer under another name": ({"net": {"a": W}, "adam": ADAM}, ["a"], ["adam.optimizer"]),
    "a moving average with a counter": (
        {"ema": {"a": W, "num_updates": LOSS}, "model": {"a": W}},
        ["a"],
        ["ema"],
    ),
    "Megatron": (
        {"model": {"language_model": {"embedding": {"weight": W}, "encoder": {"layers.0.weight": W + 0}}}},
        ["language_model.embedding.weight", "language_model.encoder.layers.0.weight"],
        [],
    ),
    "Flax": ({"params": {"Dense_0": {"kernel": W.numpy(), "bias": V.numpy()}}}, ["Dense_0.kernel", "Dense_0.bias"], []),
    "two equal ones": ({"model": {"b": V}, "state_dict": {"a": V}}, ["a"], ["model"]),
    "more at the top level": ({"a": W, "b": W + 0, "extra": SMALL}, ["a", "b"], ["extra"]),
}


@pytest.mark.filterwarnings("ignore:.*several dictionaries")
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("place", ["file", "memory"])
def test_the_largest_dictionary_is_the_model(tmp_path, kind, place):
    content, names, left = CASES[kind]
    if kind == "Flax" and place == "file":
        return  # no file of torch.save
    if place == "file":
        torch.save(content, tmp_path / "run.ckpt")
    ckpt = open_checkpoint(tmp_path if place == "file" else content)
    assert [info.name for info in ckpt.tensors] == names
    assert {key for key, reason in ckpt.skipped.items() if reason.startswith("beside the model (")} == set(left)
    assert all(ckpt.read(name).flatten()[0] == 1 for name in names)


def test_another_dictionary_is_told_and_can_be_asked_for(tmp_path):
    content = {"generator": {"a": W}, "discriminator": {"b": W[:2]}, "step": LOSS}
    torch.save(content, tmp_path / "gan.pth.tar")
    for source in (tmp_path / "gan.pth.tar", content):
        with pytest.warns(UserWarning, match=r"generator is read \(12 values\).*discriminator \(6\).*variant='discr"):
            assert [info.name for info in open_checkpoint(source).tensors] == ["a"]
        other = open_checkpoint(source, variant="discriminator")
        assert [info.name for info in other.tensors] == ["b"] and other.read("b").sum() == 6
        assert "generator" in other.skipped
        with pytest.raises(ValueError, match=r"variant='ema': .* it has 'generator', 'discriminator'"):
            open_checkpoint(source, variant="ema")
    with pytest.raises(ValueError, match="has none"):
        open_checkpoint(torch.nn.Linear(2, 2), variant="ema")
    with pytest.raises(ValueError, match="open already"):
        open_checkpoint(open_checkpoint({"a": W}), variant="ema")


def test_a_run_without_a_model(tmp_path):
    torch.save(ADAM, tmp_path / "optim.pt")
    with pytest.raises(CheckpointError, match=r"holds no tensors of a model.*\['state', 'param_groups'\]"):
        open_checkpoint(tmp_path / "optim.pt")


def test_parameters_that_other_files_hold(tmp_path):
    """ZeRO-3 leaves an empty tensor in place of each parameter."""
    torch.save(
        {"module": {"a": torch.zeros(0), "b": torch.zeros(0)}, "param_shapes": []}, tmp_path / "x_model_states.pt"
    )
    with pytest.raises(CheckpointError, match=r"2 tensors without values.*zero_to_fp32"):
        open_checkpoint(tmp_path)


def test_a_dictionary_that_holds_itself():
    content = {"model": {"a": W}}
    content["model"]["again"] = content["model"]
    content["whole"] = content
    doubled = {"w": W}
    for _ in range(60):  # 2^60 paths
        doubled = {"left": doubled, "right": doubled}
    assert [info.name for info in open_checkpoint(content | {"twice": doubled}, variant="model").tensors] == ["a"]


@pytest.mark.parametrize("wrap", [AttributeDict, lambda hyper: argparse.Namespace(**hyper)], ids=["dict", "object"])
def test_settings_of_foreign_classes_do_not_hide_the_weights(tmp_path, wrap):
    content = {
        "state_dict": {"a": W},
        "hyper_parameters": wrap({"lr": 0.1, "path": pathlib.PurePosixPath("/data"), "kind": np.float64}),
        "best": np.float64(2.9),
    }
    torch.save(content, tmp_path / "last.ckpt")
    before = torch.serialization.get_safe_globals()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ckpt = open_checkpoint(tmp_path)
    assert [info.name for info in ckpt.tensors] == ["a"] and ckpt.read("a").sum() == 12
    assert {*torch.serialization.get_safe_globals()} == {*before}, "torch trusts no more than before"


def test_a_list_that_holds_itself_ends():
    some: list = [{"a": W}]
    some += [some, some]
    assert next(info.name for info in open_checkpoint({"model": some}).tensors) == "0.a"


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("place", ["file", "memory"])
def test_what_torch_quantized_has_its_values(tmp_path, place):
    model = torch.nn.Sequential(torch.nn.Embedding(100, 64), torch.nn.Linear(64, 64))
    made = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    torch.save(made.state_dict(), tmp_path / "model.pt")
    ckpt = open_checkpoint(tmp_path / "model.pt" if place == "file" else made)
    name = "1._packed_params._packed_params.0"
    assert {"0.weight", name} <= {info.name for info in ckpt.tensors}
    assert torch.equal(ckpt.read(name), made[1].weight().dequantize())
