"""Which dictionary of a training checkpoint is the model.

Training scripts save the weights beside other things: `{"state_dict": {…}, "optimizer_states": […], "epoch": 3}` of
Lightning, `{"module": {…}, "optimizer": {…}}` of DeepSpeed, `{"generator": {…}, "discriminator": {…}}`, and often a
loss or a step as a tensor beside them. Of all dictionaries of tensors that are not an optimizer's the one with the most
values is the model; dictionaries in it, and lists of these or of tensors, are its modules. The rest is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from .in_memory import is_tensor

MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "weights", "params", "net", "network", "generator")
"""What scripts call the weights; where several dictionaries are as large, the first of these is the model."""
NOT_THE_MODEL = re.compile(
    r"optim|^opt(_|$)|sched|scaler|^rng|random|callback|^loops?$|^grad|hyper_?param", re.IGNORECASE
)
COPY = 0.9
"""A dictionary with so large a share of the largest one's values is a copy of the model, such as a moving average."""
MAX_DEPTH = 16  # of dictionaries in dictionaries
BESIDE = "beside the model"
"""How the reason begins why what is not in the model's dictionary is left out."""


def model_of(content: Mapping, name: str, variant: str | None = None) -> tuple[dict, dict[str, str], str]:
    """The model's dictionary, flattened, and why each other dictionary and tensor is left out.

    Args:
        content: name → tensor or array, or such dictionaries among anything else.
        name: what messages call the whole.
        variant: key of the dictionary to take, with dots where it is nested; default the largest.

    Returns:
        Name → value, dictionaries inside joined to it with dots; key → reason; and a warning, where something else in
        it may be the model that was meant. All are empty where there is no tensor.

    Raises ValueError if there is no dictionary called `variant`.
    """
    found = dict(_candidates(content, "", set()))
    sizes = {
        key: sum(math.prod(shape_of(one)) for one in some.values() if is_tensor(one)) for key, some in found.items()
    }
    models = [key for key in found if not any(map(NOT_THE_MODEL.search, key.split(".")))]
    if variant is not None:
        if variant not in found:
            raise ValueError(
                f"variant={variant!r}: {name} has no dictionary of tensors of that name; it has "
                f"{', '.join(map(repr, filter(None, found))) or 'none'}. Name one of these, or leave variant out."
            )
        chosen = variant
    elif not models:
        return {}, {}, ""
    else:
        most = max(sizes[key] for key in models)
        chosen = min((key for key in models if sizes[key] >= COPY * most), key=_rank)
    where, left = chosen or "what lies at the top level", {}
    for key, some in found.items():
        tensors = [one for one, value in some.items() if is_tensor(value)]
        if key != chosen:
            names = {key: len(tensors)} if key else dict.fromkeys(tensors, 1)
            left |= {one: f"{BESIDE} ({where}): {n} tensor{'s' * (n > 1)}" for one, n in names.items()}
    others = [
        one for one in models if one not in ("", chosen) and any(len(shape_of(x)) > 1 for x in found[one].values())
    ]
    if not others or variant is not None:
        return found[chosen], left, ""
    return (
        found[chosen],
        left,
        f"{name} holds several dictionaries of tensors: {where} is read ({sizes[chosen]:,} values), and left out are "
        f"{', '.join(f'{one} ({sizes[one]:,})' for one in others)}. Open it with variant={others[0]!r} for another",
    )


def _candidates(content: Mapping, path: str, seen: set[int]) -> Iterator[tuple[str, dict]]:
    """Path → content of each dictionary with tensors; "" for what lies at the top level."""
    seen.add(id(content))
    nested = {key: one for key, one in content.items() if isinstance(key, str) and _inside(one) is not None}
    if any(map(is_tensor, content.values())):
        # a list beside tensors is of the same module, as torch packs what it quantizes
        packed = [key for key, one in nested.items() if not isinstance(one, Mapping) and not NOT_THE_MODEL.search(key)]
        inside = dict(_flat({key: nested.pop(key) for key in packed}, "", seen, 0))
        yield path, {key: one for key, one in content.items() if key not in (*nested, *packed)} | inside
    for key, value in nested.items():
        place = f"{path}.{key}" if path else key
        if id(value) in seen or place.count(".") > MAX_DEPTH:  # a pickle may hold itself
            continue
        seen.add(id(value))
        one = _inside(value) or {}
        if _is_run(one):
            yield from _candidates(one, place, seen)
        elif any(map(is_tensor, (inside := dict(_flat(one, "", seen, 0))).values())):
            optimizer = ("param_groups" in one or "param_groups" in content) and not NOT_THE_MODEL.search(key)
            yield (f"{place}.optimizer" if optimizer else place), inside


def _is_run(content: Mapping) -> bool:
    """Whether a dictionary holds a model beside other things, and is not the model."""
    nested = [key for key, one in content.items() if isinstance(key, str) and _inside(one) is not None]
    return any(key in MODEL_KEYS or NOT_THE_MODEL.search(key) for key in nested)


def flat(content: Mapping) -> dict[str, object]:
    """What lies in a dictionary, and in dictionaries and lists inside it, under dotted names."""
    return dict(_flat(content, "", set(), 0))


def _flat(content: Mapping, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, object]]:
    seen.add(id(content))
    for key, one in content.items():
        if not isinstance(key, str | int):  # str() of another object, such as a deeply nested tuple, might never return
            continue
        if (inner := _inside(one)) is None:
            yield f"{prefix}{key}", one
        elif id(one) not in seen and depth < MAX_DEPTH:
            seen.add(id(one))
            yield from _flat(inner, f"{prefix}{key}.", seen, depth + 1)


def _inside(value: object) -> Mapping | None:
    """A dictionary, or a list of dictionaries or tensors by their numbers; None of anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple) and any(is_tensor(one) or isinstance(one, Mapping) for one in value):
        return {str(number): one for number, one in enumerate(value)}
    return None


def shape_of(value) -> tuple:
    """The shape of a tensor or array; () where it has none."""
    try:
        return tuple(map(int, value.shape)) if is_tensor(value) else ()
    except Exception:  # nested and uninitialized tensors have none, and raise various errors
        return ()


def _rank(key: str) -> int:
    last = key.rsplit(".", 1)[-1]
    return MODEL_KEYS.index(last) if last in MODEL_KEYS else len(MODEL_KEYS)
