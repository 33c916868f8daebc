"""What people hand over as a matrix is read as NumPy reads it, or refused in a sentence."""

from functools import partial

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib.structure.controls import CONTROLS

PLAIN = np.random.default_rng(0).standard_normal((60, 50))
MASKED = np.ma.masked_array(PLAIN, mask=PLAIN > 2)


class Handed:
    """An array of another library, of which only this much is known."""

    def __array__(self, dtype=None, copy=None):
        return PLAIN.copy()


MATRICES = [
    pd.DataFrame(PLAIN),
    Handed(),
    PLAIN.tolist(),
    np.ma.masked_array(PLAIN, mask=False),
    np.asfortranarray(PLAIN),
]


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda one: type(one).__name__)
def test_a_matrix_is_the_same_however_it_is_handed_over(matrix):
    found, expected = (lfmlib.iid(one, controls="permuted") for one in (matrix, PLAIN))
    pd.testing.assert_frame_equal(found.table(), expected.table())
    pd.testing.assert_frame_equal(found.controls["permuted"].table(), expected.controls["permuted"].table())
    assert lfmlib.spectrum(matrix).top_ratio == pytest.approx(lfmlib.spectrum(PLAIN).top_ratio, rel=1e-12)
    assert torch.equal(lfmlib.control(matrix, "permuted"), lfmlib.control(PLAIN, "permuted"))


@pytest.mark.parametrize("measure", [lfmlib.iid, lfmlib.spectrum, lfmlib.rescaled])
@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (MASKED, rf"masked array with {MASKED.mask.sum()} of 3,000 entries masked: expected a whole one; fill them"),
        ("model", r"found entries of type <U5: .*convert them"),
        (pd.DataFrame({"a": ["x"] * 50}), "found entries of type object|found entries of type str"),
        ([[1.0, 2.0], [3.0]], r"NumPy makes no array of a list \(.*\): convert it first"),
        (None, "found entries of type object|found shape"),
    ],
    ids=["masked", "text", "table of text", "ragged", "nothing"],
)
def test_what_is_no_matrix_of_numbers_is_refused(measure, matrix, words):
    with pytest.raises(ValueError, match=words):
        measure(matrix)


def test_a_model_of_tables_is_surveyed_and_a_masked_one_is_told():
    weights = {
        "plain": PLAIN,
        "table": pd.DataFrame(PLAIN),
        "handed": Handed(),
        "masked": MASKED,
        "text": pd.Series(["a"]),
    }
    table = lfmlib.survey(weights, progress=False).set_index("tensor")
    assert list(table.index) == ["plain", "table", "handed"] and table["std"].nunique() == 1
    assert "masked" in table.attrs["skipped"]["masked"]
    assert "not one of torch's" in table.attrs["skipped"]["text"]


@pytest.mark.parametrize("select", [5, b"q", ["q", "k"], 1.5])
def test_a_select_that_is_no_text_is_refused(select):
    for table in (lfmlib.survey, lfmlib.laws, lfmlib.arrangement):
        with pytest.raises(
            ValueError, match=r"select is .*: expected a regular expression for names of tensors, as text"
        ):
            table({"w5": PLAIN}, select=select, progress=False)


UNREADABLE = {
    "on the meta device": torch.empty(64, 64, device="meta"),
    "stored as torch.sparse_coo": torch.eye(64).to_sparse(),
    "stored as torch.sparse_csr": torch.eye(64).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_has_no_values_at_hand_is_refused_alike(kind):
    calls = [lfmlib.iid, lfmlib.spectrum, lfmlib.Sketch.of, *(partial(lfmlib.control, kind=one) for one in CONTROLS)]
    for call in calls:
        with pytest.raises(ValueError, match=f"found a tensor that is {kind}: its values are not at hand"):
            call(UNREADABLE[kind])


def test_a_view_with_its_signs_turned_is_read_as_it_is():
    z = torch.randn(64, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    turned, plain = z.conj().imag, -z.imag.clone()
    assert turned.is_neg()
    assert lfmlib.Sketch.of(turned).mean == lfmlib.Sketch.of(plain).mean
    assert lfmlib.iid(turned).lag_row == lfmlib.iid(plain).lag_row
    assert lfmlib.spectrum(turned).top_ratio == lfmlib.spectrum(plain).top_ratio


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float16])
@pytest.mark.parametrize("kind", ["fresh", "permuted", "rows-permuted"])
def test_controls_have_the_type_of_an_array(dtype, kind):
    matrix = np.random.default_rng(0).standard_normal((64, 96)).astype(dtype)
    made = lfmlib.control(matrix, kind)
    assert str(made.dtype) == f"torch.{matrix.dtype.name}" and made.shape == (64, 96)
    with pytest.raises(ValueError, match=r"found shape \(64,\): expected a matrix"):
        lfmlib.control(matrix[:, 0], kind)
