"""Tensors that are not plain numbers in rows: their values, or a reason, and never an end."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from lfmlib.checkpoints.checkpoint import open_checkpoint
from lfmlib.checkpoints.in_memory import MAX_DENSE_BYTES
from lfmlib.surveys.values import survey

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning"),
]
X = torch.arange(24.0).reshape(4, 6) / 8 - 1


def quantized(*, channel=False):
    if channel:
        return torch.quantize_per_channel(X, torch.full((4,), 0.25), torch.zeros(4, dtype=torch.long), 0, torch.qint8)
    return torch.quantize_per_tensor(X, 0.125, 9, torch.quint8)


def read_only(array):
    array.flags.writeable = False
    return array


# a maker, and the values it stands for
VALUES = {
    "quantized": (quantized, X),
    "quantized by channel": (lambda: quantized(channel=True), (X / 0.25).round() * 0.25),
    "sparse": (lambda: X.relu().to_sparse(), X.relu()),
    "sparse rows": (lambda: X.relu().to_sparse_csr(), X.relu()),
    "sparse blocks": (lambda: X.relu().to_sparse_bsr((2, 2)), X.relu()),
    "expanded": (lambda: X[:1].expand(4, 6), X[:1].repeat(4, 1)),
    "conjugate": (lambda: torch.complex(X, X).conj().imag, -X),
    "big-endian": (lambda: X.numpy().astype(">f4"), X),
    "read-only": (lambda: read_only(X.numpy().copy()), X),
    "Fortran-ordered": (lambda: np.asfortranarray(X.numpy()), X),
    "backwards": (lambda: X.numpy()[::-1, ::-1], X.flip(0, 1)),
    "broadcast": (lambda: np.broadcast_to(X.numpy()[0], (4, 6)), X[:1].repeat(4, 1)),
    "a table": (lambda: pd.DataFrame(X.numpy()), X),
    "without a mask": (lambda: np.ma.masked_array(X.numpy(), mask=np.zeros((4, 6), bool)), X),
}
REASONS = {
    "meta": (lambda: torch.empty(4, 6, device="meta"), "on the meta device"),
    "nested": (lambda: torch.nested.nested_tensor([X, X[:2]]), "a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged), "a nested tensor"),
    "uninitialized": (lambda: torch.nn.LazyLinear(2).weight, "has not seen an input"),
    "vast with its zeros": (
        lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (2**20, 2**20)),
        f"4398046511104 bytes, where {MAX_DENSE_BYTES}",
    ),
    "masked array": (lambda: np.ma.masked_array(X.numpy(), mask=X.numpy() > 0), "15 of its 24 entries are masked"),
    "masked tensor": (lambda: torch.masked.masked_tensor(X, X > 0), "masked entries have no value"),
    "wide floats": (lambda: X.numpy().astype(np.longdouble), "is not one of torch's"),
    "objects": (lambda: np.array([[None]]), "dtype object is not one of torch's"),
    "fields": (lambda: np.zeros((2, 2), dtype=[("a", "f4")]), "is not one of torch's"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values(kind):
    make, expected = VALUES[kind]
    ckpt = open_checkpoint({"w": make(), "plain": X + 1})
    assert not ckpt.skipped and ckpt.tensors[0].shape == (4, 6)
    for one in (ckpt, pickle.loads(pickle.dumps(ckpt))):
        assert torch.equal(one.read("w"), expected.to(one.read("w").dtype))
        chunks = torch.cat([*one.chunks("w", bytes=16)])
        assert torch.equal(chunks, one.read("w").flatten()) or kind in ("Fortran-ordered", "conjugate")
    (row,) = survey(ckpt, select="^w$", progress=False).to_dict("records")
    assert row["std"] == pytest.approx(float(expected.std(correction=0))), "and no zero is left out"
    assert bool(row["quantized"]) == kind.startswith("quantized")


@pytest.mark.parametrize("kind", REASONS)
def test_reasons(kind):
    make, words = REASONS[kind]
    table = survey({"w": make(), "plain": X + 1}, progress=False)
    assert list(table["tensor"]) == ["plain"] and words in table.attrs["skipped"]["w"]


class Codes(torch.Tensor):
    """A tensor subclass without memory of its own, as torchao's quantized ones are."""

    @staticmethod
    def __new__(cls, codes, scale):
        made = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)
        made.codes, made.scale = codes, scale
        return made

    def __tensor_flatten__(self):
        return ["codes"], self.scale

    def detach(self):
        return self

    def dequantize(self):
        if self.scale == 0:
            raise RuntimeError("no scale")
        return self.codes.float() * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(func)


def test_a_subclass_that_dequantizes_itself():
    codes = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    table = survey({"w": Codes(codes, 0.5), "broken": Codes(codes, 0), "plain": X + 1}, progress=False)
    assert list(table["tensor"]) == ["w", "plain"] and table["quantized"][0] == "Codes"
    assert table["mean"][0] == 1.25
    assert "does not give its values (RuntimeError: no scale)" in table.attrs["skipped"]["broken"]


def test_quantized_and_sparse_tensors_in_a_file(tmp_path):
    torch.save({"q": quantized(), "s": X.relu().to_sparse(), "v": X}, tmp_path / "x.pt")
    ckpt = open_checkpoint(tmp_path / "x.pt")
    assert [info.quantized for info in ckpt.tensors] == ["quint8 of torch, per_tensor_affine", "", ""]
    assert torch.equal(ckpt.read("q"), X) and torch.equal(ckpt.read("s"), X.relu())


def test_distributed_tensors(tmp_path):
    """In memory, and in a file that is opened where nothing is distributed."""
    from torch import distributed
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    path = tmp_path / "model_world_size_2_rank_0.pt"
    distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        tensors = {"shard": distribute_tensor(X, mesh, [Shard(0)]), "whole": distribute_tensor(X, mesh, [Replicate()])}
        torch.save(tensors, path)
        table = survey(tensors, progress=False)
    finally:
        distributed.destroy_process_group()
    ckpt, words = open_checkpoint(path), "a shard of (2, 6) of a DTensor (4, 6)"
    assert list(table["tensor"]) == [info.name for info in ckpt.tensors] == ["whole"]
    assert words in table.attrs["skipped"]["shard"] and words in ckpt.skipped["shard"]
    assert torch.equal(ckpt.read("whole"), X)


def test_names_that_are_one_as_text_are_refused():
    with pytest.raises(ValueError, match="two tensors are called '1'"):
        open_checkpoint({1: torch.ones(2, 2), "1": torch.zeros(2, 2)})


def test_a_number_too_large_for_a_depth_is_none():
    weights = {f"layers.{10**23}.q_proj.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    assert survey(weights, progress=False)["depth"].isna().all()
