"""SmolLM2 on the bench: its loss is transformers' own, its weights are the file's, its held-out windows are apart."""

from __future__ import annotations

import pytest
import torch

from lfmlib.lab import models, smollm
from lfmlib.lab.problems import problem

pytestmark = pytest.mark.slow  # 98 MB are fetched, and turned into float32


@pytest.fixture(scope="module")
def model():
    return models.build(smollm.NAME, seed=0).eval()


@pytest.mark.parametrize("task", smollm.TASKS)
def test_losses_are_those_of_transformers(model, task):
    asked = problem(smollm.NAME, task)
    windows = asked.held_out[2:4]
    with torch.no_grad():
        own = torch.stack([model(input_ids=one[None], labels=one[None]).loss for one in windows]).mean().item()
    found = asked.evaluate(model, most=2, skip=2)
    assert found["loss"] == pytest.approx(own, abs=1e-5)
    assert found["loss"] < 4.5 < asked.prior(2, skip=2) < found["uniform_loss"]


def test_runs_are_judged_on_windows_of_their_own():
    asked = problem(smollm.NAME, "docstrings")
    parts = [asked._some("test", 4, 4 * seed) for seed in range(5)]
    assert torch.equal(torch.cat(parts), asked.held_out[:20])
    assert len({tuple(one) for one in asked.held_out.tolist()}) == len(asked.held_out)


def test_weights_are_those_of_the_file(model):
    stored, known_as = smollm.as_stored(model)
    assert len(known_as) == 7 * 30 + 1
    for name in ("model.layers.4.mlp.down_proj.weight", "model.layers.29.self_attn.v_proj.weight"):
        assert torch.equal(model.get_parameter(name), stored.read(known_as[name]))
    rows = stored.read(known_as["model.layers.0.self_attn.q_proj.weight"])  # in another order, for its rotations
    ours = model.get_parameter("model.layers.0.self_attn.q_proj.weight").detach()
    assert torch.equal(*(one.unique(dim=0) for one in (rows, ours)))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
