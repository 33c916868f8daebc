"""Which files of a folder are the model, told by their names.

If a folder or a repository holds several kinds of weight files, the first kind in this list is read:

1. the shards named by `model.safetensors.index.json`
2. `model.safetensors`
3. the shards named by the one other `….safetensors.index.json`
4. all other `*.safetensors` (without `consolidated*` where `model-*` shards hold the same tensors)
5. the shards named by `pytorch_model.bin.index.json`
6. `pytorch_model.bin`
7. all other `*.bin`, `*.pt`, `*.pth`, `*.ckpt` that are not known to be something else (optimizer states and the like)
8. a single `*.gguf`, or all parts of one that was split
9. a single `*.onnx`, or `encoder_model.onnx` and `decoder_model.onnx`; their data beside them are no files of their own

A variant of a file, such as `model.fp16.safetensors`, is left alone where the file itself is there, and taken where it
is asked for. Of several GGUF files, usually one model in several precisions, one must be named; towers of images
(`mmproj-….gguf`) are left alone where the model is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .pickled_files import PICKLED_SUFFIXES
from .stored import CheckpointError

WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".onnx", *PICKLED_SUFFIXES)
NOT_WEIGHTS = re.compile(r"^(training_args|optimizer|scheduler|scaler|rng_state|openvino)|optim_states?\.pt$")
BESIDE_GGUF = re.compile(r"(?:^|[.\-_])(?:mmproj|imatrix)(?=[.\-_])", re.IGNORECASE)
"""A GGUF file that is no language model, but the tower of images beside one, or what its quantizer measured."""
ONNX_PART = re.compile(r"(decoder_model_merged|decoder_with_past_model|decoder_model|encoder_model)(?:_\w+)?\.onnx")
"""A part of a model that was exported in parts; the first two hold the same weights as the third."""
SHARD = re.compile(r"-(\d+)-of-(\d+)(?=\.)")
"""Number and count in the name of a shard, counted from 1 (by Megatron from 0)."""
VARIANT = re.compile(
    r"[.\-_]((?:non_)?ema|(?:fp|bf|float|bfloat|int|nf|f)\d+(?:_\w+)?|(?:UD-)?I?Q\d\w*|MXFP4\w*)(?=[.\-])",
    re.IGNORECASE,
)
"""A word in a file's name that says how a model's values are stored, or that they are a moving average."""
PIECE = re.compile(r"\.(?:gguf|safetensors|bin)[.\-](?:part|split)|\.distcp$|^\.metadata$", re.IGNORECASE)


def is_index(name: str) -> bool:
    """Whether a file of this name says which shard holds which tensor."""
    return bool(re.search(r"\.(?:safetensors|bin)\.index(?:\.[\w-]+)?\.json$", name))


def choose_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Choose from the file names of one folder those to read, by the module's list; of shards, only their index.

    Args:
        names: of the files.
        variant: the variant to take, as "fp16" of `model.fp16.safetensors`; where no name has it and the weights are in
            pickled files, it is left for the dictionaries in these.

    Raises:
        CheckpointError: there are only variants, and several.
        ValueError: there is no such variant.
    """
    known = sorted(names)
    names = [name for name in known if has_variant(name, variant)] if variant else _without_variants(known)
    safe = [name for name in names if name.endswith(".safetensors")]
    if any(name.startswith("model-") for name in safe):
        safe = [name for name in safe if not name.startswith("consolidated")]
    pickled = [name for name in names if name.endswith(PICKLED_SUFFIXES) and not NOT_WEIGHTS.search(name)]
    gguf = [name for name in names if name.endswith(".gguf")]
    gguf = [name for name in gguf if not BESIDE_GGUF.search(name)] or gguf
    onnx = _encoder_and_decoder([name for name in names if name.endswith(".onnx")])
    indexes = [name for name in names if is_index(name)]
    safe_indexes = [name for name in indexes if ".safetensors." in name]
    ranked = [
        [name for name in safe_indexes if name.startswith("model.")],
        ["model.safetensors"] if "model.safetensors" in safe else [],
        safe_indexes if len(safe_indexes) == 1 else [],
        safe,
        [name for name in indexes if name.startswith("pytorch_model.")],
        ["pytorch_model.bin"] if "pytorch_model.bin" in pickled else [],
        pickled,
        gguf,
        onnx,
    ]
    chosen = next((files for files in ranked if files), [])
    if chosen == onnx and len(onnx) > 1 and not all(map(ONNX_PART.fullmatch, onnx)):
        raise CheckpointError(
            f"{', '.join(onnx[:6])}{' …' if len(onnx) > 6 else ''} are several ONNX models; expected one, or "
            "encoder_model.onnx and decoder_model.onnx: name a file by its path."
        )
    several = _variants(chosen)
    if (len({SHARD.sub("", name) for name in gguf}) > 1 and chosen == gguf) or len(several) > 1:
        asked = " or ".join(f"variant={one!r}" for one in several[:6])
        raise CheckpointError(
            f"{', '.join(chosen[:4])}{' …' if len(chosen) > 4 else ''} look like one model stored in several ways; "
            f"expected one of them: name a file by its path{f', or open it with {asked}' if asked else ''}."
        )
    if variant and not chosen and (plain := choose_files(known)):
        if plain[0].endswith(PICKLED_SUFFIXES):
            return plain
        found = ", ".join(_variants(known)) or "none"
        raise ValueError(
            f"variant={variant!r}: found {', '.join(plain[:3])}, and of its variants {found}; expected a file such as "
            f"model.{variant}.safetensors. Leave variant out, or name one of these."
        )
    return chosen


def _encoder_and_decoder(names: list[str]) -> list[str]:
    """Of the files of a model that was exported in parts the encoder and the decoder; else all."""
    parts: dict[str, list[str]] = {}
    for name in names:
        if not (found := ONNX_PART.fullmatch(name)):
            return names
        parts.setdefault(found[1], []).append(name)
    chosen = parts.get("encoder_model", []) + parts.get("decoder_model", [])
    return chosen if len(chosen) == 2 and len(parts.get("encoder_model", [])) == 1 else names


def has_variant(name: str, variant: str) -> bool:
    """Whether a file's name has the variant as one of its words; that of `pytorch_model.bin` is no variant."""
    return variant != "model" and bool(re.search(rf"[.\-_]{re.escape(variant)}(?=[.\-])", name, re.IGNORECASE))


def _without_variants(names: list[str]) -> list[str]:
    """The names without those that are another's, but for a variant with a dot before it."""
    plain = {SHARD.sub("", name) for name in names}
    return [
        name
        for name in names
        if not (found := VARIANT.search(name))
        or found[0][0] != "."
        or VARIANT.sub("", SHARD.sub("", name)) not in plain
    ]


def _variants(names: list[str]) -> list[str]:
    """The variants in which one file is there, of files whose names differ in nothing else."""
    by_file: dict[str, dict[str, None]] = {}
    for name in names:
        if found := VARIANT.search(name):
            by_file.setdefault(VARIANT.sub("", SHARD.sub("", name)), {})[found[1]] = None
    return list(max(by_file.values(), key=len, default={}))


def gguf_parts(name: str) -> list[str]:
    """The names of all parts of a split GGUF file, from that of one; of a whole file its own."""
    found = SHARD.search(name)
    if not found:
        return [name]
    width, count = len(found[1]), int(found[2])
    if not 1 <= int(found[1]) <= count <= MAX_PARTS:
        return [name]
    return [SHARD.sub(f"-{i:0{width}}-of-{found[2]}", name) for i in range(1, count + 1)]


def check_numbering(place: object, names: list[str]) -> None:
    """Raise CheckpointError if files numbered `…-00001-of-00003…`, which have no index, are incomplete."""
    groups: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := re.search(r"^(.*)-(\d+)-of-(\d+)\.", name):
            groups.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (prefix, total), numbers in groups.items():
        # Megatron counts from 0, everyone else from 1.
        if len(numbers) < total:
            raise CheckpointError(
                f"{place} holds {len(numbers)} of {total} shards {prefix}-…: found numbers {sorted(numbers)}. "
                "Copy or download the missing ones too."
            )


MAX_PARTS = 10_000  # of a split file; its name may say any number


def hint(names: Iterable[str]) -> str:
    """A sentence for an error message where names look like pieces of weights, which are not read; else ""."""
    found = next((name for name in names if PIECE.search(name)), "")
    if found.endswith(".distcp") or found == ".metadata":
        return (
            " These are pieces of torch.distributed.checkpoint: join them with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt`, and open that."
        )
    return (
        f" {found} looks like a piece of a file that was cut: join all pieces in order (with `cat`)." if found else ""
    )
