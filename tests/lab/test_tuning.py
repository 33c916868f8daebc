"""Fine-tuning in the lab: from a base, with adapters, on fewer samples, without meaning; and what its record says."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

import lfmlib
from lfmlib import findings
from lfmlib.chapters import ch06_deltas, ch06_figures, ch08_depth, ch08_pictures, ch08_samples, tuned
from lfmlib.deltas.decay import foretold_gain
from lfmlib.experiments import finetuning
from lfmlib.lab import adapters, models, tuning
from lfmlib.lab.problems import problem
from lfmlib.lab.train import Config, left_by_decay, start_of, train

BASE = Config("vit", "class", gain=0.25, steps=4, batch=8)
TUNE = Config("vit", "rotation", steps=3, batch=8, lr=1e-3, base=BASE)


def weights(config: Config, **options) -> dict[str, torch.Tensor]:
    return train(config, progress=False, snapshots=0, **options).model.state_dict()


def test_a_fine_tune_starts_from_its_base_but_for_the_head():
    base, start = weights(BASE), start_of(TUNE).state_dict()
    differ = {
        name for name in base if start[name].shape != base[name].shape or not torch.equal(start[name], base[name])
    }
    assert differ == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("adapter", adapters.LOW_RANK)
def test_an_adapter_leaves_a_low_rank_and_a_trained_head(adapter):
    config = replace(TUNE, adapter=adapter, rank=4)
    before, after = start_of(replace(config, adapter="", rank=0)).state_dict(), weights(config)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"classifier.weight", "classifier.bias"} < changed
    assert all(after[name].dim() == 2 or name.startswith("classifier.") for name in changed)
    assert not any("embed" in name for name in changed)
    layer = "vit.layers.0.attention.q_proj.weight"
    name = layer if layer in changed else next(name for name in changed if "layers.0" in name)
    ranks = torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6)
    assert 1 <= ranks <= 4 if adapter == "lora" else ranks >= 1


def test_merging_keeps_what_the_model_says():
    model = adapters.adapt(start_of(TUNE), "dora", 4, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    pixels = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        said = model.eval()(pixel_values=pixels).logits
        again = adapters.merged(model)(pixel_values=pixels).logits
    assert torch.allclose(said, again, atol=1e-5)
    assert all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == start_of(TUNE).state_dict().keys()


def test_a_killed_adapter_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    config = replace(TUNE, adapter="lora", rank=2, steps=6)
    whole = weights(config, folder=tmp_path / "whole")
    monkeypatch.setattr("lfmlib.lab.train.SAVE_EVERY", 0.0)
    real, calls = finetuning.problem(config.model, config.task).loss, []

    def failing(model, batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(model, batch)

    monkeypatch.setattr(problem(config.model, config.task), "loss", failing)
    with pytest.raises(KeyboardInterrupt):
        weights(config, folder=tmp_path / "killed")
    resumed = weights(config, folder=tmp_path / "killed")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": replace(BASE, model="decoder", task="language")}, r"base is a decoder, and model a vit"),
        ({"adapter": "ia3", "rank": 4}, r"unknown adapter 'ia3': expected one of lora, dora"),
        ({"adapter": "lora"}, r"an adapter needs a rank of at least 1"),
        ({"rank": 4}, r"an adapter needs a rank of at least 1"),
        ({"samples": 0.0}, r"expected a share of the training data, above 0 and at most 1"),
        ({"labels": "wrong"}, r"unknown labels 'wrong': expected one of real, shuffled, own"),
    ],
)
def test_what_cannot_be_trained_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(TUNE, **changed)


def test_shuffled_labels_are_the_same_labels():
    ids, labels = torch.arange(12).view(4, 3), torch.arange(12).view(4, 3) % 5
    same, mixed = tuning.labelled((ids, labels), "shuffled", seed=3)
    assert torch.equal(same, ids) and mixed.shape == labels.shape
    assert torch.equal(mixed.flatten().sort().values, labels.flatten().sort().values)
    assert not torch.equal(mixed, labels)
    assert torch.equal(mixed, tuning.labelled((ids, labels), "shuffled", 3)[1])
    assert not torch.equal(mixed, tuning.labelled((ids, labels), "shuffled", 4)[1])
    assert tuning.labelled((ids, labels), "real", 3) == (ids, labels)


def test_own_labels_leave_nothing_to_learn():
    """Drawn from the model's own predictions, the gradient is noise: it shrinks as more batches are averaged."""
    model, posed = start_of(Config("decoder", "language")), problem("decoder", "language")
    torch.nn.init.normal_(model.lm_head.weight, std=0.2)  # with an opinion

    def gradient(labels: str, count: int) -> float:
        model.zero_grad()
        for number in range(count):
            batch = tuning.labelled(posed.batch(0, number, 4), labels, number, model)
            (posed.loss(model, batch) / count).backward()
        return model.lm_head.weight.grad.norm().item()

    assert gradient("own", 16) < 0.5 * gradient("own", 1)
    assert gradient("real", 16) > 0.8 * gradient("real", 1)


@pytest.mark.parametrize(("model", "task"), [("vit", "class"), ("clip", "pairs"), ("decoder", "prose")])
def test_fewer_samples_come_from_the_first_part(model, task):
    """Batches of an eighth never hold what lies beyond it; those of all do."""
    posed = problem(model, task)
    if task == "prose":
        first = posed.train[: round(len(posed.train) / 8)].tobytes()
        seen = [bytes(row.tolist()) for step in range(5) for row in posed.batch(0, step, 8, 0.125)[0].to(torch.uint8)]
        assert all(row in first for row in seen)
        return
    images = posed.task.train.images if model == "vit" else posed.images.train.images
    few = {image.tobytes() for image in images[: round(len(images) / 8)]}
    drawn = [
        {i.numpy().tobytes() for i in posed.batch(0, step, 32, share)[0]} for step in (0, 1) for share in (0.125, 1)
    ]
    assert drawn[0] <= few and drawn[2] <= few and not drawn[1] <= few


def test_gradients_are_those_of_the_loss():
    model, posed = start_of(TUNE), problem("vit", "rotation")
    found = tuning.gradients(model, posed, seed=3, batches=2, size=4).set_index("tensor")
    grads = []
    for number in range(2):
        model.zero_grad()
        posed.loss(model, posed.batch(3 + 10_007, number, 4)).backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.dim() == 2})
    for name, row in found.iterrows():
        both = torch.stack([one[name] for one in grads]).double()
        assert row["gradient"] == pytest.approx(both.square().mean().sqrt().item(), rel=1e-5)
        assert row["agreement"] == pytest.approx(
            (both.mean(0).square().mean() / both.square().mean()).sqrt().item(), rel=1e-5
        )
    assert found["agreement"].between(0, 1 + 1e-9).all()


def test_the_budget_from_snapshots_is_that_of_compare():
    config = Config("vit", "class", gain=0.25, steps=12, batch=8)
    trained = train(config, progress=False, snapshots=3)
    last = finetuning.growth(trained).query("step == 12").set_index("tensor")
    table = lfmlib.compare(start_of(config), trained.model, progress=False).set_index("tensor")
    for name in ("std_gain", "gain", "corr"):
        assert last.loc[table.index, name].to_numpy() == pytest.approx(table[name].to_numpy(), rel=1e-4, abs=1e-6)


def test_the_experiment_has_five_runs_where_a_verdict_rests_on_them():
    cells = pd.DataFrame(finetuning.experiment().cells)
    runs = cells[cells["part"] == "plain"].groupby(["model", "weight_decay"])["seed"].nunique()
    large = runs.index.get_level_values("model").isin(finetuning.LARGE)  # whose page says that there are fewer
    assert len(runs[~large]) == 6 and (runs[~large] == 5).all()
    assert len(runs[large]) == 2 and (runs[large] == finetuning.LARGE_SEEDS).all()
    lora = cells[(cells["adapter"] == "lora") & (cells["rank"] == 16)]
    runs = lora.groupby("model")["seed"].nunique()
    assert (runs.drop(list(finetuning.LARGE)) == 5).all()
    assert set(runs[list(finetuning.LARGE)]) == {finetuning.LARGE_SEEDS}
    assert set(cells.loc[cells["part"] == "samples", "samples"]) == {0.125, 0.25, 0.5}


@pytest.mark.parametrize("cause", finetuning.CAUSES)
def test_a_cause_changes_what_it_says_and_the_cell_says_it_all(cause):
    cells = [cell for cell in finetuning.experiment().cells if cell["model"] == "deep-decoder" and cell["seed"] == 0]
    plain = next(cell for cell in cells if cell["part"] == "plain" and cell["weight_decay"] == finetuning.DECAY)
    changed = next(cell for cell in cells if cell.get("cause") == cause)
    before, after = finetuning.plan(plain), finetuning.plan(changed)
    differ = {name: getattr(after, name) for name in vars(before) if getattr(before, name) != getattr(after, name)}
    assert differ == finetuning.CAUSES[cause]
    assert differ.items() <= changed.items()
    if after.optimizer != "adamw":
        assert after.weight_decay == 0  # it would be inside the gradient


# --- what is read off the record ------------------------------------------------------------------------------------


def made(growth: float, gain: float = 1.0, part: str = "plain", seeds: int = 5, **settings) -> pd.DataFrame:
    """A record of made fine-tunes of the decoder: std(ΔW) rises by `growth` a layer, with a little noise."""
    rng = np.random.default_rng(0)
    rows = []
    for decay in (0.0, 0.01):
        for seed in range(seeds):
            for role in ("q", "k", "v", "o", "up", "down"):
                for depth in range(8):
                    g = gain + 0.05 * rng.standard_normal()
                    std = 0.01 * (1 + growth * depth) * (1 + 0.01 * rng.standard_normal())
                    row = {
                        "role": role,
                        "depth": depth,
                        "numel": 9216,
                        "std_delta": std,
                        "gain": g,
                        "std_gain": g * 1e-4,
                    }
                    row |= {"noise_gain": 1.0, "noise_std_gain": 1e-4, "kl_bits": 0.001, "kl_bits_null_high": 0.002}
                    row |= {
                        "std_base": 0.03,
                        "qq_r2": 0.999,
                        "top_ratio": 2.0,
                        "corr": 0.0,
                        "gradient": std,
                        "score": 2.0,
                    }
                    about = {"part": part, "model": "deep-decoder", "weight_decay": decay, "adapter": "", "rank": 0}
                    about |= {
                        "samples": 1.0,
                        "steps": 200,
                        "batch": 8,
                        "cause": "",
                        "lr": 3e-3,
                        "task": "prose",
                        "seed": seed,
                    }
                    rows.append(about | settings | {"cell": f"{part}{decay}{seed}{settings}"} | row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gain", "first", "verdict"),
    [
        (1.2, "supported", findings.OF_NOISE_TOO),
        (0.6, "supported", "partly"),  # the covariance is below 0
        (0.3, "partly", "partly"),
        (-1.0, "contradicted", "contradicted"),
    ],
    ids=["wide", "less than noise", "little", "narrow"],
)
def test_f6_by_the_matrices_that_widen_and_by_the_covariance(gain, first, verdict):
    (found,) = tuned.f6_found(made(0.1, gain))
    assert (found.first_verdict, found.verdict) == (first, verdict)
    assert (found.null, found.control_verdict) == (1.0, "supported")
    assert float(found.details["by_decay"]["no decay"]["gain_median"]["mean"]) == pytest.approx(gain, abs=0.05)


def test_f6_is_judged_at_the_recipes_own_decay_and_the_first_rule_at_both():
    rows = made(0.1, 1.2)
    rows.loc[rows["weight_decay"] == 0, ["gain", "std_gain"]] *= -1
    (found,) = tuned.f6_found(rows)
    assert found.verdict == findings.OF_NOISE_TOO and found.value == 1 and found.first_verdict == "contradicted"
    assert found.details["first_verdicts"] == {"no decay": "contradicted", "decay 0.01": "supported"}
    with pytest.raises(ValueError, match="needs at least two runs with and without weight decay"):
        findings.f6_over_runs(rows[rows["weight_decay"] == 0], "x", {})


@pytest.mark.slow
def test_f6_of_a_pair_goes_by_covariances_that_one_matrix_does_not_decide():
    """Eleven matrices shrink by 2 % and get noise; a twelfth is untouched, or hardly, and has a g without bounds."""
    rng = np.random.default_rng(0)
    base = {f"layers.{i}.mlp.up_proj.weight": torch.tensor(0.1 * rng.standard_normal((96, 128))) for i in range(12)}
    tuned_ = {name: 0.98 * w + 0.03 * torch.tensor(rng.standard_normal(w.shape)) for name, w in base.items()}
    last = "layers.11.mlp.up_proj.weight"
    for twelfth in (tuned_[last], base[last], 1.001 * base[last]):
        table = lfmlib.compare(base, tuned_ | {last: twelfth}, controls=("noise",), progress=False)
        found = findings.f6(table, "made", {})
        assert found.verdict == "partly" and found.control_verdict == "supported"
    same = findings.f6(lfmlib.compare(base, base, controls=("noise",), progress=False), "made", {})
    assert same.value is None and "exactly zero" in same.details["reason"]


def test_f6_is_undecided_where_runs_disagree():
    """A share of 84 % with seeds that differ widely; where the covariance is below 0, 80 % is out of reach."""
    rows = made(0.1, 1.2)
    rank = rows.groupby(["weight_decay", "seed"]).cumcount() / 48
    share = rows["seed"].map({0: 0.5, 1: 1.0, 2: 0.9, 3: 0.9, 4: 0.9})
    rows["gain"] = rows["gain"].where(rank < share, -rows["gain"])
    (found,) = tuned.f6_found(rows)
    assert found.verdict == "undecided" and 0.5 < found.interval[0] < 0.8 < found.interval[1]


@pytest.mark.parametrize(("growth", "verdict"), [(0.1, "supported"), (0.0, "contradicted"), (-0.05, "contradicted")])
def test_f7_finds_the_planted_trend(growth, verdict):
    (found,) = tuned.f7_found(made(growth))
    assert found.verdict == verdict
    assert found.null == 0.5 and found.control_verdict == "partly"  # one random walk for all runs rises half the time
    assert found.details["independent_walks"] < 0.1
    assert found.value == (1.0 if verdict == "supported" else pytest.approx(0, abs=0.2))
    assert found.details["parts"]["by walks of their own"].endswith("%")


def made_profiles(turned: dict[str, int]) -> pd.DataFrame:
    """Five runs of ten layers: a perfect rise (ρ = 1), in so many runs of a role the first eight layers fall."""
    rise, fall = np.arange(10), np.r_[7:-1:-1, 8, 9]
    return pd.DataFrame(
        [
            {"seed": seed, "role": role, "depth": depth, "std_delta": 1.0 + value}
            for role, count in turned.items()
            for seed in range(5)
            for depth, value in enumerate(fall if seed < count else rise)
        ]
    )


@pytest.mark.parametrize(
    ("turned", "value", "interval", "verdict"),
    [
        ({"q": 0, "k": 0, "v": 0, "o": 0}, 1.0, (1.0, 1.0), "supported"),
        ({"q": 0, "k": 0, "v": 0, "o": 1}, 1.0, (0.75, 1.0), "undecided"),  # o: ρ 0.80 in the mean, from 0.23
        ({"q": 0, "k": 0, "v": 0, "o": 5}, 0.75, (0.75, 0.75), "partly"),
        ({"q": 2, "k": 2, "v": 2, "o": 5}, 0.0, (0.0, 0.0), "contradicted"),  # q: up to 1.29, but its interval holds 0
    ],
)
def test_the_first_rule_of_f7_brackets_the_roles_by_their_limits(turned, value, interval, verdict):
    rows = made_profiles(turned)
    trends = findings.trends(rows)
    assert (trends["grows"].mean(), findings.f7_depth.bracket(trends)) == (value, interval)
    assert findings.f7_over_runs(rows, "x", {}).first_verdict == verdict


@pytest.mark.parametrize(
    ("falling", "value", "verdict"), [(0, 1.0, "supported"), (1, 0.75, "partly"), (3, 0.25, "contradicted")]
)
def test_f7_goes_by_slopes_whose_interval_lies_above_zero(falling, value, verdict):
    rng, rows = np.random.default_rng(0), []
    for at, role in enumerate("qkvo"):
        slope = -0.5 if at < falling else 0.5
        rows += [
            {"seed": seed, "role": role, "depth": depth, "std_delta": math.exp(slope * depth / 7 + scatter)}
            for seed in range(5)
            for depth, scatter in enumerate(rng.normal(scale=0.05, size=8))
        ]
    found = findings.f7_over_runs(pd.DataFrame(rows), "x", {})
    assert (found.value, found.verdict) == (value, verdict)
    assert found.details["roles"]["o"]["slope"] == pytest.approx(0.5, abs=0.1)
    pair = pd.DataFrame(rows).query("seed == 0").assign(control="none", numel=4096, kl_bits=0.0)
    assert findings.f7(pair, "x", {}).value == value


def test_f7_needs_layers_and_runs():
    rows = made(0.1)
    shallow = findings.f7_over_runs(rows[rows["depth"] < 3], "x", {})
    assert shallow.value is None and shallow.details["reason"] == "No role has matrices in 6 or more layers."
    with pytest.raises(ValueError, match="at least two runs"):
        findings.f7_over_runs(rows[rows["seed"] == 0], "x", {})


def test_random_walks_by_brute_force():
    """All 362,880 orders of nine layers have known correlations; a walk has those of its ranks."""
    rng = np.random.default_rng(5)
    walks = rng.standard_normal((4000, 9)).cumsum(axis=1)
    rho = [stats.spearmanr(walk, np.arange(9))[0] for walk in walks]
    assert np.mean(np.array(rho) >= 0.5) == pytest.approx(findings.by_chance(9), abs=0.03)
    assert findings.by_chance(12) == findings.by_chance(12)
    assert findings.by_chance(12, runs=5) < 0.1 < findings.by_chance(12, level=0.05 / 6) < findings.by_chance(12)


def test_a_pair_too_shallow_for_any_p_is_not_judged():
    rows = made(0.1, seeds=1)
    rows = rows[(rows["weight_decay"] == 0) & (rows["depth"] < 4)].assign(control="none")
    found = findings.f7(rows, "x", {})
    assert found.value is None and "6 or more layers" in found.details["reason"]


def test_frozen_layers_count():
    """ΔW of zero in two thirds of the matrices: they are measured, and do not rise."""
    base = {f"layers.{layer}.q_proj.weight": torch.randn(64, 64) for layer in range(6)}
    after = {name: w + 0.1 * torch.randn(64, 64) if int(name[7]) > 3 else w for name, w in base.items()}
    table = lfmlib.compare(base, after, progress=False, controls=["noise"])
    found = findings.f6(table, "x", {})
    assert found.value == pytest.approx(1 / 3) and found.verdict == "contradicted"
    assert findings.f7(table, "x", {}).value is not None
    assert findings.qq_share(table[table["control"] == "none"]) == 1.0
    same = lfmlib.compare(base, base, progress=False)
    with pytest.raises(ValueError, match=r"ΔW is exactly zero in all 6 matrices: .* hold the same weights"):
        findings.shown(same)


@pytest.mark.slow
def test_tables_say_what_was_planted():
    rows = made(0.1)
    faster = made(0.0, part="cause", seeds=3, cause="rate × 3", optimizer="").assign(
        std_delta=lambda t: 3 * t["std_delta"]
    )
    faster = faster[faster["weight_decay"] == 0.01]
    eighth = made(0.1, part="samples", seeds=3, samples=0.125)
    eighth = eighth[eighth["weight_decay"] == 0.01].assign(std_delta=lambda t: 0.5 * t["std_delta"])
    ranked = [made(0.1, part="rank", seeds=2, adapter="lora", rank=r).query("weight_decay == 0.01") for r in (4, 16)]
    ranked[1]["std_delta"] *= 2
    record = pd.concat([rows, faster, eighth, *ranked], ignore_index=True)
    causes = ch08_depth.causes(record)
    assert causes.loc["no decay", "change of ρ"].startswith(("0.0", "-0.0"))
    assert ch08_depth.moving(record).startswith("Intervals that leave 0 out: **rate × 3 (")
    assert "of 2 comparisons" in ch08_depth.moving(record)
    width = ch06_deltas.causes_of_width(record)
    assert float(width.loc["rate × 3", "std(ΔW) ×"]) == pytest.approx(3 / 1.35, rel=0.05)
    both = ["with gradient", "layers 1 on, with gradient"]
    assert set(causes.loc["unchanged", both]) == {"1.00 [1.00, 1.00]"}
    few = ch08_samples.samples(record).set_index(["mode", "share"])
    assert few.loc[("equal steps", 0.125), "ratio"] == pytest.approx(0.5, rel=0.02)
    assert "-50 [-51, -49] %" in ch08_samples.of_samples(ch08_samples.samples(record))
    slopes = ch08_samples.rank_spans(record).set_index("way")
    assert slopes.loc["lab 12-layer decoder, LoRA", "mean"] == pytest.approx(0.5, abs=0.02)
    said = ch08_samples.of_ranks(slopes)
    assert "4.0 to 4.0 times as wide" in said and "neither" not in said
    assert ch08_pictures.course(rows).loc["q", "peak"] == "layer 7 of 7"
    beside = ch08_pictures.beside_theirs({"full": rows, "falling": rows.assign(depth=7 - rows["depth"])})
    assert beside["v, up, down, at the end"].tolist() == ["v 0, up 0, down 0", "v 5, up 5, down 5"]
    assert beside["q, k, up, from layer 0 to 1"].tolist() == ["q 0, k 0, up 0", "q 5, k 5, up 5"]
    assert set(ch08_pictures.courses({"full": rows})["way"]) == {"full"}
    said = ch08_pictures.as_in_theirs({"full": rows, "falling": rows.assign(depth=7 - rows["depth"])})
    assert (
        "full **0 of 5**; falling **5 of 5**. Of three independent curves without a trend, one run in 8 would." in said
    )
    rho, words, grows = ch08_depth.trend_grid(record)
    assert (
        grows["lab 12-layer decoder, full"].all()
        and (rho["lab 12-layer decoder, full"] > 0.9).all()
        and words.shape == (6, 2)
    )
    found = tuned.f7_found(record)
    said = ch08_samples.takeaways(found, ch08_samples.samples(record), slopes).splitlines()
    assert len(said) == 3 and "in 2 of 2 fine-tunes." in said[0] and "0.50 times as wide at equal steps" in said[1]
    assert "to the power 0.50" in said[2]
    falls = [replace(found[0], value=0.25, interval=None, verdict="contradicted")]
    assert "roles that grow is 25 % (lab 12-layer decoder)" in ch08_samples.takeaways(falls, few[:0], slopes[:0])
    nothing = ch08_samples.takeaways([], few[:0], slopes[:0]).splitlines()
    assert len(nothing) == 3 and all("not" in one or "No model" in one for one in nothing)
    grown = ch08_depth.by_method(record)
    assert grown.loc["lab 12-layer decoder, LoRA 4", "roles that grow"] == "–"
    assert grown.loc["lab 12-layer decoder, full", "roles that grow"] == "6 of 6"
    assert grown.loc["lab 12-layer decoder, full", "interior ρ"].startswith(("0.9", "1.00"))
    mean, low, high = findings.over_runs(ch08_depth.last_over_first(rows[rows["weight_decay"] == 0.01]))
    assert low < mean < high and mean == pytest.approx(1.7, rel=0.02)


def test_profiles_are_compared_run_by_run():
    """Two roles with one wandering profile a run, and gradients that are it: each run says so, their mean would not."""
    rows, rng = [], np.random.default_rng(3)
    for seed in range(4):
        walk = rng.standard_normal(9)
        profile = 1 + 0.5 * (walk - walk.mean())
        for role in ("q", "v"):
            about = {"part": "plain", "model": "deep-decoder", "weight_decay": finetuning.DECAY, "seed": seed}
            rows += [
                about | {"role": role, "depth": depth, "std_delta": one, "gradient": one**3, "agreement": -one}
                for depth, one in enumerate(profile - profile.min() + 0.1)
            ]
    record = pd.DataFrame(rows)
    assert "lab 12-layer decoder **1.00 [1.00, 1.00]** (9 layers)" in ch08_depth.together(record)
    assert np.allclose(ch08_depth.averaged(record), 1) and np.allclose(ch08_depth.follows_gradient(record), 1)
    assert np.allclose(ch08_depth.follows_gradient(record, "agreement", first=2), -1)
    assert ch08_depth.follows_gradient(record.drop(columns="gradient")).empty
    ends = record[(record["role"] == "q") & (record["depth"].isin((0, 8)))].set_index(["seed", "depth"])["std_delta"]
    assert np.allclose(ch08_depth.last_over_first(record), ends.unstack()[8] / ends.unstack()[0])


def test_what_two_texts_share_is_told_from_what_runs_share():
    """The same profile on both texts, and one of its own on each; runs of one text are alike in both."""
    first = made(0.1, seeds=3)
    adapter = {"adapter": "lora", "rank": 16}
    lora = made(0.1, seeds=3, part="rank", **adapter).query("weight_decay > 0")
    same = pd.concat([made(0.1, seeds=3, part="text"), made(0.1, seeds=3, part="text", **adapter)])
    record = pd.concat([first, lora, same.query("weight_decay > 0 or adapter == ''")], ignore_index=True)
    assert len(ch08_depth.on_two_texts(record).splitlines()) == 2
    assert "roles that grow 6 of 6 (6 of 6)" in ch08_depth.on_two_texts(record)
    assert ch08_depth.on_two_texts(record).endswith("by **1.00** on two.")
    assert [one.model for one in tuned.f6_found(record)] == ["lab 12-layer decoder"]
    assert [one.model for one in tuned.f7_found(record)] == [
        *("lab 12-layer decoder", "lab 12-layer decoder, LoRA"),
        *("lab 12-layer decoder on English", "lab 12-layer decoder on English, LoRA"),
    ]
    whole = ["lab 12-layer decoder", "lab 12-layer decoder on English"]
    assert list(tuned.settings(record.assign(trivial=1.0)).index) == whole
    assert {"full, on English", "LoRA 16, on English"} < set(tuned.ways(record, "deep-decoder"))
    assert set(ch06_figures.rises(record)["way"]) == set(ch06_figures.WAYS) - {"DoRA 16"}
    falling = first.assign(part="text", std_delta=1e-4 / first["std_delta"])
    said = ch08_depth.on_two_texts(pd.concat([first, falling], ignore_index=True))
    assert "by **-1.00** on two" in said and said.endswith("another trend**: lab 12-layer decoder, full.")
    assert ch08_depth.on_two_texts(first) == "No model was fine-tuned on two texts here."


def test_what_the_verdict_on_f6_leaves_out_is_said():
    """DoRA that keeps the spread, own labels that widen more, adapters as un-Gaussian as their rank and beyond it."""
    dora = made(0.1, gain=0.1, part="rank", seeds=2, adapter="dora", rank=16)
    dora = dora.assign(rank_kl_bits=0.001, rank_qq_r2=0.999).query("weight_decay == 0.01")
    lora = dora.assign(adapter="lora", rank=4, cell="l", rank_kl_bits=0.0001)
    own = made(0.1, gain=1.5, part="cause", seeds=3, cause="own labels").query("weight_decay == 0.01")
    record = pd.concat([made(0.1), dora, lora, own], ignore_index=True)
    (found,) = tuned.f6_found(record)
    assert found.first_verdict == "supported" and "with DoRA 16" in found.details["parts"]
    assert found.metric.endswith("under full fine-tuning")
    said = ch06_deltas.not_passing(record)
    assert "lab 12-layer decoder, DoRA 16" in said and "decay 1" not in said
    said = ch06_deltas.of_laws(record)
    assert "Low rank alone explains `kl_bits`, to within a quarter, of lab 12-layer decoder, DoRA 16." in said
    assert "10.0 times (lab 12-layer decoder, LoRA 4)" in said
    assert "It is larger where there is nothing to learn" in ch06_deltas.motion_alone(record)
    assert ch06_deltas.laws(record).loc["lab 12-layer decoder, full", "R² ≥ 0.99"] == "100.0"
    alone = record[record["seed"] == 0]
    for make in (
        ch06_deltas.of_laws,
        ch06_deltas.laws,
        ch06_deltas.causes_of_width,
        ch06_deltas.decay_cost,
        ch08_depth.moving,
    ):
        words = make(alone)
        assert "[nan" not in (words if isinstance(words, str) else words.to_string()), make
    assert "lab 12-layer decoder met (one run)" in ch06_deltas.of_laws(
        alone
    ) and "of 0 comparisons" in ch08_depth.moving(alone)


def test_decay_takes_off_g_what_the_formula_says():
    """A made pair: W = (1 - λ Σ rates) W₀ + noise; for so little decay g falls by 2 λ Σ rates Var W₀ / Var ΔW."""
    rng = torch.Generator().manual_seed(0)
    base = 0.03 * torch.randn(512, 512, generator=rng)
    noise = 0.001 * torch.randn(512, 512, generator=rng)
    shrink = 5e-5
    rows = [
        lfmlib.compare(
            {"layers.0.q_proj.weight": base}, {"layers.0.q_proj.weight": (1 - s) * base + noise}, progress=False
        )
        for s in (shrink, 0.0)
    ]
    change = rows[0]["gain"].iloc[0] - rows[1]["gain"].iloc[0]
    assert change == pytest.approx(-2 * shrink * (0.03 / 0.001) ** 2, rel=0.02)
    path = rows[1]["std_delta"] / rows[1]["std_base"]
    foretold = foretold_gain(1 - shrink, path, rows[1]["corr"] * path) - rows[1]["gain"]
    assert change == pytest.approx(foretold.iloc[0], rel=0.02)


def test_the_price_of_decay_is_foretold_from_trainings_without_it():
    """Made trainings that follow the law: foretold is what is measured, in every seed; the decay of 1 stands apart."""
    moved, seeds = 0.2, range(3)
    rows = []
    for decay in (0.0, 0.01, 1.0):
        kept = left_by_decay(Config("deep-decoder", "prose", lr=3e-3, steps=200, weight_decay=decay))
        about = {"part": "cause" if decay == 1 else "plain", "cause": "decay 1" if decay == 1 else "", "adapter": ""}
        about |= {"model": "deep-decoder", "task": "prose", "lr": 3e-3, "steps": 200, "weight_decay": decay}
        for seed in seeds:
            path = moved * (1 + 0.1 * seed)
            figures = {
                "gain": float(foretold_gain(kept, path, 0.1 * path)),
                "std_delta": path,
                "std_base": 1.0,
                "corr": 0.1,
            }
            rows.append(about | figures | {"seed": seed})
    found = {name: (change, foretold) for name, change, foretold in ch06_deltas.costs(pd.DataFrame(rows))}
    assert list(found) == ["lab 12-layer decoder", "lab 12-layer decoder, decay 1"]
    for change, foretold in found.values():
        assert len(change) == 3 and change.to_numpy() == pytest.approx(foretold.to_numpy()) and (change < 0).all()


@pytest.mark.slow
def test_a_real_fine_tune_of_minilm_against_numpy(tmp_path, monkeypatch):
    """MiniLM and three steps from it: pairs, budget and gains, entry by entry in float64."""
    posed = problem("minilm", "library")
    monkeypatch.setattr(posed, "test", posed.test[:16])  # its score is not asked for
    after = weights(Config("minilm", "library", start="library", steps=3, batch=4, lr=2e-4), folder=tmp_path)
    table = lfmlib.compare("minilm", after, progress=False)
    assert len(findings.eligible(table)) == 36
    assert "only in the tuned model (mapping)" in table.attrs["skipped"]["classifier.weight"]
    base = models.pretrained()
    for row in table.to_dict("records"):
        w, w0 = (one.double().numpy() for one in (after[row["tensor"]], base.read(row["base_tensor"])))
        delta = w - w0
        assert row["std_delta"] == pytest.approx(delta.std(), rel=1e-10)
        assert row["std_gain"] == pytest.approx(w.std() - w0.std(), rel=1e-6, abs=1e-13)
        assert row["gain"] == pytest.approx((w.var() - w0.var()) / delta.var(), rel=1e-6, abs=1e-9)
        assert row["cov"] == pytest.approx(np.mean((delta - delta.mean()) * (w0 - w0.mean())), rel=1e-6, abs=1e-16)
        total = row["std_base"] ** 2 + row["std_delta"] ** 2 + 2 * row["cov"]
        assert total == pytest.approx(row["std_tuned"] ** 2, rel=1e-10)


def test_holms_correction_is_that_of_statsmodels():
    for p in ([0.04, 0.001, 0.3, 0.02, 0.04], [0.9, 0.8], [0.01]):
        found = findings.holm(pd.Series(p, index=list("abcde")[: len(p)]))
        assert found.to_numpy() == pytest.approx(multipletests(p, method="holm")[1])


def test_a_head_leaves_dead_features_alone():
    """MiniLM has three of 384 whose standard deviation is a billionth of the others': a fine-tuning moves them."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = rng.standard_normal((200, 6)) + labels[:, None]
    features[:, 4] = 0.3 + 1e-9 * features[:, 4]
    features[:, 5] = 7.0

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = torch.nn.Linear(6, 2)

        def forward(self, x):
            return self.classifier(x)

    class Task:
        classes = 2

        def first(self, model, count):
            model(torch.from_numpy(features).float())
            return labels

    model = Model()
    assert tuning.fit_head(model, Task(), (1.0,)) == 1.0
    weight = model.classifier.weight
    assert weight[:, 4:].abs().max() == 0 and 0.1 < weight[:, :4].abs().max() < 10
    right = (model(torch.from_numpy(features).float()).argmax(1).numpy() == labels).mean()
    assert right > 0.75
    moved = torch.from_numpy(features + np.r_[0, 0, 0, 0, 1e-3, 1e-3]).float()
    assert torch.allclose(model(moved), model(torch.from_numpy(features).float()), atol=1e-5)
