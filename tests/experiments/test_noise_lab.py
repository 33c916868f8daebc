"""Noise in the lab: adapters built from it, noise on bases, heads fitted anew; and what the records say of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lfmlib import records
from lfmlib.chapters import ch07_stand_ins, ch09_radius
from lfmlib.deltas.stand_ins import STAND_INS
from lfmlib.experiments import finetuning, radius, stand_ins
from lfmlib.lab import adapters, tuning
from lfmlib.lab.problems import problem
from lfmlib.lab.train import Config, _groups, start_of, train
from lfmlib.records.experiment import measure

BASE = Config("vit", "class", gain=0.25, steps=4, batch=8)
TUNE = Config("vit", "rotation", steps=3, batch=8, lr=1e-2, base=BASE)


def trained_parameters(config: Config) -> dict[str, int]:
    return {name: p.numel() for name, p in start_of(config).named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rank", [1, 3])
def test_noise_trains_as_many_parameters_as_lora(rank):
    counts = {
        adapter: sum(trained_parameters(replace(TUNE, adapter=adapter, rank=rank)).values())
        for adapter in ("lora", *adapters.NOISE_BUILT)
    }
    assert len(set(counts.values())) == 1


def test_a_noise_built_fine_tune_is_a_plain_model_of_full_rank():
    config = replace(TUNE, adapter="noise-gaussian", rank=1)
    before, after = (
        start_of(replace(config, adapter="", rank=0)).state_dict(),
        train(config, progress=False, snapshots=0).model,
    )
    assert before.keys() == after.state_dict().keys()
    moved = {name: after.state_dict()[name] - before[name] for name in tuning.body(after)["name"]}
    assert all(delta.any() for delta in moved.values())
    one = moved["vit.layers.0.mlp.fc1.weight"] if "vit.layers.0.mlp.fc1.weight" in moved else next(iter(moved.values()))
    assert torch.linalg.matrix_rank(one.double(), rtol=1e-4) == min(one.shape)


def test_radii_that_other_processors_do_not_repeat_are_not_drawn():
    drawn = [cell for cell in radius.experiment().cells if radius.alone(cell)]
    assert {(cell["part"], cell["model"]) for cell in drawn} == {
        ("radius", "minilm"), ("protocols", "minilm"), ("noisier", "vit"),
    }  # fmt: skip


def test_of_the_head_alone_nothing_else_moves():
    config = replace(TUNE, adapter="head")
    assert set(trained_parameters(config)) == {"classifier.weight", "classifier.bias"}
    before, after = start_of(TUNE).state_dict(), train(config, progress=False, snapshots=0).model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(trained_parameters(config))


def test_a_language_model_has_no_head_of_its_own_to_train():
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no head named classifier"):
        start_of(Config("decoder", "language", adapter="head"))


def test_the_head_can_have_a_rate_of_its_own():
    config = replace(TUNE, adapter="lora", rank=2, head_lr=0.1)
    groups = _groups(start_of(config), config)
    head = [group for group in groups if group["factor"] != 1]
    assert sum(p.numel() for group in head for p in group["params"]) == 4 * 96 + 4
    assert all(group["factor"] == pytest.approx(10) for group in head)
    assert {group["factor"] for group in _groups(start_of(TUNE), TUNE)} == {1.0}


def test_jitter_adds_noise_of_the_size_asked_for_to_the_body_alone():
    plain, noisy = (dict(start_of(replace(TUNE, jitter=size)).named_parameters()) for size in (0.0, 0.2))
    names = set(tuning.body(start_of(TUNE))["name"])
    assert names == {name for name in plain if not torch.equal(plain[name], noisy[name])}
    for name in names:
        change = (noisy[name] - plain[name]).std() / plain[name].std()
        assert change.item() == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match=r"jitter=-1: expected a size of noise, 0 or more"):
        replace(TUNE, jitter=-1)


def test_a_fitted_head_is_the_logistic_regression_of_the_features():
    model, task = start_of(TUNE).eval(), problem("vit", "rotation")
    chosen = tuning.fit_head(model, task, (0.01,))
    seen = []
    hook = model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        labels = task.first(model, tuning.HEAD_ITEMS)
        hook.remove()
        said = model.classifier(seen[0]).softmax(1).double().numpy()
    features = seen[0].double().numpy()
    scaled = (features - features.mean(0)) / features.std(0)
    expected = LogisticRegression(C=0.01, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    assert chosen == 0.01 and said == pytest.approx(expected, abs=1e-3)


def test_the_random_direction_has_the_size_of_delta():
    tuned = train(TUNE, progress=False, snapshots=0).model
    three = {name: dict(m.named_parameters()) for name, m in radius.candidates(TUNE, tuned).items()}
    for name in tuning.body(tuned)["name"]:
        sizes = [(three[which][name] - three["base"][name]).std().item() for which in ("tuned", "random")]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize("experiment", [stand_ins.experiment, radius.experiment], ids=["derived", "radius"])
def test_five_runs_of_everything_a_verdict_rests_on(experiment):
    """Three of SmolLM2, of which a run takes minutes."""
    cells = pd.DataFrame(experiment().cells)
    by = ["model", "part", *(name for name in ("adapter", "rank", "judged_on", "jitter") if name in cells)]
    runs = cells[cells["part"] != "tuning"].groupby(by, dropna=False)["seed"].nunique()
    large = runs.index.get_level_values("model").isin(finetuning.LARGE)
    assert (runs[~large] >= 5).all() and (runs[large] == finetuning.LARGE_SEEDS).all()


def test_lora_and_noise_have_rates_for_the_same_budgets():
    for rates in stand_ins.RATES.values():
        assert rates["lora"].keys() == rates["noise"].keys()


@pytest.mark.slow
def test_a_toy_of_each_part_has_the_columns_that_are_promised():
    """On the ViT, which has a head to fit; the chapters' quick runs see the decoder's."""

    def toy(experiment, part: str) -> dict:
        cells = [one for one in experiment.cells if one["model"] == "vit" and one["part"] == part]
        return cells[0] | {"steps": 8, "batch": 2} | ({} if part == "stand-in" else {"draws": 2})

    rows = pd.DataFrame(measure(stand_ins.experiment(), toy(stand_ins.experiment(), "stand-in"))["rows"])
    assert rows["kind"].tolist() == list(STAND_INS) and rows["whole"].notna().sum() == 1
    assert rows.set_index("kind").loc["noise", "normal_share"] == 1
    rows = pd.DataFrame(measure(radius.experiment(), toy(radius.experiment(), "radius"))["rows"])
    assert set(rows["which"]) == {"base", "tuned", "random"} and set(rows["head"]) == {"fitted", "timid"}
    assert rows.groupby(["which", "head"])["own"].count().eq(1).all()
    first = rows[rows["kind"] == "matrix"].groupby(["which", "head"])["draw"].nunique()
    assert first.to_dict() == {
        ("base", "fitted"): 2,
        ("base", "timid"): 1,
        ("random", "fitted"): 2,
        ("tuned", "fitted"): 2,
        ("tuned", "timid"): 1,
    }
    rows = pd.DataFrame(measure(radius.experiment(), toy(radius.experiment(), "protocols"))["rows"])
    assert set(rows["unit"]) == set(radius.UNITS) and set(rows["head"]) == {"fitted", "timid"}
    sizes = rows.pivot_table(index=["head", "draw"], columns=["which", "unit"], values="radius")
    assert sizes["base", "own"].equals(sizes["base", "base"])
    np.testing.assert_allclose(sizes["tuned", "base"], sizes["tuned", "own"], rtol=0.1)  # σ has hardly changed


def test_a_frozen_head_is_the_same_before_and_after():
    config = replace(TUNE, frozen_head=True)
    before, after = start_of(config), train(config, progress=False, snapshots=0).model
    assert torch.equal(before.classifier.weight, after.classifier.weight)
    assert not any(p.requires_grad for p in before.classifier.parameters())
    name = tuning.body(before)["name"].iloc[0]
    assert not torch.equal(dict(before.named_parameters())[name], dict(after.named_parameters())[name])


# --- what is read off the records -----------------------------------------------------------------------------------


def shaken(ratio: float) -> pd.DataFrame:
    """A made record: W stands `ratio` times the noise of W₀ on its task, because its loss is as much flatter."""
    rows = []
    for seed in range(5):
        for which, size in (("base", 0.2), ("tuned", 0.2 * ratio), ("random", 0.2)):
            about = {"part": "radius", "model": "deep-decoder", "task": "prose", "judged_on": "prose", "seed": seed}
            about |= {"which": which, "head": np.nan, "jitter": 0.0, "draws": 16}
            for kind in ("matrix", "rows", "growing", "falling"):
                for draw in range(16 if kind == "matrix" else 6):
                    first = {"own": 2.0, "prior": 3.0, "moved": 0.4} if kind == "matrix" and not draw else {}
                    rows.append(about | {"kind": kind, "draw": draw, "radius": size * (1 + 0.01 * seed)} | first)
            for scale in radius.SCALES:
                rise = 0.1 * (scale / (size * (1 + 0.01 * seed))) ** 2
                rows.append(about | {"scale": scale, "rise": rise})
            for unit, factor in zip(radius.UNITS, (1.0, 1.1, 0.5), strict=True):
                asked = about | {"part": "protocols", "unit": unit, "kind": "matrix", "draw": 0}
                rows.append(asked | {"radius": size * (factor if which == "tuned" else 1.0)})
    made = pd.DataFrame(rows)
    return made.assign(trained=made["own"].where(made["own"].isna(), 2.0), trivial=3.1, cell="made")


def test_a_planted_ratio_is_read_off_and_explained():
    record = shaken(1.5)
    (found,) = ch09_radius.f8_found(record)
    assert found.first_verdict == "supported" and found.verdict == "partly" and found.value == pytest.approx(2 / 3)
    why = ch09_radius.reasons(record).iloc[0]
    assert why["allowed rise"].startswith("1.00") and why["curvature"].startswith("0.44")
    assert why["radius, foretold"].startswith("1.50") and why["radius, measured"].startswith("1.50")
    assert ch09_radius.radii(record)["W / W₀"].iloc[0].startswith("1.50")
    assert ch09_radius.protocols(record).to_numpy().tolist() == [
        [
            "lab 12-layer decoder",
            "new task",
            "its own",
            "1.50 [1.50, 1.50] ↑",
            "1.65 [1.65, 1.65] ↑",
            "0.75 [0.75, 0.75] ↓",
        ]
    ]
    assert "W stands more noise than W₀ in **2 of 3**, less in 1" in ch09_radius.asked(record)
    closed = ch09_radius.curves(record)["lab 12-layer decoder"]
    assert np.allclose(closed["closed"], closed["rise"])  # a gap of one nat
    assert ch09_radius.strayed(record)["RMS ΔW / RMS W₀"].iloc[0] == "0.4"
    assert ch09_radius.of_sigma(record).endswith("lab 12-layer decoder 1.65, the change of σ alone 1.100.")
    one = record[record["seed"] == 0]
    assert "Too few runs" in ch09_radius.of_sigma(one) and ch09_radius.step_of(record) == ""
    published = record.assign(model="smollm2-135m", moved=0.4)
    assert ch09_radius.step_of(pd.concat([published, record])) == (
        "SmolLM2 stands 0.75 to 1.65 times the noise after a ΔW of only 40.00% of W₀; a random step of that length "
        "leaves 1.000 to 1.000."
    )


def test_models_that_one_kind_of_noise_was_tried_on_are_left_out_of_the_others():
    few = shaken(1.0).query("kind != 'rows'").assign(model="vit")
    record = pd.concat([shaken(1.0), few])
    for make in (ch09_radius.kinds, ch09_radius.against_first):
        assert list(make(record).index) == ["lab 12-layer decoder, new task"]


def test_whether_noise_helps_counts_losses_downwards():
    noisier = [
        {
            "part": "noisier",
            "model": "deep-decoder",
            "jitter": 0.2,
            "seed": seed,
            "score": 1.9 + 0.001 * seed,
            "trivial": 3.1,
        }
        for seed in range(5)
    ]
    found = ch09_radius.helps(pd.concat([shaken(1.0), pd.DataFrame(noisier)]))
    assert found["better"].tolist() == ["yes"] and found["change"].iloc[0].startswith("+0.098")
    assert "in **1 of 1** cases, and harms in 0" in ch09_radius.helped(found)
    one_each = shaken(1.0).drop_duplicates("seed")
    alone = ch09_radius.helps(pd.concat([one_each, pd.DataFrame(noisier[:1])]))
    assert alone.loc["lab 12-layer decoder, 0.2", ["change", "better"]].tolist() == ["+0.100 (one run)", "–"]
    assert "0 of 1** cases, and harms in 0; 1 have one run" in ch09_radius.helped(alone)


def test_what_stand_ins_say_of_places_and_values():
    rows = [
        {
            "part": "stand-in", "model": "vit", "seed": seed, "kind": kind, "loss": 1.0, "normal_share": 1.0,
            "whole": 0.9, "score": 0.3 + 0.6 * share + 0.001 * seed,
        }
        for seed in range(5)
        for kind, share in {**dict.fromkeys(STAND_INS, 0.1), "trained": 1, "flattened": 0.9, "none": 0}.items()
    ]  # fmt: skip
    kept = ch07_stand_ins.kept(pd.DataFrame(rows)).set_index("kind")
    assert kept.loc["flattened", "share"] == pytest.approx(0.9) and kept.loc["noise", "share"] == pytest.approx(0.1)
    said = ch07_stand_ins.what_it_takes(kept.reset_index())
    assert "keep the signs alone: 90%. Keep" in said and "worth nothing" not in said  # a tenth of the gain is left
    table = ch07_stand_ins.kept_in_words(kept.reset_index())
    assert table["in ΔW’s place"].tolist() == list(STAND_INS) and table["lab ViT"].iloc[0] == "100 % (1.00)"


def test_rates_of_published_models_are_those_that_won_on_validation_data():
    tried = records.load("derived").query("part == 'tuning'")
    for model, rows in tried.groupby("model"):
        won = rows.groupby(["adapter", "lr"])["loss"].mean().unstack().idxmin(axis=1)
        rates = stand_ins.RATES[model]
        assert (rates["lora"][1], rates["noise"][1]) == (won["lora"], won["noise-gaussian"]), model
    assert set(tried["model"]) == set(stand_ins.TUNING)
