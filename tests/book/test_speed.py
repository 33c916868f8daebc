"""The page on any size reckons from what was measured, and says so where nothing was."""

import json

import pytest

from lfmlib.book import speed
from lfmlib.provenance import ROOT

ABOUT = {"commit": "abc", "Processor": "made", "Cores": "2", "Memory": "8 GiB", "Python": "3", "torch": "2"}


@pytest.fixture
def folder(tmp_path):
    lines = [
        {"name": "survey / sum", "value": "1.50 ×", "limit": "≤ 2 ×", "met": True},
        {"name": "two / one", "value": "1.60 ×", "limit": "≥ 1.7 ×", "met": False},
    ]
    rates = {"survey, bytes/s of a core": 2e9, "sampled survey, s a matrix": 0.5}
    (tmp_path / "two-cores.json").write_text(
        json.dumps({"about": ABOUT, "lines": lines, "rates": rates}), encoding="utf-8"
    )
    return tmp_path


def plain(text: str) -> str:
    """Without what keeps units with their numbers."""
    return text.replace("\u00a0", " ")


def test_limits_are_told_met_or_missed(folder):
    text = plain(speed.tables(folder)["_limits.md"])
    assert "| survey / sum | 1.50 × | ≤ 2 × | met |" in text and "| 1.60 × | ≥ 1.7 × | **missed** |" in text
    assert "Measured on 2 cores (made), 8 GiB; torch 2, Python 3, commit `abc`." in text


def test_book_and_tests_have_a_table_of_their_own(folder):
    lines = [
        {"name": "make test", "value": "FAILED after 3.0 min", "limit": "≤ 12 min", "met": False},
        {"name": "make test-all", "value": "20.0 min", "limit": "none", "met": None},
    ]
    (folder / "book-and-tests.json").write_text(
        json.dumps({"about": ABOUT | {"commit": "def"}, "lines": lines, "rates": {}}), encoding="utf-8"
    )
    text = plain(speed.tables(folder)["_limits.md"])
    assert text.index("commit `abc`") < text.index("| make test | FAILED after 3.0 min | ≤ 12 min | **missed** |")
    assert "| make test-all | 20.0 min | none |  |" in text
    assert text.count("Measured on") == 2 and text.endswith("commit `def`.\n")


def test_costs_follow_from_rates(folder):
    row = next(line for line in plain(speed.tables(folder)["_costs.md"]).splitlines() if line.startswith("| 8 B"))
    # 16.06 GB; 8.03 s of a core; 128 s of a wire of 125 MB/s; 226 × 1 MiB, of which each takes half a second
    assert row == "| 8 B, 32 layers | 226 | 16 GB | 8 s | 2.1 min | 240 MB | 110 s | 1.9 s | 7,232 |"
    row = next(line for line in plain(speed.tables(folder)["_census.md"]).splitlines() if "of 8 B" in line)
    assert row.startswith("| 100,000 of 8 B, 32 layers | 1.6 PB | 9.3 days | 15 days | 24 TB | ")


def test_nothing_measured_is_said(tmp_path):
    assert set(speed.tables(tmp_path).values()) == {speed.NOTHING}


def test_the_book_has_what_its_page_shows():
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in speed.FOLDER.glob("*.json")}
    assert {speed.LAPTOP, speed.WHOLE, speed.LARGE} <= set(found)
    assert all(one["about"]["commit"] != "unknown" and (one["lines"] or one["rates"]) for one in found.values())
    included = [
        line
        for line in (ROOT / "book" / "scale.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("```{include}")
    ]
    assert sorted(included) == sorted(f"```{{include}} {name}" for name in speed.tables())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.51, "0.51 s"), (119, "120 s"), (121, "2 min"), (7300, "2 h"), (1e6, "12 days"), (1e9, "32 years")],
)
def test_durations_in_words(seconds, words):
    assert speed.duration(seconds) == words
