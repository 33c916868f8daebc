"""What came out, in sentences: each is read off the findings, and turns when they do."""

from __future__ import annotations

import pytest

from lfmlib.findings import RULES, STATEMENTS, VERDICTS, Finding, answers, front, grid, load, scoreboard, write


def of(id_: str, model: str, value: float | None, null: float | None = 1.0, **details) -> Finding:
    return Finding.of(id_, model, {}, details, value=value, null=null)


PARTS = {
    "F4": {"legs": {"independence": 0.15, "identity": 0.9, "spectrum": 0.01}, "null_parts": {"spectrum": 1.0}},
    "F14": {"largest_gain": 0.85},
    "F5": {"alike": dict.fromkeys(("gaussian", "uniform", "signs"), 0.96)},
}


@pytest.mark.parametrize("id_", STATEMENTS)
def test_every_statement_has_an_answer_with_its_numbers(id_):
    """Of one model, of several, of none that was judged; no sentence of more than 30 words."""
    some = [of(id_, name, value, 0.5, **PARTS.get(id_, {})) for name, value in (("minilm", 1.0), ("rxn-bert", 0.25))]
    for found in (some, some[:1]):
        said = answers.answer(found)
        assert said.endswith(".") and "nan " not in said and "None" not in said
        assert max(len(sentence.split()) for sentence in said.split(". ")) <= 45
    reason = Finding.of(id_, "own", {}, {"reason": "It takes a loss."})
    assert answers.answer([reason]) == "**Not judged.** It takes a loss."
    assert answers.answer([reason, *some]) == answers.answer(some)
    assert answers.MEASURED[id_] and RULES[id_]


def test_an_answer_says_how_sure_it_is():
    whole = of("F6", "a", 0.9)
    ranged = Finding.of("F6", "b", {}, {}, value=0.9, null=0.5, interval=(0.85, 0.95))
    open_ = Finding.of("F6", "c", {}, {}, value=0.8, null=0.5, interval=(0.7, 0.9))
    assert open_.verdict == "undecided"
    assert answers.sureness([whole]).endswith("so there is no sampling error.")
    both = answers.sureness([ranged, open_])
    assert both == "How sure: each of the 2 verdicts behind this rests on 95 % intervals, 1 of them undecided."
    counted = [Finding.of("F6", "b", {}, {"runs": n}, value=0.9, null=0.5, interval=(0.85, 0.95)) for n in (5, 3)]
    assert "rests on 95 % intervals over 3 to 5 runs, all of them clear of the bound." in answers.sureness(counted)
    some = answers.sureness([whole, ranged])
    assert some.startswith("How sure: of 2 verdicts behind this, 1 are of matrices measured whole, 1 rest on")
    assert some.endswith("all of them clear of the bound.")
    assert answers.sureness([Finding.of("F6", "own", {}, {"reason": "It takes a loss."})]) == ""


def test_an_answer_turns_with_its_findings():
    said = answers.answer([of("F1", "minilm", 0.9), of("F1", "rxn-bert", 0.95)])
    assert said.startswith("**Yes.** Of the weights of MiniLM, 90.0\u00a0% lie") and "90.0\u00a0% (MiniLM) to" in said
    assert answers.answer([of("F1", "minilm", 0.1)]).startswith("**No.** Of the weights of MiniLM, 10.0\u00a0%")
    assert answers.answer([of("F1", "minilm", 0.1), of("F1", "b", 0.9)]).startswith("**In part.** ")
    one = answers.answer([of("F2", "a", 1.0, 0.0)])
    assert one.startswith("**No.** Of 1 way of training that moved")  # the title asks: does it matter?
    assert answers.answer([of("F2", "a", 0.0, 0.0)]).startswith("**Yes.** ")
    spectrum = answers.answer([of("F4", "a", 0, 3.0, **PARTS["F4"])], "spectrum")
    assert spectrum.startswith("Of 1 model, 0 have the spectrum of noise: in matrices with 80\u00a0% of their weights")
    assert (
        "The share of such weights is 1\u00a0% over all. Noise of the same shapes, the control, passes in 1."
        in spectrum
    )


def test_the_front_page_changes_when_a_file_does(tmp_path):
    for one in (of("F1", "minilm", 0.6), of("F1", "rxn-albert", 1.0), of("F6", "ft", 0.03), of("F13", "a", 0, 0)):
        write(one, tmp_path)
    before = front.front(load(tmp_path))
    assert [one.split(".**")[0] for one in before[:3]] == ["**The weights", "**What fine-tuning adds", "**Of use"]
    assert "60.0\u00a0% (MiniLM) to 100.0\u00a0% (rxn-albert) of the weights of 2 models" in before[0]
    assert "on none of 1 models and tasks" in before[2]
    for place, changed in enumerate((of("F1", "minilm", 0.2), of("F6", "ft", 0.5), of("F13", "a", 1, 0))):
        write(changed, tmp_path)
        after = front.front(load(tmp_path))
        differ = [one != other for one, other in zip(after, before, strict=True)]
        assert differ[:3] == [at <= place for at in range(3)]
    assert front.front([]) == ["Nothing has been measured yet."]


def test_the_grid_has_every_finding_and_says_it_in_words():
    found = [
        of("F1", "minilm", 0.6),
        of("F1", "smollm2-135m", 0.9),
        of("F7", "all-MiniLM-L6-v2, fine-tuned", 0.6, 0.5),
        of("F7", "all-MiniLM-L6-v2, fine-tuned, LoRA", None, None, reason="too shallow"),
        of("F2", "lab ViT, narrow <start>", 0.5, 0.0),
    ]
    page = grid.grid(found, {"smollm2-135m": 106_168_320, "minilm": 10_616_832})
    heads = page.split("<thead>")[1].split("</thead>")[0]
    assert heads.index("SmolLM2") < heads.index("MiniLM") < heads.index("lab ViT") and "106\u00a0M" in heads
    assert page.count("<th scope='col'>") == 3 and page.count("<tr>") == 1 + len(STATEMENTS)
    assert page.count("<a href=") == 4  # two findings on fine-tunes of MiniLM share a cell
    assert "MiniLM, fine-tuned: partly, 60.0\u00a0%; MiniLM, fine-tuned, LoRA: not judged" in page
    assert "narrow &lt;start&gt;" in page and "<start>" not in page
    assert set(scoreboard.SIGNS) == set(VERDICTS)


def test_no_is_as_far_as_it_is_decided():
    open_ = Finding.of("F13", "b", {}, {}, value=0.0, interval=(0.0, 2.0), null=0.0)
    assert answers.answer([of("F13", "a", 0, 0), open_]).startswith("**No, as far as it is decided.** Three insights")
    assert answers.answer([of("F13", "a", 0, 0)]).startswith("**No.** ")
