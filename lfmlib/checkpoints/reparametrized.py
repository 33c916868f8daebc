"""Find tensors that a module computes from others that are stored, and compute them as PyTorch does.

=============================================== ================================================ ======================
stored                                          what it is                                       value
=============================================== ================================================ ======================
``weight_g``, ``weight_v``                      `torch.nn.utils.weight_norm`                     g · v / ‖v‖
``parametrizations.weight.original0``, ``…1``   `torch.nn.utils.parametrizations.weight_norm`    g · v / ‖v‖
``weight_orig``, ``weight_u``, ``weight_v``     `torch.nn.utils.spectral_norm`                   W / (uᵀ W v)
``weight_bar``, ``weight_u``, ``weight_v``      the same before PyTorch had it, iterated         W / (uᵀ W v)
``parametrizations.weight.original``,           `torch.nn.utils.parametrizations.spectral_norm`  W / (uᵀ W v)
``….0._u``, ``….0._v``
``weight_orig``, ``weight_mask``                `torch.nn.utils.prune`                           W · mask
``weight``, ``lora_A``, ``lora_B`` and          factors of low rank inside a module              W + B A · alpha / rank,
``alpha`` or ``scaling``                                                                         W + B A · scaling
=============================================== ================================================ ======================

`effective` puts the computed tensor in their place. What no file tells, such as the function of another
parametrization or the scale of factors, a module in memory does (`lfmlib.checkpoints.in_modules`); else the group is
left out with the reason. Where a module may be trained or not, the value is that of evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .names import PrefixDict
from .row_layouts import FLOATS
from .stored import InMemory, Stored

PARAMETRIZATION = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.original\d*$")
"""Names of what a parametrization of `torch.nn.utils.parametrize` is computed from: where its module is, of what."""
FACTOR = re.compile(r"((?:.*\.)?)lora([._]|_embedding_)(A|a|down)((?:\.[^.]+)?(?:\.weight)?)$")
"""Names of the factor of low rank on the side of the inputs; `SECOND` says how that of the outputs is called."""
SECOND = {"A": "B", "a": "b", "down": "up"}
SCALES = ("alpha", "lora_alpha", "lora_scaling", "scaling")
"""Names of a stored number that factors are scaled by; an alpha is over their rank."""
MIN_ALIGNED = 0.9
"""Cosine of u and W v above which these are a pair of W: torch took the one from the other."""


class Refused(ValueError):
    """A group of tensors whose effective one cannot be computed; the message is the reason, ``names`` are theirs."""

    def __init__(self, reason: str, names: Sequence[str]):
        super().__init__(reason)
        self.names = names


@dataclass(frozen=True)
class Effective(Stored):
    """A tensor that is computed from stored ones, as a whole.

    Attributes:
        pieces: name → what is stored, as ``formula`` takes them.
        formula: from their values to the tensor.
        like: name of the piece that has the tensor's shape and dtype.
        kind: stays empty; nothing here is quantized.
    """

    pieces: Mapping[str, Stored]
    formula: Callable[..., torch.Tensor]
    like: str
    lazy = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.pieces[self.like].shape)

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return self.pieces[self.like].dtype

    @property
    def remote(self) -> bool:
        """Whether one of the pieces is in a remote file."""
        return any(one.remote for one in self.pieces.values())

    def load(self) -> torch.Tensor:
        """The tensor, computed anew."""
        return self.formula(*(one.load() for one in self.pieces.values()))

    def preloaded(self) -> InMemory:
        """The tensor in memory: every part of it takes the whole to compute."""
        return InMemory(self.load())


class _Found(NamedTuple):
    """What a rule found: the computed tensor's name, what it is in words, the names of its pieces in the order in which
    the formula takes them, and which piece has its shape."""

    whole: str
    what: str
    names: Sequence[str]
    formula: Callable[..., torch.Tensor]
    like: str


def effective(stored: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, str]]:
    """Replace the pieces of each computed tensor by that tensor.

    Args:
        stored: name → `Stored`, in the order of the files. A computed tensor that is among them is kept as it is.

    Returns:
        Name → `Stored` in the same order; and name → reason for what is no longer listed: the pieces, and tensors
        that cannot be computed.
    """
    stored = PrefixDict(stored)
    entries, skipped = {}, {}
    for name, entry in stored.items():
        try:
            found = next(filter(None, (rule(name, stored) for rule in _RULES)), None)
        except Refused as reason:
            skipped |= dict.fromkeys(reason.names, str(reason))
            continue
        if found is None:
            entries[name] = entry
            continue
        given = None if found.whole in found.names else stored.get(found.whole)
        entries[found.whole] = given or Effective({one: stored[one] for one in found.names}, found.formula, found.like)
        reason = f"a piece of {found.whole} ({found.what})"
        skipped |= {piece: reason for piece in found.names if piece != found.whole}
    return {name: entry for name, entry in entries.items() if name not in skipped}, skipped


def _float(*entries: Stored | None) -> bool:
    return all(one is not None and one.dtype in FLOATS for one in entries)


def _weight_norm(name: str, stored: PrefixDict) -> _Found | None:
    """The form with ``weight_g`` and ``weight_v``; other names of that pattern are told apart by their shapes."""
    whole = name.removesuffix("_v")
    g = stored.get(f"{whole}_g")
    if whole == name or g is None or not _float(stored[name], g) or not _holds_norms(g.shape, stored[name].shape):
        return None
    return _Found(whole, "weight norm", (f"{whole}_g", name), weight_norm, name)


def _holds_norms(g: Sequence[int], v: Sequence[int]) -> bool:
    """Whether g can hold the norms of a matrix or stack v along one of its axes, or that of all of it."""
    long = [axis for axis, length in enumerate(g) if length != 1]
    fits = len(g) == len(v) and len(long) <= 1 and all(g[axis] == v[axis] for axis in long) and (long or 1 in v)
    return len(v) > 1 and (not len(g) or bool(fits))


def weight_norm(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """g · v / ‖v‖, as PyTorch computes it; the norms are taken along the axis that g has, or of all of v."""
    axes = [axis for axis, length in enumerate(g.shape) if length != 1 or v.shape[axis] == 1]
    return torch._weight_norm(v, g.to(v.dtype), axes[0] if axes else -1)  # pyright: ignore[reportPrivateImportUsage]


def _hooked(name: str, stored: PrefixDict) -> _Found | None:
    """The forms with ``weight_orig``: pruning by a mask, and spectral norm."""
    whole = name.removesuffix("_orig")
    if whole == name or not _float(stored[name]):
        return None
    mask, u, v = (stored.get(f"{whole}_{end}") for end in ("mask", "u", "v"))
    if mask is not None and mask.shape == stored[name].shape:
        return _Found(whole, "pruned by a mask", (name, f"{whole}_mask"), pruned, name)
    if u is None:
        return None
    names = [name, f"{whole}_u", *([f"{whole}_v"] if v is not None else [])]
    if whole not in stored:  # where PyTorch's first form of it left the computed one beside
        _check_spectral(whole, stored[name], u, v, names)
    return _Found(whole, "spectral norm", names, spectral_norm, name)


def _own_spectral(name: str, stored: PrefixDict) -> _Found | None:
    """The form with ``weight_bar``, older than PyTorch's: it iterates whenever it is used."""
    whole = name.removesuffix("_bar")
    names = (name, f"{whole}_u", f"{whole}_v")
    if whole == name or any(one not in stored for one in names):
        return None
    _check_spectral(whole, stored[name], stored[names[1]], stored[names[2]], names)
    return _Found(whole, "spectral norm", names, iterated, name)


def _check_spectral(whole: str, weight: Stored, u: Stored, v: Stored | None, names: Sequence[str]) -> None:
    """Raise Refused where u and v are no vectors for the two sides of a weight."""
    vectors = [tuple(one.shape) if one is not None else () for one in (u, v)]
    lengths = [length for shape in vectors for length in shape]
    if [len(shape) for shape in vectors] != [1, 1] or not _float(weight, u, v) or not _axes(weight.shape, *lengths):
        raise Refused(
            f"{whole} is divided by its spectral norm, but u and v have the shapes {vectors[0]} and "
            f"{vectors[1] or 'none'}, and the weight {tuple(weight.shape)}: expected a vector for its "
            "outputs and one for its inputs. Save it again from torch.nn.utils.remove_spectral_norm",
            names,
        )


def _axes(shape: Sequence[int], outputs: int, inputs: int) -> list[int]:
    """The axes that may be the outputs: the first, or, of a transposed convolution, the second."""
    found = [axis for axis, length in enumerate(shape) if length == outputs and math.prod(shape) == outputs * inputs]
    return found if len(shape) > 2 else found[:1]


def spectral_norm(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """W / (uᵀ W v), as PyTorch computes it; of several axes that may be the outputs, that whose W v is along u."""
    found = []
    for axis in _axes(weight.shape, len(u), len(v)):
        side = torch.mv(weight.movedim(axis, 0).flatten(1), v)
        found.append((torch.dot(u, side), side.norm()))
    return weight / next((sigma for sigma, norm in found if sigma > MIN_ALIGNED * norm), found[0][0])


def iterated(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """W / (uᵀ W v), u and v after another power iteration; v is of the one before."""
    rows = weight.flatten(1)
    v = torch.nn.functional.normalize(rows.T @ u, dim=0)
    return weight / torch.dot(torch.nn.functional.normalize(rows @ v, dim=0), rows @ v)


def pruned(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """W · mask."""
    return weight * mask.to(weight.dtype)


def _parametrized(name: str, stored: PrefixDict) -> _Found | None:
    """The forms of `torch.nn.utils.parametrize`; which function it was is told by the names of what it keeps."""
    if not (found := PARAMETRIZATION.match(name)):
        return None
    whole, prefix = f"{found[1]}{found[2]}", f"{found[1]}parametrizations.{found[2]}."
    pieces = {one.removeprefix(prefix): one for one in stored.with_prefix(prefix)}
    ends, names = tuple(pieces), list(pieces.values())
    if whole in stored:
        return _Found(whole, "parametrized", names, weight_norm, name)
    if ends == ("original0", "original1"):
        g, v = (stored[one] for one in names)
        if _float(g, v) and (_holds_norms(g.shape, v.shape) or (len(v.shape) == 1 and g.shape == v.shape)):
            return _Found(whole, "weight norm", names, weight_norm, names[1])
    if ends == ("0._u", "0._v", "original"):
        names = [names[2], *names[:2]]
        _check_spectral(whole, stored[name], stored[names[1]], stored[names[2]], names)
        return _Found(whole, "spectral norm", names, spectral_norm, name)
    raise Refused(
        f"{whole} is computed from {', '.join(ends)} by a function that no file tells. Open the module itself, or save "
        "it again from torch.nn.utils.parametrize.remove_parametrizations",
        names,
    )


def _factors(name: str, stored: PrefixDict) -> _Found | None:
    """Factors of low rank beside the weight they are added to; without one they are those of an adapter's file."""
    if not (found := FACTOR.match(name)):
        return None
    home, between, which, end = found.groups()
    whole = f"{home}weight"
    base = next((one for one in (f"{home}base_layer.weight", f"{home}linear.weight", whole) if one in stored), None)
    if base is None:
        return None
    factors = [one for one in stored.with_prefix(home) if one.removeprefix(home).startswith("lora")]
    if whole in stored and whole != base:
        return None  # see `_adapted`
    second, scale = f"{home}lora{between}{SECOND[which]}{end}", _scale(home, stored)
    names = [base, name, second, *([scale] if scale else [])]
    if scale and {*factors, base} | {scale} == set(names) and _low_rank(*(stored[one] for one in names[:3])):
        return _Found(whole, "with factors of low rank", names, low_rank if "alpha" in scale else added, base)
    why = "more than one, or of a kind that is not known" if scale else "and no file tells the scale of what they add"
    told = "" if base == whole else f"; {base} is listed without them"
    raise Refused(
        f"{', '.join(factors)} are factors inside {whole}, {why}{told}. Merge them first, or open the module itself",
        [*factors, *([base] if base == whole else []), *([scale] if scale else [])],
    )


def _adapted(name: str, stored: PrefixDict) -> _Found | None:
    """What a layer of peft's is made of, where `lfmlib.checkpoints.in_modules.computed` has given its weight."""
    home, layer, _ = name.rpartition("base_layer.weight")
    whole = f"{home}weight"
    if not layer or whole not in stored:
        return None
    names = [one for one in stored.with_prefix(home) if one not in (whole, f"{home}base_layer.bias")]
    return _Found(whole, "with its adapters", names, torch.clone, name)


def _scale(home: str, stored: Mapping) -> str | None:
    """The name of the number that the factors of a module are scaled by."""
    found = [f"{home}{end}" for end in SCALES if f"{home}{end}" in stored]
    return found[0] if len(found) == 1 and math.prod(stored[found[0]].shape) == 1 else None


def _low_rank(base: Stored, down: Stored, up: Stored) -> bool:
    """Whether factors lie over a matrix."""
    fits = len(base.shape) == len(down.shape) == len(up.shape) == 2 and _float(base, down, up)
    return fits and (*base.shape, down.shape[0]) == (up.shape[0], down.shape[1], up.shape[1])


def low_rank(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """W + B A · alpha / rank."""
    return added(weight, down, up, alpha / len(down))


def added(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """W + B A · scale."""
    return weight + ((up @ down) * scale).to(weight.dtype)


_RULES = (_weight_norm, _hooked, _own_spectral, _parametrized, _factors, _adapted)
