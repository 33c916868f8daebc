"""Merging in the lab: toys of the experiment, and what its parts promise."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lfmlib.experiments import amplifying, editing, fine_tunes
from lfmlib.findings import METHOD_NAMES
from lfmlib.lab import domains, smollm
from lfmlib.lab.problems import problem
from lfmlib.merging import methods
from lfmlib.records.experiment import measure


@pytest.fixture(scope="module")
def toy() -> dict[str, pd.DataFrame]:
    experiment = editing.experiment()
    cells = [cell | {"steps": 4} for cell in experiment.quick if cell["seed"] == 0]
    return {cell["part"]: pd.DataFrame(measure(experiment, cell)["rows"]) for cell in cells}


def test_cells_are_families_and_sets():
    cells = editing.experiment().cells
    assert {cell["model"] for cell in cells} == set(editing.SETS) and len({str(cell) for cell in cells}) == len(cells)
    sizes = {len(tasks) for tasks in editing.SETS["vit"]}
    assert sizes == {2, 3, 4, 5} and max(sizes) == len({task for tasks in editing.SETS["vit"] for task in tasks})
    assert pickle.loads(pickle.dumps(editing.experiment())).cells == cells  # to run in other processes


@pytest.mark.slow  # SmolLM2 is fetched, and its texts are put into tokens, the first time
def test_inputs_name_every_task():
    for cell in editing.experiment().cells:
        assert set(editing.inputs(cell)) > set(cell["tasks"].split("+"))


def test_smollm2_is_merged_by_one_method_a_cell():
    some = [cell for cell in editing.experiment().cells if cell["model"] == smollm.NAME and cell["part"] == "merged"]
    seen = {(cell["seed"], cell["method"]) for cell in some}
    assert seen == {(seed, method) for seed in range(editing.LARGE_SEEDS) for method in editing.ONE_BY_ONE[smollm.NAME]}
    assert set(METHOD_NAMES) - {method for _, method in seen} == {"nan", "dare"} and len(some) == len(seen)
    assert {cell["tasks"] for cell in some} == {"+".join(domains.DOMAINS)}


@pytest.mark.slow
def test_every_method_has_every_arm(toy):
    rows = toy["merged"]
    assert set(rows["method"]) == set(editing.TOY_METHODS) < set(methods.METHODS)
    arms = {"plain", "auto", "amplified", "wide", "random", "as large as amplified", *methods.PROJECTIONS}
    for _, some in rows.groupby("method"):
        assert set(some["arm"]) == arms and (some["arm"].value_counts() == 2).all()
    chosen = rows.dropna(subset=["scale"])
    assert set(chosen.loc[chosen["method"] != "average", "scale"]) <= set(editing.SCALES["vit"])
    assert (rows[rows["method"] == "average"]["scale"].dropna() == 1).all()
    assert chosen.loc[chosen["arm"] == "plain", "factor"].isna().all()
    assert (chosen.loc[chosen["arm"] == "auto", "factor"].dropna() >= 1).all()
    assert set(chosen.loc[~chosen["arm"].isin(["plain", "auto"]), "factor"]) <= set(editing.FACTORS)
    assert rows["normalized"].between(0, 2).all() and rows["outliers"].dropna().between(0, 0.01).all()
    assert rows["energy"].dropna().between(0, 1).all() and rows["energy"].notna().sum() == len(editing.TOY_METHODS)


@pytest.mark.slow
def test_the_tuned_and_the_negated(toy):
    tuned = toy["tuned"]
    assert list(tuned["task"]) == ["parity"] and tuned["norm"].between(0, 1).all()
    assert toy["merged"]["alike"].dropna().between(-1, 1).all()
    negated = toy["negated"]
    assert list(negated["arm"]) == ["plain", "amplified", "wide", "random"]
    kept = negated.loc[negated["scale"] > 0, "base"]
    assert (kept > 0.5).all()


@pytest.fixture(scope="module")
def family() -> fine_tunes.Siblings:
    return fine_tunes.Siblings({"model": "vit", "seed": 0, "steps": 4, "toy": True}, ["large", "parity"])


def test_a_family_asks_the_tuned_model_itself(family):
    for task, delta in family.deltas.items():
        assert family.normalized(delta, "test")[task] == pytest.approx(1)
        nothing = {name: torch.zeros_like(one) for name, one in delta.items()}
        assert 0 <= family.ask(task, nothing, "validation") <= 1
    assert not any(name.startswith("classifier") for name in family.base)
    assert {one.shape for one in family.base.values()} == {family.deltas["large"][name].shape for name in family.base}


@pytest.mark.slow
def test_a_model_without_heads_is_held_once_for_all_tasks():
    family = fine_tunes.Siblings({"model": "decoder", "seed": 0, "steps": 2, "toy": True}, ["headers", "prose"])
    assert set(map(id, family.models.values())) == {id(family.original)}
    assert set(family.base) == set(dict(family.original.named_parameters()))
    for task, delta in family.deltas.items():
        assert family.normalized(delta, "test")[task] == pytest.approx(1)


def test_a_cell_names_its_method_or_has_all(monkeypatch):
    cell = {"part": "merged", "model": "vit", "tasks": "large+parity", "seed": 0}
    monkeypatch.setattr(editing, "Siblings", lambda *_, **__: SimpleNamespace(toy=False))
    monkeypatch.setattr(editing, "_merged", lambda family, method, seed: [{"method": method}])
    assert [row["method"] for row in editing.run(cell | {"method": "ties"})] == ["ties"]
    assert [row["method"] for row in editing.run(cell)] == list(METHOD_NAMES)


def test_arms_change_what_they_say(family):
    merge = amplifying.Merge(family, "task_arithmetic", 0)
    name = "vit.layers.0.mlp.fc1.weight"
    summed = sum(one[name] for one in family.deltas.values())
    assert torch.allclose(merge.plain[name], summed, atol=1e-7)
    merge.plain[name] = summed.clone()
    merge.plain[name].view(-1)[::997] = 10 * summed.std()
    made = {arm: make(2.0)[name] / merge.plain[name] for arm, make in amplifying.arms(merge).items()}
    assert (made["plain"][merge.plain[name] != 0] == 1).all()
    doubled = {arm: (ratio > 1.99) for arm, ratio in made.items()}
    assert torch.equal(doubled["amplified"], merge.masks[name]) and merge.masks[name].view(-1)[::997].all()
    assert not (doubled["random"] & merge.masks[name]).any() and doubled["random"].any()
    square = merge.plain[name].double().square()
    assert square[doubled["random"]].sum() == pytest.approx(square[merge.masks[name]].sum().item(), rel=0.05)
    assert torch.equal(doubled["wide"], merge.plain[name].abs() > 2 * merge.plain[name].std(correction=0))
    larger = fine_tunes.scaled(merge.plain, 3.0)
    assert fine_tunes.norm(larger) == pytest.approx(3 * fine_tunes.norm(merge.plain))


def test_scores_are_of_the_side_that_is_asked_for(family):
    task = problem("vit", "large")
    model = family.models["large"]
    found = {side: task.score(model, side) for side in ("validation", "test")}
    assert found["test"] == task.evaluate(model)["accuracy"]
    logits = model(pixel_values=torch.tensor(task.task.validation.images)).logits.argmax(1).numpy()
    assert found["validation"] == pytest.approx(np.mean(logits == task.task.validation.labels))


def test_headers_are_another_text():
    code, headers = problem("decoder", "language"), problem("decoder", "headers")
    assert headers.data_hash != code.data_hash and len(headers.train) > 1e6
    assert b"namespace" in headers.train[:200_000].tobytes() and headers.validation.shape == (64, 129)
