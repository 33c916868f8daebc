"""Text of three domains: nothing on two sides, prose that is prose, and errors that say what is missing."""

from __future__ import annotations

import itertools

import pytest

from lfmlib.lab import domains, text


@pytest.mark.parametrize("name", domains.DOMAINS)
def test_no_text_is_on_two_sides(name):
    sides = domains.load(name).sides
    assert list(sides) == list(text.SPLITS) and all(sides.values())
    assert all(set(a).isdisjoint(b) for a, b in itertools.combinations(sides.values(), 2))


def test_documentation_lies_on_the_side_of_its_file():
    code, documented = domains.load("code").sides, domains.load("docstrings").sides
    opening = documented["test"][0].split("\n")[0]
    assert any(opening in one for one in code["test"]) and "def " not in opening


def test_english_is_prose():
    for one in itertools.chain(*domains.load("english").sides.values()):
        assert len(one.split()) >= domains.LEAST_WORDS and "\n" not in one and "|" not in one
    assert not domains._is_prose("Name | Size | " * 20) and not domains._is_prose("Too short to say anything.")


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown domain 'poems': expected one of code, docstrings, english"):
        domains.load("poems")
    monkeypatch.setattr(domains, "PACKAGES", ("no-such-package",))
    with pytest.raises(FileNotFoundError, match=r"no-such-package is not installed.*pip install 'lfmlib\[book\]'"):
        domains.load.__wrapped__("english")
