"""Files of CTranslate2, written here as its specification serializes them; a damaged one is named as what it is."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

import lfmlib
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

DTYPES = ("float32", "int8", "int16", "int32", "float16")


def write(path, variables: dict[str, np.ndarray], aliases=(), version: int = 6) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("TransformerSpec"), struct.pack("<II", 7, len(variables))]
    for name, value in variables.items():
        parts += [text(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        numbers = (DTYPES.index(value.dtype.name), value.nbytes) if version >= 4 else (value.itemsize, value.size)
        parts += [struct.pack("<BI", *numbers), value.tobytes()]
    if version >= 3:
        parts += [struct.pack("<I", len(aliases)), *(text(one) for pair in aliases for one in pair)]
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize("version", [2, 3, 6])
def test_codes_are_divided_by_their_scales(tmp_path, version):
    rng = np.random.default_rng(0)
    weight, table = rng.normal(0, 0.02, (48, 64)).astype("f4"), rng.normal(0, 1, (40, 64)).astype("f4")
    scale, whole = (127 / abs(weight).max(1)).astype("f4"), np.float32(1024 / abs(table).max())
    codes, coarse = np.rint(weight * scale[:, None]).astype("i1"), np.rint(table * whole).astype("i2")
    variables = {
        "decoder/num_heads": np.array(4, "i2"),
        "decoder/layer_3/ffn/linear_0/bias": weight[:, 0],
        "decoder/layer_3/ffn/linear_0/weight_scale": scale,
        "decoder/layer_3/ffn/linear_0/weight": codes,
        "decoder/embeddings/weight": coarse,
        "decoder/embeddings/weight_scale": np.array(whole),
    }
    write(tmp_path / "model.bin", variables, [("decoder/projection/weight", "decoder/embeddings/weight")], version)
    checkpoint = open_checkpoint(tmp_path)
    matrices = {info.name: info for info in checkpoint.tensors if info.quantized}
    expected = {
        "decoder.layer.3.ffn.linear_0.weight": codes / scale.astype("f8")[:, None],
        "decoder.embeddings.weight": coarse / np.float64(whole),
    }
    assert matrices.keys() == expected.keys() and matrices["decoder.layer.3.ffn.linear_0.weight"].depth == 3
    for name, theirs in expected.items():
        found = checkpoint.read(name).double().numpy()
        assert (abs(found - theirs) <= 1e-6 * abs(theirs)).all()
        pieces = [*checkpoint.chunks(name, bytes=4 * 67)]
        assert torch.equal(torch.cat(pieces), checkpoint.read(name).flatten())
    assert checkpoint.skipped["decoder.layer.3.ffn.linear_0.weight_scale"].startswith("a piece of")
    assert ("decoder.projection.weight" in checkpoint.skipped) == (version >= 3)
    assert set(lfmlib.survey(checkpoint, progress=False)["tensor"]) == expected.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-300], "is not all there"),
        (lambda data: struct.pack("<I", 7) + data[4:], "its version is 7, where at most 6 was expected"),
        (lambda data: data.replace(b"a/weight", b"b/weight"), "stands there twice"),
    ],
)
def test_a_damaged_file_is_named_as_what_it_is(tmp_path, change, words):
    path = tmp_path / "model.bin"
    write(path, {"a/weight": np.ones((8, 8), "f4"), "b/weight": np.ones((8, 8), "f4")})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=f"a file of CTranslate2, .*{words}"):
        open_checkpoint(path)


def test_codes_of_a_kernel_are_left_out(tmp_path):
    codes = np.ones((8, 4, 3), "i1")
    write(
        tmp_path / "model.bin",
        {"a/weight": codes, "a/weight_scale": np.ones(8, "f4"), "b/weight": np.ones((8, 8), "f4")},
    )
    checkpoint = open_checkpoint(tmp_path)
    assert [info.name for info in checkpoint.tensors] == ["b.weight"]
    assert "where a matrix and float32 scales of its rows were expected" in checkpoint.skipped["a.weight"]


def test_numbered_projections_have_their_roles(tmp_path):
    """Its names count from 0: of Whisper and of a gated decoder with shared keys, by what its specification fuses."""
    rows = {
        "encoder/layer_0/self_attention/linear_0": 3 * 64,  # q, k, v
        "encoder/layer_0/self_attention/linear_1": 64,
        "decoder/layer_1/self_attention/linear_0": 64 + 2 * 16,  # four heads share one key
        "decoder/layer_1/self_attention/linear_1": 64,
        "decoder/layer_1/attention/linear_0": 64,
        "decoder/layer_1/attention/linear_1": 2 * 64,  # k, v of the encoder
        "decoder/layer_1/attention/linear_2": 64,
        "encoder/layer_0/ffn/linear_0": 128,
        "decoder/layer_1/ffn/linear_0": 128,
        "decoder/layer_1/ffn/linear_0_noact": 128,
    }
    rng = np.random.default_rng(0)
    made = {f"{name}/weight": rng.normal(size=(count, 64)).astype("f4") for name, count in rows.items()}
    made |= {
        f"{tower}/ffn/linear_1/weight": np.ones((64, 128), "f4") for tower in ("encoder/layer_0", "decoder/layer_1")
    }
    made |= {"decoder/embeddings/weight": np.ones((40, 64), "f4"), "decoder/projection/weight": np.ones((40, 64), "f4")}
    write(tmp_path / "model.bin", made)
    checkpoint = open_checkpoint(tmp_path)
    found = {info.name.replace(".weight", ""): (info.role, info.shape[0]) for info in checkpoint.tensors}
    own, crossed = "encoder.layer.0.self_attention.linear_", "decoder.layer.1.attention.linear_"
    assert [found[f"{own}0[{role}]"] for role in "qkv"] == [("q", 64), ("k", 64), ("v", 64)]
    assert [found[f"decoder.layer.1.self_attention.linear_0[{role}]"] for role in "qkv"] == [
        ("q", 64), ("k", 16), ("v", 16),
    ]  # fmt: skip
    assert [found[f"{crossed}{end}"][0] for end in ("0", "1[k]", "1[v]", "2")] == ["q", "k", "v", "o"]
    assert found[f"{own}1"][0] == "o" and found["encoder.layer.0.ffn.linear_0"][0] == "up"
    gated = [found[f"decoder.layer.1.ffn.linear_{end}"][0] for end in ("0", "0_noact", "1")]
    assert gated == ["gate", "up", "down"] and found["encoder.layer.0.ffn.linear_1"][0] == "down"
    assert (found["decoder.embeddings"][0], found["decoder.projection"][0]) == ("embed", "head")
    whole = torch.from_numpy(made["encoder/layer_0/self_attention/linear_0/weight"])
    assert torch.equal(checkpoint.read(f"{own}0.weight[k]"), whole[64:128])
