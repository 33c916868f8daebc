"""Reparametrized weights: the tensor that a module computes, as torch computes it, and never its parts."""

import pickle
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from transformers import LlamaConfig, LlamaForCausalLM

import lfmlib


def old(module: nn.Module, how, **options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return how(module, **options)


def spectral(module: nn.Module, how=parametrizations.spectral_norm) -> nn.Module:
    made = old(module, how)
    inputs = torch.randn(2, module.in_features) if isinstance(module, nn.Linear) else torch.randn(1, 8, 9, 9)
    for _ in range(3):  # in training, each use turns u and v towards the singular vectors
        made(inputs)
    return made.eval()


def lstm() -> nn.Module:
    return old(nn.LSTM(6, 5), weight_norm, name="weight_hh_l0")


MODULES = {
    "weight norm": lambda: old(nn.Linear(7, 5), weight_norm),
    "of columns": lambda: old(nn.Linear(7, 5), weight_norm, dim=1),
    "of the whole": lambda: old(nn.Linear(7, 5), weight_norm, dim=None),
    "of the last axis": lambda: old(nn.Conv1d(8, 8, 5, groups=2), weight_norm, dim=2),
    "of one output": lambda: old(nn.Linear(7, 1), weight_norm),
    "new": lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3)),
    "new, of the whole": lambda: parametrizations.weight_norm(nn.Linear(7, 5), dim=None),
    "new, of a bias": lambda: parametrizations.weight_norm(nn.Linear(7, 5), name="bias"),
    "spectral norm": lambda: spectral(nn.Linear(7, 5), spectral_norm),
    "of a square": lambda: spectral(nn.Linear(7, 7), spectral_norm),
    "of a convolution": lambda: spectral(nn.Conv2d(8, 8, 3), spectral_norm),
    "transposed": lambda: spectral(nn.ConvTranspose2d(8, 8, 3), spectral_norm),
    "new spectral": lambda: spectral(nn.Linear(7, 5)),
    "new spectral, transposed": lambda: spectral(nn.ConvTranspose2d(8, 6, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(7, 5), "weight", 0.5),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tensor_is_what_torch_computes(tmp_path, kind, dtype):
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": MODULES[kind](), "plain": nn.Linear(4, 3)}).to(dtype).eval()
    layer = model["layer"]
    with torch.no_grad():  # away from where it began, so that g is not the norm of v
        for p in layer.parameters():
            p.mul_(torch.rand(()) + 0.5)
    layer(torch.randn(2, *((7,) if isinstance(layer, nn.Linear) else (8, 9, 9)[: layer.weight.dim() - 1])).to(dtype))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    what = "bias" if "bias" in kind else "weight"
    for source in (model, tmp_path / "model.safetensors"):
        checkpoint = lfmlib.open_checkpoint(source)
        assert {info.name for info in checkpoint.tensors} == {
            f"{path}.{name}" for path in ("layer", "plain") for name in ("weight", "bias")
        }
        found = checkpoint.read(f"layer.{what}")
        near = 1e-6 if dtype == torch.float32 else 2**-8  # a last digit, which may depend on where in memory values are
        torch.testing.assert_close(found, getattr(layer, what).detach(), rtol=near, atol=0)
    assert all(why.startswith(f"a piece of layer.{what} (") for why in checkpoint.skipped.values())
    assert len(checkpoint.skipped) == len(model.state_dict()) - 3


def test_values_are_read_as_of_any_tensor(tmp_path):
    """The case of the survey: a matrix of weight norm whose parts have another law than the product."""
    g, v = torch.rand(96, 1) * 3, torch.randn(96, 128)
    save_file({"layers.0.q_proj.weight_g": g, "layers.0.q_proj.weight_v": v}, tmp_path / "model.safetensors")
    checkpoint = lfmlib.open_checkpoint(tmp_path / "model.safetensors")
    name, whole = "layers.0.q_proj.weight", g.double() * v.double() / v.double().norm(dim=1, keepdim=True)
    table = lfmlib.survey(checkpoint, progress=False)
    assert list(table["tensor"]) == [name] and table["role"].tolist() == ["q"]
    assert table["std"][0] == pytest.approx(whole.std(correction=0).item(), rel=1e-6)
    assert set(table.attrs["skipped"]) == {f"{name}_g", f"{name}_v"}
    chunks = [torch.cat(list(one.chunks(name, 4096))) for one in (checkpoint, pickle.loads(pickle.dumps(checkpoint)))]
    for values in (*chunks, checkpoint.rows(name, 96).flatten(), torch.cat(checkpoint.sample(name, 1 << 20))):
        assert torch.allclose(values.double().sort().values, whole.flatten().sort().values, rtol=1e-6, atol=0)
    part = torch.cat(list(checkpoint.chunks(name, 4096, start=1000, stop=3000)))
    assert torch.equal(part, chunks[0][1000:3000])


def test_recurrent_weights_have_names_of_their_own():
    module = lstm()
    checkpoint = lfmlib.open_checkpoint(module)
    g, v = module.weight_hh_l0_g.detach(), module.weight_hh_l0_v.detach()
    assert torch.allclose(checkpoint.read("weight_hh_l0"), g * v / v.norm(dim=1, keepdim=True), rtol=1e-6)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight_q": (8, 8), "weight_k": (8, 8), "weight_v": (8, 8), "weight_g": (8, 8)},  # of an attention with a gate
        {"weight_v": (8, 4), "weight_u": (8,)},
        {"x_g": (8,), "x_v": (8,)},
        {"weight_g": (4, 1), "weight_v": (8, 4)},
        {"weight_orig": (4, 4)},
        {"lora_A.weight": (2, 8), "lora_B.weight": (8, 2)},  # an adapter's own file
    ],
)
def test_what_only_looks_alike_stays_as_it_is(tensors):
    checkpoint = lfmlib.open_checkpoint({name: torch.ones(shape) for name, shape in tensors.items()})
    assert [info.name for info in checkpoint.tensors] == list(tensors) and not checkpoint.skipped


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


@pytest.mark.parametrize(
    "how", [parametrizations.orthogonal, lambda m: parametrize.register_parametrization(m, "weight", Symmetric()) or m]
)
def test_a_function_that_no_file_tells_is_that_of_the_module_or_refused(how):
    model = nn.ModuleDict({"layer": how(nn.Linear(6, 6)), "plain": nn.Linear(4, 3)})
    state = {name: one.clone() for name, one in model.state_dict().items()}
    assert torch.equal(lfmlib.open_checkpoint(model).read("layer.weight"), model["layer"].weight)
    assert model.training and all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    checkpoint = lfmlib.open_checkpoint(state)
    assert [info.name for info in checkpoint.tensors] == ["layer.bias", "plain.weight", "plain.bias"]
    for name in set(state) - {info.name for info in checkpoint.tensors}:
        assert "by a function that no file tells. Open the module itself, or save it again" in checkpoint.skipped[name]


def test_spectral_vectors_that_do_not_fit_are_refused_as_a_group():
    pieces = {"a.weight_orig": torch.ones(4, 6), "a.weight_u": torch.ones(4), "a.weight_v": torch.ones(5)}
    checkpoint = lfmlib.open_checkpoint(pieces | {"b.weight": torch.ones(2, 2)})
    assert [info.name for info in checkpoint.tensors] == ["b.weight"] and set(checkpoint.skipped) == set(pieces)
    assert (
        "but u and v have the shapes (4,) and (5,), and the weight (4, 6): expected" in checkpoint.skipped["a.weight_u"]
    )


def test_the_first_form_of_spectral_norm_left_the_weight_beside():
    pieces = {"weight": torch.eye(3), "weight_orig": 2 * torch.eye(3), "weight_u": torch.ones(3)}
    checkpoint = lfmlib.open_checkpoint(pieces)
    assert [info.name for info in checkpoint.tensors] == ["weight"] and torch.equal(
        checkpoint.read("weight"), torch.eye(3)
    )


def test_the_form_of_repositories_iterates_once_more():
    w, u, v = torch.randn(8, 5, 3, 3), torch.randn(8), torch.randn(45)
    found = lfmlib.open_checkpoint({"c.weight_bar": w, "c.weight_u": u, "c.weight_v": v}).read("c.weight")
    rows, u = w.double().flatten(1), u.double()
    v = rows.T @ u / (rows.T @ u).norm()
    u = rows @ v / (rows @ v).norm()
    assert torch.allclose(found.double(), w.double() / (u @ rows @ v), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("scale", "by"), [("alpha", 16 / 4), ("scaling", 16.0)])
@pytest.mark.parametrize(
    ("base", "down", "up"),
    [("weight", "lora_A", "lora_B"), ("weight", "lora_down.weight", "lora_up.weight"),
     ("base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"),
     ("weight", "lora.A.weight", "lora.B.weight")],
)  # fmt: skip
def test_factors_with_a_scale_are_added_and_without_one_refused(base, down, up, scale, by):
    w, a, b = torch.randn(8, 6), torch.randn(4, 6), torch.randn(8, 4)
    pieces = {f"q_proj.{name}": value for name, value in ((base, w), (down, a), (up, b))}
    whole = lfmlib.open_checkpoint(pieces | {f"q_proj.{scale}": torch.tensor(16.0)})
    assert [info.name for info in whole.tensors] == ["q_proj.weight"]
    assert torch.allclose(whole.read("q_proj.weight"), w + by * b @ a, rtol=1e-5, atol=1e-5)
    without = lfmlib.open_checkpoint(pieces | {"k_proj.weight": w.clone()})
    assert [info.name for info in without.tensors] == [
        *(["q_proj." + base] if base != "weight" else []),
        "k_proj.weight",
    ]
    assert "no file tells the scale of what they add" in without.skipped[f"q_proj.{down}"]


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_a_module_with_adapters_is_read_as_peft_merges_it(options):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    lora = peft.LoraConfig(target_modules=["q_proj"], r=4, lora_alpha=7, init_lora_weights=False, **options)
    model = peft.get_peft_model(LlamaForCausalLM(config), lora)
    checkpoint = lfmlib.open_checkpoint(model)
    names = {info.name.removeprefix("base_model.model.") for info in checkpoint.tensors}
    assert names == set(LlamaForCausalLM(config).state_dict())
    found = checkpoint.read("base_model.model.model.layers.0.self_attn.q_proj.weight")
    again = pickle.loads(pickle.dumps(checkpoint)).read("base_model.model.model.layers.0.self_attn.q_proj.weight")
    merged = model.merge_and_unload().state_dict()["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(found, merged, atol=1e-7) and torch.equal(found, again)


def test_compare_is_of_what_the_factors_make():
    w, g = torch.randn(64, 64), torch.rand(64, 1) + 0.5
    moved = w + 0.01 * torch.randn(64, 64)
    pair = [{"q_proj.weight": one / one.norm(dim=1, keepdim=True) * g} for one in (w, moved)]
    parts = [{"q_proj.weight_g": g, "q_proj.weight_v": one} for one in (w, moved)]
    plain, table = lfmlib.compare(*pair, progress=False), lfmlib.compare(*parts, progress=False)
    assert table["std_delta"][0] == pytest.approx(plain["std_delta"][0], rel=1e-4)


def test_merging_writes_the_pieces_by_the_names_of_the_base(tmp_path):
    torch.manual_seed(0)
    v, g = torch.randn(70, 60), torch.rand(70, 1)
    base = {"conv.weight_g": g, "conv.weight_v": v}
    new = [f"conv.parametrizations.weight.original{k}" for k in (0, 1)]  # as a later torch saved it
    out = lfmlib.merge(
        base, [dict(zip(new, (g + 1, v + 0.1), strict=True))], "average", out=tmp_path / "a", progress=False
    )
    found = load_file(out / "model.safetensors")
    assert torch.allclose(found["conv.weight_g"], g + 1) and torch.allclose(found["conv.weight_v"], v + 0.1)
    pruned = {"fc.weight_orig": v, "fc.weight_mask": (v > 0).float()}
    with pytest.raises(
        lfmlib.CheckpointError, match=r"fc.weight of mapping is computed from fc.weight_orig, fc.weight_mask"
    ):
        lfmlib.merge(pruned, [pruned], out=tmp_path / "b", progress=False)
    state = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4))).state_dict()
    with pytest.raises(lfmlib.CheckpointError, match=r"by a function that no file tells.*remove_parametrizations$"):
        lfmlib.merge(state, [state], out=tmp_path / "c", progress=False)
    inside = {"fc.weight": v, "fc.lora_A": torch.ones(2, 60), "fc.lora_B": torch.ones(70, 2), "k.weight": v + 1}
    with pytest.raises(ValueError, match=r"holds factors of an adapter, such as fc.lora_A"):
        lfmlib.compare(inside, inside, progress=False)
