"""F14: verdicts on made records of merges, planted both ways."""

import numpy as np
import pandas as pd
import pytest

from lfmlib import findings
from lfmlib.findings import answers, front, scoreboard

METHODS = list(findings.METHOD_NAMES)


def recorded(gain: dict[str, float], scatter: float = 0.002, random: float = 0.0, runs: int = 5) -> pd.DataFrame:
    """Five runs and two sets of tasks: amplifying adds ``gain`` by method, a random set ``random``."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(runs):
        for tasks in ("a+b", "a+b+c"):
            for method in METHODS:
                for task in tasks.split("+"):
                    level = 0.8 + rng.normal(scale=0.1)  # models differ; a pair shares what makes them differ
                    added = {"plain": 0.0, "amplified": gain.get(method, 0.0), "random": random}
                    for arm, more in added.items():
                        noise = rng.normal(scale=scatter) if more != 0 else 0.0
                        rows.append(
                            {"seed": seed, "tasks": tasks, "method": method, "arm": arm, "task": task,
                             "normalized": level + more + noise}
                        )  # fmt: skip
    return pd.DataFrame(rows)


HARM = dict.fromkeys(METHODS, -0.03)


@pytest.mark.parametrize(
    ("gain", "value", "verdict"),
    [
        (dict.fromkeys(METHODS, 0.02), 6, "supported"),
        (HARM | dict.fromkeys(METHODS[:4], 0.02), 4, "supported"),
        (HARM | {"average": 0.02}, 1, "partly"),
        (HARM, 0, "contradicted"),
        ({}, 0, "contradicted"),  # no difference at all: nothing is gained
        (dict.fromkeys(METHODS, 1e-9), 0, "contradicted"),  # less than a point either way
    ],
)
def test_planted_gains_come_out(gain, value, verdict):
    found = findings.f14_over_runs(recorded(gain), "m", {})
    assert (found.id, found.value, found.verdict) == ("F14", value, verdict)
    assert found.null == 0 and list(found.details["parts"])[1:-1] == list(findings.METHOD_NAMES.values())


def test_scatter_leaves_it_undecided():
    found = findings.f14_over_runs(recorded(dict.fromkeys(METHODS, 1e-6), scatter=0.05), "m", {})
    assert found.value == 0 and found.interval[1] >= 4 and found.verdict == "undecided"


def test_what_a_random_set_gains_is_no_gain():
    found = findings.f14_over_runs(recorded(dict.fromkeys(METHODS, 0.02), scatter=0.0, random=0.02), "m", {})
    assert (found.first_verdict, found.verdict, found.null) == ("supported", "contradicted", 6)
    assert found.control_verdict == "supported"
    assert findings.RULES["F14"].control == "with a random set amplified"


def test_methods_that_give_the_same_merges_count_once():
    rows = recorded(dict.fromkeys(METHODS[1:], -0.03) | {"average": 0.02}, scatter=0.0)
    same = [rows[rows["method"] == "average"].assign(method=method) for method in METHODS[:4]]
    found = findings.f14_over_runs(pd.concat([*same, rows[rows["method"].isin(METHODS[4:])]]), "m", {})
    assert list(found.details["methods"]) == ["average", "dare_ties", "nan"] and found.value == 1
    assert scoreboard.number(found, found.value) == "1\u00a0of 3" and found.details["parts"]["no gain in"] == "2 of 3"


def test_of_fewer_methods_more_than_half_is_fewer():
    """Three of four are more than half, two are not; the first rule asks for four, however many were tried."""
    for gains, verdict in ((3, "supported"), (2, "partly")):
        rows = recorded(HARM | dict.fromkeys(METHODS[:gains], 0.02))
        found = findings.f14_over_runs(rows[rows["method"].isin(METHODS[:4])], "m", {})
        assert (found.verdict, found.first_verdict) == (verdict, "partly")
        assert scoreboard.number(found, found.value) == f"{gains}\u00a0of 4"


def test_a_method_that_some_runs_lack_is_not_judged():
    """A record that was stopped between the methods of a run."""
    rows = recorded(dict.fromkeys(METHODS, 0.02))
    found = findings.f14_over_runs(rows[(rows["method"] != "ties") | (rows["seed"] == 0)], "m", {})
    assert found.value is None and found.details["reason"].startswith("Not every run has merges by TIES:")


@pytest.mark.parametrize(("share", "beyond"), [(0.0, 6), (1.2, 0)])
def test_a_larger_delta_stands_beside_the_gains(share, beyond, tmp_path):
    """All of ΔW made as large adds nothing, or more than amplified outliers do; the rule does not ask."""
    rows = recorded(dict.fromkeys(METHODS, 0.02), scatter=0.0005)
    rng, plain = np.random.default_rng(1), rows[rows["arm"] == "plain"]
    more = plain["normalized"] + share * 0.02 + rng.normal(scale=0.0005, size=len(plain))
    larger = plain.assign(arm="as large as amplified", normalized=more)
    found = findings.f14_over_runs(pd.concat([rows, larger]), "m", {})
    assert (found.verdict, found.details["beyond_all"]) == ("supported", beyond)
    assert found.details["parts"]["of these, beyond all of ΔW made as large"] == f"{beyond} of 6"
    (kept,) = findings.load(findings.write(found, tmp_path).parent)
    assert kept.details == found.details
    said = answers.answer([kept])
    assert said.endswith(f"Beside all of ΔW made as large, they are better in {beyond} of 6.")
    assert ("but no more than a ΔW that is larger as a whole" in front._front_editing([found])) == (beyond == 0)
    assert findings.f14_over_runs(rows, "m", {}).details["beyond_all"] is None  # that was not tried


def test_pairs_share_what_makes_runs_differ():
    rows = recorded({"ties": 0.02}, scatter=0.0)
    gain = findings.improvement(rows, "ties")
    assert np.allclose(gain, 0.02) and findings.kept_score(rows, "ties", "plain").std() > 0.005
    # tasks count within their set, sets alike
    one = rows[rows["seed"] == 0].query("method == 'ties' and arm == 'plain'")
    by_set = one.groupby("tasks")["normalized"].mean()
    assert findings.kept_score(rows, "ties", "plain")[0] == pytest.approx(by_set.mean())


def test_what_cannot_be_judged_says_so():
    with pytest.raises(ValueError, match="F14 of m needs at least two runs"):
        findings.f14_over_runs(recorded({}, runs=1), "m", {})
    assert findings.f14("m", {}).verdict == "undecided" and "takes the tasks" in findings.f14("m", {}).details["reason"]
