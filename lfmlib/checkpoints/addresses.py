"""What an address means: `hf://org/name`, a file or folder at `https://…`, `s3://…`, `gs://…` and the like.

`locate_remote` finds the weight files behind it and reads nothing but listings, config.json and an index. Of a folder's
files the same ones are taken as of a local folder (see `lfmlib.checkpoints.locate`). Over HTTP a folder cannot be
listed: there the index and model.safetensors are tried, in the folder itself and where a hub's page of a model keeps
its files.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from . import gguf_files
from .http import Traffic, short
from .locate import CONFIG, INDEX, INDEXES, WEIGHTS, Located, choose, hub_errors, weight_map
from .pickled_files import PICKLED
from .remote import Ranged, RemoteFile, filesystem, open_remote, read_whole
from .safetensors_files import LONGEST, check_safetensors, listed
from .stored import CheckpointError, json_object

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
HUB = re.compile(r"^(www\.)?(huggingface\.co|hf\.co)/.", re.IGNORECASE)
FIRST = 1 << 17  # bytes of a file that are asked for at first: the header of most shards


def meant(source: str | Path) -> str | Path:
    """A source as it is meant: its scheme in small letters, and the hub's own pages with theirs where it was left out.

    Raises ValueError for one that is blank, which a path would take for the folder that one is in.
    """
    if not str(source).strip():
        raise ValueError(
            f"the model is {source!r}: expected 'minilm', a folder or weight file, a hub id such as 'org/name', or an "
            "address such as 'hf://org/name'. Name one; the folder that you are in is '.'."
        )
    if not isinstance(source, str):
        return source
    if scheme := SCHEME.match(source):
        return source[: scheme.end()].lower() + source[scheme.end() :]
    return f"https://{source}" if HUB.match(source) and not Path(source).exists() else source


def is_address(source: str) -> bool:
    """Whether `source` is the address of something elsewhere."""
    return bool(SCHEME.match(source)) and not source.startswith("file://")


def locate_remote(source: str, revision: str | None = None) -> Located:
    """Find the weight files behind an address.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it cannot be read from afar; the message says why and what to do.
        ValueError: a revision of something that has none.
    """
    scheme = source.split("://", 1)[0]
    if scheme == "hf":
        return _of_hub(source, revision)
    if revision is not None:
        raise ValueError(f"revision={revision!r} was given for {source}; only hub ids have revisions. Leave it out.")
    return _of_http(source) if scheme in ("http", "https") else _of_store(source)


def _of_hub(source: str, revision: str | None) -> Located:
    """`hf://org/name`, `hf://org/name@revision`, and a file in it."""
    from huggingface_hub import HfApi, hf_hub_url

    match = re.fullmatch(r"hf://(?:models/)?([\w.-]+(?:/[\w.-]+)?)(?:@([^/]+))?(?:/(.+))?", source)
    if not match:
        raise FileNotFoundError(f"{source} is no address of a model: expected hf://org/name or hf://org/name@revision.")
    repo, at, file = match.groups()
    if at and revision and at != revision:
        raise ValueError(f"revision={revision!r} was given for {source}, which names another. Leave one of them out.")
    revision = revision or at
    with hub_errors(f"{repo!r}" + (f" at revision {revision!r}" if revision else "")):
        about = HfApi().model_info(repo, revision=revision)
    names = [one.rfilename for one in about.siblings or [] if "/" not in one.rfilename]
    traffic = Traffic()

    def url(name: str) -> str:
        return hf_hub_url(repo, name, revision=about.sha)

    return _located(repo, names if not file else [file], url, traffic, about.sha, config="config.json" in names)


def _of_http(source: str) -> Located:
    parts = urlsplit(source)
    if not parts.hostname:
        raise FileNotFoundError(f"{source} names no host: expected https://host/folder or https://host/file. Check it.")
    traffic = Traffic()
    base, _, leaf = parts.path.rpartition("/")

    def at(path: str) -> str:
        return urlunsplit(parts._replace(path=path))

    if leaf.endswith(WEIGHTS) or leaf in INDEXES:
        return _located(leaf, [leaf], lambda name: at(f"{base}/{name}"), traffic)
    folder = parts.path.rstrip("/")
    page = re.sub(r"/tree/([^/]+)$", r"/resolve/\1", folder)
    tried = []
    for place in (page, f"{folder}/resolve/main") if page == folder else (page,):
        for name in (INDEXES[0], "model.safetensors"):
            tried.append(at(f"{place}/{name}"))
            try:
                open_remote(tried[-1], traffic, 1)
            except FileNotFoundError:
                continue
            name_of = folder.split("/tree/")[0].strip("/") or parts.netloc
            return _located(name_of, [name], lambda one, place=place: at(f"{place}/{one}"), traffic)
    raise FileNotFoundError(
        f"{short(source)} holds no weights that can be found: tried {', '.join(map(short, tried))}. Over "
        "HTTP a folder cannot be listed: give the address of a .safetensors or .gguf file, or of "
        "model.safetensors.index.json."
    )


def _of_store(source: str) -> Located:
    files, path = filesystem(source)
    scheme = source.split("://", 1)[0]
    traffic = Traffic()
    leaf = path.rstrip("/").rsplit("/", 1)[-1]
    if leaf.endswith(WEIGHTS) or leaf in INDEXES:
        base = source.rstrip("/").rsplit("/", 1)[0]
        return _located(leaf, [leaf], lambda name: f"{base}/{name}", traffic)
    try:
        names = [one.rstrip("/").rsplit("/", 1)[-1] for one in files.ls(path, detail=False)]
    except FileNotFoundError:
        raise FileNotFoundError(f"{source} was not found. Check the address ({scheme}://bucket/folder).") from None
    except PermissionError as error:
        raise CheckpointError(f"{source} refuses ({error}). Check the credentials that this store needs.") from error
    base = source.rstrip("/")
    return _located(leaf, names, lambda name: f"{base}/{name}", traffic, config="config.json" in names)


def _located(name, names, url, traffic: Traffic, revision: str | None = None, config: bool | None = None) -> Located:
    """The files that count among `names`; `url` gives the address of each. `config`: whether config.json is there, None
    where that is not known."""
    chosen = choose(names)
    index = {}
    if chosen and chosen[0] in INDEXES:
        index = weight_map(_json(url(chosen[0]), traffic, INDEX, once=True), short(url(chosen[0])))
        chosen = sorted(set(index.values()))
    if not chosen:
        raise FileNotFoundError(
            f"{name} holds no weight files that this library reads: found {', '.join(sorted(names)[:12]) or 'nothing'}"
            "; expected *.safetensors or one *.gguf."
        )
    if pickled := [one for one in chosen if one.endswith(PICKLED)]:
        raise CheckpointError(
            f"{name} has its weights in {pickled[0]}, a file of torch.save, which cannot be read in parts. Download it "
            "and open it by its path, or ask for safetensors."
        )
    settings = {}
    if config is not False:
        try:
            settings = _json(url("config.json"), traffic, CONFIG)
        except FileNotFoundError:
            if config:
                raise
        except CheckpointError:  # a signed address is one file's alone, and a server may forbid what it does not have
            if config:
                raise
    return Located(name, tuple(url(one) for one in chosen), settings, revision, index, traffic)


def _json(url: str, traffic: Traffic, most: int, once: bool = False) -> dict:
    return json_object(read_whole(url, traffic, most), short(url), once)


def list_remote(url: str, traffic: Traffic) -> tuple[dict, dict]:
    """List the tensors of one file elsewhere, of which no more than its header is read.

    The first request brings `FIRST` bytes; a header that is longer, exactly the rest of it.

    Raises CheckpointError, FileNotFoundError.
    """
    file, start = open_remote(url, traffic, FIRST)
    if file.name.endswith(".gguf"):
        return _gguf(file, start)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 0 < length <= min(LONGEST, file.size - 8):
        raise CheckpointError(
            f"{file} is not a sound safetensors file: its first 8 bytes declare a header of {length} bytes, and the "
            f"file has {file.size}. It is cut, damaged or of another kind."
        )
    if len(start) < 8 + length:
        start += bytes(file.read(len(start), 8 + length))
    with _standin(file, start[: 8 + length]) as path:  # safetensors itself checks the header, against the file's size
        check_safetensors(path, str(file))
    header = json_object(start[8 : 8 + length], str(file), once=True)
    return listed(header, str(file), lambda offset, shape, dtype: Ranged(file, 8 + length + offset, shape, dtype))


def _gguf(file: RemoteFile, start: bytes) -> tuple[dict, dict]:
    """The same for GGUF, whose header does not say how long it is: more is read until the tensors begin."""
    try:
        while (found := gguf_files.list_tensors(start, file.size)) is None:
            start += bytes(file.read(len(start), min(file.size, LONGEST, 4 * len(start))))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not a sound GGUF file ({error}). It is cut, damaged or of another kind."
        ) from error
    return gguf_files.entries(found, lambda offset, shape, dtype: Ranged(file, offset, shape, dtype))


@contextmanager
def _standin(file: RemoteFile, start: bytes):
    """A local file of the same size that begins with the same bytes, the rest a hole that takes no room."""
    with tempfile.TemporaryDirectory(prefix="lfmlib-") as folder:
        path = Path(folder) / "header"  # and no name that comes from elsewhere
        try:
            with open(path, "wb") as made:
                made.write(start)
                made.truncate(file.size)
        except (OSError, OverflowError) as error:  # what a server says need not be true
            raise CheckpointError(
                f"{file} is said to have {file.size} bytes, more than a file here can have ({error}). Check it."
            ) from error
        yield path
