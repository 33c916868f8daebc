"""What callers pass by mistake ends in one sentence that names it and says what was expected, in every function."""

import inspect
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import lfmlib
from lfmlib.options import _RULES, check

RNG = np.random.default_rng(0)
BASE = {f"layers.{i}.q_proj.weight": RNG.standard_normal((64, 64)).astype(np.float32) for i in range(5)}
TUNED = {name: w + 0.1 * RNG.standard_normal((64, 64)).astype(np.float32) for name, w in BASE.items()}
(W, *_) = BASE.values()
ODD = (None, 5, -1, 0.5, float("nan"), "a", [1], ["a"], [None], {"a": 1}, object(), len, b"x", True, ([],))
RAW = re.compile(r"object is not|unhashable|argument must be|argument should be|unpack|has no attribute|not iterable")
"""Words of Python's own errors, which name no option."""


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    table = lfmlib.compare(BASE, TUNED, progress=False)
    surveyed = lfmlib.survey({"w": W}, progress=False)
    new = iter(range(10_000))
    return {
        "survey": lambda: {"source": {"w": W}, "progress": False},
        "arrangement": lambda: {"source": {"w": W}, "progress": False},
        "laws": lambda: {"source": {"w": W}, "progress": False},
        "compare": lambda: {"base": BASE, "tuned": TUNED, "progress": False},
        "overlap": lambda: {"base": BASE, "tuned": [TUNED], "progress": False},
        "merge": lambda: {"base": BASE, "tuned": [TUNED], "method": "average", "out": folder / f"{next(new)}"},
        "open_checkpoint": lambda: {"source": BASE},
        "depth_trend": lambda: {"table": table},
        "noise_twin": lambda: {"table": surveyed},
        "normality": lambda: {"x": W},
        "classify": lambda: {"x": W},
        "measure": lambda: {"x": W},
        "optimal_law": lambda: {"x": W},
        "iid": lambda: {"matrix": W},
        "spectrum": lambda: {"matrix": W},
        "rescaled": lambda: {"matrix": W},
        "control": lambda: {"matrix": W, "kind": "permuted"},
    }


OPTIONS = [
    (name, option)
    for name in lfmlib.__all__
    if inspect.isfunction(getattr(lfmlib, name)) and name not in ("coding_cells",)
    for option in inspect.signature(getattr(lfmlib, name)).parameters
    if option not in ("progress", "intervals", "exact")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_odd_arguments_are_refused_in_a_sentence(subjects, tmp_path, monkeypatch, name, option):
    monkeypatch.chdir(tmp_path)
    for value in ODD:
        try:
            getattr(lfmlib, name)(**(subjects[name]() | {option: value}))
        except Exception as error:
            text = str(error)
            assert isinstance(error, ValueError | TypeError | FileNotFoundError | FileExistsError), (value, error)
            assert len(text) > 40 and "\n" not in text, (value, text)
            assert not RAW.search(text), (value, text)


@pytest.mark.parametrize("weights", [0.5, [None], ["a"], "1", b"x", {"a": 1}, [float("nan")], [True]])
def test_weights_are_a_list_of_numbers(tmp_path, weights):
    with pytest.raises(ValueError, match="expected a list of numbers, one for each tuned model, or None"):
        lfmlib.merge(BASE, [TUNED], "average", weights, out=tmp_path / "out")


def test_several_models_are_not_compared_at_once():
    with pytest.raises(ValueError, match="2 tuned models were given, and one is compared with a base"):
        lfmlib.compare(BASE, [TUNED, TUNED], progress=False)


def test_a_table_of_another_function():
    with pytest.raises(ValueError, match=r"no column 'std_delta', but role, depth …: expected one that lfmlib.compare"):
        lfmlib.depth_trend(pd.DataFrame({"role": ["q"], "depth": [0]}))


def test_numbers_of_numpy_are_numbers():
    check(seed=np.int64(3), weights=np.array([0.5, 1], np.float32), epsilon=np.float32(0.1), keep=None)
    assert all(not good(object()) for good, _ in _RULES.values())


@pytest.mark.parametrize("table", [lfmlib.survey, lfmlib.laws, lfmlib.arrangement])
def test_places_that_cannot_be_written_and_pools_that_are_shut_down(tmp_path, table):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(
        OSError, match=r"rows cannot be kept in .*: expected a folder that can be written. Name another"
    ):
        table({"w": W}, keep=tmp_path / "file", progress=False)
    with pytest.raises(OSError, match=r"file/out cannot be made .*: expected a folder that can be written. Name anoth"):
        lfmlib.merge(BASE, [TUNED], "average", out=tmp_path / "file" / "out", progress=False)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"the executor takes no more work .*: give one that is not shut down"):
        table({"w": W}, executor=pool, progress=False)


def test_a_matrix_of_another_shape_is_no_vocabulary(tmp_path):
    (name, *_) = BASE
    with pytest.raises(
        ValueError, match=r"is \(32, 64\) in mapping, and \(64, 64\) in mapping: they are not of one kind"
    ):
        lfmlib.merge(BASE, [TUNED | {name: TUNED[name][:32]}], "average", out=tmp_path / "out", progress=False)
