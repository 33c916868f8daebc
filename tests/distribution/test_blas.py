"""BLAS has one thread for fits of a few numbers, also where several run at once, and its own threads after."""

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

import lfmlib
from lfmlib.distribution import law
from lfmlib.distribution.blas import one_blas_thread


def threads() -> set[int]:
    return {one["num_threads"] for one in ThreadpoolController().info() if one["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.parametrize("leaves_first", ["who set it", "the other"])
def test_who_comes_second_changes_nothing(leaves_first):
    inside, left = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        inside.wait(10)
        if leaves_first == "the other":
            left.set()
            thread.join()
        assert threads() == {1}
    assert threads() == {2}
    left.set()
    thread.join()
    assert threads() == {2}
    with one_blas_thread():
        assert threads() == {1}


def test_an_error_inside_gives_them_back_too():
    with pytest.raises(ValueError, match="x"), one_blas_thread():
        raise ValueError("x")
    assert threads() == {2}


def test_a_law_is_fitted_with_one(monkeypatch):
    found, plain = [], law.candidates
    monkeypatch.setattr(law, "candidates", lambda *given: found.append(threads()) or plain(*given))
    law.optimal_law(np.random.default_rng(0).standard_normal(4096), families=["gaussian"])
    lfmlib.laws({f"{i}": np.random.default_rng(i).standard_normal((64, 64)) for i in range(2)}, progress=False)
    assert found == [{1}] * 3 and threads() == {2}
