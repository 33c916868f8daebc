"""Checkpoints that are elsewhere: only what is asked for travels, and no fault of a server changes a value."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor

import fsspec
import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from hubserver import HubServer, Repository
from safetensors.torch import save
from test_quantized import write_gguf

import lfmlib
from lfmlib.checkpoints import addresses, http, remote
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

TENSORS = {
    f"layers.{i}.self_attn.{role}_proj.weight": torch.randn(256, 256, generator=torch.Generator().manual_seed(i))
    for i in range(3)
    for role in "qk"
}
NAME = "layers.1.self_attn.k_proj.weight"


@pytest.fixture
def hub(monkeypatch):
    """A hub with a model in two shards, a single file and one that is gated; the hub's client talks to it."""
    names = list(TENSORS)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": {n: TENSORS[n] for n in names[i::2]} for i in range(2)}
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    sharded, single, gated, empty = Repository(), Repository(), Repository(gated=True), Repository()
    files = {shard: save(held) for shard, held in shards.items()}
    sharded.commit(files | {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b'{"a": 1}'})
    single.commit({"model.safetensors": save(TENSORS)})
    gated.commit(files)
    empty.commit({"pytorch_model.bin": b"x", "README.md": b"hello"})
    models = {"made/sharded": sharded, "made/single": single, "made/gated": gated, "made/pickled": empty}
    with HubServer(models) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(remote, "wait_exponential_jitter", lambda **_: lambda state: 0.01)
        yield server


def _long_read(_) -> int:
    return sum(remote._pool.map(int, "123", timeout=60))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_forked_workers_read_ranges_with_threads_of_their_own():
    """They waited for ever for those of their parent."""
    assert _long_read(0) == 6
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        assert executor.submit(_long_read, 0).result(timeout=120) == 6


def weights_sent(server) -> int:
    return sum(sent for file, _, sent in server.ranges if file.endswith((".safetensors", ".gguf")))


@pytest.mark.parametrize("config", [b'{"model_type": "made"}', b'{"quantization_config": {"bits": 2}}'])
def test_settings_in_a_file_of_the_quantizers_own(hub, config):
    """Of an address, and of a repository that is downloaded; what config.json says comes first."""
    own, files = b'{"bits": 4, "group_size": 128}', {"model.safetensors": save(TENSORS), "config.json": config}
    hub.repositories["made/gptq"] = repository = Repository()
    repository.commit(files | {"quantize_config.json": own})
    expected = {"bits": 2} if b"bits" in config else {"quant_method": "gptq", "bits": 4, "group_size": 128}
    for source in ("hf://made/gptq", "made/gptq"):
        assert open_checkpoint(source).config["quantization_config"] == expected


@pytest.mark.parametrize(
    "address",
    [
        "hf://made/sharded",
        "hf://made/sharded@main",
        "HF://made/sharded",
        "HTTP://{host}/made/sharded",
        "{url}/made/sharded",
        "{url}/made/sharded/tree/main",
        "{url}/made/sharded/resolve/main/model.safetensors.index.json",
        "{url}/made/single",
        "{url}/made/single/resolve/main/model.safetensors?token=secret",
    ],
)
def test_every_kind_of_address(hub, address):
    checkpoint = open_checkpoint(address.format(url=hub.url, host=hub.url.removeprefix("http://")))
    assert {info.name for info in checkpoint.tensors} == set(TENSORS)
    assert weights_sent(hub) < 300_000, "headers only"
    before = checkpoint.traffic.bytes
    assert torch.equal(checkpoint.read(NAME), TENSORS[NAME])
    assert checkpoint.traffic.bytes - before == TENSORS[NAME].nbytes
    assert torch.equal(torch.cat([*checkpoint.chunks(NAME, bytes=10_000)]), TENSORS[NAME].flatten())
    assert checkpoint.config == ({"a": 1} if "sharded" in address else {})


def test_the_survey_is_that_of_the_files(hub):
    remotely = lfmlib.survey(f"{hub.url}/made/single", progress=False)
    locally = lfmlib.survey(TENSORS, progress=False)
    columns = [name for name in locally if name not in ("tensor",)]
    remotely = remotely.set_index("tensor").loc[locally["tensor"]].reset_index()
    assert remotely[columns].equals(locally[columns])


def test_a_selection_reads_no_more_than_it_needs(hub):
    checkpoint = open_checkpoint("hf://made/sharded", select=r"layers\.1\.")
    before = weights_sent(hub)
    lfmlib.survey(checkpoint, progress=False)
    assert weights_sent(hub) - before == 2 * TENSORS[NAME].nbytes


def test_what_travels_to_another_process_counts_for_itself(hub):
    checkpoint = open_checkpoint("hf://made/sharded")
    other = pickle.loads(pickle.dumps(checkpoint))
    assert other.traffic.bytes == 0 < checkpoint.traffic.bytes
    assert torch.equal(other.read(NAME), TENSORS[NAME])


@pytest.mark.parametrize(
    "length", [8, 1000, 99_990, 99_992, 99_999, 100_000, 100_001, 100_008, 131_064, 131_071, 131_072, 131_080, 400_000]
)
def test_headers_of_every_length(hub, length):
    """Near 100,000 bytes, near what is asked for at first, and far beyond."""
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    if length < len(text):
        length = len(text)
    content = length.to_bytes(8, "little") + text.ljust(length) + np.array([1, 2], "f4").tobytes()
    hub.repositories["made/single"].commit({"model.safetensors": content})
    checkpoint = open_checkpoint(f"{hub.url}/made/single")
    assert checkpoint.read("a").tolist() == [1, 2]
    read = [(start, sent) for _, start, sent in hub.ranges]
    assert sum(sent for _, sent in read) <= len(content) + 8 + 1, "nothing twice"


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 100, (50).to_bytes(8, "little") + b"{}" + b" " * 48 + b"extra"]
)
def test_files_that_are_none(hub, content):
    hub.repositories["made/single"].commit({"model.safetensors": content})
    with pytest.raises(CheckpointError, match=r"not a sound safetensors file|is empty, or shorter"):
        open_checkpoint(f"{hub.url}/made/single/resolve/main/model.safetensors")


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "short", "hang", 500, 502, 503, 504, 429, 408])
def test_a_fault_that_passes_changes_nothing(hub, monkeypatch, fault):
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.5)
    checkpoint = open_checkpoint("hf://made/sharded")
    hub.faults[:] = [fault, fault]
    before = weights_sent(hub)
    assert torch.equal(checkpoint.read(NAME), TENSORS[NAME])
    assert not hub.faults
    assert weights_sent(hub) - before == TENSORS[NAME].nbytes, "each byte once: a range goes on where it stopped"


def test_faults_while_it_is_opened(hub):
    hub.faults[:] = ["drop", 503, "short", 429]
    assert torch.equal(open_checkpoint("hf://made/sharded").read(NAME), TENSORS[NAME])


def test_a_server_that_asks_for_time_gets_it(hub):
    checkpoint = open_checkpoint("hf://made/sharded")
    hub.faults[:], hub.retry_after = [429], "1"
    start = time.monotonic()
    checkpoint.read(NAME)
    assert time.monotonic() - start >= 1 and checkpoint.traffic.retries == 1
    checkpoint = open_checkpoint("hf://made/sharded")
    hub.faults[:], hub.retry_after = [429], "9999"
    with pytest.raises(CheckpointError, match=r"asks to wait 9999 s \(status 429\). Try again then"):
        checkpoint.read(NAME)


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([503] * 6, "answered with status 503, 6 times in a row"),
        (["whole"], "does not serve ranges.*Download the file"),
        (["changed"], "was changed while it was read"),
        (["elsewhere"], "answered with bytes from"),
        (["long"], "sent more than the 262144 bytes"),
        ([401], "refuses.*hf auth login"),
        ([403], "refuses.*hf auth login"),
        ([418], "answered with status 418"),
    ],
)
def test_a_fault_that_stays_is_a_clear_error(hub, faults, words):
    checkpoint = open_checkpoint("hf://made/sharded")
    hub.faults[:] = faults
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(NAME)


def test_the_survey_says_which_tensors_could_not_be_read(hub):
    checkpoint = open_checkpoint("hf://made/sharded")
    hub.faults[:] = [503] * 6
    table = lfmlib.survey(checkpoint, progress=False)
    assert len(table) == 5 and "status 503" in next(iter(table.attrs["skipped"].values()))


def test_what_cannot_be_read_from_afar(hub):
    with pytest.raises(CheckpointError, match=r"gated.*accept its terms"):
        open_checkpoint("hf://made/gated")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model.bin, a file of torch.save, which cannot be read in parts"
    ):
        open_checkpoint("hf://made/pickled")
    with pytest.raises(FileNotFoundError, match="neither an existing path nor a repository"):
        open_checkpoint("hf://made/unknown")
    with pytest.raises(FileNotFoundError, match=r"no weights that can be found: tried .*index.json"):
        open_checkpoint(f"{hub.url}/made/unknown")
    with pytest.raises(FileNotFoundError, match="expected hf://org/name"):
        open_checkpoint("hf://a b/c")
    with pytest.raises(ValueError, match="only hub ids have revisions"):
        open_checkpoint(f"{hub.url}/made/single", revision="main")
    with pytest.raises(CheckpointError, match="another that fsspec knows"):
        open_checkpoint("nonsense://bucket/model")
    with pytest.raises(CheckpointError, match=r"cannot be reached.*6 times in a row"):
        open_checkpoint("http://127.0.0.1:9/model.safetensors")


def test_a_secret_in_an_address_is_not_shown(hub):
    url = f"{hub.url}/made/single/resolve/main/model.safetensors?token=secret"
    checkpoint = open_checkpoint(url)
    hub.faults[:] = [403]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(NAME)
    assert "secret" not in str(caught.value) + repr(checkpoint) + checkpoint.name + checkpoint.source


# --- other stores and formats ---------------------------------------------------------------------------------------


def test_any_store_that_fsspec_knows(tmp_path, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/model/model.safetensors", save(TENSORS))
    files.pipe("/bucket/model/config.json", b'{"model_type": "made"}')
    for address in ("memory://bucket/model", "memory://bucket/model/model.safetensors"):
        checkpoint = open_checkpoint(address)
        assert torch.equal(checkpoint.read(NAME), TENSORS[NAME])
        assert checkpoint.config["model_type"] == "made"
    failing, real = [OSError("busy"), TimeoutError()], type(files).cat_file

    def cat(self, path, start=None, end=None, **options):
        if failing:
            raise failing.pop()
        return real(self, path, start=start, end=end if end - start < 9000 else start + 5000, **options)

    monkeypatch.setattr(type(files), "cat_file", cat)
    monkeypatch.setattr(remote, "wait_exponential_jitter", lambda **_: lambda state: 0.01)
    again = open_checkpoint("memory://bucket/model")
    assert torch.equal(again.read(NAME), TENSORS[NAME]) and not failing
    with pytest.raises(FileNotFoundError, match="was not found"):
        open_checkpoint("memory://bucket/absent/model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(save(TENSORS))
    local = open_checkpoint(f"file://{tmp_path}/model.safetensors")
    assert local.traffic is None and torch.equal(local.read(NAME), TENSORS[NAME])


def test_gguf_from_afar(hub, tmp_path):
    values = torch.randn(64, 256).numpy()
    kind = gguf.GGMLQuantizationType.Q4_0
    data = quants.quantize(values, kind)
    path = write_gguf(
        tmp_path / "made.gguf", {"blk.0.attn_q.weight": (data, "Q4_0"), "blk.0.attn_k.weight": (values, "F32")}
    )
    hub.repositories["made/single"].commit({"made.gguf": path})
    for first in (1 << 17, 1000):  # the header in one request, and in several
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(addresses, "FIRST_REQUEST_BYTES", first)
            checkpoint = open_checkpoint(f"{hub.url}/made/single/resolve/main/made.gguf")
        assert torch.equal(checkpoint.read("blk.0.attn_q.weight"), torch.from_numpy(quants.dequantize(data, kind)))
        assert torch.equal(checkpoint.read("blk.0.attn_k.weight"), torch.from_numpy(values))


def test_float8_from_afar(hub):
    codes, scales = torch.randn(256, 128).to(torch.float8_e4m3fn), torch.rand(2, 1)
    hub.repositories["made/single"].commit(
        {"model.safetensors": save({"a.weight": codes, "a.weight_scale_inv": scales})}
    )
    checkpoint = open_checkpoint(f"{hub.url}/made/single")
    expected = codes.float() * scales.repeat_interleave(128, 0)
    before = weights_sent(hub)
    pieces = [*checkpoint.chunks("a.weight", bytes=16 * 128 * 4)]
    assert torch.equal(torch.cat(pieces), expected.flatten())
    assert weights_sent(hub) - before <= codes.nbytes + 3 * scales.nbytes, "the scales are kept"
