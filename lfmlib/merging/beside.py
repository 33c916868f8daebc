"""What a model needs beside its weights: copied from the folder of one model to that of another."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from .. import cache
from ..checkpoints.checkpoint import Checkpoint
from ..notices import warn

WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx([._]data.*)?|h5|keras|msgpack|ot|tflite|pdparams|mlmodel|mlpackage)"
    r"(\.index\..*|\.index)?(\.json)?$|^(adapter_config\.json|weights\.npz)$",
    re.IGNORECASE,
)
"""Names of weights, of their indexes, and of what says how weights are to be added, in all libraries' forms."""
TOKENS = re.compile(r"token|vocab|merges|bpe|sentencepiece|spiece|spm", re.IGNORECASE)
"""Names of what reads text, whatever they end in."""
CARD = re.compile(r"^(readme|model_?card)\b", re.IGNORECASE)
"""Names of what is said of a model: of another it is not true."""
RUNS = ("__pycache__", "runs", "wandb", "logs")
"""Folders that training or Python leaves in that of a model."""


def copy_files(like: Checkpoint, folder: Path, own: tuple[str, ...]) -> None:
    """Copy what lies beside the weights of a model: all but weights and their indexes, model cards, hidden files
    and what this library notes of folders in its cache.

    What the hub has of these and its cache has not is downloaded. Folders are copied that hold no weights, such as
    additional templates, and those that the modules.json of sentence-transformers names.

    Args:
        like: opened from files; nothing is copied beside a single file that has no config.json.
        folder: where to.
        own: names of files that are not copied, since the other model has its own.
    """
    home = Path(like.files[0]).parent if like.files else None
    if home is None or not ((home / "config.json").exists() or Path(like.source).expanduser().is_dir()):
        return
    if home.name == like.revision:  # a folder of the hub's cache, which holds what was asked for: the weights
        _fetch(like)
    modules = _modules(home)
    for path in sorted(home.iterdir()):
        if path.is_file():
            known = path in map(Path, like.files) or path.name in own or cache.is_bookkeeping(path)
            if not known and _is_copied(path.name):
                shutil.copyfile(path, folder / path.name)
        elif path.is_dir() and not path.is_symlink() and (path.name in modules or _holds_no_weights(path)):
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True, ignore=_links)


def _fetch(like: Checkpoint) -> None:
    """Download what lies beside the weights of a model of the hub to its cache; a warning says where that fails."""
    from huggingface_hub import snapshot_download  # slow to import, and only needed here

    left = [f"*{end}*" for end in (".safetensors", ".bin", ".pt", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".ot")]
    try:
        snapshot_download(
            like.name, revision=like.revision, ignore_patterns=[*left, "onnx/*", "openvino/*", "coreml/*"]
        )
    except Exception as error:  # whatever the reason, the weights are there
        warn(
            f"what lies beside the weights of {like.name} on the hub, such as its tokenizer, was not fetched "
            f"({type(error).__name__}): copy it to the merged model from where you have it"
        )


def _is_copied(name: str) -> bool:
    known = not WEIGHTS.search(name) or TOKENS.search(name) is not None
    return known and not CARD.match(name) and not name.startswith((".", "events.out.tfevents"))


def _holds_no_weights(folder: Path) -> bool:
    if folder.name in RUNS or folder.name.startswith("."):
        return False
    return all(_is_copied(path.name) for path in folder.rglob("*") if path.is_file())


def _modules(home: Path) -> list[str]:
    """The folders in this one that the modules.json of sentence-transformers names, such as "1_Pooling"."""
    path = home / "modules.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (ValueError, RecursionError):  # the weights do not need it
        listed = []
    named = [one.get("path") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [name for name in named if isinstance(name, str) and Path(name).name == name and name not in ("", "..")]


def _links(folder: str, names: list[str]) -> list[str]:
    """Links to folders, which may lead anywhere, even back here. Links to files are kept: the hub's cache consists of
    them."""
    return [name for name in names if (path := Path(folder, name)).is_symlink() and not path.is_file()]
