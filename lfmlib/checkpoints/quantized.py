"""Find the pieces of quantized matrices by their names, and join them.

A quantized matrix is stored as several tensors: codes, scales and more. `resolve` replaces each such group by one
`Stored` entry that computes float32 values of the matrix, (out, in), a few rows at a time
(`lfmlib.checkpoints.packings`). Integers with scales beside them whose layout is not known or not certain are skipped
as a group, with the reason: a scale, a zero point or an index never stands for a matrix. The layouts:

================== ===================================================  ==========================================
names              codes and scales                                     value
================== ===================================================  ==========================================
``weight`` and     float8, int8 (out, in); one scale, one a row or a    (code − zero) × scale (DeepSeek's ``_inv``
``…_scale_inv``,   block: of `weight_block_size`, of a declared group   is the scale itself; uint8 and e8m0 are
``…_scale``,       size or by even division. So store DeepSeek, FP8,    powers of 2; without ``…_zero_point`` zero
``scale``,         compressed-tensors, torchao (``_weight_qdata``),     is 0)
``scale_weight``   quanto (``weight._data``), Gemma
``weight_packed``, uint8, two codes a byte, low first: NVFP4 with       E2M1[code] × scale / ``_global_scale``, or
``weight`` and     float8 scales of 16 and one of the whole; MXFP4 of   × ``_scale_2`` (ModelOpt); × 2^(scale − 127);
``…_scale``        32 (int8 too); MXFP6: four codes in three bytes      E2M3[code] × 2^(scale − 127)
``weight_packed``  compressed-tensors: int32, 1 to 8 bits               (code − zero) × scale; zero 2^(bits − 1)
``…_blocks``       MXFP4: (…, groups, 16) bytes, low code first         E2M1[code] × 2^(scale − 127)
``scales``,        MLX: uint32 (…, out, in · bits / 32)                 code × scale + bias
``biases``
``qweight`` (GPTQ) int32 (in · bits / 32, out), scales (groups, out)    (code − zero) × scale; zeros are stored
                                                                        less 1, but for v2 and auto-round
``qweight`` (AWQ)  int32 (in, out / 8), columns 0 2 4 6 1 3 5 7         (code − zero) × scale
``weight.absmax``  bitsandbytes: two 4-bit codes a byte, high first     table[code] × absmax of its block
``SCB``            bitsandbytes: int8 (out, in), one scale a row        code × scale / 127
``W_q``            HQQ: uint8 or int32, equal parts of the rows         (code − zero) × scale
``weight``         BitNet: uint8 (out / 4, in), quarters of the rows    (code − 1) / scale, or × in AutoBitLinear
``scale``          GGUF: blocks, and a scale of the whole               block's value × scale
================== ===================================================  ==========================================

The values follow the quantizer's distribution, with 4 bits 16 levels a group. What is said of a distribution is
therefore said of values spread evenly over the cells of their codes (`lfmlib.checkpoints.cells`). Measured on matrices
of 512 × 1,024 Gaussian, Laplace, uniform and inverted-T values, quantized by plain rules:

========================================== =============== =====================================================
format                                     `kl_bits` of a  what spreading does not bring back (label, `kl_bits`
                                           Gaussian        to 15 %)
========================================== =============== =====================================================
8 bits, Q4_1, Q5_0, Q5_1, Q5_K, Q6_K       < 0.0002        with float8: the edges of the uniform (16 to 26 %)
Q4_0, Q4_K, IQ4_NL, NF4, FP4, int4         < 0.0013        a spike narrower than a step: the inverted T of Q4_0,
                                                           FP4, int4 is "other"; of Q4_K, IQ4_NL and int4 with a
                                                           free zero the edges of the uniform (16 to 24 %)
NVFP4, MXFP6                               0.0009          the edges of the uniform (46 %, 23 %)
MXFP4, whose scales are powers of two      0.017           the uniform
Q2_K, Q3_K, int3                           0.0001 to 0.005 peaks: `kl_bits` of the others is 8 to 87 % low
int2                                       0.006           every label but that of the uniform
========================================== =============== =====================================================

Ternary weights (BitNet, TQ1_0, TQ2_0), codes that stand for points of a lattice (IQ1, IQ2, IQ3 of GGUF), and quantized
tensors in memory are left as they are; `lfmlib.survey` says so in ``attrs["quantized"]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from .beside_codes import COUNTS, PIECE, leaf, scales_of_activations, smaller_than_integers
from .library_layouts import LIBRARY_LAYOUTS
from .names import PrefixDict
from .row_layouts import FLOAT8, ROW_LAYOUTS, Refused, said

CODES = (*FLOAT8, "int8", "uint8", "int16", "uint16", "int32", "uint32")
"""Types of codes; int64 and bool hold indices and masks."""
ADVICE = "let the library that made it save plain values"
"""What to do with codes that are not read."""
CODES_WORD = re.compile(r"(?:^|(?<=_))(?:q|W|w|weight|qweight|codes)$")
PIECE_WORD = re.compile(r"(?:weight_|q)?(?:s|z|scales?|zeros?|zero_points?)")
"""What is exchanged for what between names at the root: of codes, and of what lies beside these."""
STRAY = re.compile(r"(?:^|[._])(?:weight_(?:scale(?:_inv|_2)?|global_scale|zero_point)|qzeros|g_idx)$")
"""On a name: what belongs to a quantized matrix, wherever it lies."""


def resolve(stored: Mapping, config: Mapping) -> tuple[dict, dict[str, str]]:
    """Replace the pieces of each quantized matrix by one entry.

    Args:
        stored: name → `Stored`, in the order of the files.
        config: content of config.json.

    Returns:
        Name → `Stored` in the same order; and name → reason for what is no longer listed: the pieces, and quantized
        tensors that are not read, with all that belongs to them.
    """
    inner = config.get("text_config")
    places = [config, *([inner] if isinstance(inner, Mapping) else [])]
    found = (place.get(key) for place in places for key in _SETTINGS)
    settings = next((one for one in found if isinstance(one, Mapping) and one), {})
    stored = PrefixDict(stored)
    entries, skipped, joined, codes = {}, {}, {}, set()
    for name, entry in stored.items():
        whole, pieces = name, ()
        if (entry.dtype in CODES or entry.kind) and math.prod(entry.shape) and not PIECE.search(leaf(name)):
            try:
                found = next(filter(None, (rule(name, stored, settings) for rule in _RULES)), None)
                if found is None:
                    _refuse_unknown(name, stored, settings)
                else:
                    whole, entry, pieces = found
            except Refused as reason:
                words = str(reason).replace(f"{module}.", "") if (module := _module(name)) else str(reason)
                words = f"quantized, and not read: {words}; {ADVICE}"
                skipped |= {name: words} | dict.fromkeys(_group(name, stored), f"beside codes that are {words}")
                continue
        entries[whole] = entry
        joined |= {one: f"a piece of {whole} ({entry.kind})" for one in pieces if one != whole and one in stored}
        codes |= {name, whole} if pieces else set()
    skipped |= joined
    plain = {name: entry for name, entry in entries.items() if name not in skipped}
    for integers, floats in smaller_than_integers(plain):
        first = f"{said(stored[integers[0]])} with {leaf(floats[0])} {said(stored[floats[0]])} beside it"
        words = f"quantized, and not read: {first} is no layout that is known; {ADVICE}"
        skipped |= dict.fromkeys(integers, words) | dict.fromkeys(floats, f"beside codes that are {words}")
        codes |= {*integers}
    codes |= {name for name, why in skipped.items() if why.startswith("quantized")}
    for name in scales_of_activations(stored, codes):
        if name not in skipped and not entries[name].kind:
            skipped[name] = "beside codes: a scale of activations or of codes, and no weight"
    for name, entry in stored.items():
        if name not in skipped and len(entry.shape) > 1 and STRAY.search(name):
            skipped[name] = "a piece of a quantized matrix, the rest of which is not there: expected codes and scales"
    return {name: entry for name, entry in entries.items() if name not in skipped}, skipped


def _refuse_unknown(name: str, stored: PrefixDict, settings: Mapping) -> None:
    """Raise Refused for integers that something beside them, or config.json and their own name, call codes."""
    entry, last = stored[name], leaf(name)
    if entry.kind or len(entry.shape) < 2 or COUNTS.search(last):
        return
    beside = [one for one in _group(name, stored) if PIECE.search(leaf(one))]
    if entry.dtype in FLOAT8:  # which may be plain values
        beside = [one for one in beside if len(stored[one].shape) > 1]
    method = settings.get("quant_method")
    if beside:
        raise Refused(f"{said(entry)} with {beside[0]} {said(stored[beside[0]])} beside it is no layout that is known")
    if entry.dtype not in FLOAT8 and method and re.search(r"weight|packed|qdata|^W_q$|^trellis$", last):
        raise Refused(f"{said(entry)}, no scale lies beside it, and config.json says {method!r}")


def _group(name: str, stored: PrefixDict) -> list[str]:
    """What belongs to codes: what has their name and more, if anything does; else all of their module but the bias."""
    module, stem = _module(name), name.removesuffix("_blocks").removesuffix("_packed").removesuffix("_qdata")
    own = [one for one in stored.with_prefix(stem) if one[len(stem) : len(stem) + 1] in ("_", ".")]
    if any(PIECE.search(leaf(one)) for one in own):
        found = own
    elif module:
        found = [one for one in stored.with_prefix(f"{module}.") if _is_near(one.removeprefix(f"{module}."))]
    else:  # of a layer that was saved alone, or with its names written as one word, "layer1_q" and "layer1_s"
        stem = CODES_WORD.sub("", name)
        found = [one for one in stored.with_prefix(stem) if PIECE_WORD.fullmatch(one[len(stem) :])]
    return [one for one in found if one != name and not leaf(one).endswith("bias")]


def _is_near(name: str) -> bool:
    """Whether a name inside a module is of its own tensors, or of VPTQ's tables of values, not of an inner module's."""
    return "." not in name or name.startswith("_") or "centroids" in name


def _module(name: str) -> str:
    """The module of a tensor; of quanto's "p.weight._data._data" and "p.weight._scale" the parameter, "p.weight"."""
    module = name.rpartition(".")[0]
    while leaf(module).startswith("_"):
        module = module.rpartition(".")[0]
    return module


_RULES = (*LIBRARY_LAYOUTS, *ROW_LAYOUTS)
_SETTINGS = ("quantization_config", "compression_config", "quantization")
