"""Optimal weights in the lab: MiniLM's own question, a toy of the experiment, and what the chapter reads off it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from lfmlib import findings
from lfmlib.chapters import ch10_language, ch10_optimal, ch10_outliers, names
from lfmlib.distribution.coding import VARIANTS
from lfmlib.experiments import finetuning, loss_probes, optimal
from lfmlib.lab import models
from lfmlib.lab.problems import problem
from lfmlib.lab.scores import contrast
from lfmlib.records.experiment import measure


def test_contrast_is_the_cross_entropy_both_ways():
    similar = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    rows, columns = (functional.cross_entropy(one, torch.arange(5)) for one in (similar, similar.T))
    assert contrast(similar, torch.eye(5)).item() == pytest.approx(((rows + columns) / 2).item())
    assert contrast(torch.zeros(4, 4), torch.ones(4, 4)).item() == pytest.approx(math.log(4))


def test_halves_are_halves_of_held_out_texts_and_disjoint():
    task = problem("minilm", "halves")
    first, second = task._halves(task.test, np.array([0, 1]))
    whole = task.test[0]
    middle = len(whole) // 2
    assert first[0][first[0] != task.padding].tolist() == [*whole[:middle].tolist(), whole[-1].item()]
    assert second[0][second[0] != task.padding].tolist() == [whole[0].item(), *whole[middle:].tolist()]
    assert len(task.test) >= optimal.SEEDS * loss_probes.HELD_OUT_ITEMS["minilm"] * task.group  # five disjoint parts
    assert task.prior() == pytest.approx(math.log(64))
    assert task.data_hash != problem("minilm", "library").data_hash


@pytest.mark.slow
def test_minilm_knows_halves_and_its_factor_is_the_best_on_training_pairs():
    task, model = problem("minilm", "halves"), models.build("minilm", 0, 2).eval()
    found = task.evaluate(model, 2)
    assert found["accuracy"] > 10 * found["trivial_accuracy"] and found["loss"] < task.prior() - 0.5
    assert task.evaluate(model, 1, skip=1)["loss"] == pytest.approx(2 * found["loss"] - task.evaluate(model, 1)["loss"])
    with torch.no_grad():
        cosines = [task._similar(model, task.batch(10_007, step, task.group)) / task.scale for step in range(6)]
    losses = {
        scale: np.mean([contrast(scale * one, torch.eye(task.group)).item() for one in cosines])
        for scale in (7, task.scale, 17)
    }
    assert min(losses, key=losses.get) == task.scale


def test_a_clips_loss_is_that_of_its_groups():
    task, model = problem("clip", "pairs"), models.build("clip", 0).eval()
    found = task.evaluate(model, 64)
    assert found["loss"] == pytest.approx(task.prior(), abs=0.5)  # untrained
    assert 0 <= found["accuracy"] <= 0.4


@pytest.fixture(scope="module")
def toy() -> pd.DataFrame:
    cells = [cell | {"steps": 4, "matrices": 2, "items": 64} for cell in optimal.experiment().quick]
    return pd.DataFrame([row for cell in cells for row in measure(optimal.experiment(), cell)["rows"]])


def test_cells_are_models_and_seeds():
    experiment = optimal.experiment()
    assert len(experiment.cells) == 5 * 5 + 4 + 6 + 3 + 2
    assert {cell["model"] for cell in experiment.cells} == set(names.NAMES)
    remeasured = [cell for cell in experiment.cells if experiment.alone(cell)]
    assert {cell["part"] for cell in remeasured} == {"whole"}
    assert {cell["model"] for cell in remeasured} == {"minilm", "decoder"}
    assert finetuning.BASES["vit"].items() <= next(cell for cell in experiment.cells if cell["model"] == "vit").items()


@pytest.mark.slow
def test_a_toy_has_every_kind_of_row(toy):
    assert set(toy["what"]) == {"model", "law", "matrix", "curve", "layer", "damage", "quantized", "single"}
    curves = toy[toy["what"] == "curve"]
    assert set(curves["arm"]) == set(loss_probes.ARMS)
    pruned = curves[curves["arm"] != "noise"]
    assert pruned["zeroed"].to_numpy() == pytest.approx(pruned["share"].to_numpy(), abs=0.01)
    laws = toy[toy["what"] == "law"]
    assert (laws.groupby(["seed", "pruned"])["wins"].sum() == 1).all() and set(laws["variant"]) == set(VARIANTS)
    each = toy[toy["what"] == "matrix"]
    assert len(each) == 2 * 2 and (each[list(optimal.BITS)].min(axis=1) == 0).all()
    single = toy[toy["what"] == "single"]
    assert single["rise"].is_monotonic_decreasing and single["beside"].notna().sum() >= loss_probes.COMPARED_ENTRIES
    assert set(single["found"]) == {"size", "gradient"}


@pytest.mark.slow
def test_random_sets_are_as_large_and_as_many(toy):
    sets = toy[toy["what"] == "damage"].groupby(["seed", "entries"])["sets"].first().unstack()
    assert (sets["as many"] == sets["outliers"]).all() and (sets["as large"] >= sets["outliers"]).all()


@pytest.mark.slow
def test_every_table_of_the_chapter_has_its_models(toy):
    of_pruning = (getattr(ch10_optimal, name) for name in ("asked", "free", "scores", "wins", "claimed"))
    of_outliers = (getattr(ch10_outliers, name) for name in ("damage", "changed", "quantized"))
    for make in (*of_pruning, *of_outliers):
        assert list(make(toy).index) == ["lab ViT"], make
    assert set(ch10_optimal.curves(toy)["lab ViT"]["arm"]) == set(loss_probes.ARMS)
    assert len(ch10_outliers.largest(toy, ["vit"])) == len(ch10_outliers.singles(toy, ["vit"], most=4)) == 4
    assert ch10_outliers.singles(toy).empty  # published models are not among the toys
    assert ch10_language.domains(toy) == ch10_language.of_perplexity(toy) == ch10_language.of_choices(toy) == ""
    assert ch10_language.answers(toy) == ch10_language.told(toy) == {}
    assert "by magnitude" in ch10_language.of_perplexity(toy, "vit")
    for say in (ch10_optimal.fragile, ch10_outliers.worst, ch10_optimal.against_noise):
        assert "lab ViT" in say(toy)


@pytest.mark.slow
def test_one_run_has_no_interval(toy):
    one = toy[toy["seed"] == 0]
    for make in (
        ch10_optimal.free,
        ch10_optimal.scores,
        ch10_outliers.damage,
        ch10_outliers.changed,
        ch10_outliers.quantized,
    ):
        words = make(one).to_string()
        assert "nan" not in words and "(one run)" in words, make
    assert "nan" not in ch10_optimal.against_noise(one) and "0 of 0" in ch10_optimal.against_noise(one)


@pytest.mark.slow
def test_findings_of_a_record(toy):
    found = ch10_optimal.found(toy.assign(commits=None), seed=0)
    assert {name: [one.id for one in each] for name, each in found.items()} == {
        name: [name] for name in ("F9", "F10", "F11", "F12")
    }
    for (one,) in found.values():
        assert one.verdict in findings.VERDICTS and one.model == "lab ViT" and one.details["runs"] == 2
    assert findings.free_share(toy).between(0, 1).all()
