"""Layouts of GPTQ, AWQ, bitsandbytes, HQQ and BitNet: their names and their checks.

The rules are as in `lfmlib.checkpoints.row_layouts`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import torch

from .library_packings import Awq, BitsandbytesFourBit, Gptq, SplitRows
from .names import PrefixDict
from .packings import CodedRows, unpack
from .row_layouts import FLOATS, Refused, group_size, said, sizes_in
from .stored import InMemory, Stored, is_positive_int

MAX_STATE_BYTES = 1 << 16  # of the JSON that bitsandbytes and ComfyUI store beside codes, usually some hundred bytes
RAW_ZEROS = ("gptq_v2", "auto_round", "auto_round:gptqmodel")
"""Formats of qweight that store zero points themselves; the others store them less 1."""


def comfy(name: str, stored: PrefixDict, settings: Mapping) -> None:
    """Refuse what ComfyUI marks as rotated, or as a format whose scales do not lie in rows; the rest is plain codes."""
    mark = stored.get(f"{name.removesuffix('weight')}comfy_quant")
    if not name.endswith(".weight") or mark is None:
        return
    said_there = _json(mark, "ComfyUI", "comfy_quant")
    format = said_there.get("format")
    if format not in ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise") or said_there.get("convrot"):
        rotated = " of rotated rows" if said_there.get("convrot") else ""
        raise Refused(f"of ComfyUI, format {str(format)[:40]!r}{rotated}, whose values are known to its kernels alone")


def qweight(name: str, stored: PrefixDict, settings: Mapping):
    """GPTQ packs the inputs and AWQ the outputs of a qweight; the shape of the scales tells which."""
    if not name.endswith(".qweight"):
        return None
    base = name.removesuffix(".qweight")
    names = [f"{base}.{piece}" for piece in ("qzeros", "scales")]
    if missing := [one for one in names if one not in stored]:
        beside = [one for one in stored.with_prefix(f"{base}.") if one != name and not one.endswith(".bias")]
        raise Refused(
            f"codes {said(stored[name])}, beside them {', '.join(beside[:4]) or 'nothing'}; {' and '.join(missing)}, "
            "which GPTQ and AWQ store, are not there, and no other layout of this name is known"
        )
    codes, zeros, scales = stored[name], *(stored[one] for one in names)
    sound = codes.dtype == zeros.dtype == "int32" and len(codes.shape) == len(scales.shape) == len(zeros.shape) == 2
    sound = sound and scales.dtype in FLOATS and math.prod(scales.shape) and zeros.shape[0] == scales.shape[0]
    (groups, out), words = (scales.shape, zeros.shape[1]) if sound else ((0, 0), 0)
    order = stored.get(f"{base}.g_idx")
    pieces = [name, *names, f"{base}.g_idx"]
    if sound and out == 8 * codes.shape[1] and words == codes.shape[1]:
        entry = Awq(codes, zeros, scales, group_size(codes.shape[0], groups, sizes_in(settings)))
        return f"{base}.weight", entry, pieces
    bits = [one for one in range(2, 9) if sound and out == codes.shape[1] and words == -(-out * one // 32)]
    bits = [one for one in bits if codes.shape[0] * 32 % one == 0]
    if declared := [one for one in bits if one == settings.get("bits")]:
        bits = declared
    if len(bits) != 1:
        raise Refused(
            f"codes {said(codes)}, zero points {said(zeros)} and scales {said(scales)}: no layout of GPTQ "
            "(2 to 8 bits) or AWQ (4 bits)"
        )
    width = codes.shape[0] * 32 // bits[0]
    if order is not None and (tuple(order.shape) != (width,) or order.dtype not in ("int32", "int64")):
        raise Refused(f"g_idx {said(order)}, where int32 {(width,)} was expected")
    size = group_size(width, groups, sizes_in(settings), ordered=order is not None)
    zero, offset = _zero_points(zeros, bits[0], out, settings)
    return f"{base}.weight", Gptq(codes, zeros, scales, order, bits[0], zero, offset, size), pieces


def _zero_points(zeros: Stored, bits: int, out: int, settings: Mapping) -> tuple[int | None, int]:
    """The zero point of symmetric codes, or None; and what is to be added to stored ones.

    Symmetric codes have their middle as zero point, which some files store less 1 and some not under the same name of a
    format: what is stored is not asked. Without settings stored zero points tell, if all are the middle or one below.
    """
    middle = 1 << (bits - 1)
    if settings.get("sym") is True:
        return middle, 0
    formats = (settings.get(key) for key in ("packing_format", "checkpoint_format", "format"))
    format = str(next(filter(None, formats), ""))
    if settings.get("quant_method"):
        return None, 0 if format in RAW_ZEROS else 1
    found = torch.unique(unpack(zeros.load(), bits)[:, :out]).tolist()
    if found in ([middle], [middle - 1]):
        return middle, 0
    raise Refused(
        f"GPTQ’s zero points {found[:4]}, and config.json does not say whether they are stored less 1; expected "
        "quant_method and checkpoint_format or packing_format in its quantization_config"
    )


def bitsandbytes(name: str, stored: PrefixDict, settings: Mapping):
    """bitsandbytes: 4 bits with a JSON of settings, or 8 bits with a scale for each row."""
    weight = stored[name]
    if f"{name}.absmax" in stored:
        names = {one.removeprefix(f"{name}."): one for one in stored.with_prefix(f"{name}.")}
        packed = next((one for piece, one in names.items() if piece.startswith("quant_state.bitsandbytes__")), None)
        if packed is None or "quant_map" not in names:
            raise Refused("of bitsandbytes, but its quant_state or quant_map is not there")
        nested = tuple(stored[names[one]] for one in ("nested_absmax", "nested_quant_map") if one in names)
        state = _read_state(stored[packed], nested=bool(nested))
        entry = BitsandbytesFourBit(weight, stored[names["absmax"]], stored[names["quant_map"]], nested or None, state)
        _check_four_bit(entry)
        return name, entry, list(names.values())
    scales = re.sub(r"\.weight$", ".SCB", name)
    if weight.dtype == "int8" and scales != name and scales in stored and len(weight.shape) == 2:
        if math.prod(stored[scales].shape) != weight.shape[0]:
            raise Refused(f"scales {tuple(stored[scales].shape)} for rows of a matrix {tuple(weight.shape)}")
        shape = tuple(weight.shape)
        kind = "int8 of bitsandbytes, a scale a row"
        entry = CodedRows(weight, stored[scales], shape, (1, shape[1]), kind, factor=1 / 127)
        return name, entry, [one for one in (scales, f"{name}_format") if one in stored]
    return None


def _read_state(entry, nested: bool) -> dict:
    """The JSON of settings that bitsandbytes stores beside 4-bit codes."""
    state = _json(entry, "bitsandbytes", "quant_state")
    shape, counts = state.get("shape"), ("blocksize", "nested_blocksize") if nested else ("blocksize",)
    sound = (
        isinstance(shape, list)
        and shape
        and all(map(is_positive_int, shape))
        and all(is_positive_int(state.get(c)) for c in counts)
    )
    if not sound or not isinstance(state.get("quant_type"), str):
        raise Refused(f"of bitsandbytes, but its quant_state lacks shape, quant_type or {' or '.join(counts)}")
    if nested and not isinstance(state.get("nested_offset"), int | float):
        raise Refused("of bitsandbytes, but its quant_state has no nested_offset")
    return state


def _json(entry: Stored, library: str, name: str) -> dict:
    """Settings that a library stores as the bytes of some JSON beside codes; {} if they are no object."""
    if entry.dtype != "uint8" or math.prod(entry.shape) > MAX_STATE_BYTES:
        raise Refused(f"of {library}, but its {name} is {said(entry)}; expected some JSON")
    try:
        found = json.loads(bytes(entry.load().reshape(-1).tolist()))
    except (ValueError, RecursionError) as error:
        raise Refused(f"of {library}, but its {name} is no JSON ({error})") from None
    return found if isinstance(found, dict) else {}


def _check_four_bit(entry: BitsandbytesFourBit) -> None:
    """Raise Refused unless codes, table and scales have the lengths and dtypes that the settings imply."""
    values, absmax, nested = math.prod(entry.shape), entry.absmax, entry.nested
    blocks = -(-values // entry.state["blocksize"])
    expected = [(entry.weight, ("uint8",), -(-values // 2)), (entry.table, FLOATS, 16)]
    expected.append((absmax, ("uint8",) if nested else FLOATS, blocks))
    if nested:
        expected += zip(nested, (FLOATS, FLOATS), (-(-blocks // entry.state["nested_blocksize"]), 256), strict=False)
    for one, dtypes, count in expected:
        if one.dtype not in dtypes or math.prod(one.shape) != count:
            raise Refused(f"of bitsandbytes, {one.dtype} {tuple(one.shape)} where {count} of {dtypes[0]} were expected")
    if nested and len(nested) != 2:
        raise Refused("of bitsandbytes, nested_absmax or nested_quant_map alone")


def hqq(name: str, stored: PrefixDict, settings: Mapping):
    """HQQ: `W_q` with its settings as tensors beside it."""
    if not name.endswith(".W_q"):
        return None
    base = name.removesuffix("W_q")
    names = [f"{base}{piece}" for piece in ("scale", "zero", "nbits", "axis", "shape", "group_size")]
    if missing := [one for one in names[:5] if one not in stored]:
        raise Refused(f"of HQQ, but {' and '.join(missing)} are not there")
    codes, scale, zero = stored[name], stored[names[0]], stored[names[1]]
    numbers = [stored[one] for one in names[2:] if one in stored]  # no group_size where the rows are the groups
    counts = [math.prod(one.shape) if one.dtype in ("int32", "int64") else 0 for one in numbers]
    if counts not in ([1, 1, 2], [1, 1, 2, 1]):
        raise Refused(f"of HQQ, with nbits, axis, shape and group_size {' and '.join(map(said, numbers))}: no integers")
    bits, axis, *shape = (n for one in numbers[:3] for n in one.load().reshape(-1).tolist())
    group = int(numbers[3].load()) if len(numbers) > 3 else 0
    size = math.prod(shape) if min(shape) > 0 else 0
    shifts = tuple(range(27, -1, -3)) if bits == 3 else tuple(range(8 - bits, -1, -bits)) if bits in (1, 2, 4) else (0,)
    columns = shape[-1] if not group else group if axis else size // max(group, 1)
    rows = size // columns if columns > 0 and size % columns == 0 else 0
    words = -(-rows // len(shifts)) * columns
    sound = size and rows and axis in (0, 1) and 1 <= bits <= 8 and scale.dtype in FLOATS and zero.dtype in FLOATS
    sound = sound and (codes.dtype, math.prod(codes.shape)) == ("int32" if bits == 3 else "uint8", words)
    each = rows if axis else columns
    if not sound or any(math.prod(one.shape) not in (1, each) for one in (scale, zero)):
        raise Refused(
            f"of HQQ, codes {said(codes)}, scales {said(scale)} and zeros {said(zero)} for a matrix {tuple(shape)} of "
            f"{bits} bits in groups of {group} along axis {axis}, which they do not fit"
        )
    kind = f"int{bits} of HQQ, " + (f"groups of {group}" if group else f"a scale a {'row' if axis else 'column'}")
    entry = SplitRows(codes, scale, zero, tuple(shape), (rows, columns), axis, bits, shifts, kind)
    beside = [one for one in stored.with_prefix(base) if "." not in one.removeprefix(base) and one != f"{base}bias"]
    return f"{base}weight", entry, beside


def bitnet(name: str, stored: PrefixDict, settings: Mapping):
    """BitNet as transformers packs it: a byte holds −1, 0 or 1 of four quarters of the rows, plus one."""
    codes, scale = stored[name], stored.get(f"{name}_scale")
    if settings.get("quant_method") != "bitnet" or codes.dtype != "uint8" or scale is None or len(codes.shape) != 2:
        return None
    if math.prod(scale.shape) != 1 or scale.dtype not in FLOATS:
        raise Refused(f"of BitNet, with scales {said(scale)}, where one value was expected")
    factor = scale.load().double().reshape(1)
    if settings.get("linear_class") != "autobitlinear":  # BitLinear divides what comes out by its scale
        if not float(factor):
            raise Refused("of BitNet, with the scale 0, by which is divided")
        factor = 1 / factor
    shape = (4 * codes.shape[0], codes.shape[1])
    one = InMemory(torch.ones(1))
    entry = SplitRows(codes, InMemory(factor), one, shape, shape, 1, 2, (0, 2, 4, 6), "ternary of BitNet")
    return name, entry, [f"{name}_scale"]


LIBRARY_LAYOUTS = (comfy, qweight, bitsandbytes, hqq, bitnet)
