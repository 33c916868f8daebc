"""A base with an adapter (LoRA, DoRA or noise) as a checkpoint whose matrices are merged when they are read.

Nothing is merged on disk, and one matrix at a time in memory. The arithmetic is that of peft: each matrix is put into a
linear layer, the layer is given its adapter, and the two are merged.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from torch import nn

from .. import noise_adapter
from ..checkpoints.checkpoint import Checkpoint, CheckpointError
from ..checkpoints.names import matched
from ..checkpoints.stored import InMemory, Stored
from .adapter_folders import rank_in, read_adapter

_WRAPPED = "base_model.model."
"""What peft puts before the names of the base's modules."""
_TOKENS = ".token_adapter.trainable_tokens_delta"
"""What peft calls the rows of an embedding that were trained beside an adapter; they stand in place of the base's."""


@dataclass(frozen=True)
class Adapted(Stored):
    """A stored matrix with an adapter; loaded, it is W₀ + ΔW.

    Attributes:
        under: the stored matrix W₀.
        path: name of the adapted module, as the adapter spells it.
        state: the adapter's tensors for this module.
        config: of the adapter.
        parameter: name of the adapted parameter in its module, where it is no linear layer: a stack of experts.
        transposed: whether the matrix is stored as ``(in, out)``.
        shape: of the stored matrix.
        dtype: of W₀ + ΔW: float32 or float64, since the sum is not rounded to the 16 bits of W₀.
    """

    under: Stored
    path: str
    state: dict[str, torch.Tensor]
    config: PeftConfig
    transposed: bool
    shape: tuple[int, ...]
    dtype: str
    parameter: str = ""

    def load(self) -> torch.Tensor:
        """W₀ + ΔW, in the layout of the stored matrix."""
        old = self.under.load().to(getattr(torch, self.dtype))
        if _TOKENS in self.state:
            return old.index_copy(0, torch.tensor(_tokens(self.config, self.path)), self.state[_TOKENS].to(old.dtype))
        if self.parameter:
            return _merge_stack(old, self)
        merged = _merge(old.T if self.transposed else old, self.path, self.state, self.config)
        return merged.T if self.transposed else merged


def adapted(base: Checkpoint, source: str | Path, *, whole: bool = False) -> Checkpoint:
    """A base with an adapter, as a checkpoint of the matrices that the adapter changes.

    Args:
        base: what the adapter was trained on, or the same model under other prefixes.
        source: a folder with adapter_config.json and adapter_model.safetensors (or .bin), as peft saves them.
        whole: keep the tensors that the adapter does not change as well.

    Returns:
        A `Checkpoint`; its ``skipped`` says of each tensor that is not in it why: it has no adapter, or is a bias of
        one. What was trained whole and saved beside the adapter (peft's ``modules_to_save``) stands in the place of the
        base's, where that has a tensor of this name and shape.

    Raises:
        CheckpointError: the adapter is of another kind than LoRA, DoRA and noise, was initialized by changing the base
            (PiSSA, OLoRA and others), is damaged, or is for other modules or shapes than those of the base.
    """
    folder = Path(source).expanduser()
    config, state = read_adapter(folder)
    modules, saved, odd = _by_module(state, _prefix(config))
    matrices = {info.name: info for info in base.tensors if len(info.shape) == 2}
    stored = {part.stored: () for name in matrices if (part := base._parts[name])}
    stacks = {name: () for name, one in base.stored.items() if len(one.shape) == 3}
    partner = matched(stored | stacks, {f"{path}.weight": () for path in modules} | _parameters(modules, config))
    places = {}
    for path in modules:
        name = f"{path}.weight"
        if name in partner:
            places[partner[name]] = path
        elif stack := _stack(base, partner, modules[path], path, config):
            places[stack] = path
        else:
            odd[name] = base.skipped.get(name, f"{base.name} has no matrix of that name")
    if not places:
        raise CheckpointError(
            f"{folder} adapts {', '.join(list(modules)[:3]) or 'nothing'}, and {base.name} has "
            f"{', '.join(sorted(stored)[:3])}: expected the model it was trained on"
        )
    laid = {
        name: _lay_stack(base, name, places[name], modules, config)
        for name in places
        if len(base.stored[name].shape) == 3
    }
    for name in matrices:
        part = base._parts[name]
        if part.stored in places and part.stored not in laid:
            laid[part.stored] = _lay(base, part, places[part.stored], modules, config, folder)
    laid |= _in_place(base, saved, odd)
    tensors = [
        replace(info, dtype=laid[base._parts[info.name].stored].dtype)
        for info in base.tensors
        if base._parts[info.name].stored in laid
    ]
    made = replace(
        base,
        name=folder.resolve().name,
        source=f"{folder.resolve()} on {base.source}",
        revision=None,
        files=[],
    )
    if whole:
        return replace(made, skipped=base.skipped | odd, _stored={**base.stored, **laid})
    changed = {info.name for info in tensors}
    untouched = {info.name: "no adapter on it" for info in base.tensors if info.name not in changed}
    return replace(
        made,
        tensors=tensors,
        skipped=untouched | odd,
        _parts={info.name: base._parts[info.name] for info in tensors},
        _stored=laid,
    )


def _prefix(config: PeftConfig) -> str:
    """What the names of an adapter's parameters begin with, after the name of their module."""
    return noise_adapter.NoiseModel.prefix if isinstance(config, noise_adapter.NoiseConfig) else "lora_"


def _by_module(
    state: dict[str, torch.Tensor], prefix: str
) -> tuple[dict[str, dict], dict[str, torch.Tensor], dict[str, str]]:
    """The adapter's tensors on matrices, by module; those that were saved whole; and why others are left out."""
    found: dict[str, dict] = {}
    saved, odd = {}, {}
    for key, value in state.items():
        name = key.removeprefix(_WRAPPED)
        path, mark, _ = name.partition(f".{prefix}")
        if name.endswith(_TOKENS):
            found[name.removesuffix(_TOKENS)] = {_TOKENS: value}
        elif ".base_layer." in name and not mark:
            if name.endswith(".bias"):  # trained beside the adapter, by its option `bias`
                saved[name.replace(".base_layer.", ".")] = value
            # else the base's own tensor, which peft saves beside a changed embedding
        elif not mark:
            saved[name] = value
        elif name.endswith(".bias"):
            odd[f"{path}.bias"] = "with a bias of the adapter’s, and not measured"
        else:
            found.setdefault(path, {})[name] = value
    return found, saved, odd


def _in_place(base: Checkpoint, saved: dict[str, torch.Tensor], odd: dict[str, str]) -> dict[str, Stored]:
    """What was saved whole, by the name of the stored tensor that it replaces; why nothing was, goes into ``odd``."""
    shapes = {name: tuple(one.shape) for name, one in base.stored.items()}
    partner = matched(shapes, {name: tuple(value.shape) for name, value in saved.items()})
    found: dict[str, Stored] = {}
    for name, value in saved.items():
        shape = shapes.get(partner.get(name, ""))
        if shape == tuple(value.shape):
            found[partner[name]] = InMemory(value)
        else:
            theirs = f"one of {shape}" if shape else "none of that name"
            odd[name] = f"saved whole beside the adapter, of {tuple(value.shape)}; {base.name} has {theirs}"
    return found


def _lay(base: Checkpoint, part, path: str, modules: dict, config: PeftConfig, folder: Path) -> Adapted:
    entry = base._stored[part.stored]
    shape = tuple(entry.shape)[::-1] if part.transposed else tuple(entry.shape)
    state = modules[path]
    if _TOKENS in state:
        rows, count = state[_TOKENS], len(_tokens(config, path))
        if tuple(rows.shape) != (count, entry.shape[1]):
            raise CheckpointError(
                f"{folder} has for {path} rows of shape {tuple(rows.shape)}, and {base.name} a matrix of {entry.shape} "
                f"there, of which {count} rows were trained: expected these rows. Name the model that the adapter was "
                "trained on"
            )
        dtype = "float64" if entry.dtype == "float64" else "float32"
        return Adapted(entry, path, state, config, False, tuple(entry.shape), dtype)
    shapes = {
        name.rpartition(f".{_prefix(config)}")[2].split(".")[0]: tuple(value.shape) for name, value in state.items()
    }
    if isinstance(config, noise_adapter.NoiseConfig):
        found = [shapes.get(name) for name in ("rows", "columns")]
        fits = found == [(config.bases, side) for side in shape]
        words = f"scales of rows {found[0]} and columns {found[1]}", "(bases, out) and (bases, in)"
    else:
        embeds = "embedding_A" in shapes  # of which (rows, columns) are (in, out)
        a, b = (shapes.get(f"embedding_{name}" if embeds else name) for name in "AB")
        fits = a is not None and b is not None and (b[0], a[-1]) == shape[:: -1 if embeds else 1] and a[0] == b[-1]
        words = f"the factors A {a} and B {b}", "A (rank, in) and B (out, rank)"
    if not fits:
        raise CheckpointError(
            f"{folder} has for {path} {words[0]}, and {base.name} a matrix of {shape} there: expected {words[1]}. Name "
            "the model that the adapter was trained on"
        )
    if factor := shapes.get("A") or shapes.get("embedding_A"):
        _check_like_settings(factor[0], "magnitude_vector" in shapes, config, path, folder)
    dtype = "float64" if entry.dtype == "float64" else "float32"
    return Adapted(entry, path, state, config, part.transposed, tuple(entry.shape), dtype)


def _check_like_settings(rank: int, dora: bool, config: Any, path: str, folder: Path) -> None:
    """Raise CheckpointError where the factors of a module are not those that adapter_config.json speaks of."""
    said = f"r {rank_in(config, path)} and use_dora {bool(config.use_dora)}"
    if said != f"r {rank} and use_dora {dora}":
        raise CheckpointError(
            f"{folder} has for {path} factors of rank {rank} {'with' if dora else 'without'} magnitudes of DoRA, and "
            f"its adapter_config.json says {said}: expected both alike. Correct the file, or save the adapter again"
        )


def _tokens(config: PeftConfig, path: str) -> list[int]:
    """The rows of an embedding that were trained, by the name of its module."""
    found: Any = getattr(config, "trainable_token_indices", None) or []
    if isinstance(found, dict):
        return next((list(rows) for name, rows in found.items() if f".{path}".endswith(f".{name}")), [])
    return list(found)


def _module(path: str) -> str:
    """A module's own name: several parameters of one are each adapted by a layer around the one before."""
    return path.split(".base_layer")[0]


def _parameters(modules: dict[str, dict], config: PeftConfig) -> dict[str, tuple]:
    """Names of the stacks of experts that modules of the adapter may be for."""
    leaves = {name.rpartition(".")[2] for name in getattr(config, "target_parameters", None) or []}
    return {f"{_module(path)}.{leaf}": () for path in modules for leaf in sorted(leaves - {"weight"})}


def _stack(base: Checkpoint, partner: dict[str, str], state: dict, path: str, config: PeftConfig) -> str | None:
    """Name of the stack of experts in the base on which the factors of a module lie, by their shapes; None: on none."""
    a, b = _factors(state)
    if a is None or b is None:
        return None
    for name in _parameters({path: state}, config):
        shape = tuple(base.stored[partner[name]].shape) if name in partner else ()
        if len(shape) == 3 and sorted(shape[1:]) == sorted((a.shape[1], b.shape[0])) and a.shape[0] % shape[0] == 0:
            return partner[name]
    return None


def _factors(state: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    found = {name.rpartition(".lora_")[2].split(".")[0]: value for name, value in state.items()}
    return found.get("A"), found.get("B")


def _lay_stack(base: Checkpoint, name: str, path: str, modules: dict[str, dict], config: PeftConfig) -> Adapted:
    entry, (a, _) = base.stored[name], _factors(modules[path])
    parts = [part for part in base._parts.values() if part.stored == name]
    assert a is not None  # as `_stack` saw to
    _, first, second = entry.shape
    # What peft takes for (in, out): where a stack of square matrices leaves it open, as the experts are stored.
    turned = a.shape[1] == first if first != second else any(part.transposed for part in parts)
    dtype = "float64" if entry.dtype == "float64" else "float32"
    leaf = name.rpartition(".")[2]
    return Adapted(entry, path, modules[path], config, turned, tuple(entry.shape), dtype, leaf)


@torch.no_grad()
def _merge_stack(weight: torch.Tensor, one: Adapted) -> torch.Tensor:
    """W₀ + ΔW of a stack of experts by peft, from a model of this one parameter."""
    path = _module(one.path)
    experts: Any = nn.Module()
    experts.is_transposed = one.transposed
    experts.register_parameter(one.parameter, nn.Parameter(weight.clone(), requires_grad=False))
    model = _nested(path, experts)
    config: Any = copy.copy(one.config)
    config.target_modules, config.target_parameters = [], [f"{path}.{one.parameter}"]
    config.trainable_token_indices, config.init_lora_weights = None, True
    config.lora_dropout, config.bias, config.megatron_config = 0.0, "none", None
    state = {name.replace(one.path, path, 1): value for name, value in one.state.items()}
    return getattr(_merged(model, path, state, config, weight.dtype), one.parameter).detach()


def _merged(model: nn.Module, path: str, state: dict[str, torch.Tensor], config: Any, dtype: torch.dtype) -> Any:
    """The module at ``path`` after peft has merged an adapter into it; ``config`` chooses it, and is changed here."""
    for chooser in ("modules_to_save", "layers_to_transform", "layers_pattern", "exclude_modules"):
        setattr(config, chooser, None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model)
        set_peft_model_state_dict(model, state)
    layer: Any = model.get_submodule(path)
    layer.to(dtype).merge()
    return layer.get_base_layer()


def _nested(path: str, module: nn.Module) -> nn.Module:
    """A model that holds nothing but this module, under this name."""
    model = nn.Module()
    *parents, leaf = path.split(".")
    place = model
    for name in parents:
        place.add_module(name, nn.Module())
        place = place.get_submodule(name)
    place.add_module(leaf, module)
    return model


@torch.no_grad()
def _merge(weight: torch.Tensor, path: str, state: dict[str, torch.Tensor], config: PeftConfig) -> torch.Tensor:
    """W₀ + ΔW by peft, from a model of this one layer; under its own name, by which peft looks up ranks and scales."""
    embeds = any(".lora_embedding_" in name for name in state)
    rows, columns = weight.shape
    with torch.device("meta"):
        layer: Any = nn.Embedding(rows, columns) if embeds else nn.Linear(columns, rows, bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    model = _nested(path, layer)
    one: Any = copy.copy(config)
    # The layer is chosen already, and the initialization of A and B is overwritten by their trained values.
    one.target_modules = {path}
    if isinstance(config, LoraConfig):
        one.trainable_token_indices, one.lora_dropout, one.bias, one.megatron_config = None, 0.0, "none", None
        one.fan_in_fan_out, one.init_lora_weights, one.lora_bias, one.target_parameters = False, True, False, None
    return _merged(model, path, state, one, weight.dtype).weight.detach()
