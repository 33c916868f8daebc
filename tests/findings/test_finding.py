"""Rules and verdicts: what is judged, what the files hold, what the scoreboard prints."""

import dataclasses
import json
import math
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lfmlib
from lfmlib import findings
from lfmlib.findings import RULES, Finding, Rule, answers, front, judge, rules, scoreboard
from lfmlib.provenance import commit, provenance

RULE = Rule("share", supported=0.8, partly=0.5, unit="%")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.0, "supported"), (0.8, "supported"), (0.79, "partly"), (0.5, "partly"), (0.49, "contradicted")],
)
def test_verdict_by_point_estimate(value, verdict):
    assert judge(RULE, value) == verdict


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_undecided_exactly_where_the_interval_straddles_a_bound(a, b, c):
    low, value, high = sorted((a, b, c))
    straddles = any(judge(RULE, x) != judge(RULE, low) for x in (value, high))
    assert (judge(RULE, value, (low, high)) == "undecided") == straddles


def test_nothing_measured_is_no_verdict():
    with pytest.raises(ValueError, match="NaN"):
        judge(RULE, math.nan)


def planted(shares: dict[str, int], shape=(128, 128)) -> dict[str, torch.Tensor]:
    """A made model: so many matrices of each law."""
    rng = np.random.default_rng(0)
    laws = {"gaussian": rng.standard_normal, "laplace": lambda size: rng.laplace(size=size)}
    names = [law for law, count in shares.items() for _ in range(count)]
    return {
        f"layers.{i}.q_proj.weight": torch.tensor(0.02 * laws[law](shape), dtype=torch.float32)
        for i, law in enumerate(names)
    }


@pytest.mark.parametrize(
    ("gaussians", "verdict"),
    [(10, "supported"), (8, "supported"), (7, "partly"), (5, "partly"), (4, "contradicted"), (0, "contradicted")],
)
def test_f1_finds_the_planted_share(gaussians, verdict):
    model = planted({"gaussian": gaussians, "laplace": 10 - gaussians})
    model["embed_tokens.weight"] = torch.rand(1000, 128)  # stands apart, however un-Gaussian
    model["layers.0.k_proj.weight"] = torch.rand(32, 32)  # below 4,096 elements
    table = lfmlib.survey(model, progress=False)
    finding = findings.f1(table, lfmlib.noise_twin(table), "made", {})
    assert finding.value == pytest.approx(gaussians / 10)
    assert finding.first_verdict == verdict
    assert (finding.null, finding.control_verdict) == (1.0, "supported")
    assert finding.verdict == (verdict if verdict != "supported" else findings.OF_NOISE_TOO)
    assert finding.interval is None
    assert finding.details["matrices"] == 10


def test_a_small_noise_matrix_is_not_asked_for_more_than_noise_gives():
    """At 4,096 elements noise often exceeds 0.005 bits: with such a bound the null's own 97.5 % point decides."""
    table = pd.concat([lfmlib.survey(planted({"gaussian": 30}, (64, 64)), progress=False)])
    assert findings.gaussian(table, bound=0.0001).mean() > 0.8
    assert (table["kl_bits"] <= 0.0001).mean() < 0.5


def test_f1_without_eligible_matrices_is_not_judged(tmp_path):
    table = lfmlib.survey({"layers.0.q_proj.weight": torch.randn(8, 8)}, progress=False)
    finding = findings.f1(table, lfmlib.noise_twin(table), "tiny", {})
    assert finding.value is None
    assert "4,096" in finding.details["reason"]
    findings.write(finding, tmp_path)
    assert "*not judged*" in scoreboard.table(findings.load(tmp_path))


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    details = {"runs": np.int64(3), "parts": {"limit": np.float32("inf"), "met": np.bool_(True)}}
    findings.write(dataclasses.replace(example(), details=details), tmp_path)
    (kept,) = findings.load(tmp_path)
    assert kept.details == {"runs": 3, "parts": {"limit": None, "met": True}}


@pytest.mark.parametrize(
    ("grown", "elsewhere", "interval", "verdict"),
    [
        ([], [], (0, 1), "undecided"),
        (["sharp"], [], (1, 1), "partly"),
        ([], ["sharp"], (1, 1), "partly"),
        (["linear"], [], (0, 1), "undecided"),
    ],
)
def test_f3_needs_a_second_witness(grown, elsewhere, interval, verdict):
    table = lfmlib.survey(planted({"gaussian": 4, "laplace": 3}), progress=False)
    other = dataclasses.replace(example(id="F3", model="other"), details={"found": elsewhere})
    finding = findings.f3(table, lfmlib.noise_twin(table), "made", [other], grown, {})
    assert (finding.value, finding.interval, finding.verdict) == (1, interval, verdict)
    assert finding.null == 0 and finding.details["labels"] == {"gaussian": 4, "sharp": 3}


def example(id="F1", model="org/some model", value=0.6, interval=None):
    return findings.Finding(
        id=id, model=model, statement=findings.STATEMENTS[id], metric="share", value=value, interval=interval, null=1.0,
        rule="r", verdict="partly", provenance={"commit": "abc"},
    )  # fmt: skip


def test_files_round_trip_and_are_ordered(tmp_path):
    written = [example(model="zeta"), example(), example(model="alpha", value=None)]
    for finding in written:
        path = findings.write(finding, tmp_path)
        assert json.loads(path.read_text(encoding="utf-8"))["model"] == finding.model
    assert not list(tmp_path.glob("*.part"))
    assert findings.load(tmp_path) == sorted(written, key=lambda finding: finding.model)


def test_two_checkpoints_of_one_name_are_two_models(tmp_path):
    for source in ("minilm", "/a/minilm", "/b/minilm"):
        findings.write(dataclasses.replace(example(model="minilm"), provenance={"source": source}), tmp_path)
    assert len(findings.load(tmp_path)) == 3


def test_revisions_bases_and_selections_are_kept_apart(tmp_path):
    variants = [{}, {"base": "a"}, {"base": "b"}, {"select": "mlp"}, {"sample": 4096}, {"seed": 1, "sample": 0}]
    for revision in ("f00", "ba5"):
        for one in variants:
            where = {"source": "org/name", "revision": revision, "parameters": one}
            findings.write(dataclasses.replace(example(model="org/name"), provenance=where), tmp_path)
    assert len(findings.load(tmp_path)) == 10  # another seed is the same measurement
    pinned = {"source": "minilm", "revision": "f00", "parameters": {"select": ""}}
    assert findings.finding.stem("minilm", pinned) == "minilm"


def test_findings_written_at_once_are_whole(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: findings.write(example(value=at / 64), tmp_path), range(64)))
    assert len(findings.load(tmp_path)) == 1 and len(list(tmp_path.iterdir())) == 1


def test_constant_and_lost_matrices_are_not_judged():
    model = planted({"gaussian": 2}) | {"z": torch.zeros(128, 128), "n": torch.full((128, 128), torch.nan)}
    table = lfmlib.survey(model, progress=False)
    finding = findings.f1(table, lfmlib.noise_twin(table), "made", {})
    assert (finding.value, finding.details["matrices"]) == (1.0, 2)
    assert "2 × constant" in findings.left_out(table)


def test_loading_nothing_or_rubbish(tmp_path):
    with pytest.raises(FileNotFoundError, match="lfmlib report"):
        findings.load(tmp_path / "absent")
    (tmp_path / "F1-x.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not a finding"):
        findings.load(tmp_path)


def test_scoreboard_lists_every_model_and_every_claim():
    text = scoreboard.table([example(), example(model="other", value=0.62, interval=(0.5, 0.7))])
    assert text.count(">partly</b>") == 2
    assert "60.0\u00a0%" in text
    assert "62.0\u00a0% [50.0\u00a0%, 70.0\u00a0%]" in text
    for id_ in findings.STATEMENTS:
        assert f"## {id_}: {findings.STATEMENTS[id_]}\n" in text or f"**{id_}**" in text
    assert set(RULES) <= set(findings.CHAPTERS)


@pytest.mark.parametrize(
    ("verdicts", "name"),
    [
        (["supported"], "holds"),
        (["supported", "undecided"], "mixed"),
        (["partly", "contradicted"], "mixed"),
        (["contradicted", "undecided"], "fails"),
        (["undecided"], "open"),
        ([findings.OF_NOISE_TOO], "noise"),
        (["supported", findings.OF_NOISE_TOO], "mixed"),
        ([findings.OF_NOISE_TOO, "contradicted"], "mixed"),
    ],
)
def test_what_became_of_a_statement(verdicts, name):
    found = [dataclasses.replace(example(id="F9", model=f"m{at}"), verdict=one) for at, one in enumerate(verdicts)]
    assert scoreboard.group(verdicts) == name in scoreboard.GROUPS
    decided = [one for one in verdicts if one != "undecided"]  # an answer goes by these, and says that others are open
    lead = answers.LEADS[scoreboard.group(decided or verdicts)]
    open_ = ", as far as it is decided" if 0 < len(decided) < len(verdicts) else ""
    assert answers.answer(found).startswith(f"**{lead}{open_}.**")
    (counted,) = front.front([*found, example(id="F2", model="unjudged", value=None)])
    assert counted.startswith("Of the 1 statements that were judged, hold: **1** of") and counted.endswith("(F9).")


def test_a_book_is_on_its_own_model_first():
    """It is named on the front page, stands first in every claim, and a claim that leaves it out says so."""
    lab = [example(id=id_, model=name) for id_ in ("F4", "F6") for name in ("alpha", "lab decoder")]
    found = [*lab, example(model="zeta"), example(id="F4", model="zeta"), example(id="F6", model="zeta", value=None)]
    found = [dataclasses.replace(one, verdict="supported") for one in found]
    text = scoreboard.table(found)
    section = next(one for one in text.split(":::{dropdown} ") if one.startswith("**F4** "))
    models = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    assert models == ["| Model", "| zeta", "| alpha", "| lab decoder"]
    assert "Measured in [chapter 4](../notebooks/04_are_the_weights_independent.ipynb)." in section
    assert section.splitlines()[1] == ":name: f4"
    assert front.summary(found).startswith("This book is on **zeta**, beside 2 other models and trainings.")
    (line,) = [line for line in text.splitlines() if line.startswith(":::{dropdown} **F6**")]
    assert line.endswith(" — 2\u00a0●\u20021\u00a0·")


def test_published_models_stand_behind_the_books_own_and_before_the_labs():
    """Those of a record are not what the book is on, whatever chapter 1 says of them."""
    recorded = {"record": {"name": "census"}}
    found = [
        Finding.of("F1", "lab decoder", recorded, {}, 0.9, None, 1.0),
        Finding.of("F1", "rxn-albert", recorded, {}, 1.0, None, 1.0),
        Finding.of("F1", "smollm2-135m", recorded, {}, 0.8, None, 1.0),
        Finding.of("F1", "own", {"source": "own"}, {}, 0.5, None, 1.0),
    ]
    assert scoreboard.own_model(found) == "own"
    rows = [line.split("|")[1].strip() for line in scoreboard.table(found).splitlines() if line.startswith("| ")]
    assert rows[1:] == ["own", "SmolLM2", "rxn-albert", "lab decoder"]


def test_a_claim_of_likeness_to_noise_holds_where_noise_passes_too():
    assert scoreboard.group([findings.OF_NOISE_TOO], of_noise=True) == "holds"
    assert scoreboard.group([findings.OF_NOISE_TOO, "partly"], of_noise=True) == "mixed"
    assert [id_ for id_, rule in RULES.items() if rule.of_noise] == ["F1", "F4"]


@given(st.sampled_from(sorted(RULES)), st.floats(-2, 7), st.floats(-2, 7))
def test_nothing_is_supported_where_its_control_is(id_, value, null):
    found = findings.Finding.of(id_, "any", {}, {}, value=value, null=null)
    assert found.control_verdict == judge(RULES[id_], null) and found.first_verdict == judge(RULES[id_], value)
    assert found.verdict == found.first_verdict or found.verdict == findings.OF_NOISE_TOO
    assert (found.verdict == findings.OF_NOISE_TOO) == (found.first_verdict == found.control_verdict == "supported")


def test_no_rule_changes_without_an_entry():
    """Who changes a rule writes an entry: its date, its argument, what had been seen, and the hash of the rules."""
    assert findings.READINGS[-1].rules == findings.digest()
    assert [one.date for one in findings.READINGS] == sorted(one.date for one in findings.READINGS)
    assert len({one.rules for one in findings.READINGS}) == len(findings.READINGS)
    known = {f"{module}.{name}": value for module, name, value in rules.constants()}
    assert known["shares.KL_BOUND"] == "0.02" and known["runs.MARGIN_POINTS"] == "1.0"
    assert known["f12_law.MIN_DAMAGE"] == "0.01" and known["f7_depth.MIN_LAYERS"] == "6"
    found = findings.Finding.of("F1", "any", {"commit": "abc"}, {}, value=0.9)
    assert found.provenance == {"commit": "abc", "rules": findings.digest()}
    assert findings.READINGS[-1].argument in scoreboard.readings()


def test_a_verdict_that_the_second_rules_changed_is_told():
    of = findings.Finding.of
    found = [of("F9", "a", {}, {}, value=0.9, null=1.0), of("F9", "b", {}, {}, value=0.9, null=1.0)]
    found.append(of("F1", "a", {}, {}, value=0.6, null=1.0))
    assert "| supported | true, of noise too | 2 | F9 × 2 |" in scoreboard.changes(found)
    assert scoreboard.changes(found[2:]) == "Of 1 verdicts the second rules changed none.\n"
    lines = scoreboard.table(found).splitlines()
    row = next(line for line in lines if "noise too</b>" in line)
    assert 'class="lfm-noise-too">true, of noise too</b>' in row and row.endswith("| supported |")
    assert "100.0\u00a0%; supported" in row


def test_findings_that_do_not_belong_together_are_told():
    """A folder trained further between two builds of some chapters, or a hub's main that moved, made one scoreboard."""
    rules = findings.READINGS[-1].rules

    def of(id_, **where):
        return dataclasses.replace(example(id=id_, model="a|b"), provenance={"source": "x/a", "rules": rules} | where)

    same = [of("F1", state="0"), of("F9", state="0"), of("F4", source="y/a", state="1"), of("F11", record={})]
    assert scoreboard.mixed(same) == [] and "changed between" not in front.summary(same)
    (told,) = scoreboard.mixed([*same, of("F3", state="2")])
    assert told.startswith("**a\\|b changed between chapters**: F1, F9 and F3 are of different states")
    assert told in front.summary([*same, of("F3", state="2")])
    (told,) = scoreboard.mixed([of("F1", revision="0"), of("F3", revision="1")])
    assert "F1 and F3" in told
    assert "F3. Run their chapters again." in scoreboard.mixed([of("F1"), of("F3", rules="0")])[0]


def test_a_limit_without_an_end_is_kept_as_null(tmp_path):
    """Fieller's interval of two runs has no end where the mean of what is divided by may be 0."""
    endless = dataclasses.replace(example(), details={"share": [1.0, -math.inf, math.inf], "parts": {"a": math.nan}})
    findings.write(endless, tmp_path)
    assert findings.load(tmp_path)[0].details == {"share": [1.0, None, None], "parts": {"a": None}}


def test_the_summary_of_nothing():
    assert "Nothing has been measured" in front.summary([])


def test_an_installed_library_does_not_bear_the_commit_of_the_project_around_it(tmp_path):
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text(".venv/\n", encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *arguments], check=True)
    assert commit(site) == "unknown" and len(commit(tmp_path)) == 12


def test_provenance_names_code_and_data():
    where = provenance(lfmlib.open_checkpoint("minilm"), seed=3)
    assert where["source"] == "minilm"
    assert where["parameters"] == {"seed": 3}
    assert set(where["versions"]) >= {"lfmlib", "numpy", "scipy", "torch"}


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b"[]", b'{"id": "F99"}', b'{"a": 1}', None],
)
def test_what_is_no_finding_is_named(tmp_path, content):
    path = tmp_path / "F2-x.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a finding")):
        findings.load(tmp_path)


def test_a_finding_comes_back_as_it_was_written(tmp_path):
    written = findings.Finding.of("F1", "toy", {}, {}, value=0.9, interval=(0.8, 0.95))
    path = findings.write(written, tmp_path)
    assert findings.load(tmp_path) == [written]
    path.write_text(path.read_text(encoding="utf-8").replace('"F1"', '"F99"'), encoding="utf-8")
    with pytest.raises(ValueError, match="id 'F99' and model 'toy': expected F1 to F14, and a name"):
        findings.load(tmp_path)
