"""Adaptation in the lab: cells, toys, and what a training costs."""

import pickle

import pandas as pd
import pytest

from lfmlib import records
from lfmlib.experiments import adaptation, finetuning, stand_ins
from lfmlib.lab import smollm
from lfmlib.lab.costs import costs
from lfmlib.lab.problems import problem
from lfmlib.records.experiment import measure


def test_every_method_is_tuned_on_the_same_grid():
    experiment = adaptation.rates()
    assert pickle.loads(pickle.dumps(experiment)).cells == experiment.cells
    cells = pd.DataFrame(experiment.cells)
    for task, some in cells[cells["part"] == "methods"].groupby("task"):
        grids = some.groupby("method")["lr"].apply(tuple)
        assert len(set(grids)) == 1 and len(grids) == len(adaptation.methods_of(task)) - (
            "none" in adaptation.methods_of(task)
        )
        assert task not in adaptation.LARGE
    assert set(cells["seed"]) == {adaptation.TUNING_SEED} and adaptation.TUNING_SEED >= adaptation.SEEDS


@pytest.fixture(scope="module")
def toys() -> pd.DataFrame:
    experiment = adaptation.rates()
    cells = [cell | {"steps": 3} for cell in experiment.quick if cell["lr"] == 3e-3 and cell["budget"] == 1]
    return pd.DataFrame([row for cell in cells for row in measure(experiment, cell)["rows"]])


def test_toys_train_and_say_what_they_cost(toys):
    by = toys.set_index("method")
    assert {"head", "lora", "noise-gaussian", "full"} <= set(by.index)
    assert toys["accuracy"].between(0, 1).all() and (toys["loss"] > 0).all()
    assert by.loc["lora", "parameters"] == by.loc["noise-gaussian", "parameters"] > by.loc["head", "parameters"]
    assert by.loc["full", "stored"] > 10 * by.loc["lora", "stored"]
    assert by.loc["lora", "stored"] >= 4 * by.loc["lora", "parameters"]
    assert by.loc["full", "held"] > by.loc["lora", "held"] > by.loc["head", "held"]


def test_held_bytes_count_weights_gradients_and_moments():
    cell = next(one for one in adaptation.rates().quick if one["method"] == "full")
    config = adaptation.config(cell)
    found = costs(config)
    assert found["held"] > 4 * 4 * found["parameters"]  # weight, gradient and two moments, and activations
    assert found["step_seconds"] > 0


def test_a_training_that_diverges_says_so():
    cell = next(one for one in adaptation.rates().quick if one["method"] == "full") | {"lr": 1e30}
    row = adaptation.run(cell)[0]
    assert row["accuracy"] is None and row["loss"] is None and row["parameters"] > 0


def test_turned_pairs_are_the_pairs_turned():
    plain, turned = problem("clip", "pairs"), problem("clip", "turned pairs")
    assert plain.data_hash != turned.data_hash
    one, two = plain.images.test, turned.images.test
    assert (two.labels == one.labels).all() and (two.images[:, 0, 0, 0] == one.images[:, 0, 0, -1]).all()


def test_rates_are_those_that_won_in_the_record():
    record = records.load("rates")
    for task, rates in adaptation.RATES.items():
        for name, rate in rates.items() if task not in adaptation.LARGE else ():
            method, _, budget = name.partition(" ")
            assert adaptation.best(record, task, method, int(budget or 1)) == rate, (task, name)
    for task, rate in adaptation.HEAD_RATES.items():  # found before the record: as good as the best there, or nearly
        losses = record[(record["task"] == task) & (record["method"] == "head")].set_index("lr")["loss"]
        assert losses[rate] <= 1.04 * losses.min(), task


def test_the_spread_is_of_an_adapter_that_learns_and_language_is_held_closer():
    for experiment in (adaptation.rates(), adaptation.adaptation()):
        origin = records.provenance(experiment.name)
        cell = origin["cells"][origin["spread"]["cell"]]["cell"]
        assert cell["adapter"] in adaptation.METHODS and experiment.repeated(cell)
        assert not any(
            experiment.repeated(one) for one in experiment.cells if one["method"] in ("none", "head", "full")
        )
        assert experiment.tolerance({"model": "decoder"}, "accuracy") < experiment.tolerance(cell, "accuracy") <= 0.1
    assert not any(cell["lr"] > 0.1 or cell["model"] != "vit" for cell in adaptation.rates().cells
                   if adaptation.steady(cell) and cell["method"] != "head")  # fmt: skip


def test_everything_is_judged_with_a_rate_of_its_own():
    cells = pd.DataFrame(adaptation.adaptation().cells)
    assert set(cells["seed"]) == set(range(adaptation.SEEDS))
    assert (cells["lr"] > 0).equals(cells["method"] != "none")
    for seed, some in cells[cells["part"] == "methods"].groupby("seed"):
        for task, one in some.groupby("task"):
            few = task in adaptation.LARGE and seed >= finetuning.LARGE_SEEDS
            assert tuple(one["method"]) == adaptation.methods_of(task)[: -1 if few else None]
        assert set(some["task"]) == set(adaptation.TASKS)
    variants = cells[cells["part"] == "variants"].drop_duplicates(["task", "method"])
    plain = cells[cells["part"] == "methods"].drop_duplicates(["task", "method"]).set_index(["task", "method"])["lr"]
    for row in variants.itertuples():
        assert row.lr == plain[row.task, "lora" if row.adapter == "lora" else "noise-gaussian"]


def test_a_published_language_model_comes_first_at_the_rates_of_chapter_7():
    experiment = adaptation.adaptation()
    own = [cell for cell in experiment.cells if cell["model"] == smollm.NAME]
    assert own == list(experiment.cells[: len(own)]) and next(iter(adaptation.TASKS)) == "docstrings"
    for method in ("none", "lora", "noise-gaussian", "noise-uniform", "noise-signs", "noise-deeper",
                   "noise-gaussian, σ raised"):  # fmt: skip
        assert [cell["seed"] for cell in own if cell["method"] == method] == list(range(adaptation.SEEDS)), method
    assert not any(experiment.alone(cell) or experiment.repeated(cell) for cell in own)  # none is drawn
    assert not any(cell["model"] == smollm.NAME for cell in (*experiment.quick, *adaptation.rates().cells))
    for adapter in ("lora", "noise-gaussian"):
        assert adaptation.RATES["docstrings"][adapter] == _won(adapter)


def _won(adapter: str) -> float:
    """The rate of an adapter with the smallest validation loss, of the record `derived`."""
    rows = records.load("derived").query("part == 'tuning' and model == @smollm.NAME and adapter == @adapter")
    return rows.loc[rows["loss"].idxmin(), "lr"]


def test_trainings_that_other_records_have_are_the_same():
    """So that each is made once: the configuration, on which the cache goes, is equal."""
    built = [
        cell for cell in stand_ins.experiment().cells if cell["model"] == smollm.NAME and cell["adapter"] != "none"
    ]
    known = [finetuning.plan(cell) for cell in built]
    for cell in adaptation.adaptation().cells:
        first = cell["model"] == smollm.NAME and cell["seed"] < finetuning.LARGE_SEEDS
        if first and cell["method"] in ("lora", "full", "noise-gaussian", "noise-uniform", "noise-signs"):
            assert adaptation.config(cell) in known, cell


def test_cells_that_were_recorded_before_keep_their_keys():
    keys = {adaptation.adaptation().key(cell) for cell in adaptation.adaptation().cells}
    assert set(records.provenance("adaptation")["cells"]) <= keys
