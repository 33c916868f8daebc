"""Tables in words: every cell says what was measured, in the digits asked for, and a dash where nothing was."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmlib import findings
from lfmlib.chapters import names, sentences
from lfmlib.checkpoints.named import MODELS, titled

ROWS = pd.DataFrame({
    "model": ["vit"] * 4, "seed": [0, 1, 0, 1], "step": [0, 0, 9, 9], "steps": 9, "batch": 2,
    "score": [0.1, 0.3, 0.5, 0.9], "gone": np.nan,
})  # fmt: skip
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9)


def words(cell: sentences.Cell, rows=ROWS) -> object:
    (found,) = sentences.table({"x": rows}, {"heading": cell})["heading"]
    return found


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (sentences.mean("score", ".2f"), "0.45"),
        (sentences.mean("score", ".1f", " %", times=100), "45.0 %"),
        (sentences.median("score", "+.2f"), "+0.40"),
        (sentences.number("batch", "g"), "2"),
        (sentences.number(len, ".0f"), "4"),
        (sentences.mean("gone", ".2f"), "–"),
        (sentences.span("gone", 2), "no number in 4 of 4"),
        (sentences.at_end(sentences.span("score", 1, times=100, least=0, most=100)), "70.0 [0.0, 100.0]"),
        (sentences.within(sentences.mean("score", ".1f"), step=9, seed=1), "0.9"),
        (
            sentences.arrow(
                sentences.within(sentences.mean("score", ".1f"), step=0),
                sentences.at_end(sentences.mean("score", ".1f")),
            ),
            "0.2 → 0.7",
        ),
        (sentences.arrow(sentences.mean("gone", ".1f"), sentences.mean("gone", ".1f")), "–"),
        (sentences.worded(sentences.half, lambda rows: rows["score"][:1]), "0.100 (one run)"),
        (sentences.runs, 2),
        (sentences.trained_for, "9 × 2"),
    ],
)
def test_cells_say_what_was_measured(cell, said):
    assert words(cell) == said


def test_names_without_rows_and_cells_without_words_are_left_out():
    rows = {"all": ROWS, "none": ROWS[:0], "start": names.where(ROWS, step=0)}
    found = sentences.table(
        rows, {"runs": sentences.runs, "end": lambda some: "yes" if 9 in set(some["step"]) else None}
    )
    assert found.index.tolist() == ["all", "start"] and found["runs"].tolist() == [2, 2]
    assert found.loc["all", "end"] == "yes" and pd.isna(found.loc["start", "end"])
    assert sentences.table({}, {"runs": sentences.runs}).empty


def test_rows_may_be_worded_as_a_whole_and_have_no_names():
    found = sentences.listed(names.by_model(ROWS), lambda one: {"model": one[0], "rows": len(one[1])})
    assert found.to_dict("records") == [{"model": "lab ViT", "rows": 4}]


@given(NUMBERS)
def test_spans_are_those_of_findings_and_hold_their_mean(values):
    rows = pd.DataFrame({"value": values})
    assert words(sentences.span("value", 3, "+"), rows) == findings.span(values, 3, "+")
    limited = words(sentences.span("value", 3, least=0, most=1), rows)
    mean, low, high = (float(one) for one in limited.replace("[", "").replace("]", "").replace(",", "").split())
    assert 0 <= low <= mean <= high <= 1


@given(NUMBERS)
def test_middles_and_halves_read_back_as_numbers(values):
    middle, low, _, high = sentences.middle(pd.Series(values)).replace("(", "").replace(")", "").split()
    assert float(low) <= float(middle) <= float(high)
    mean, _, half = sentences.half(pd.Series(values)).partition(" ± ")
    assert math.isclose(float(mean), np.mean(values), abs_tol=6e-4, rel_tol=1e-9) and float(half) >= 0


def test_every_model_has_one_name_and_findings_are_printed_under_it():
    """The lab's models are told from published ones of their kind, and findings on fine-tunes from those on models."""
    assert len(set(names.NAMES.values())) == len(names.NAMES)
    published = {one.title for one in MODELS}
    for model, name in names.NAMES.items():
        stored, tuned = names.stored(model), names.stored_tuned(model)
        assert titled(stored) == name == titled(tuned).removesuffix(", fine-tuned")
        assert (name in published) == (model in names.PUBLISHED) == (stored != tuned) != name.startswith("lab ")
    assert names.stored_tuned("minilm") == "all-MiniLM-L6-v2, fine-tuned"  # findings' files bear it


def test_models_are_listed_with_their_sizes_published_ones_first():
    lines = names.listing(names.sizes({"minilm": 10_616_832, "smollm2-135m": 106_168_320})).splitlines()
    assert lines[2].startswith("| SmolLM2 (`smollm2-135m`) | language model, 30 layers") and lines[2].endswith(
        "| 106.2 M |"
    )
    assert lines[3].endswith("| 10.6 M |") and [line.split(" | ")[0] for line in lines[4:]] == [
        "| lab decoder", "| lab 12-layer decoder", "| lab ViT", "| lab CLIP"
    ]  # fmt: skip
    assert lines[4].split(" | ")[1] == f"{names.LAB['decoder'].what}, trained here"
