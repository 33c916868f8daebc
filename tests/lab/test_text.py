"""The standard library as language data: split by file, the same everywhere, drawn the same every time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lfmlib.lab import text


@pytest.fixture(scope="module")
def data() -> text.Text:
    return text.load()


def test_no_file_is_on_two_sides(data):
    names = [set(data.files[split]) for split in text.SPLITS]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(names, 2))
    contents = [set(getattr(data, split).tobytes().split(b"\0")[:-1]) for split in text.SPLITS]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(contents, 2))
    for name, content in zip(names, contents, strict=True):
        assert len(name) == len(content)


def test_sizes(data):
    sizes = np.array([len(data.train), len(data.validation), len(data.test)])
    assert sizes.sum() > 6e6
    assert (sizes[1:] > 250_000).all() and (sizes[1:] < 0.2 * sizes.sum()).all()
    assert all(
        getattr(data, split).dtype == np.uint8 and not getattr(data, split).flags.writeable for split in text.SPLITS
    )


def test_what_is_left_out(data):
    parts = {part for names in data.files.values() for name in names for part in name.removesuffix(".py").split("/")}
    assert parts.isdisjoint({"test", "tests", "idle_test", "site-packages", "encodings", "idlelib", "tkinter"})
    assert {"json", "asyncio", "argparse"} <= parts


def test_reading_again_gives_the_same(data):
    again = text.load.__wrapped__()
    assert again.sha256 == data.sha256 and again.files == data.files and (again.train == data.train).all()


def test_splits_do_not_depend_on_the_machine():
    assert text.fraction("json/decoder.py") == pytest.approx(0.2311743, abs=1e-6)
    shares = {"a": 0.25, "b": 0.75}
    counted = [text.split_of(str(number), shares) for number in range(2000)].count("a")
    assert abs(counted - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)


def test_copies_and_tests_are_dropped_and_the_hash_sees_every_byte(tmp_path):
    (tmp_path / "json" / "test").mkdir(parents=True)
    (tmp_path / "json" / "__init__.py").write_bytes(b"x = 1\r\n")
    (tmp_path / "json" / "copy.py").write_bytes(b"x = 1\n")
    (tmp_path / "json" / "test" / "check.py").write_bytes(b"y = 2\n")
    (tmp_path / "other.py").write_bytes(b"z = 3\n")
    found = text.read(tmp_path, frozenset({"json"}))
    assert sum(found.files.values(), ()) == ("json/__init__.py",)
    assert b"".join(getattr(found, split).tobytes() for split in text.SPLITS) == b"x = 1\n\0"
    (tmp_path / "json" / "__init__.py").write_bytes(b"x = 2\n")
    assert text.read(tmp_path, frozenset({"json"})).sha256 != found.sha256
    with pytest.raises(FileNotFoundError, match="standard library"):
        text.read(tmp_path, frozenset({"nothing"}))


def test_batches_are_deterministic_and_inside_the_split(data):
    draws = list(itertools.islice(text.batches(data.test, 64, 8, seed=3), 6))
    again = list(itertools.islice(text.batches(data.test, 64, 8, seed=3), 6))
    resumed = list(itertools.islice(text.batches(data.test, 64, 8, seed=3, first=4), 2))
    other = next(text.batches(data.test, 64, 8, seed=4))
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(draws[4:], resumed, strict=True))
    assert not torch.equal(draws[0], other) and not torch.equal(draws[0], draws[1])
    inside = data.test.tobytes()
    for draw in draws:
        assert draw.shape == (8, 65) and draw.dtype == torch.int64
        assert all(row.numpy().astype(np.uint8).tobytes() in inside for row in draw)


def test_batches_reach_both_ends():
    values = np.arange(12, dtype=np.uint8)
    seen = torch.cat(list(itertools.islice(text.batches(values, 3, 50, seed=0), 10)))
    assert set(seen[:, 0].tolist()) == set(range(9))
    assert (seen.diff(dim=1) == 1).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_evaluation_windows_judge_no_byte_twice(count):
    values = np.arange(101, dtype=np.uint8)
    found = text.windows(values, 20 if count == 5 else 10, count)
    assert len(found) == count
    judged = found[:, 1:].flatten().tolist()
    assert len(set(judged)) == len(judged)


def test_what_does_not_fit_is_refused():
    values = np.zeros(10, dtype=np.uint8)
    with pytest.raises(ValueError, match="10 \\+ 1 bytes"):
        text.batches(values, 10, 1, seed=0)
    with pytest.raises(ValueError, match="4 windows"):
        text.windows(values, 3, 4)
    with pytest.raises(ValueError, match="order 2"):
        text.frequency_loss(values, values, 2)


def test_frequency_loss(data):
    fair = np.tile(np.arange(256, dtype=np.uint8), 50)
    assert text.frequency_loss(fair, fair) == pytest.approx(math.log(256))
    single, pair = (text.frequency_loss(data.train, data.test, order) for order in (0, 1))
    assert 1.5 < pair < single < 3.6
