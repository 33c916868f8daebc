"""Weights in pieces on one side of a merge: what they make is merged into a plain base, and nothing stays behind."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lfmlib

FORMS = {"old": nn.utils.weight_norm, "new": nn.utils.parametrizations.weight_norm}


def models(form: str) -> tuple[dict, dict, dict]:
    """A plain base, a model tuned from it, and the same with weight norm."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for one in tuned.parameters():
            one += 0.01 * torch.randn_like(one)
    plain = {name: one.clone() for name, one in tuned.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in tuned:
            FORMS[form](layer, "weight")
    return dict(base.state_dict()), plain, {name: one.detach() for name, one in tuned.state_dict().items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
def test_what_pieces_make_is_merged_into_a_plain_base(tmp_path, form):
    base, plain, normed = models(form)
    out = lfmlib.merge(base, [normed, plain], "average", out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert found.keys() == plain.keys()
    assert all(torch.allclose(found[name], plain[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_model_is_not_merged_into_pieces(tmp_path, form):
    _, plain, normed = models(form)
    with pytest.raises(lfmlib.CheckpointError, match=r"0.weight is plain in .*: expected one form. Save the base with"):
        lfmlib.merge(normed, [plain], "average", out=tmp_path / "out", progress=False)


def test_a_pruned_model_is_merged_into_a_plain_base(tmp_path):
    base, plain, _ = models("old")
    mask = (plain["0.weight"].abs() > 0.05).float()
    pruned = {name: one for name, one in plain.items() if name != "0.weight"}
    pruned |= {"0.weight_orig": plain["0.weight"], "0.weight_mask": mask}
    out = lfmlib.merge(base, [pruned], "average", out=tmp_path / "out", progress=False)
    assert torch.allclose(load_file(out / "model.safetensors")["0.weight"], plain["0.weight"] * mask, atol=1e-7)
