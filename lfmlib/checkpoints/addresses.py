"""Find and list checkpoints by address: `hf://org/name`, a file or folder at `https://…`, `s3://…`, `gs://…`.

`locate_remote` finds the weight files and reads only listings, config.json and an index. It chooses among a folder's
files as `lfmlib.checkpoints.locate` does. HTTP cannot list a folder: there model.safetensors.index.json and
model.safetensors are tried, in the folder itself and in `resolve/main`, where a hub keeps the files of a model's page.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from . import gguf_files
from .file_names import WEIGHT_SUFFIXES, check_numbering, choose_files, gguf_parts, is_index
from .http import Traffic, without_query
from .locate import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, Located, hub_errors, weight_map, with_quantizers_own
from .pickled_files import PICKLED_SUFFIXES
from .remote import RemoteFile, RemoteTensor, filesystem, open_remote, read_small_file
from .safetensors_files import MAX_HEADER_BYTES, check_safetensors, list_header
from .stored import CheckpointError, json_object

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
HUB_PAGE = re.compile(r"^(www\.)?(huggingface\.co|hf\.co)/.", re.IGNORECASE)
FIRST_REQUEST_BYTES = 1 << 17  # of a file, asked for first: holds the whole header of most shards


def normalized_source(source: str | Path) -> str | Path:
    """A source with its scheme in lower case, and with "https://" before a page of the hub that lacks it.

    Raises ValueError for a blank source, which `Path` would take for the current folder.
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
    return f"https://{source}" if HUB_PAGE.match(source) and not Path(source).exists() else source


def is_address(source: str) -> bool:
    """Whether `source` is the address of a remote file or folder."""
    return bool(SCHEME.match(source)) and not source.startswith("file://")


def locate_remote(source: str, revision: str | None = None, variant: str | None = None) -> Located:
    """Find the weight files behind an address.

    Raises:
        FileNotFoundError: the address holds no weights.
        CheckpointError: the weights cannot be read in parts; the message says why and what to do.
        ValueError: a revision was given for an address outside the hub, or two different ones.
    """
    scheme = source.split("://", 1)[0]
    if scheme == "hf":
        return _locate_on_hub(source, revision, variant)
    if revision is not None:
        raise ValueError(f"revision={revision!r} was given for {source}; only hub ids have revisions. Leave it out.")
    return (_locate_over_http if scheme in ("http", "https") else _locate_in_store)(source, variant)


def _locate_on_hub(source: str, revision: str | None, variant: str | None) -> Located:
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

    return _select_files(repo, names if not file else [file], url, traffic, about.sha, "config.json" in names, variant)


def _locate_over_http(source: str, variant: str | None) -> Located:
    parts = urlsplit(source)
    if not parts.hostname:
        raise FileNotFoundError(f"{source} names no host: expected https://host/folder or https://host/file. Check it.")
    traffic = Traffic()
    base, _, leaf = parts.path.rpartition("/")

    def at(path: str) -> str:
        return urlunsplit(parts._replace(path=path))

    if leaf.endswith(WEIGHT_SUFFIXES) or is_index(leaf):
        return _select_files(leaf, [leaf], lambda name: at(f"{base}/{name}"), traffic)
    folder = parts.path.rstrip("/")
    page = re.sub(r"/tree/([^/]+)$", r"/resolve/\1", folder)
    tried, word = [], f".{variant}" if variant else ""
    for place in (page, f"{folder}/resolve/main") if page == folder else (page,):
        for name in (f"model.safetensors.index{word}.json", f"model{word}.safetensors"):
            tried.append(at(f"{place}/{name}"))
            try:
                open_remote(tried[-1], traffic, 1)
            except FileNotFoundError:
                continue
            name_of = folder.split("/tree/")[0].strip("/") or parts.netloc
            return _select_files(name_of, [name], lambda one, place=place: at(f"{place}/{one}"), traffic)
    raise FileNotFoundError(
        f"{without_query(source)} holds no weights that can be found: tried {', '.join(map(without_query, tried))}. "
        "Over HTTP a folder cannot be listed: give the address of a .safetensors or .gguf file, or of "
        "model.safetensors.index.json."
    )


def _locate_in_store(source: str, variant: str | None) -> Located:
    files, path = filesystem(source)
    scheme = source.split("://", 1)[0]
    traffic = Traffic()
    leaf = path.rstrip("/").rsplit("/", 1)[-1]
    if leaf.endswith(WEIGHT_SUFFIXES) or is_index(leaf):
        base = source.rstrip("/").rsplit("/", 1)[0]
        return _select_files(leaf, [leaf], lambda name: f"{base}/{name}", traffic)
    try:
        names = [one.rstrip("/").rsplit("/", 1)[-1] for one in files.ls(path, detail=False)]
    except FileNotFoundError:
        raise FileNotFoundError(f"{source} was not found. Check the address ({scheme}://bucket/folder).") from None
    except PermissionError as error:
        raise CheckpointError(f"{source} refuses ({error}). Check the credentials that this store needs.") from error
    base = source.rstrip("/")
    has_config = "config.json" in names
    return _select_files(leaf, names, lambda name: f"{base}/{name}", traffic, config=has_config, variant=variant)


def _select_files(
    name, names, url, traffic: Traffic, revision: str | None = None, config: bool | None = None, variant=None
) -> Located:
    """Choose among the file names of a folder, and read its index and config.json.

    Args:
        name: of the checkpoint.
        names: file names in the folder.
        url: function from a file name to its address.
        traffic: counts what is read.
        revision: the hub commit, or None.
        config: whether there is a config.json; None if that is not known.
        variant: the variant to take, if the folder has some.
    """
    chosen = choose_files(names, variant)
    index = {}
    if chosen and chosen[0].endswith(".gguf"):
        chosen = gguf_parts(chosen[0])  # of an address only one may be known
    elif len(chosen) > 1:
        check_numbering(name, chosen)
    if chosen and is_index(chosen[0]):
        address = url(chosen[0])
        index = weight_map(_read_json(address, traffic, MAX_INDEX_BYTES, unique=True), without_query(address))
        chosen = sorted(set(index.values()))
    if not chosen:
        raise FileNotFoundError(
            f"{name} holds no weight files that this library reads: found {', '.join(sorted(names)[:12]) or 'nothing'}"
            "; expected *.safetensors or one *.gguf."
        )
    if pickled := [one for one in chosen if one.endswith(PICKLED_SUFFIXES)]:
        raise CheckpointError(
            f"{name} has its weights in {pickled[0]}, a file of torch.save, which cannot be read in parts. Download it "
            "and open it by its path, or ask for safetensors."
        )
    if chosen[0].endswith(".onnx"):
        raise CheckpointError(
            f"{name} has its weights in {chosen[0]}, an ONNX file, which is not read in parts. "
            "Download it, with the data beside it if there are some, and open it by its path."
        )
    settings = {}
    if config is not False:
        try:
            settings = _read_json(url("config.json"), traffic, MAX_CONFIG_BYTES)
        except FileNotFoundError:
            if config:
                raise
        except CheckpointError:  # a signed address allows one file only; some servers refuse what does not exist
            if config:
                raise
    settings = with_quantizers_own(
        settings, lambda own: _read_json(url(own), traffic, MAX_CONFIG_BYTES) if own in names else None
    )
    return Located(name, tuple(url(one) for one in chosen), settings, revision, index, traffic)


def _read_json(url: str, traffic: Traffic, max_bytes: int, unique: bool = False) -> dict:
    return json_object(read_small_file(url, traffic, max_bytes), without_query(url), unique=unique)


def list_remote(url: str, traffic: Traffic) -> tuple[dict, dict]:
    """List the tensors of a remote file by reading its header.

    The first request asks for `FIRST_REQUEST_BYTES`; the rest of a longer safetensors header is then read exactly.

    Raises CheckpointError, FileNotFoundError.
    """
    file, start = open_remote(url, traffic, FIRST_REQUEST_BYTES)
    if file.name.endswith(".gguf"):
        return _list_gguf(file, start)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 0 < length <= min(MAX_HEADER_BYTES, file.size - 8):
        raise CheckpointError(
            f"{file} is not a sound safetensors file: its first 8 bytes declare a header of {length} bytes, and the "
            f"file has {file.size}. It is cut, damaged or of another kind."
        )
    if len(start) < 8 + length:
        start += bytes(file.read(len(start), 8 + length))
    with _sparse_copy(file, start[: 8 + length]) as path:  # safetensors checks headers only of files
        check_safetensors(path, str(file))
    header = json_object(start[8 : 8 + length], str(file), unique=True)
    begin = 8 + length
    return list_header(header, str(file), lambda offset, *more: RemoteTensor(file, begin + offset, *more))


def _list_gguf(file: RemoteFile, start: bytes) -> tuple[dict, dict]:
    """List a GGUF file. Its header does not state its own length, so more is read until it can be parsed."""
    try:
        while (found := gguf_files.list_tensors(start, file.size)) is None:
            start += bytes(file.read(len(start), min(file.size, MAX_HEADER_BYTES, 4 * len(start))))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not a sound GGUF file ({error}). It is cut, damaged or of another kind."
        ) from error
    return gguf_files.stored_tensors(found, lambda offset, shape, dtype: RemoteTensor(file, offset, shape, dtype))


@contextmanager
def _sparse_copy(file: RemoteFile, start: bytes):
    """A temporary file of the remote file's size that begins with `start`; the rest is a hole, which takes no space."""
    with tempfile.TemporaryDirectory(prefix="lfmlib-") as folder:
        path = Path(folder) / "header"  # never a name that a server chose
        try:
            with open(path, "wb") as made:
                made.write(start)
                made.truncate(file.size)
        except (OSError, OverflowError) as error:  # the size is whatever the server claims
            raise CheckpointError(
                f"{file} is said to have {file.size} bytes, more than a file here can have ({error}). Check it."
            ) from error
        yield path
