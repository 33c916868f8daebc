"""Adapters whose ΔW is built from noise: frozen random matrices with learned row and column scales.

    ΔW = Σ_k diag(r_k) N_k diag(c_k) / √in

with N_k (out, in) of unit variance, never trained and never stored: it is drawn again from a seed and the layer's name
(`basis`). A saved adapter holds the scales r (out) and c (in), and the seed. If ΔW can be derived from Gaussian noise,
such adapters must be able to do what LoRA does (finding F5).

The random numbers must never change, on any machine, device or version: NumPy guarantees the stream of its bit
generators but not that of its distributions, and torch guarantees neither. So each 16 bits of Philox (Salmon et al.
2011) choose one of 65,536 quantiles of the distribution, and a checksum of these quantiles is verified.

It is a tuner of peft, so `get_peft_model`, saving, loading, merging and disabling work as they do for LoRA. peft cannot
discover methods of other packages, so loading one in a fresh process needs ``import lfmlib.noise_adapter`` first.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass, field
from functools import cache, reduce
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from scipy import special
from torch import nn
from torch.nn import functional

from .extras import need
from .notices import warn

need("adapters", __name__)

from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils.other import get_pattern_key

TYPE = "NOISE"
LAWS = ("gaussian", "uniform", "signs")
"""Distributions of the frozen entries, all of mean 0 and variance 1."""
STREAM = "philox-quantiles-1"
"""Version of the stream of random numbers, stored with every adapter."""
_CHECKSUMS = {"gaussian": "c5f5ea2d3eff3897", "uniform": "283ffb1f8f146c26", "signs": "c9e690197cd3e1a0"}


def basis(shape: tuple[int, int], law: str, seed: int, name: str, number: int = 0) -> torch.Tensor:
    """A frozen random matrix, float32 ``shape``, of unit variance: a function of its arguments alone.

    Args:
        shape: ``(out, in)``.
        law: one of `LAWS`.
        seed: seed of the adapter.
        name: name of the layer.
        number: index of the basis, if a layer has several.

    Raises:
        ValueError: unknown law.
        RuntimeError: this machine computes other quantiles than those that adapters are stored with.

    Examples:
        >>> from lfmlib.noise_adapter import basis
        >>> noise = basis((64, 128), "gaussian", seed=0, name="layers.0.q_proj")
        >>> noise.shape, round(float(noise.std()), 1)
        (torch.Size([64, 128]), 1.0)
    """
    stream = np.random.Philox(key=[seed, zlib.crc32(name.encode()) + (number << 32)])
    count = shape[0] * shape[1]
    words = stream.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
    return torch.from_numpy(_quantiles(law)[words].reshape(shape))


@cache
def _quantiles(law: str) -> np.ndarray:
    """65,536 equally likely values of one of `LAWS`, float32, of mean 0 and variance 1."""
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r} of a noise adapter: expected one of {', '.join(LAWS)}")
    middle = (np.arange(1 << 16) + 0.5) / (1 << 16)
    values = {"gaussian": special.ndtri(middle), "uniform": 2 * middle - 1, "signs": np.sign(middle - 0.5)}[law]
    values = values / math.sqrt(np.mean(values**2))
    # Machines may differ in the last digits: round to a grid coarse enough that all agree.
    table = (np.round(values * 2**16) / 2**16).astype(np.float32)
    found = hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()[:16]
    if found != _CHECKSUMS[law]:
        raise RuntimeError(
            f"the {law} quantiles of this machine have the checksum {found}, those that noise adapters are stored with "
            f"{_CHECKSUMS[law]}: an adapter would come out as another one. Report the versions of numpy and scipy"
        )
    return table


@dataclass
class NoiseConfig(PeftConfig):
    """Configuration of a noise adapter, for `peft.get_peft_model`.

    Attributes:
        law: distribution of the frozen entries, one of `LAWS`.
        bases: number of random matrices for each layer; each has its own scales.
        seed: seed of the random matrices.
        scale: factor on ΔW.
        scale_pattern: layer name, or regular expression that matches the end of one → scale of these layers, as LoRA’s
            alpha_pattern.
        target_modules: names of linear layers, or a regular expression, as for LoRA.
        exclude_modules, modules_to_save, layers_to_transform, layers_pattern: as for LoRA.
        stream: version of the random numbers.

    Examples:
        >>> from peft import get_peft_model
        >>> from lfmlib.noise_adapter import NoiseConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
        >>> adapted = get_peft_model(model, NoiseConfig(target_modules=["0"], bases=2))
        >>> sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        192
    """

    law: str = "gaussian"
    bases: int = 1
    seed: int = 0
    scale: float = 1.0
    scale_pattern: dict[str, float] = field(default_factory=dict)
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    stream: str = field(default=STREAM)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = TYPE
        if self.law not in LAWS:
            raise ValueError(f"unknown law {self.law!r} of a noise adapter: expected one of {', '.join(LAWS)}")
        for name, least in (("bases", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 1 << 64:
                raise ValueError(f"{name} is {value!r}: expected a whole number from {least} on, below 2^64")
        for value in (self.scale, *self.scale_pattern.values()):
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"a scale is {value!r}: expected a number")
        if self.stream != STREAM:
            raise ValueError(
                f"this adapter was made with the random stream {self.stream!r}, and this version of lfmlib draws "
                f"{STREAM!r}: its ΔW would be another one. Load it with the version that it was made with"
            )
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class NoiseLayer(BaseTunerLayer):
    """The parameters of one layer's adapters, by adapter name: row scales, column scales, and the frozen bases."""

    adapter_layer_names = ("noise_rows", "noise_columns")
    other_param_names = ("noise_basis", "noise_scale")

    def __init__(self, base_layer: nn.Module, **kwargs):
        self.base_layer = base_layer
        self.noise_rows, self.noise_columns = nn.ParameterDict({}), nn.ParameterDict({})
        self.noise_basis, self.noise_scale = BufferDict({}, persistent=False), {}
        self._disable_adapters, self.merged_adapters, self.kwargs = False, [], kwargs
        layer = self.get_base_layer()
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def get_base_layer(self) -> nn.Linear:
        """The linear layer under all adapters."""
        return cast(nn.Linear, super().get_base_layer())

    def update_layer(self, adapter_name: str, config: NoiseConfig, name: str) -> None:
        """Add an adapter; ΔW begins at zero, because all row scales do."""
        shape, count = (self.out_features, self.in_features), config.bases
        self.noise_rows[adapter_name] = nn.Parameter(torch.zeros(count, self.out_features))
        self.noise_columns[adapter_name] = nn.Parameter(torch.ones(count, self.in_features))
        frozen = [basis(shape, config.law, config.seed, name, number) for number in range(count)]
        self.noise_basis[adapter_name] = torch.stack(frozen)
        scale = config.scale_pattern.get(get_pattern_key(list(config.scale_pattern), name), config.scale)
        self.noise_scale[adapter_name] = scale / math.sqrt(self.in_features)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        # peft also converts to the base layer's dtype, in which 16 bits would round the entries: move them again.
        device = self.get_base_layer().weight.device
        self.noise_basis[adapter_name] = torch.stack(frozen).to(device if device.type != "meta" else "cpu")
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """ΔW ``(out, in)``, in the dtype of the base layer."""
        return self._delta(adapter).to(self.get_base_layer().weight.dtype)

    def _delta(self, adapter: str) -> torch.Tensor:
        """ΔW in the dtype of its scales, float32 at least; gradients flow into them."""
        rows, columns = self.noise_rows[adapter], self.noise_columns[adapter]
        kind = torch.promote_types(rows.dtype, torch.float32)
        frozen = cast(torch.Tensor, self.noise_basis[adapter]).to(rows.device)
        rows, columns, bases = (part.to(kind) for part in (rows, columns, frozen))
        return self.noise_scale[adapter] * sum(
            r[:, None] * one * c for r, one, c in zip(rows, bases, columns, strict=True)
        )


class NoiseLinear(nn.Module, NoiseLayer):
    """A linear layer with noise adapters."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: NoiseConfig, name: str, **kwargs):
        super().__init__()
        NoiseLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, name)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters, by default the active ones, to the weight; ``safe_merge`` refuses NaN and infinities."""
        for adapter in check_adapters_to_merge(self, adapter_names) or ():
            if adapter not in self.noise_rows:
                continue
            layer = self.get_base_layer()
            merged = layer.weight.data + self.get_delta_weight(adapter)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"the adapter {adapter} would make weights infinite or NaN: it was not merged")
            layer.weight.data = merged
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Subtract merged adapters from the weight again, up to rounding."""
        if not self.merged:
            warn("nothing is merged, so there is nothing to take off")
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            self.get_base_layer().weight.data -= self.get_delta_weight(adapter)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the base layer plus that of the active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [adapter for adapter in self.active_adapters if adapter in self.noise_rows]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        # The bases are summed to one ΔW first, so the cost hardly grows with their number.
        added, layer = reduce(torch.add, map(self._delta, active)), self.base_layer
        if type(layer) is nn.Linear and layer.weight.dtype == added.dtype and not torch.is_autocast_enabled():
            return functional.linear(x, layer.weight + added, layer.bias)
        result = layer(x, *args, **kwargs)  # added to the output, since a 16-bit weight would round ΔW away
        return result + functional.linear(x.to(added.dtype), added).to(result.dtype)


class NoiseModel(BaseTuner):
    """The tuner: replaces every linear layer that the configuration names by a `NoiseLinear`."""

    prefix = "noise_"
    tuner_layer_cls = NoiseLayer
    target_module_mapping: dict = {}  # noqa: RUF012 - peft's interface

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None, **kwargs
    ):
        if isinstance(target, NoiseLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not isinstance(layer, nn.Linear):
            raise TypeError(
                f"{current_key} is a {type(layer).__name__}: noise adapters go on torch.nn.Linear. Name linear layers "
                "in target_modules"
            )
        module = NoiseLinear(cast(nn.Module, target), adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            module.requires_grad_(False)
        self._replace_module(parent, target_name, module, target)


def _register() -> None:
    key = cast(Any, TYPE)  # peft's own keys are an enumeration, to which nothing can be added
    PEFT_TYPE_TO_CONFIG_MAPPING[key] = NoiseConfig
    PEFT_TYPE_TO_TUNER_MAPPING[key] = NoiseModel
    PEFT_TYPE_TO_PREFIX_MAPPING[key] = NoiseModel.prefix


_register()
