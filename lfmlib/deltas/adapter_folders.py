"""Read the folder of an adapter as peft saves it; refuse what peft would stumble over, or lay on the base wrongly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils import load_peft_weights
from peft.utils.other import get_pattern_key

from .. import noise_adapter  # registers itself with peft
from ..checkpoints.checkpoint import CheckpointError
from ..checkpoints.stored import is_positive_int, json_object

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Names of an adapter's weights."""
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations of A and B that also change the base: the adapter does not belong to the base as it is stored."""


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """The settings and the tensors of an adapter.

    Raises:
        CheckpointError: a file is missing or damaged; a setting is not of its kind; or the adapter is of a kind that is
            not laid over a base here.
    """
    if not any((folder / name).is_file() for name in WEIGHTS):
        some = ", ".join(sorted(one.name for one in folder.iterdir())[:6])
        raise CheckpointError(
            f"{folder} holds an adapter_config.json and no weights: found {some}; expected {' or '.join(WEIGHTS)} "
            "beside it. Save or download the adapter again"
        )
    settings = json_object((folder / "adapter_config.json").read_bytes(), str(folder / "adapter_config.json"))
    if "peft_type" not in settings:
        raise CheckpointError(
            f"adapter_config.json of {folder} names no peft_type: found {', '.join(list(settings)[:6]) or 'nothing'}; "
            "expected the settings that peft saves. Save or download the adapter again"
        )
    _check(settings, folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        state = load_peft_weights(str(folder), device="cpu")
    except Exception as error:
        raise CheckpointError(f"{folder} is no adapter that peft can read ({error}): save it again") from error
    _refuse_other_kinds(config, folder)
    if odd := next((name for name, value in state.items() if ".lora_" in name and not value.is_floating_point()), None):
        raise CheckpointError(
            f"{odd} of the adapter {folder} is {str(state[odd].dtype).removeprefix('torch.')}: expected floating-point "
            "numbers. Save it in these"
        )
    return config, state


def rank_in(config: PeftConfig, path: str) -> int | None:
    """The rank of a LoRA on the module at ``path``, as its settings say; None of another adapter."""
    if not isinstance(config, LoraConfig):
        return None
    pattern: Any = config.rank_pattern or {}
    return pattern.get(get_pattern_key(list(pattern), path), config.r)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _of_modules(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(_is_pattern, value)) and all(map(good, value.values()))


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_KINDS: dict[str, tuple[Callable[[Any], bool], str, bool]] = {
    "peft_type": (lambda value: isinstance(value, str), "the name of a kind", False),
    "r": (is_positive_int, "a whole number above 0", False),
    "lora_alpha": (_is_number, "a number", False),
    "rank_pattern": (_of_modules(is_positive_int), "names or patterns of modules with whole numbers above 0", True),
    "alpha_pattern": (_of_modules(_is_number), "names or patterns of modules with numbers", True),
    "target_parameters": (_are_names, "a list of names", True),
    "use_rslora": (_is_flag, "true or false", True),
    "use_dora": (_is_flag, "true or false", True),
    "bases": (is_positive_int, "a whole number above 0", False),
    "seed": (lambda value: type(value) is int and value >= 0, "a whole number from 0 on", False),
    "scale": (_is_number, "a number", False),
    "scale_pattern": (_of_modules(_is_number), "names or patterns of modules with numbers", True),
}
"""Setting that ΔW depends on → whether a value is of its kind, what is expected, and whether null stands for none."""


def _check(settings: Mapping[str, Any], folder: Path) -> None:
    for name, value in settings.items():
        good, expected, optional = _KINDS.get(name, (lambda _: True, "", True))
        if not (good(value) or (value is None and optional)):
            raise CheckpointError(
                f"adapter_config.json of {folder} says {name} {shortened(value)}: expected {expected}. Correct it, or "
                "save the adapter again"
            )


def _refuse_other_kinds(config: PeftConfig, folder: Path) -> None:
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind == noise_adapter.TYPE:
        return
    if kind != "LORA" or not isinstance(config, LoraConfig):
        raise CheckpointError(
            f"{folder} holds an adapter of type {kind}; expected LORA, with or without DoRA, or {noise_adapter.TYPE}. "
            "Merge it into its base with peft, and give the merged model"
        )
    if str(config.init_lora_weights).lower().startswith(_CHANGE_THE_BASE) or getattr(config, "layer_replication", None):
        how = "layer replication" if getattr(config, "layer_replication", None) else config.init_lora_weights
        raise CheckpointError(
            f"{folder} holds an adapter made with {how}, which changed its base as well; expected one that lies on the "
            "base as it is stored. Save it anew with peft's path_initial_model_for_weight_conversion, or give the "
            "merged model"
        )
