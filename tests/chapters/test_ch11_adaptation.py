"""What chapter 11 prints: planted accuracies, rates and costs of made records."""

import numpy as np
import pandas as pd
import pytest

from lfmlib.chapters import ch11_adaptation, ch11_gains, ch11_published
from lfmlib.experiments import adaptation

LEVEL = {"none": 0.2, "head": 0.5, "lora": 0.7, "dora": 0.71, "vera": 0.69, "randlora": 0.7, "noise-gaussian": 0.75,
         "full": 0.8}  # fmt: skip


def made() -> pd.DataFrame:
    rows = []
    for seed in range(5):
        for task in adaptation.TASKS:
            listed = [("methods", method, 1) for method in adaptation.methods_of(task)]
            listed += [("variants", variant, 1) for variant in adaptation.variants_of(task)]
            for budget in adaptation.BUDGETS[1:]:
                listed += [
                    ("budgets", method, budget)
                    for method in adaptation.BUDGET_METHODS
                    if task == adaptation.BUDGET_TASK
                ]
            for part, method, budget in listed:
                level = LEVEL.get(method, 0.73) + 0.01 * seed + 0.02 * np.log2(budget)
                rows.append(
                    {"part": part, "model": adaptation.TASKS[task]["model"], "task": task, "method": method,
                     "budget": budget, "seed": seed, "accuracy": level, "loss": 1 - level, "parameters": 1000 * budget,
                     "stored": 4100 * budget, "held": 2_000_000, "step_seconds": 0.02 if method == "lora" else 0.03,
                     "answers": 4096 if task in adaptation.LARGE else None}
                )  # fmt: skip
    return pd.DataFrame(rows).assign(cell="0")


@pytest.fixture(scope="module")
def record() -> pd.DataFrame:
    return made()


def test_findings_are_of_every_model_and_task(record):
    found = ch11_adaptation.found(record, seed=0)
    assert len(found) == 7 and {one.first_verdict for one in found} == {"supported"}
    assert found[0].model == "smollm2-135m, docstrings"
    assert "lab ViT, rotation" in {one.model for one in found}


def test_tables_say_what_was_planted(record):
    scores = ch11_adaptation.scores(record)
    assert (
        scores.loc["LoRA", "lab ViT, rotation"].startswith("72.0 [")
        and scores.loc["the base", "lab ViT, rotation"] == "–"
    )
    assert ch11_adaptation.against_lora(record).loc["full fine-tuning", "MiniLM, kind"] == "+10.0 [+10.0, +10.0]"
    named = dict(ch11_adaptation.costs(record, ("rotation", "kind", "absent")))
    assert list(named) == ["lab ViT, rotation", "MiniLM, kind"]
    assert named["lab ViT, rotation"].loc["noise-built", "beside LoRA’s"] == "1.50 ×"
    assert "DoRA" in ch11_adaptation.by_budget(record).index and "VeRA" not in ch11_adaptation.by_budget(record).index
    assert ch11_adaptation.variants(record).loc["uniform noise", "lab ViT, rotation"].startswith("-2.0")
    assert ch11_adaptation.variants(record).loc["LoRA, σ of the base raised", "lab decoder, prose"].startswith("+3.0")
    assert list(ch11_adaptation.by_budget(record).loc["noise-built"]) == ["+5.0 [+5.0, +5.0]"] * 3
    curve = ch11_adaptation.curve(record)
    assert list(curve.query("method == 'LoRA'")["parameters"]) == [1000, 4000, 16_000]


def test_rates_are_those_with_the_smallest_loss():
    cells = pd.DataFrame(adaptation.rates().cells)
    rates = cells.assign(loss=(np.log10(cells["lr"]) - np.log10(3e-3)) ** 2, accuracy=0.5, cell="0")
    rates.loc[rates["method"] == "full", "loss"] = rates["lr"]
    table = ch11_adaptation.tuning(rates)
    assert table.loc["LoRA", "lab ViT, rotation"] == "0.003"
    assert table.loc["full fine-tuning", "lab ViT, rotation"] == "0.0003 (end)"
    assert (
        table.loc["LoRA", "lab ViT, rotation, 16 ×"] == "0.003" and table.loc["VeRA", "lab ViT, rotation, 4 ×"] == "–"
    )
    assert adaptation.best(rates, "rotation", "lora") == 3e-3
    assert ch11_adaptation.tuned_curves(rates).loc["LoRA", "0.003"] == 0


SMOLLM2 = "SmolLM2, docstrings"


def test_the_published_language_model_stands_first(record):
    assert ch11_adaptation.answers(record[record["task"] == "docstrings"]) == 4096
    assert next(iter(ch11_adaptation.scores(record))) == next(iter(ch11_adaptation.variants(record))) == SMOLLM2
    assert ch11_adaptation.scores(record).loc["DoRA", SMOLLM2] == "–"
    said = ch11_published.tuned_before(record)
    assert SMOLLM2 in said and f"noise-built {adaptation.RATES['docstrings']['noise-gaussian']:g}" in said


def test_what_has_fewer_runs_is_told(record):
    assert ch11_published.fewer_runs(record) == ""
    of_full = (record["task"] == "docstrings") & (record["method"] == "full") & (record["seed"] > 2)
    assert ch11_published.fewer_runs(record[~of_full]) == f"With fewer than 5 runs: full fine-tuning (3) on {SMOLLM2}."
    early = record[(record["task"] != "docstrings") | (record["seed"] < 3)]
    found = ch11_adaptation.found(early)[0]
    assert found.value is None and found.details["reason"].startswith("Recorded so far: 3 of the 5 runs")
    assert ch11_adaptation.scores(early).loc["LoRA", SMOLLM2].startswith("71.0")


def test_losses_stand_beside_the_noise_built_adapters(record):
    found = dict(ch11_published.in_nats(record))
    assert list(found) == [SMOLLM2, "lab decoder, prose"]
    assert found[SMOLLM2].loc["noise-built"].tolist() == ["0.230 [0.210, 0.250]", "–"]
    assert found[SMOLLM2].loc["LoRA", "more than noise-built"] == "+0.050 [+0.050, +0.050]"


def test_where_lab_and_published_model_disagree(record):
    table = ch11_published.beside_lab(record)
    assert table.loc["noise-built beside LoRA"].tolist() == [5, "+5.00 [+5.00, +5.00]", "better", "5 better"]
    assert table.loc["uniform noise", "lab’s tasks"] == "3 worse"
    assert ch11_published.disagree(record).endswith("in none of 6 comparisons.")
    other = record.copy()
    raised = (other["task"] == "docstrings") & (other["method"] == "noise-gaussian, σ raised")
    other.loc[raised, "accuracy"] += 0.1
    said = ch11_published.disagree(other)
    assert said.endswith("in 1 of 6 comparisons: σ of the base raised, better here, there 3 worse.")
    few = ch11_published.disagree(other[(other["task"] != "docstrings") | (other["seed"] < 2)])
    assert "better here in 2 runs, there 3 worse" in few
    toys = record[record["model"] == "vit"]
    assert ch11_published.beside_lab(toys).empty and "too little was recorded" in ch11_published.disagree(toys)


def test_takeaways_turn_with_the_record(record):
    insights, lora, cost = ch11_gains.takeaways(record).splitlines()
    assert "**The law of the noise matters**" in insights and "in 8 of 8 comparisons" in insights
    assert "**better on 7 of 7 tasks and worse on 0**; on SmolLM2, docstrings, the difference is +5.0 points." in lora
    assert "takes **1.50 times** as long as LoRA’s and holds 1.00 times" in cost
    level = record["accuracy"].where(~record["method"].isin(ch11_gains.findings.OTHER_NOISE), record["accuracy"] + 0.02)
    alike = ch11_gains.takeaways(record.assign(accuracy=level)).splitlines()[0]
    assert "**Gaussian noise is nothing special**" in alike and "in 0 of 8 comparisons" in alike
    one = ch11_gains.takeaways(record[record["seed"] == 0])
    assert "**nothing is concluded**" in one and "**too little is recorded**" in one
    some = ch11_gains.takeaways(record[record["task"] == "headers"])
    assert "**not recorded**" in some and "SmolLM2" not in some


def test_figures_have_a_mark_for_each_difference(record):
    gains = ch11_gains.gains(record).set_index(["insight", "task"])["mean"]
    assert gains["Gaussian, not uniform", "lab ViT, rotation"] == pytest.approx(2)
    beside = ch11_gains.beside_lora(record)
    assert set(beside["task"]) == {ch11_adaptation.title(task) for task in adaptation.TASKS}
    assert not {"LoRA", "the base", "head alone"} & set(beside["method"])
    cost = ch11_gains.cost(record)["time of a step"]
    assert (cost["mean"] == 1.5).all() and cost["method"].iloc[0] == "head alone"
    assert "the base" not in set(ch11_gains.more_nats(record)["method"])
    assert ch11_gains.gains(record[record["part"] == "methods"]).empty
