"""Chapter 2's record and the tables made of it: planted forgetting comes out, and so does planted memory."""

import math

import numpy as np
import pandas as pd
import pytest

from lfmlib import findings, records
from lfmlib.chapters import ch02_picture, ch02_start, lab_runs, names, published
from lfmlib.experiments import drift as forgetting
from lfmlib.experiments import initialization as experiments
from lfmlib.findings import over_runs, scoreboard
from lfmlib.lab import starts
from lfmlib.lab.train import Config, rate
from lfmlib.records.experiment import compare

STEPS = (0, 10, 100)


def planted(memory: dict[str, float], seeds=5, scatter=0.0, model="vit", **settings) -> pd.DataFrame:
    """A made record: every start keeps so much of itself, and is exactly as Gaussian as the law says."""
    rng, rows = np.random.default_rng(0), []
    for start in starts.STARTS:
        for seed in range(seeds):
            for step in STEPS:
                kept = 1 - (1 - memory.get(start, 1.0)) * step / STEPS[-1]
                kl_bits = forgetting.predicted(start, kept)
                rows.append(
                    {
                        **{"cell": f"{model}-{start}-{seed}", "part": "plain", "model": model, "start": start},
                        **{"gain": 1.0, "optimizer": "adamw", "seed": seed, "steps": STEPS[-1], "step": step},
                        **{"kl_bits": kl_bits, "memory": kept, "moved": math.sqrt(1 / kept**2 - 1)},
                        "share": float(np.clip((kl_bits <= 0.02) + scatter * rng.standard_normal(), 0, 1)),
                        **{
                            "rate_norm": 0.001 * math.sqrt(1 + step),
                            "rate_sum": 0.001 * (1 + step),
                            "score": 0.9,
                            "trivial": 0.1,
                            "added_kl_bits": 0.001,
                        },
                        **{"rms": 0.1, "rows_alike": 1.0, "top_ratio": 1.0, "zeros_seen": math.nan},
                        **{"matrices": 24, "sharp": 0, "inverted-t": 0, "linear": 20, "other": 4},
                    }
                    | settings
                )
    return pd.DataFrame(rows)


ALL = dict.fromkeys(starts.UNLIKE_STARTS, 0.2)


def test_an_interval_over_runs_is_students():
    mean, low, high = over_runs([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, high - mean) == (3.0, pytest.approx(2.7764451 * math.sqrt(2.5 / 5)))
    assert mean - low == pytest.approx(high - mean)
    assert over_runs([0.5])[0] == 0.5 and math.isnan(over_runs([0.5])[1])


FADING = forgetting.fading(findings.KL_BOUND)


@pytest.mark.parametrize(
    ("forgotten", "verdict"),
    [(5, "supported"), (4, "partly"), (3, "partly"), (2, "contradicted"), (0, "contradicted")],
)
def test_f2_counts_the_starts_that_were_forgotten(forgotten, verdict):
    """All have moved far enough, and some have not become Gaussian."""
    rows = planted(ALL)
    kept = rows["start"].isin(starts.UNLIKE_STARTS[forgotten:])
    rows.loc[kept, "share"] = 0.0
    finding = findings.f2(rows, "made", {}, FADING)
    assert (finding.value, finding.null) == (forgotten / 5, 0) and finding.interval == (finding.value, finding.value)
    assert finding.verdict == verdict == finding.first_verdict
    assert set(finding.details["shares"]) == set(starts.UNLIKE_STARTS)
    assert finding.details["controls"]["gaussian"][0] == 1.0
    assert scoreboard.measured(finding).startswith(f"{20 * forgotten:.1f}\u00a0%")


def test_f2_judges_no_start_that_cannot_be_forgotten():
    """Memory is printed beside what would be needed; the values of the design: 0.46 for sparse, 0.58 for t₃."""
    assert FADING["sparse-90"] == pytest.approx(0.46, abs=0.02) and FADING["student-t3"] == pytest.approx(
        0.58, abs=0.03
    )
    barely = findings.f2(planted(dict.fromkeys(starts.UNLIKE_STARTS, 0.97)), "made", {}, FADING)
    assert barely.value is None and barely.first_verdict == "contradicted"
    assert "barely moved: their correlation with the start is 0.97 or more; 0.8" in barely.details["reason"]
    some = findings.f2(planted(ALL | {"sparse-90": 0.6, "student-t3": 0.7}), "made", {}, FADING)
    assert (some.value, some.verdict, some.first_verdict) == (1.0, "supported", "partly")
    assert some.details["judged"] == ["uniform", "signs", "laplace"]
    assert some.details["parts"]["could be forgotten"] == "3 of 5"
    assert "sparse-90 0.60 (0.4" in some.details["parts"]["memory of the others (needed)"]
    assert some.details["memory"]["uniform"] == [pytest.approx(0.2), FADING["uniform"]]


def test_f2_asks_what_a_gaussian_start_gives():
    rows = planted(ALL)
    rows.loc[rows["start"] == "gaussian", "share"] = 0.6
    found = findings.f2(rows, "made", {}, FADING)
    assert found.value is None and "From a Gaussian start, too, only 60%" in found.details["reason"]


def test_f2_is_undecided_where_the_seeds_disagree():
    rows = planted(ALL)
    torn = (rows["start"] == "uniform") & (rows["step"] == STEPS[-1])
    rows.loc[torn, "share"] = [1.0, 1.0, 1.0, 0.6, 0.5]
    finding = findings.f2(rows, "made", {}, FADING)
    assert finding.interval == (0.8, 1.0) and finding.verdict == "undecided"


def test_f2_refuses_what_it_cannot_judge():
    rows = planted(ALL)
    with pytest.raises(ValueError, match="lacks sparse-90"):
        findings.f2(rows[rows["start"] != "sparse-90"], "made", {}, FADING)
    with pytest.raises(ValueError, match="at least two runs"):
        findings.f2(rows[rows["seed"] == 0], "made", {}, FADING)
    one = (rows["start"] == "uniform") & (rows["seed"] == 3)
    cut = rows[~(one & (rows["step"] == STEPS[-1]))]
    lost = rows.assign(share=rows["share"].mask(one))
    copied = rows.assign(seed=0)
    for wrong in (cut, lost, copied, rows[rows["step"] < STEPS[-1]]):
        with pytest.raises(ValueError, match="not one whole run a seed"):
            findings.f2(wrong, "made", {}, FADING)


def test_every_unlike_start_begins_unlike_and_every_control_gaussian():
    table = ch02_start.shares(planted({}))
    assert all(text.startswith("0 →") for text in table.loc[list(starts.UNLIKE_STARTS), "lab ViT"])
    assert all(text.startswith("100 →") for text in table.loc[list(starts.CONTROLS), "lab ViT"])


@pytest.mark.slow
def test_planted_fading_is_foretold_and_crosses_where_it_should():
    rows = planted(ALL | {"sparse-90": 0.9, "gaussian": 0.2})
    misses = ch02_picture.misses(ch02_picture.with_prediction(rows[rows["step"] > 0]), findings.KL_BOUND)
    told = misses["measured / foretold"]
    assert all(text.startswith("1.00") for text in told[told != "–"])
    assert misses["foretold forgotten"].sum() == 4 * 5 and misses["of these not"].sum() == 0
    rows.loc[rows["start"] == "laplace", "kl_bits"] = 0.1  # as it was at the start
    misses = ch02_picture.misses(ch02_picture.with_prediction(rows[rows["step"] > 0]), findings.KL_BOUND)
    assert misses["of these not"].sum() == 5
    table = ch02_picture.crossings(rows, findings.KL_BOUND)
    assert table.loc["sparse-90", "crossed"] == 0 and table.loc["sparse-90", "ratio"] == "–"
    assert table["got there"].tolist() == [5, 5, 5, 5, 0]
    laplace = table.loc["laplace"]
    assert laplace["of these within"] == 0 and laplace["crossed"] == 0
    assert (table.loc[["uniform", "signs", "student-t3"], "crossed"] == 5).all()
    words = ch02_picture.forecasts(ch02_picture.forecast_rows(rows))
    told = words.loc["lab ViT, wide start"].str.split(" → ", expand=True).astype(float)
    assert told.loc["uniform", 0] == pytest.approx(told.loc["uniform", 1], abs=1e-3)
    assert told.loc["sparse-90", 0] < told.loc["sparse-90", 1] / 10  # it kept more than a Gaussian start did


def test_what_is_kept_is_told_for_every_start():
    table = ch02_start.kept(planted(ALL))
    assert table.index.tolist() == list(starts.STARTS)
    assert table.loc["uniform", "correlation"] == "0.20"
    assert (table["shape"] == "linear → linear").all() and (table["zeros seen"] == "–").all()


def test_a_shape_was_grown_only_if_two_seeds_end_with_it_and_none_begins_with_it():
    rows = planted(ALL, linear=0, sharp=0)
    end = (rows["start"] == "gaussian") & (rows["step"] == STEPS[-1])
    rows.loc[end & (rows["seed"] < 2), "sharp"] = 2
    rows.loc[end & (rows["seed"] == 0), "linear"] = 9
    rows.loc[end & (rows["seed"] < 4), "inverted-t"] = 1
    assert lab_runs.shapes_grown(rows) == {"sharp": ["lab ViT, wide start"]}
    rows.loc[(rows["start"] == "gaussian") & (rows["step"] == 0) & (rows["seed"] == 4), "sharp"] = 1
    assert lab_runs.shapes_grown(rows) == {}


def test_drift_beside_decay():
    rows = planted(ALL, left=0.5, weight_decay=10.0, task="class", lr=1e-3)
    drift = ch02_picture.drifts(rows).loc["lab ViT, wide start"]
    spent = math.fsum(rate(Config("vit", "class", lr=1e-3, steps=STEPS[-1]), step) for step in range(STEPS[-1]))
    assert drift["measured"] == 0.5 and drift["decay alone"] == pytest.approx(math.exp(-10 * spent), rel=0.01)


def test_slope_of_a_diffusion_is_one():
    rows = planted(ALL)
    rows["moved"] = 3 * rows["rate_norm"]
    assert ch02_picture.exponents(rows).loc["lab ViT", "slope"] == pytest.approx(1.0)
    rows["moved"] = 3 * rows["rate_sum"]
    straight = ch02_picture.exponents(rows).loc["lab ViT"]
    assert straight["slope"] == pytest.approx(straight["straight"]) and straight["slope"] > 1.2


def test_published_recipes_leave_what_their_papers_say():
    left = published.recipes().set_index("model")["left"]
    assert left["BERT base"] == pytest.approx(math.exp(-0.5))
    assert left["Llama 2 7B"] == pytest.approx(math.exp(-3e-4 * 0.55 * 500_000 * 0.1))
    assert left.between(0, 1).all()


# --- the record -----------------------------------------------------------------------------------------------------


def test_the_experiment_is_what_the_chapter_says():
    cells = pd.DataFrame(experiments.initialization().cells)
    for regime, settings in lab_runs.REGIMES.items():
        seeds = names.where(cells, **settings).groupby(["model", "start"])["seed"].nunique()
        assert len(seeds) == 3 * 7 and (seeds >= 5).all(), regime
    assert set(cells["optimizer"]) == {"adamw", "sgd", "adagrad"}
    assert cells["gain"].nunique() >= 2


@pytest.fixture(scope="module")
def record():
    return records.load("initialization")


def test_the_record_is_whole_and_its_models_learned(record):
    assert not record.attrs["stale"] and not record.attrs["notice"]
    ends = lab_runs.last(record)
    for name, rows in (lab_runs.verdict_runs(ends) | ch02_start.optimizer_runs(ends)).items():
        language = "decoder" in name
        better = rows["score"] < 0.97 * ch02_start.pairs_loss() if language else rows["score"] > 3 * rows["trivial"]
        assert better.all(), f"{name}: {rows.loc[~better, ['start', 'seed', 'score']]}"


def test_the_verdicts_follow_from_the_record(record):
    verdicts = ch02_start.found(lab_runs.verdict_runs(record), {})
    assert len(verdicts) == 9 and all(finding.details["runs_each"] >= 5 for finding in verdicts)
    assert all(finding.null == 0 if finding.value is not None else finding.details["reason"] for finding in verdicts)


def tampered(rows: list[dict], column: str, value) -> list[dict]:
    return [*rows[:-1], rows[-1] | {column: value}]


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("share", lambda share: 1.0 - share),
        ("kl_bits", lambda kl_bits: kl_bits / 2),
        ("kl_bits", lambda kl_bits: 0.001),
        ("memory", lambda memory: 0.9 * memory),
        ("linear", lambda count: count + 24),
        ("score", lambda score: score / 2),
    ],
)
def test_a_tampered_last_row_is_caught(record, column, change):
    """The last row is what verdicts rest on: the tolerance there must not hide behind the large values of step 0."""
    experiment = experiments.initialization()
    cell = next(c for c in experiment.cells if (c["model"], c["start"], c["gain"]) == ("vit", "signs", 0.25))
    rows = record[record["cell"] == experiment.key(cell)].to_dict("records")
    held, empty = records.provenance("initialization"), {"seconds": 0.0, "inputs": {}}
    held["cells"][experiment.key(cell)]["inputs"] = {}
    assert compare(experiment, cell, held, rows, empty | {"rows": rows}).equal
    wrong = tampered(rows, column, change(rows[-1][column]))
    assert not compare(experiment, cell, held, wrong, empty | {"rows": rows}).equal
