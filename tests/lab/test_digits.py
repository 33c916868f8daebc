"""Digits: splits by image, labels that fit the pixels, captions that CLIP's text tower can read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lfmlib.lab import digits
from lfmlib.lab.digits import SPLITS, TASKS


def originals(task: digits.ImageTask, side: str) -> list[bytes]:
    """The stored image behind every image of a split, found by undoing every change."""
    mean, std = scale()
    pixels = np.rint(getattr(task, side).images[:, 0].astype(np.float64) * std + mean).astype(int)
    known = {image.tobytes(): image.tobytes() for image in load_digits().images.astype(int)}
    found = []
    for image in pixels:
        undone = [np.rot90(image, -turns) for turns in range(4)] + [16 - image, image[:, ::-1]]
        found.append(
            next(known[key] for key in (np.ascontiguousarray(one).tobytes() for one in undone) if key in known)
        )
    return found


def scale() -> tuple[float, float]:
    train = digits._digits()["train"][0]
    return float(train.mean(dtype=np.float64)), float(train.astype(np.float64).std())


@pytest.mark.parametrize("name", TASKS)
def test_an_image_and_its_versions_are_on_one_side(name):
    task = digits.load(name)
    sides = [set(originals(task, side)) for side in SPLITS]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(sides, 2))
    assert sum(map(len, sides)) == 1797


@pytest.mark.parametrize("name", TASKS)
def test_sizes_balance_and_types(name):
    task = digits.load(name)
    versions = {"rotation": 4, "inverted": 2, "mirrored": 2}.get(name, 1)
    assert [len(getattr(task, side).labels) for side in SPLITS] == [1108 * versions, 178 * versions, 511 * versions]
    for side in SPLITS:
        split = getattr(task, side)
        assert split.images.dtype == np.float32 and split.images.shape == (len(split.labels), 1, 8, 8)
        assert split.labels.dtype == np.int64 and not split.images.flags.writeable
        counts = np.bincount(split.labels, minlength=len(task.classes))
        even = len(split.labels) / len(task.classes)
        assert len(counts) == len(task.classes) and abs(counts - even).max() <= (0 if versions > 1 else 4 * even**0.5)


def test_scaled_by_the_training_images():
    images = digits.load("class").train.images
    assert images.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert images.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_labels_fit_the_pixels():
    data = load_digits()
    known = dict(zip((image.tobytes() for image in data.images.astype(int)), data.target, strict=True))
    for side in SPLITS:
        for name, of in (("class", lambda d: d), ("parity", lambda d: d % 2), ("large", lambda d: d >= 5)):
            task = digits.load(name)
            truth = np.array([known[key] for key in originals(task, side)])
            assert (getattr(task, side).labels == of(truth)).all()
    mean, std = scale()
    undo = {
        "rotation": lambda image, label: np.rot90(image, -label),
        "inverted": lambda image, label: 16 - image if label else image,
        "mirrored": lambda image, label: image[:, ::-1] if label else image,
    }
    for name, back in undo.items():
        split = digits.load(name).validation
        pixels = np.rint(split.images[:, 0].astype(np.float64) * std + mean).astype(int)
        for image, label in zip(pixels, split.labels, strict=True):
            assert np.ascontiguousarray(back(image, label)).tobytes() in known


@pytest.mark.parametrize("name", TASKS)
def test_loading_again_gives_the_same(name):
    again = digits.load.__wrapped__(name)
    assert again.sha256 == digits.load(name).sha256
    assert (again.test.images == digits.load(name).test.images).all()


def test_tasks_can_be_learned_from_pixels():
    for name, low, high in (
        ("class", 0.9, 0.99),
        ("parity", 0.8, 0.97),
        ("rotation", 0.6, 0.95),
        ("large", 0.8, 0.97),
        ("mirrored", 0.6, 0.97),
    ):
        task = digits.load(name)
        rows = [(split.images.reshape(len(split.labels), -1), split.labels) for split in (task.train, task.test)]
        assert low < LogisticRegression(C=0.1, max_iter=300).fit(*rows[0]).score(*rows[1]) < high


def test_captions_say_what_is_there():
    drawn = digits.pairs("train", seed=3)
    assert drawn.ids.shape == (1108, digits.LENGTH) and drawn.ids.dtype == np.int64
    assert (drawn.labels == digits.load("class").train.labels).all() and (
        drawn.images == digits.load("class").train.images
    ).all()
    for ids, caption, label in zip(drawn.ids, drawn.captions, drawn.labels, strict=True):
        assert [word for word in digits.WORDS if word in caption.split() or word + "," in caption.split()] == [
            digits.WORDS[label]
        ]
        end = len(caption) + 1
        assert bytes(ids[1:end].tolist()).decode() == caption
        assert ids[0] == digits.START and ids[end] == digits.END and (ids[end + 1 :] == digits.PAD).all()
    counts = {
        t: sum(c == t.format(word=digits.WORDS[n]) for c, n in zip(drawn.captions, drawn.labels, strict=True))
        for t in digits.TEMPLATES
    }
    assert sum(counts.values()) == 1108 and min(counts.values()) > 50
    assert digits.pairs("train", seed=3).captions == drawn.captions != digits.pairs("train", seed=4).captions
    assert set(digits.UNSEEN_TEMPLATES).isdisjoint(digits.TEMPLATES)


def test_prompts():
    assert digits.prompts().shape == (len(digits.TEMPLATES), 10, digits.LENGTH)
    unseen = digits.prompts(digits.UNSEEN_TEMPLATES)
    assert len({row.tobytes() for row in unseen.reshape(-1, digits.LENGTH)}) == 20


def test_retrieval_accuracy():
    generator = np.random.default_rng(0)
    labels = digits.load("class").test.labels
    captions = np.eye(10) * generator.uniform(0.5, 2, size=(3, 10, 1))
    assert digits.retrieval_accuracy(np.eye(10)[labels], captions, labels) == 1
    assert digits.retrieval_accuracy(np.eye(10)[labels], captions[0], labels) == 1
    assert digits.retrieval_accuracy(np.eye(10)[(labels + 1) % 10], captions, labels) == 0
    noise = generator.normal(size=(len(labels), 10))
    assert digits.retrieval_accuracy(noise, captions, labels) == pytest.approx(0.1, abs=0.06)
    with pytest.raises(ValueError, match="expected \\(n, d\\)"):
        digits.retrieval_accuracy(noise, captions[:, :9], labels)


def test_errors():
    with pytest.raises(ValueError, match=r"no task 'colour'; there are class, parity"):
        digits.load("colour")
    with pytest.raises(ValueError, match="no split 'dev'"):
        digits.pairs("dev", 0)
    with pytest.raises(ValueError, match="at most 30"):
        digits.encode(["x" * 31])
    with pytest.raises(ValueError, match="ASCII"):
        digits.encode(["drei £"])
