"""Vocabularies that grew: the common rows are merged on request, and all others stay as they are in the base."""

import json

import pytest
import torch
from safetensors.torch import load_file

import lfmlib


def model(rows: int, seed: int, prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The same weights to begin with, moved a little by the seed."""
    start, moved = (torch.Generator().manual_seed(one) for one in (0, seed))
    shapes = {"embed_tokens.weight": (300, 32), "layers.0.mlp.up_proj.weight": (64, 80), "lm_head.weight": (300, 32),
              "lm_head.bias": (300,), "norm.weight": (32,)}  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=start) + 0.1 * bool(seed) * torch.randn(shape, generator=moved)
        found[f"{prefix}model.{name}"] = (value[:rows] if shape[0] == 300 else value).to(dtype)
    return found


@pytest.mark.parametrize("rows", [(256, 260), (260, 256), (256, 256), (256, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_common_rows_are_merged_and_the_others_kept(tmp_path, rows, dtype):
    base, tuned = model(rows[0], 0), model(rows[1], 1, dtype=dtype)
    common = min(rows)
    if rows[0] != rows[1]:
        with pytest.raises(ValueError, match=r"their vocabularies differ\. Resize one .* vocabulary=\"common\"$"):
            lfmlib.merge(base, tuned, "average", out=tmp_path / "x", progress=False)
        with pytest.warns(UserWarning, match=rf"embed_tokens\.weight \({rows[1]}, of {rows[0]}\), .* as in the base"):
            out = lfmlib.merge(base, tuned, "average", vocabulary="common", out=tmp_path / "out", progress=False)
    else:
        out = lfmlib.merge(base, tuned, "average", vocabulary="common", out=tmp_path / "out", progress=False)
    for name, found in load_file(out / "model.safetensors").items():
        whole = tuned[name].float()
        expected = torch.cat([whole[:common], base[name][common:]]) if found.shape[0] == rows[0] else whole
        assert found.shape == base[name].shape and torch.allclose(found, expected, atol=1e-6), name
    assert json.loads((out / "merge.json").read_text(encoding="utf-8"))["vocabulary"] == "common"


@pytest.mark.filterwarnings("ignore:.*other numbers of rows")
@pytest.mark.parametrize("method", ["average", "ties", "dare_ties", "della"])
def test_each_model_may_have_a_vocabulary_of_its_own(tmp_path, method):
    base, tuned = model(256, 0), [model(240, 1), model(250, 2, prefix="wrapped.")]
    out = lfmlib.merge(base, tuned, method, vocabulary="common", out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in base.items()}
    for name in ("model.embed_tokens.weight", "model.lm_head.weight", "model.lm_head.bias"):
        assert torch.equal(found[name][250:], base[name][250:]) and not torch.equal(found[name][:250], base[name][:250])


def test_other_differences_stay_refused(tmp_path):
    base = model(256, 0)
    wide = base | {"model.layers.0.mlp.up_proj.weight": torch.randn(96, 80)}
    with pytest.raises(ValueError, match=r"up_proj\.weight is \(96, 80\)"):
        lfmlib.merge(base, wide, vocabulary="common", out=tmp_path / "x", progress=False)
    with pytest.raises(ValueError, match="vocabulary is 'union': expected \"common\", or None"):
        lfmlib.merge(base, base, vocabulary="union", out=tmp_path / "x", progress=False)


def test_names_whose_ends_are_alike_are_not_taken_for_one_another(tmp_path):
    """Two tables of positions, and a layer called as a part of the head."""
    shapes = {"shared.weight": (100, 64), "encoder.embed_positions.weight": (40, 64)}
    shapes |= {
        "decoder.embed_positions.weight": (66, 64),
        "layer.0.dense.weight": (96, 64),
        "head.dense.weight": (64, 64),
    }
    base = {name: torch.randn(shape) for name, shape in shapes.items()}
    tuned = {name: w + 0.01 for name, w in base.items()}
    tuned["shared.weight"] = torch.cat([tuned["shared.weight"], torch.randn(4, 64)])
    with pytest.warns(UserWarning, match=r"than mapping: shared\.weight \(104, of 100\)\. What"):
        out = lfmlib.merge(base, tuned, "average", vocabulary="common", out=tmp_path / "out", progress=False)
    for name, found in load_file(out / "model.safetensors").items():
        assert torch.allclose(found, base[name] + 0.01, atol=1e-6), name


@pytest.mark.filterwarnings("ignore:.*other numbers of rows")
@pytest.mark.parametrize("how", [{}, {"vocabulary": "common"}])
def test_a_head_of_other_classes_is_no_vocabulary(tmp_path, how):
    base = {"m.embed_tokens.weight": torch.randn(100, 64), "m.layers.0.q_proj.weight": torch.randn(64, 64)}
    tuned = {name: w + 0.01 for name, w in base.items()}
    if how:
        tuned["m.embed_tokens.weight"] = torch.cat([tuned["m.embed_tokens.weight"], torch.randn(4, 64)])
    base |= {"classifier.weight": torch.randn(3, 64), "classifier.bias": torch.randn(3)}
    tuned |= {"classifier.weight": torch.randn(5, 64), "classifier.bias": torch.randn(5)}
    with pytest.warns(UserWarning, match=r"2 tensors of mapping are not in mapping, and stay as they are: cl"):
        out = lfmlib.merge(base, tuned, "average", out=tmp_path / "out", progress=False, **how)
    for name, found in load_file(out / "model.safetensors").items():
        moved = 0.0 if name.startswith("classifier") else 0.01
        assert torch.allclose(found, base[name] + moved, atol=1e-6), name
