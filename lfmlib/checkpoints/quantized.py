"""Find the pieces of quantized matrices by their names, and join them.

A quantized matrix is stored as several tensors: codes, scales and more. `resolve` replaces each such group by one
`Stored` entry that computes float32 values of the matrix, (out, in), a few rows at a time
(`lfmlib.checkpoints.packings`). A group whose layout is not certain is skipped with the reason. The layouts:

================== ===================================================  ==========================================
names              codes and scales                                     value
================== ===================================================  ==========================================
``weight`` and     float8 (out, in); one scale, one a row, or one a     code × scale (DeepSeek's ``_inv`` is the
``…_scale_inv``,   block, of `weight_block_size` or by even division    scale itself; uint8 and e8m0 are powers of 2)
``…_scale``,
``scale``,
``scale_weight``
``qweight`` (GPTQ) int32 (in · bits / 32, out), scales (groups, out)    (code − zero − 1) × scale; v2: no − 1
``qweight`` (AWQ)  int32 (in, out / 8), columns 0 2 4 6 1 3 5 7         (code − zero) × scale
``weight.absmax``  bitsandbytes: two 4-bit codes a byte, high first     table[code] × absmax of its block
``SCB``            bitsandbytes: int8 (out, in), one scale a row        code × scale / 127
``…_blocks``       MXFP4: (…, groups, 16) bytes, low code first         E2M1[code] × 2^(scale − 127)
``weight_packed``  compressed-tensors: int32 (out, in · bits / 32)      (code − 2^(bits − 1)) × scale
================== ===================================================  ==========================================

The values follow the quantizer's distribution, with 4 bits 16 levels a group, and so does every statistic of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from .names import PrefixDict
from .packings import Awq, BitsandbytesFourBit, Gptq, Mxfp4, PackedIntegers, Scaled
from .stored import is_positive_int

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_STATE_BYTES = 1 << 16  # of the JSON that bitsandbytes stores beside codes, usually some hundred bytes
DEFAULT_BLOCK = 128  # rows and columns a scale, DeepSeek's, where config.json has no weight_block_size


class Refused(ValueError):
    """A quantized tensor is not read; the message is the reason listed in `Checkpoint.skipped`."""


def resolve(stored: Mapping, config: Mapping) -> tuple[dict, dict[str, str]]:
    """Replace the pieces of each quantized matrix by one entry.

    Args:
        stored: name → `Stored`, in the order of the files.
        config: content of config.json.

    Returns:
        Name → `Stored` in the same order; and name → reason for what is no longer listed: the pieces, and quantized
        tensors that are not read.
    """
    settings = config.get("quantization_config") or config.get("compression_config") or {}
    settings = settings if isinstance(settings, Mapping) else {}
    stored = PrefixDict(stored)
    entries, skipped = {}, {}
    for name, entry in stored.items():
        try:
            rules = _RULES if math.prod(entry.shape) else ()  # without codes there is nothing to compute
            found = next(filter(None, (rule(name, stored, settings) for rule in rules)), None)
        except Refused as reason:
            skipped[name] = f"quantized, and not read: {reason}"
            continue
        whole, entry, pieces = found or (name, entry, ())
        entries[whole] = entry
        skipped |= {piece: f"a piece of {whole} ({entry.kind})" for piece in pieces if piece != whole}
    return {name: entry for name, entry in entries.items() if name not in skipped}, skipped


def _float8(name: str, stored: PrefixDict, settings: Mapping):
    """float8 with its scale; None for float8 values if neither names nor config.json mention a scale."""
    weight = stored[name]
    if weight.dtype not in FLOAT8 or len(weight.shape) < 2:
        return None
    base = name.removesuffix(".weight")
    short = () if base == name else (f"{base}.scale", f"{base}.scale_weight")
    scales = [one for one in (f"{name}_scale_inv", f"{name}_scale", *short) if one in stored]
    if not scales:
        near = [one for one in stored.with_prefix(base) if "scale" in one.removeprefix(base) and "input" not in one]
        if near or settings.get("quant_method"):
            known = f"{near[0]} is no name of a scale that is known" if near else "no scale lies beside it"
            says = "" if near else f", and config.json says {settings['quant_method']!r}"
            raise Refused(f"{weight.dtype}, {known}{says}; expected {name}_scale_inv, {name}_scale or {base}.scale")
        return None
    scale = stored[scales[0]]
    declared = settings.get("weight_block_size") or (DEFAULT_BLOCK if scales[0].endswith("_inv") else None)
    block = _block_shape(tuple(weight.shape), tuple(scale.shape), declared)
    kind = f"{weight.dtype}, a scale for {block[0]} × {block[1]}"
    return name, Scaled(weight, scale, block, kind), scales


def _block_shape(shape: tuple[int, ...], scale: tuple[int, ...], declared) -> tuple[int, int]:
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
        if out % scale[-2] == 0 and width % scale[-1] == 0:
            return out // scale[-2], width // scale[-1]
    raise Refused(f"scales of shape {scale} fit no blocks of a matrix {shape}")


def _qweight(name: str, stored: PrefixDict, settings: Mapping):
    """GPTQ packs the inputs and AWQ the outputs of a qweight; the shape of the scales tells which."""
    if not name.endswith(".qweight"):
        return None
    base = name.removesuffix(".qweight")
    names = [f"{base}.{piece}" for piece in ("qzeros", "scales")]
    if missing := [one for one in names if one not in stored]:
        raise Refused(f"{' and '.join(missing)} are not there; expected qweight, qzeros and scales")
    codes, zeros, scales = stored[name], *(stored[one] for one in names)
    bits = settings.get("bits") or settings.get("w_bit") or 4
    order = f"{base}.g_idx"
    known = codes.dtype == "int32" and len(codes.shape) == len(scales.shape) == 2 and scales.shape[0] > 0
    known = known and isinstance(bits, int) and zeros.dtype == "int32" and scales.dtype in FLOATS
    if known and bits in (2, 4, 8) and scales.shape[1] == codes.shape[1] and codes.shape[1] * bits % 32 == 0:
        v2 = "v2" in str(settings.get("checkpoint_format", ""))
        entry = Gptq(codes, zeros, scales, stored.get(order), bits, 0 if v2 else 1)
        expected = (scales.shape[0], codes.shape[1] * bits // 32)
    elif known and bits == 4 and scales.shape[1] == 8 * codes.shape[1]:
        entry = Awq(codes, zeros, scales)
        expected = (scales.shape[0], codes.shape[1])
    else:
        raise Refused(
            f"{bits} bits, codes {codes.dtype} {tuple(codes.shape)}, scales {tuple(scales.shape)}: no layout of GPTQ "
            "(2, 4 or 8 bits) or AWQ (4 bits)"
        )
    if tuple(zeros.shape) != expected or (getattr(entry, "g_idx", None) is None and entry.shape[1] % scales.shape[0]):
        raise Refused(f"zeros of shape {tuple(zeros.shape)}, where {expected} was expected")
    groups = stored.get(order)
    if groups is not None and (tuple(groups.shape) != entry.shape[1:] or groups.dtype not in ("int32", "int64")):
        raise Refused(f"g_idx {groups.dtype} {tuple(groups.shape)}, where int32 {entry.shape[1:]} was expected")
    return f"{base}.weight", entry, [name, *names, order] if order in stored else [name, *names]


def _bitsandbytes(name: str, stored: PrefixDict, settings: Mapping):
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
        entry = Scaled(weight, stored[scales], (1, weight.shape[1]), "int8 of bitsandbytes, a scale a row", 1 / 127)
        return name, entry, [one for one in (scales, f"{name}_format") if one in stored]
    return None


def _read_state(entry, nested: bool) -> dict:
    """The JSON of settings that bitsandbytes stores beside 4-bit codes."""
    if entry.dtype != "uint8" or math.prod(entry.shape) > MAX_STATE_BYTES:
        raise Refused(f"of bitsandbytes, but its quant_state is {entry.dtype} {tuple(entry.shape)}; expected some JSON")
    text = bytes(entry.load().reshape(-1).tolist())
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"of bitsandbytes, but its quant_state is no JSON ({error})") from None
    state = state if isinstance(state, dict) else {}
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


def _mxfp4(name: str, stored: PrefixDict, settings: Mapping):
    if not name.endswith("_blocks") or stored[name].dtype != "uint8":
        return None
    whole = name.removesuffix("_blocks")
    scales = f"{whole}_scales"
    shape = tuple(stored[name].shape)
    beside = stored.get(scales)
    if beside is None or len(shape) < 3 or shape[-1] != 16 or (beside.dtype, *beside.shape) != ("uint8", *shape[:-1]):
        found = f"{beside.dtype} {tuple(beside.shape)}" if beside is not None else "none"
        raise Refused(f"blocks {shape}, scales {found}: MXFP4 has (…, groups, 16) and (…, groups)")
    return whole, Mxfp4(stored[name], stored[scales]), [name, scales]


def _packed(name: str, stored: PrefixDict, settings: Mapping):
    if not name.endswith(".weight_packed"):
        return None
    base = name.removesuffix("_packed")
    pieces = [f"{base}_scale", f"{base}_shape"]
    if f"{base}_zero_point" in stored or f"{base}_g_idx" in stored:
        raise Refused("of compressed-tensors, asymmetric or reordered, which is not read")
    if missing := [one for one in pieces if one not in stored]:
        raise Refused(f"of compressed-tensors, but {missing[0]} is not there")
    lengths = stored[pieces[1]]
    if lengths.dtype not in ("int32", "int64") or tuple(lengths.shape) != (2,):
        raise Refused(
            f"of compressed-tensors, but {pieces[1]} is {lengths.dtype} {tuple(lengths.shape)}; expected int64 (2,)"
        )
    shape = tuple(lengths.load().tolist())
    words, scale = tuple(stored[name].shape), tuple(stored[pieces[0]].shape)
    bits = next((one for one in (4, 8) if words == (shape[0], -(-shape[1] * one // 32))), None)
    sound = len(scale) == 2 and math.prod(scale) and stored[pieces[0]].dtype in FLOATS
    if bits is None or not sound or stored[name].dtype != "int32" or scale[0] != shape[0] or shape[1] % scale[-1]:
        raise Refused(f"words {words} and scales {scale} for a matrix {shape}: no layout of 4 or 8 bits that is known")
    return base, PackedIntegers(stored[name], stored[pieces[0]], shape, bits), [name, *pieces]


_RULES = (_float8, _qweight, _bitsandbytes, _mxfp4, _packed)
