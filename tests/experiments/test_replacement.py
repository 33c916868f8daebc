"""The bulk in the lab: toys of both experiments, what directions meet, and what chapter 14 reads off its records."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lfmlib.chapters import ch14_answer, ch14_bulk, ch14_planted, ch14_soups
from lfmlib.experiments import replacement, soups
from lfmlib.losses import pruning, replace
from lfmlib.records.experiment import measure


@pytest.fixture(scope="module")
def toys() -> pd.DataFrame:
    experiment = replacement.experiment()
    return pd.DataFrame([row for cell in experiment.quick for row in measure(experiment, cell)["rows"]])


@pytest.fixture(scope="module")
def fine_tunes() -> pd.DataFrame:
    experiment = soups.experiment()
    return pd.DataFrame([row for cell in experiment.quick for row in measure(experiment, cell)["rows"]])


@pytest.mark.slow
def test_a_toy_of_each_part_says_what_the_record_does(toys):
    assert set(toys["what"]) == {"model", "curve", "edge", "shrunk", "planted", "group", "tenth", "met", "untrained"}
    curves = toys[toys["what"] == "curve"]
    assert set(curves["rule"]) == set(replace.RULES)
    asked = set(curves.loc[curves["rule"] == "directions", "stand_in"])
    assert asked == set(replacement.STAND_INS["directions"]) and set(ch14_bulk.DRAWN) <= asked
    for _, some in curves.groupby(["seed", "rule", "stand_in", "draw"]):
        assert some["energy"].is_monotonic_increasing and some["energy"].iloc[-1] == pytest.approx(1, abs=1e-6)
    met = toys[toys["what"] == "met"].groupby("seed")
    assert met["carried"].sum().to_numpy() == pytest.approx(1, abs=1e-3)
    tenths = toys[(toys["what"] == "tenth") & (toys["stand_in"] == "zero")].groupby("seed")
    assert tenths["energy"].sum().to_numpy() == pytest.approx(1, abs=1e-3)
    assert toys.loc[toys["what"] == "untrained", "rise"].abs().max() < 0.1  # nothing is known yet


@pytest.mark.slow
def test_all_that_chapter_14_prints_can_be_read_off_toys(toys, fine_tunes):
    for told in (ch14_bulk.asked, ch14_bulk.shown, ch14_bulk.by_rule, ch14_bulk.by_stand_in, ch14_planted.planted,
                 ch14_planted.shrunk, ch14_bulk.met):  # fmt: skip
        words = told(toys)
        assert len(words) and not words.isna().any().any(), told
    for by in ch14_bulk.ROLE_COLUMNS:
        assert ch14_bulk.groups(toys, by)["lab ViT"].str.contains(" / ").all()
    assert len(ch14_answer.answer(toys, ch14_soups.beside_noise(fine_tunes))) == 4
    assert "lab ViT" in ch14_bulk.of_tenths(toys) and "lab ViT" in ch14_planted.untrained(toys)
    assert "lab ViT" in ch14_soups.grows(fine_tunes) and "lab ViT" in ch14_soups.residuals(fine_tunes)
    assert set(ch14_soups.added(fine_tunes)) == {"lab ViT"} and len(ch14_soups.soups(fine_tunes)) == 1
    words = ch14_soups.added_in_words(fine_tunes)
    assert len(words) == 1 and list(words)[2:] == list(ch14_soups.RESIDUALS.values())


def made(cost: float, edge: float = 0.6, model: str = "vit") -> pd.DataFrame:
    """A record in which replacing costs so much of the gap for each unit of energy, in three runs."""
    rows = []
    for seed in range(3):
        about = {"model": model, "task": "class", "seed": seed}
        rows.append(about | {"what": "model", "own": 1.0, "prior": 3.0})
        for stand_in in ("noise", "zero", replace.CONTROL):
            slope = 2.0 * cost * (1 + 0.01 * seed)
            for share in (0.25, 0.5, 1.0):
                curve = {"what": "curve", "rule": "directions", "stand_in": stand_in, "draw": 0, "share": share}
                rows.append(about | curve | {"replaced": share, "energy": share**2, "rise": slope * share**2})
            rows.append(
                about | {"what": "edge", "stand_in": stand_in, "replaced": 0.8, "energy": edge, "rise": slope * edge}
            )
    return pd.DataFrame(rows)


def residuals(own: float) -> pd.DataFrame:
    """Fine-tunes whose own residual changes the loss by so much, and as much noise by nothing."""
    rows = []
    for member in range(4):
        for stand_in, loss in {"none": 1.0, "own": 1 + own, "permuted": 1.0, "noise": 1.0}.items():
            about = {"model": "vit", "lr": 1e-3, "count": 4, "seed": 0, "what": "residual", "member": member}
            rows.append(about | {"stand_in": stand_in, "loss": loss + 1e-4 * member})
    return pd.DataFrame(rows)


def test_shares_are_where_the_cost_is_crossed():
    record = made(0.5)
    found = ch14_bulk.replaceable(record, 0.1, what="curve", rule="directions", stand_in="noise")
    assert found["value"].to_numpy() == pytest.approx([0.2 / (1 + 0.01 * seed) for seed in range(3)])
    assert (found["low"] == 0.0625).all() and (found["high"] == 0.25).all()
    assert ch14_bulk.part(found) == "20 [19, 20]"
    assert [ch14_bulk._two(one) for one in (100.0, 0.00038, 12.3)] == ["100", "0.00038", "12"]
    early = ch14_bulk.replaceable(record, 0.01, what="curve", rule="directions", stand_in="noise")
    assert ch14_bulk.part(early) == "< 6.2"  # even the least that was tried costs more
    assert ch14_bulk.edge_cost(record).to_numpy() == pytest.approx([0.3, 0.303, 0.306])
    assert ch14_bulk.foretold(record).tolist() == [0.6] * 3
    marks = ch14_bulk.shares(record).set_index("mark")
    assert marks.loc["can be noise, for 10 %", "share"] == pytest.approx(0.198, abs=1e-3)


def test_a_loss_that_overflows_and_a_model_that_knows_nothing_are_not_left_out():
    record = made(0.001)
    curve = (record["what"] == "curve") & (record["stand_in"] == "noise") & (record["seed"] == 0)
    two = pd.concat([record, record[curve].assign(draw=1, rise=np.nan)])  # one of two draws overflowed
    found = ch14_bulk.replaceable(two, 0.1, what="curve", rule="directions", stand_in="noise")
    assert found.loc[0].tolist() == [0.0, 0.0, 0.0625] and found.loc[1, "value"] == 1
    record.loc[(record["what"] == "model") & (record["seed"] == 1), "own"] = 3.5  # worse than frequencies
    found = ch14_bulk.replaceable(record, 0.1, what="curve", rule="directions", stand_in="noise")
    assert found.loc[1].isna().all() and found.drop(1)["value"].eq(1).all() and ch14_bulk.part(found) == "–"
    assert ch14_bulk.edge_cost(record).isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("cost", "control", "edge", "said"),
    [
        (0.5, 0.5, 0.6, "The bulk of lab ViT is no noise"),
        (
            0.01,
            0.01,
            0.6,
            "That of lab ViT can be drawn anew for less than a tenth, and as much noise be put on top of all",
        ),
        (0.01, 0.5, 0.6, "it acts as noise"),
        (0.5, 0.5, 0.05, "Below the edge of lab ViT lies next to nothing"),
    ],
)
def test_the_answer_turns_with_the_record(cost, control, edge, said):
    record = made(cost, edge)
    record.loc[record["stand_in"] == replace.CONTROL, "rise"] *= control / cost
    _, foretold, seen, follows = ch14_answer.answer(record, "And more.")
    assert (
        f"lab ViT {100 * edge:.0f} % of the squared weights" in foretold and said in follows and "And more." in follows
    )
    assert f"worse than guessing), lab ViT {100 * edge * cost * 1.01:.0f} %" in seen


@pytest.mark.parametrize(("cost", "lead"), [(0.01, "Much"), (0.5, "Little")])
def test_the_first_sentence_is_short_and_turns_with_the_record(cost, lead):
    said = ch14_answer.answer(made(cost))[0]
    assert said.startswith(f"**{lead}.** For 1 % of what a model knows, noise can stand for ")
    assert (
        said.endswith("% of the squared weights (lab ViT). Of the squared weights 60\u00a0% look like noise.")
        and len(said.split()) < 40
    )
    assert ch14_answer.answer(pd.DataFrame({"what": [], "model": []})) == ["Nothing has been measured yet."]


@pytest.mark.slow
def test_takeaways_turn_with_the_record(toys, fine_tunes):
    record = made(0.5)
    bulk, control, residual = ch14_answer.takeaways(record, "Third.").splitlines()
    assert "costs **30 %** (lab ViT) of what a model knows" in bulk and "**not measured**" in control
    assert residual == "- Third."
    planted = [
        {"model": "vit", "seed": seed, "what": "planted", "draw": 0, "share": replacement.PLANTED["vit"],
         "own": 1.0, "energy": 0.5, "replaced": 0.5, "rise": 0.0, "planted": 0.5}
        for seed in range(3)
    ]  # fmt: skip
    curve = record["what"].eq("curve") & record["share"].eq(0.5)
    rows = pd.concat(
        [record.assign(share=record["share"].mask(curve, replacement.PLANTED["vit"])), pd.DataFrame(planted)]
    )
    assert (
        "anew costs 0 [0, 0] % of the gap that planting" in (said := ch14_answer.takeaways(rows, ""))
        and "is seen where it is" in said
    )
    dear = rows.assign(rise=rows["rise"].mask(rows["what"] == "planted", 1.0))
    assert "**not told** from weights" in ch14_answer.takeaways(dear, "")
    assert len(ch14_answer.takeaways(toys, ch14_soups.beside_noise(fine_tunes)).splitlines()) == 3


def test_the_answer_is_open_where_the_interval_holds_the_bound():
    record = made(0.01)
    edge = record["what"] == "edge"
    record.loc[edge, "rise"] = 2.0 * record["seed"].map({0: 0.02, 1: 0.1, 2: 0.2})[edge]
    assert "Of lab ViT it is open" in ch14_answer.answer(record)[3]


def test_what_the_least_directions_hold_is_told_from_what_noise_does_there():
    record = made(0.5)
    record["share"] = record["share"].replace(0.25, ch14_bulk.LEAST)
    assert "least tenth" not in ch14_answer.answer(record)[3]
    assert "- lab ViT: 3.2%, 3.2%, 3.2%; 25.00%, with" in ch14_bulk.beside_control(record)
    noisy = record.assign(rise=record["rise"].where(record["stand_in"] != "noise", 2 * record["rise"]))
    assert "The least tenth of the directions of lab ViT, drawn anew, costs 6.3%" in ch14_answer.answer(noisy)[3]
    needed = record.assign(rise=record["rise"].where(record["stand_in"] != "zero", 2 * record["rise"]))
    assert "The least tenth of the directions of lab ViT, left out, costs 6.3%" in ch14_answer.answer(needed)[3]


def test_what_lies_below_the_edge_is_a_point_of_a_groups_curve():
    """The shares of groups are few: between a half and all of the directions, the edge is the point that is known."""
    record = made(0.5)
    rows = [
        {"model": "vit", "seed": seed, "what": "group", "by": "role", "group": "q", "draw": 0}
        | {"share": share, "replaced": replaced, "energy": replaced**2, "rise": 0.0 if replaced < 1 else 2.0}
        for seed in range(3)
        for share, replaced in ((0.5, 0.5), (1.0, 1.0), (None, 0.9))
    ]
    found = ch14_bulk.groups(pd.concat([record, pd.DataFrame(rows)]), "role")
    assert found["lab ViT"].tolist() == ["81 [81, 81] / 81"]


def test_residuals_are_set_beside_noise():
    better, worse, alike = (ch14_soups.beside_noise(residuals(own)) for own in (-0.01, 0.01, 0.0))
    assert "in **1 of 1** cases, and worse in 0." in better
    assert "in **0 of 1** cases, and worse in 1." in worse
    assert "in **0 of 1** cases, and worse in 0." in alike


def test_norms_along_directions_are_those_of_the_inputs_turned():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    data = torch.randn(50, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    split = replace.Split(layer.weight)
    along = pruning.input_norms(layer, [".weight"], lambda: layer(data), {".weight": split.directions})
    assert torch.allclose(along[".weight"], (data @ split.directions.T).norm(dim=0), rtol=1e-5)


def test_a_direction_that_meets_all_inputs_carries_all_outputs():
    """The least direction of a matrix whose inputs lie along it: small, and all that matters."""
    cells = {"part": "tenths", "model": "vit", "seed": 0}

    class Asked:
        scores: list[float] = []  # noqa: RUF012

        def __init__(self, model, data):
            self.model, self.data = model, data

        def __call__(self) -> float:
            return float((self.model(self.data) - self.wanted).square().mean()) if hasattr(self, "wanted") else 0.0

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30, bias=False))
    split = replace.Split(model[0].weight)
    asked = Asked(model, 100 * torch.randn(64, 1) * split.directions[-1:] + 0.01 * torch.randn(64, 40))
    with torch.no_grad():
        asked.wanted = model(asked.data)
        weights = {"0.weight": model[0].weight}
        rows = pd.DataFrame(replacement._tenths(replacement._Curves(asked, 0.0, cells), model, weights))
    met = rows[rows["what"] == "met"]
    assert met["carried"].iloc[0] > 0.99 and met["met"].iloc[0] > 10 and met["met"].iloc[1:].max() < 0.1
    rises = rows[rows["stand_in"] == "zero"].set_index("share")["rise"]
    assert rises.idxmax() == 0 and rises[0] > 100 * rises[0.9]


def test_groups_are_roles_and_at_most_six_parts_of_the_depth():
    rows = [{"name": f"{depth}.{role}", "role": role, "depth": depth} for depth in range(30) for role in "qk"]
    found = replacement.groups_of(pd.DataFrame(rows))
    assert {role: len(names) for role, names in found["role"].items()} == {"q": 30, "k": 30}
    assert list(found["depth"]) == ["0–4", "5–9", "10–14", "15–19", "20–24", "25–29"]
    assert found["depth"]["5–9"] == [f"{depth}.{role}" for depth in range(5, 10) for role in "qk"]
    lone = replacement.groups_of(pd.DataFrame([{"name": "w", "role": "other", "depth": math.nan}]))
    assert lone == {"role": {"other": ["w"]}, "depth": {}}


@pytest.mark.slow
def test_a_soup_and_its_residuals_are_the_fine_tunes(fine_tunes):
    cell = soups.experiment().quick[0]
    tunes = soups.Tunes(cell)
    mean = tunes.mean(cell["count"])
    name = tunes.matrices[0]
    assert torch.allclose(sum(one[name] - mean[name] for one in tunes.deltas), torch.zeros_like(mean[name]), atol=1e-5)
    assert not any(name.startswith("classifier") for name in tunes.base)  # one head, kept
    whole = tunes.ask(tunes.deltas[0])
    rows = fine_tunes[(fine_tunes["seed"] == 0) & (fine_tunes["what"] == "residual") & (fine_tunes["member"] == 0)]
    own = rows.set_index("stand_in")["loss"]
    assert own["own"] == pytest.approx(whole["loss"], rel=0.05)  # but for vectors, which are the mean's
    residual = {name: tunes.deltas[0][name] - mean[name] for name in tunes.matrices}
    for stand_in in ("permuted", "noise"):
        new = soups._instead(residual, stand_in, (0, 0))
        for name, one in residual.items():
            assert new[name].norm().item() == pytest.approx(one.norm().item(), rel=1e-4)
    assert all(not one.any() for one in soups._instead(residual, "none", (0, 0)).values())


def test_only_cells_that_are_cheap_are_measured_again():
    assert {cell["model"] for cell in replacement.experiment().cells if replacement.alone(cell)} == {"minilm"}
    assert [cell["count"] for cell in soups.experiment().cells if soups.alone(cell)] == [soups.AGAIN]
    shares = [share for some in (replacement.SHARES, *replacement.FINE_SHARES.values()) for share in some]
    assert all(np.diff(replacement.SHARES) > 0) and max(shares) == 1.0
