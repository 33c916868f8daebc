"""Vision, and vision with language: scikit-learn's 1,797 handwritten digits, and captions made for them.

An image has 8×8 pixels of 17 levels. It belongs to one split, by a hash of its pixels, and so does whatever is made of
it: its turned and inverted versions, its captions.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from .text import split_of

SPLITS = {"train": 0.60, "validation": 0.10, "test": 0.30}  # expected shares of the images
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Captions are bytes of ASCII text between two bytes that no text contains, filled up with a third.
END, START, PAD = 0, 1, 2
LENGTH = 32
TEMPLATES = (
    "a handwritten {word}",
    "a {word} in handwriting",
    "the digit {word}",
    "the number {word}",
    "{word}, written by hand",
    "a picture of a {word}",
    "an image of the digit {word}",
    "somebody wrote a {word}",
    "this is a {word}",
    "it reads {word}",
    "grey pixels: a {word}",
    "{word}",
)
UNSEEN_TEMPLATES = ("a photo of the number {word}", "an ink drawing of {word}")  # in no caption of `pairs`


@dataclass(frozen=True, eq=False)
class Images:
    """Images, float32 of shape (n, 1, 8, 8), and their labels, int64 of shape (n,); both read-only."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageTask:
    """A classification task on digits.

    Pixels are scaled so that those of the training images as stored have mean 0 and standard deviation 1.

    Attributes:
        name: one of `TASKS`.
        classes: names of the labels 0, 1, ….
        train, validation, test: the images, in a fixed shuffled order; no digit, however changed, is in two of them.
        sha256: hash of classes, images and labels.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    sha256: str


TASKS: dict[str, tuple[str, ...]] = {
    "class": WORDS,
    "parity": ("even", "odd"),
    "rotation": ("0°", "90°", "180°", "270°"),  # counter-clockwise; every image four times
    "inverted": ("stored", "inverted"),  # every image twice, ink and paper exchanged; easy: linear models do it
    "mirrored": ("stored", "mirrored"),  # every image twice, left and right exchanged
    "large": ("0 to 4", "5 to 9"),
}


@functools.cache
def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split → (pixels 0 to 16, float32 of shape (n, 8, 8); digits, int64), shuffled by the hash of the pixels."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    data = load_digits()
    pixels = data.images.astype(np.uint8)
    keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    sides: dict[str, list[int]] = {side: [] for side in SPLITS}
    for place in sorted(range(len(keys)), key=lambda place: (keys[place], place)):
        sides[split_of(keys[place], SPLITS)].append(place)
    return {side: (pixels[rows].astype(np.float32), data.target[rows].astype(np.int64)) for side, rows in sides.items()}


def _scaled(pixels: np.ndarray) -> np.ndarray:
    train = _digits()["train"][0].astype(np.float64)
    return ((pixels - train.mean()) / train.std()).astype(np.float32)[:, None]


def _variants(name: str, pixels: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if name == "rotation":
        turned = np.stack([np.rot90(pixels, turns, axes=(1, 2)) for turns in range(4)], axis=1)
        return turned.reshape(-1, 8, 8), np.tile(np.arange(4), len(pixels))
    if name == "inverted":
        return np.stack([pixels, 16 - pixels], axis=1).reshape(-1, 8, 8), np.tile(np.arange(2), len(pixels))
    if name == "mirrored":
        return np.stack([pixels, pixels[:, :, ::-1]], axis=1).reshape(-1, 8, 8), np.tile(np.arange(2), len(pixels))
    return pixels, {"parity": digits % 2, "large": digits // 5}.get(name, digits)


@functools.cache
def load(name: str) -> ImageTask:
    """The task called `name`. Raises ValueError for a name that is not in `TASKS`."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}.")
    total, splits = hashlib.sha256(repr(TASKS[name]).encode()), {}
    for number, (side, (pixels, digits)) in enumerate(_digits().items()):
        changed, labels = _variants(name, pixels, digits)
        order = np.random.default_rng([2501, number]).permutation(len(labels))  # a digit's versions go apart
        splits[side] = Images(_scaled(changed[order]), labels[order].astype(np.int64))
        for array in (splits[side].images, splits[side].labels):
            array.setflags(write=False)
            total.update(array.tobytes())
    return ImageTask(name, TASKS[name], **splits, sha256=total.hexdigest())


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and what is said about them.

    Attributes:
        images: float32 of shape (n, 1, 8, 8), as in the task “class”.
        ids: int64 of shape (n, `LENGTH`), the captions as `encode` gives them.
        captions: the same as text.
        labels: int64 of shape (n,), the digits.
    """

    images: np.ndarray
    ids: np.ndarray
    captions: list[str]
    labels: np.ndarray


def encode(captions: list[str]) -> np.ndarray:
    """Captions as int64 of shape (n, `LENGTH`): `START`, the bytes, `END`, then `PAD`.

    Raises ValueError for a caption that is no ASCII text or has more than ``LENGTH - 2`` bytes.
    """
    ids = np.full((len(captions), LENGTH), PAD, dtype=np.int64)
    for row, caption in zip(ids, captions, strict=True):
        if not caption.isascii() or not caption.isprintable() or len(caption) > LENGTH - 2:
            raise ValueError(f"caption {caption!r}: expected at most {LENGTH - 2} printable ASCII characters.")
        row[: len(caption) + 2] = [START, *caption.encode(), END]
    return ids


def pairs(side: str, seed: int) -> Pairs:
    """One image–caption pair for every image of a split, the wording drawn with `seed` (a new one for every epoch).

    Raises ValueError where `side` is no key of `SPLITS`.
    """
    if side not in SPLITS:
        raise ValueError(f"no split {side!r}; there are {', '.join(SPLITS)}.")
    images = getattr(load("class"), side)
    drawn = np.random.default_rng([seed, list(SPLITS).index(side)]).integers(len(TEMPLATES), size=len(images.labels))
    captions = [
        TEMPLATES[template].format(word=WORDS[digit]) for template, digit in zip(drawn, images.labels, strict=True)
    ]
    return Pairs(images.images, encode(captions), captions, images.labels)


def prompts(templates: tuple[str, ...] = TEMPLATES) -> np.ndarray:
    """Every digit in every wording: int64 of shape (templates, 10, `LENGTH`)."""
    return np.stack([encode([template.format(word=word) for word in WORDS]) for template in templates])


def retrieval_accuracy(images: np.ndarray, captions: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose nearest digit, by cosine with the mean of its captions' unit embeddings, is their own.

    Args:
        images: embeddings, (n, d).
        captions: embeddings of `prompts`, (templates, 10, d) or, for one wording, (10, d).
        labels: digits, (n,).

    Raises:
        ValueError: shapes that do not belong together.
    """
    images, captions, labels = (np.asarray(array) for array in (images, captions, labels))
    captions = captions[None] if captions.ndim == 2 else captions
    if captions.shape[1:] != (len(WORDS), images.shape[-1]) or images.shape[:-1] != labels.shape:
        raise ValueError(
            f"images {images.shape}, captions {captions.shape}, labels {labels.shape}: "
            "expected (n, d), (templates, 10, d) or (10, d), and (n,)."
        )
    digits = (captions / np.linalg.norm(captions, axis=-1, keepdims=True)).mean(axis=0)
    digits = digits / np.linalg.norm(digits, axis=-1, keepdims=True)
    return float(((images @ digits.T).argmax(axis=1) == labels).mean())
