"""Layouts that store codes row by row: their names, and how scales are matched to blocks of codes.

Each rule takes the name of what may be codes, all stored tensors and the settings of `quantization_config`, and returns
the name of the whole matrix, its `Stored` and the names of the pieces; None where the layout is another one. It raises
Refused where the layout is this one, and not certain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from .names import PrefixDict
from .packings import CodedRows, PackedZeros, group_words
from .stored import Stored, is_positive_int

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
FLOATS = ("float16", "bfloat16", "float32", "float64")
POWERS = ("uint8", "float8_e8m0fnu")  # of two, as scales
DEFAULT_BLOCK = 128  # rows and columns a scale, DeepSeek's, where config.json has no weight_block_size
MAX_DEPTH = 3  # of a layer's own settings in a quantization_config
SMALL_FLOATS = {8: ("NVFP4", 16, 4), 16: ("MXFP4", 32, 4), 24: ("MXFP6", 32, 6)}
"""Bytes of codes a scale → format, values a scale, bits of a code."""
TILE = (128, 4)  # rows and columns of scales in a tile of NVIDIA's kernels; fewer are padded, which their shape shows


class Refused(ValueError):
    """A quantized tensor is not read; the message is the reason listed in `Checkpoint.skipped`."""


def said(entry: Stored | None) -> str:
    """Dtype and shape of a tensor, in words."""
    return "none" if entry is None else f"{entry.dtype} {tuple(entry.shape)}"


def plain_codes(name: str, stored: PrefixDict, settings: Mapping):
    """float8 or int8 of the matrix's own shape: FP8, compressed-tensors' W8A8, torchao, quanto and Gemma's.

    None for float8 values if neither names nor config.json mention a scale.
    """
    weight, (whole, begin) = stored[name], _matrix_and_prefix(name)
    if weight.dtype not in (*FLOAT8, "int8") or len(weight.shape) < 2:
        return None
    known = [f"{begin}_scale_inv", f"{begin}_scale"]
    if weight.dtype in FLOAT8 and name.endswith(".weight"):
        known += [f"{name.removesuffix('weight')}{one}" for one in ("scale", "scale_weight")]
    scales = next((one for one in known if one in stored), None)
    if scales is None or (weight.dtype == "int8" and stored[scales].dtype in POWERS):  # of bytes with two codes each
        if weight.dtype in FLOAT8:
            _refuse_unscaled(name, stored, settings, known)
        return None
    if second := [one for one in (f"{name}_scale_2", f"{name}_global_scale") if one in stored]:
        raise Refused(f"{weight.dtype} with a second scale {second[0]}, where one was expected")
    scale, zero, shape = stored[scales], stored.get(f"{begin}_zero_point"), tuple(weight.shape)
    declared = settings.get("weight_block_size") or (DEFAULT_BLOCK if scales.endswith("_inv") else None)
    block = block_shape(shape, tuple(scale.shape), declared, sizes_in(settings))
    if zero is not None and math.prod(zero.shape) != math.prod(scale.shape):
        raise Refused(f"zero points of shape {tuple(zero.shape)} for scales of shape {tuple(scale.shape)}")
    if name.endswith("_qdata") and weight.dtype == "int8" and tuple(scale.shape)[:1] not in ((1,), shape[:1]):
        raise Refused(f"of torchao, int8 {shape} with scales {said(scale)}: expected scales of its rows")
    kind = f"{weight.dtype}, a scale for {block[0]} × {block[1]}"
    entry = CodedRows(weight, scale, shape, block, kind, zero=zero)
    pieces = [name, scales, f"{begin}_zero_point", f"{name}_g_idx", f"{name.removesuffix('weight')}comfy_quant"]
    return whole, with_groups(entry, f"{name}_g_idx", stored), pieces


def _matrix_and_prefix(name: str) -> tuple[str, str]:
    """Name of the matrix whose codes have this name; and what the names of its scales begin with."""
    if name.endswith("_qdata"):  # torchao: the attributes of a parameter "p.weight" are "p._weight_qdata" and so on
        module, _, leaf = name.removesuffix("_qdata").rpartition(".")
        return f"{module}.{leaf.removeprefix('_')}", name.removesuffix("_qdata")
    if name.endswith("._data"):  # quanto: "p.weight._data" and "p.weight._scale"
        return name.removesuffix("._data"), name.removesuffix("_data")
    if name.endswith(".embedding_quantized"):  # Gemma: "p.embedding_quantized" and "p.embedding_scale"
        return name.removesuffix("embedding_quantized") + "weight", name.removesuffix("_quantized")
    return name, name


def _refuse_unscaled(name: str, stored: PrefixDict, settings: Mapping, known: list[str]) -> None:
    """Raise Refused for float8 without a known scale, where names or config.json speak of one."""
    base = name.removesuffix(".weight")
    near = [one for one in stored.with_prefix(base) if "scale" in one.removeprefix(base) and "input" not in one]
    if near or settings.get("quant_method"):
        found = f"{near[0]} is no name of a scale that is known" if near else "no scale lies beside it"
        says = "" if near else f", and config.json says {settings['quant_method']!r}"
        raise Refused(f"{stored[name].dtype}, {found}{says}; expected {' or '.join(known)}")


def with_groups(entry: CodedRows, name: str, stored: Mapping) -> CodedRows:
    """The same with the groups of columns in `name`, if it is there and holds any."""
    groups = stored.get(name)
    if groups is None:
        return entry
    if tuple(groups.shape) != entry.shape[-1:] or groups.dtype not in ("int32", "int64"):
        raise Refused(f"g_idx {said(groups)}, where int32 {entry.shape[-1:]} was expected")
    wide = entry.block[1]
    said_there = group_words(entry.shape[-1], -(-entry.shape[-1] // wide), wide, groups)
    kind = entry.kind if said_there.startswith("groups of") else f"{entry.kind.partition(',')[0]}, {said_there}"
    return replace(entry, groups=groups, kind=kind)


def sizes_in(settings: Mapping, depth: int = 0) -> list[int]:
    """Every group size of weights that a quantization_config names, those of single layers (auto-round) too."""
    inner = [one for key, one in settings.items() if isinstance(one, Mapping) and "activations" not in str(key)]
    found = [settings.get("group_size"), settings.get("q_group_size")]
    found += [size for one in inner for size in sizes_in(one, depth + 1)] if depth < MAX_DEPTH else []
    return [one for one in found if is_positive_int(one)]


def group_size(width: int, groups: int, sizes: list[int], ordered: bool = False) -> int:
    """Inputs of a group, the last of which may have fewer: the declared size that gives so many, or equal groups.

    Where a g_idx orders the inputs (``ordered``), the size only describes groups, and may be a mean.
    """
    for size in sizes:
        if -(-width // size) == groups:
            return size
    if ordered and groups:
        return -(-width // groups)
    if groups and width % groups == 0 and (groups == 1 or width // groups & (width // groups - 1) == 0):
        return width // groups
    raise Refused(
        f"{width} inputs in {groups} groups, and config.json names no group_size that gives so many "
        f"({', '.join(map(str, sizes)) or 'none'}); expected one"
    )


def block_shape(shape: tuple[int, ...], scale: tuple[int, ...], declared, sizes: list[int]) -> tuple[int, int]:
    """Rows and columns of the block that each scale applies to, from the shapes of codes and scales."""
    *stack, out, width = shape
    if not math.prod(scale):
        raise Refused(f"scales of shape {scale} are none")
    if math.prod(scale) == 1 or scale in (tuple(stack), (*stack, 1, 1)):
        return out, width
    if scale in ((out,), (*stack, out)) or scale == (*stack, out, 1):
        return 1, width
    if len(scale) >= 2 and scale[:-2] == tuple(stack):
        declared = [declared, declared] if isinstance(declared, int) else declared
        if declared and not (isinstance(declared, list) and len(declared) == 2 and all(map(is_positive_int, declared))):
            raise Refused(f"config.json says weight_block_size {declared!r}, where two lengths were expected")
        if declared and all(-(-n // d) == s for n, d, s in zip((out, width), declared, scale[-2:], strict=True)):
            return declared[0], declared[1]
        if scale[-2] == out and scale[-1] < width:
            return 1, group_size(width, scale[-1], sizes)
        if out % scale[-2] == 0 and width % scale[-1] == 0:
            return out // scale[-2], width // scale[-1]
    raise Refused(f"scales of shape {scale} fit no blocks of a matrix {shape}")


def small_floats(name: str, stored: PrefixDict, settings: Mapping):
    """NVFP4, MXFP4, MXFP6 of compressed-tensors, ModelOpt, Quark, auto-round, DeepSeek: one level of scales or two."""
    base, codes = name.removesuffix("_packed"), stored[name]
    beside = [f"{base}_scale"] if base.endswith("weight") else []
    beside += [f"{name}_scale_inv", f"{name.removesuffix('weight')}scale"] if codes.dtype == "int8" else []
    scaled = next((one for one in beside if one in stored), None)
    if codes.dtype not in ("uint8", "int8") or scaled is None or len(codes.shape) < 2:
        return None
    scale, (*rows, width) = stored[scaled], codes.shape
    groups = scale.shape[-1] if scale.shape and list(scale.shape[:-1]) == rows else 0
    powers = scale.dtype in POWERS
    known = SMALL_FLOATS.get(width // groups if groups and width % groups == 0 else 0)
    if known is None or powers != known[0].startswith("MX") or not (powers or scale.dtype in (*FLOAT8, *FLOATS)):
        return None
    if codes.dtype == "int8" and not powers:
        return None
    format, size, bits = known
    second = [one for one in (f"{base}_global_scale", f"{base}_scale_2") if one in stored]
    if f"{base}_zero_point" in stored or len(second) > 1 or (powers and second):
        raise Refused(f"{format} with zero points or with more scales than known: {', '.join(second)}")
    if not powers and (not second or math.prod(stored[second[0]].shape) != 1):
        raise Refused(
            f"NVFP4, of whose second scale {said(stored.get(second[0]) if second else None)} is there; expected one "
            f"value in {base}_global_scale, by which is divided, or {base}_scale_2, by which is multiplied"
        )
    factor = float(stored[second[0]].load()) if second else 1.0
    if second and second[0].endswith("_global_scale"):
        if not factor:
            raise Refused(f"NVFP4, but {second[0]} is 0, by which is divided")
        factor = 1 / factor
    if not settings and second == [f"{base}_scale_2"] and rows[0] % TILE[0] == groups % TILE[1] == 0:
        raise Refused(
            "NVFP4, the scales of which may lie in rows (ModelOpt) or in tiles (ComfyUI): expected a "
            "quantization_config in config.json, which says whose they are"
        )
    kind = f"{format}, blocks of {size}"
    entry = CodedRows(codes, scale, (*rows, groups * size), (1, size), kind, bits, floats=True, factor=factor)
    return base, entry, [name, scaled, *second]


def mxfp4_blocks(name: str, stored: PrefixDict, settings: Mapping):
    """MXFP4 as gpt-oss stores it: blocks of 32 codes in 16 bytes, each block with one power of two."""
    if not name.endswith("_blocks") or stored[name].dtype != "uint8":
        return None
    whole = name.removesuffix("_blocks")
    scales = f"{whole}_scales"
    shape = tuple(stored[name].shape)
    beside = stored.get(scales)
    if beside is None or len(shape) < 3 or shape[-1] != 16 or (beside.dtype, *beside.shape) != ("uint8", *shape[:-1]):
        raise Refused(f"blocks {shape}, scales {said(beside)}: MXFP4 has (…, groups, 16) and (…, groups)")
    matrix = (*shape[:-2], shape[-2] * 32)
    entry = CodedRows(stored[name], beside, matrix, (1, 32), "MXFP4, blocks of 32", 4, floats=True)
    return whole, entry, [name, scales]


def packed_words(name: str, stored: PrefixDict, settings: Mapping):
    """compressed-tensors' pack-quantized: codes of 1 to 8 bits packed along the inputs, with or without zero points."""
    if not name.endswith(".weight_packed"):
        return None
    base = name.removesuffix("_packed")
    pieces = [f"{base}_scale", f"{base}_shape"]
    if missing := [one for one in pieces if one not in stored]:
        raise Refused(f"of compressed-tensors, but {missing[0]} is not there")
    scale, lengths, words = stored[pieces[0]], stored[pieces[1]], tuple(stored[name].shape)
    if lengths.dtype not in ("int32", "int64") or tuple(lengths.shape) != (2,):
        raise Refused(f"of compressed-tensors, but {pieces[1]} is {said(lengths)}; expected int64 (2,)")
    shape = tuple(lengths.load().tolist())
    bits = [one for one in range(1, 9) if words == (shape[0], -(-shape[1] * one // 32))]
    sound = len(scale.shape) == 2 and math.prod(scale.shape) and scale.dtype in FLOATS and scale.shape[0] == shape[0]
    if not bits or not sound or min(shape) < 1 or stored[name].dtype != "int32":
        raise Refused(
            f"words {said(stored[name])} and scales {said(scale)} for a matrix {shape}: no layout of 1 to 8 bits"
        )
    wide = group_size(shape[1], scale.shape[1], sizes_in(settings))
    kind = f"int{bits[-1]} of compressed-tensors, groups of {wide}"
    zeros, zero = f"{base}_zero_point", None
    if zeros in stored:
        expected = (-(-shape[0] * bits[-1] // 32), scale.shape[1])
        if (stored[zeros].dtype, *stored[zeros].shape) != ("int32", *expected):
            raise Refused(f"zero points {said(stored[zeros])}, where int32 {expected} was expected")
        zero = PackedZeros(stored[zeros], tuple(scale.shape), bits[-1])
    offset = 0 if zero is not None else 1 << (bits[-1] - 1)  # stored zero points are counted from the same offset
    entry = CodedRows(stored[name], scale, shape, (1, wide), kind, bits[-1], zero=zero, offset=offset)
    order = f"{base}_g_idx"
    return base, with_groups(entry, order, stored), [name, *pieces, zeros, order]


def mlx(name: str, stored: PrefixDict, settings: Mapping):
    """MLX and transformers' Metal: uint32 words of codes along the inputs; a value is code × scale + bias."""
    base = name.removesuffix(".weight")
    codes, scale = stored[name], stored.get(f"{base}.scales")
    shift = next((one for one in (f"{base}.biases", f"{base}.qbiases") if one in stored), None)
    if base == name or codes.dtype != "uint32" or scale is None or shift is None:
        return None
    own = settings.get(base)
    own = {**settings, **(own if isinstance(own, Mapping) else {})}
    size, bits = own.get("group_size"), own.get("bits")
    beside = stored[shift]
    if not is_positive_int(size) or bits not in (2, 3, 4, 5, 6, 8) or len(scale.shape) < 2:
        raise Refused(
            f"of MLX, with scales {said(scale)}, and config.json says group_size {size!r} and bits {bits!r}; expected "
            "both, and scales of groups"
        )
    shape = (*scale.shape[:-1], scale.shape[-1] * size)
    expected = (*shape[:-1], shape[-1] * bits // 32)
    if tuple(codes.shape) != expected or scale.dtype not in FLOATS or tuple(beside.shape) != tuple(scale.shape):
        raise Refused(
            f"of MLX, words {said(codes)}, scales {said(scale)} and biases {said(beside)}: no layout of {bits} bits "
            f"in groups of {size}"
        )
    kind = f"int{bits} of MLX, groups of {size}"
    entry = CodedRows(codes, scale, shape, (1, size), kind, bits, shift=beside)
    return name, entry, [f"{base}.scales", shift]


def gguf_scale(name: str, stored: PrefixDict, settings: Mapping):
    """A scale of the whole matrix that llama.cpp multiplies by, of NVFP4 and of BitNet's ternary codes."""
    base = name.removesuffix(".weight")
    weight, scale = stored[name], stored.get(f"{base}.scale")
    if base == name or scale is None or "GGUF" not in weight.kind or len(weight.shape) < 2:
        return None
    if scale.dtype != "float32" or math.prod(scale.shape) not in (1, math.prod(weight.shape[:-2])):
        raise Refused(f"a scale {said(scale)} of a matrix {tuple(weight.shape)}, where one value was expected")
    kind = f"{weight.kind}, with a scale of the whole"
    return name, CodedRows(weight, scale, tuple(weight.shape), tuple(weight.shape[-2:]), kind), [f"{base}.scale"]


ROW_LAYOUTS = (plain_codes, small_floats, mxfp4_blocks, packed_words, mlx, gguf_scale)
