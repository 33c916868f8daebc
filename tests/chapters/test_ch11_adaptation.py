"""What chapter 11 prints: planted accuracies, rates and costs of made records."""

import numpy as np
import pandas as pd
import pytest

from lfmlib.chapters import ch11_adaptation
from lfmlib.experiments import adaptation

LEVEL = {"none": 0.2, "head": 0.5, "lora": 0.7, "dora": 0.71, "vera": 0.69, "randlora": 0.7, "noise-gaussian": 0.75,
         "full": 0.8}  # fmt: skip


def made() -> pd.DataFrame:
    rows = []
    for seed in range(5):
        for task in adaptation.TASKS:
            listed = [("methods", method, 1) for method in adaptation.methods_of(task)]
            listed += [("variants", variant, 1) for variant in adaptation.VARIANTS if task in adaptation.VARIED]
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
                     "stored": 4100 * budget, "held": 2_000_000, "step_seconds": 0.02 if method == "lora" else 0.03}
                )  # fmt: skip
    return pd.DataFrame(rows).assign(cell="0")


@pytest.fixture(scope="module")
def record() -> pd.DataFrame:
    return made()


def test_findings_are_of_every_model_and_task(record):
    found = ch11_adaptation.found(record, seed=0)
    assert len(found) == 6 and {one.first_verdict for one in found} == {"supported"}
    assert "lab ViT, rotation" in {one.model for one in found}


def test_tables_say_what_was_planted(record):
    scores = ch11_adaptation.scores(record)
    assert scores.loc["LoRA", "ViT, rotation"].startswith("72.0 [") and scores.loc["the base", "ViT, rotation"] == "–"
    assert ch11_adaptation.against_lora(record).loc["full fine-tuning", "MiniLM, kind"] == "+10.0 [+10.0, +10.0]"
    named = dict(ch11_adaptation.costs(record, ("rotation", "kind", "absent")))
    assert list(named) == ["ViT, rotation", "MiniLM, kind"]
    assert named["ViT, rotation"].loc["noise-built", "beside LoRA’s"] == "1.50 ×"
    assert "DoRA" in ch11_adaptation.by_budget(record).index and "VeRA" not in ch11_adaptation.by_budget(record).index
    assert ch11_adaptation.variants(record).loc["uniform noise", "ViT, rotation"].startswith("-2.0")
    assert ch11_adaptation.variants(record).loc["LoRA, σ of the base raised", "decoder, prose"].startswith("+3.0")
    assert list(ch11_adaptation.by_budget(record).loc["noise-built"]) == ["+5.0 [+5.0, +5.0]"] * 3
    curve = ch11_adaptation.curve(record)
    assert list(curve.query("method == 'LoRA'")["parameters"]) == [1000, 4000, 16_000]


def test_rates_are_those_with_the_smallest_loss():
    cells = pd.DataFrame(adaptation.rates().cells)
    rates = cells.assign(loss=(np.log10(cells["lr"]) - np.log10(3e-3)) ** 2, accuracy=0.5, cell="0")
    rates.loc[rates["method"] == "full", "loss"] = rates["lr"]
    table = ch11_adaptation.tuning(rates)
    assert table.loc["LoRA", "ViT, rotation"] == "0.003"
    assert table.loc["full fine-tuning", "ViT, rotation"] == "0.0003 (end)"
    assert table.loc["LoRA", "ViT, rotation, 16 ×"] == "0.003" and table.loc["VeRA", "ViT, rotation, 4 ×"] == "–"
    assert adaptation.best(rates, "rotation", "lora") == 3e-3
    assert ch11_adaptation.tuned_curves(rates).loc["LoRA", "0.003"] == 0
