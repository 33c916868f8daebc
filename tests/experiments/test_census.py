"""The census: every named model, and truths planted in made ones, which cells can name by their path."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib import findings
from lfmlib.chapters import atlas, census
from lfmlib.checkpoints.named import MODELS
from lfmlib.experiments import census as experiment
from lfmlib.records.experiment import measure

SIDE = 96


def cell(part: str, model, base="") -> dict:
    return {"part": part, "model": str(model), "base": str(base), "seed": 0}


def layers(make, count: int = 4) -> dict[str, torch.Tensor]:
    """A made encoder: matrices of six roles in some layers, and norms."""
    names = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    names += ["intermediate.dense", "output.dense"]
    made = {f"encoder.layer.{i}.{name}.weight": make(i).reshape(SIDE, SIDE) for i in range(count) for name in names}
    return made | {f"encoder.layer.{i}.output.LayerNorm.weight": 1 + make(i)[:SIDE] / 10 for i in range(count)}


@pytest.fixture
def folder(tmp_path):
    def kept(name: str, tensors: dict[str, torch.Tensor]):
        (tmp_path / name).mkdir()
        save_file(
            {key: one.float().contiguous() for key, one in tensors.items()}, tmp_path / name / "model.safetensors"
        )
        return tmp_path / name

    return kept


@pytest.fixture(scope="module")
def toy() -> pd.DataFrame:
    """The record's toy cells, measured: two layers of MiniLM."""
    current = experiment.experiment()
    rows = [row for one in current.quick for row in measure(current, one)["rows"]]
    record = pd.DataFrame(rows)
    record.attrs = {"configuration": "made", "commits": ["made"], "stale": False}
    return record


def test_every_named_model_has_every_part_and_every_fine_tune_its_pair():
    current = experiment.experiment()
    found = {(one["part"], one["model"]) for one in current.cells}
    assert found >= {(part, one.name) for one in MODELS for part in experiment.PARTS}
    assert {model for part, model in found if part == "pair"} == {one.name for one in MODELS if one.base}
    assert all(current.alone(one) == (one["model"] == "minilm") for one in current.cells)
    for one in current.cells:
        assert set(current.inputs(one)) == ({"model", "base"} if one["base"] else {"model"})


@pytest.mark.slow
def test_findings_on_the_record_are_those_on_the_model(toy):
    checkpoint = lfmlib.open_checkpoint("minilm", select=r"layer\.[01]\.")
    table = lfmlib.survey(checkpoint, progress=False)
    direct = findings.f1(table, lfmlib.noise_twin(table, seed=0), "minilm", {})
    (recorded,) = census.judged(toy, "F1")
    assert recorded.value == direct.value and recorded.null == direct.null and recorded.verdict == direct.verdict
    assert recorded.details == pytest.approx(direct.details, rel=1e-4)
    arranged = lfmlib.arrangement(findings.judged(checkpoint), controls=experiment.CONTROLS, seed=0, progress=False)
    direct, (recorded,) = findings.f4(arranged, "minilm", {}), census.judged(toy, "F4")
    assert (recorded.value, recorded.verdict, recorded.first_verdict) == (
        direct.value, direct.verdict, direct.first_verdict,
    )  # fmt: skip
    assert recorded.details["parts"] == direct.details["parts"]
    centred = lfmlib.noise_twin(table.assign(mean=0.0), seed=0)
    for id_, judge in (("F9", findings.f9), ("F10", findings.f10)):
        direct, (recorded,) = judge(table, centred, "minilm", {}), census.judged(toy, id_)
        assert (recorded.value, recorded.null, recorded.verdict) == (direct.value, direct.null, direct.verdict)
    laws = lfmlib.laws(findings.judged(checkpoint), pruned=findings.PRUNED_SHARE, progress=False)
    assert census.judged(toy, "F12")[0].details == findings.f12(laws, "minilm", {}).details
    assert census.judged(toy, "F3")[0].details["labels"] == table["label"].value_counts().to_dict()
    assert census.judged(toy, "F1", but="minilm") == [] and census.judged(toy, "F6") == []


def test_what_is_left_of_the_base_comes_out(folder):
    rng = torch.Generator().manual_seed(0)
    base = layers(lambda _: torch.randn(SIDE * SIDE, generator=rng))
    tuned = {
        name: (one if one.ndim == 1 else 0.9 * one) + 0.05 * torch.randn(one.shape, generator=rng) * (one.ndim > 1)
        for name, one in base.items()
    }
    tuned["encoder.layer.0.output.LayerNorm.weight"] = 1 + 2 * (base["encoder.layer.0.output.LayerNorm.weight"] - 1)
    rows = pd.DataFrame(experiment.run(cell("pair", folder("tuned", tuned), folder("base", base))))
    matrices = rows[rows["rows"].notna() & (rows["control"] == "none")]
    assert np.allclose(matrices["factor"], 0.9, atol=0.01) and (matrices["gain"] < 0).all()
    assert set(rows["control"]) == {"none", "noise", "permuted"}
    norms = rows[rows["role"] == "norm"].set_index("tensor")["factor"]
    assert norms["encoder.layer.0.output.LayerNorm.weight"] == pytest.approx(2, abs=1e-4)
    assert norms["encoder.layer.1.output.LayerNorm.weight"] == pytest.approx(1, abs=1e-6)


def test_strangers_share_what_they_share(folder):
    rng = torch.Generator().manual_seed(0)
    one, other = ({"embeddings.word_embeddings.weight": torch.randn(200, SIDE, generator=rng)} for _ in range(2))
    both = torch.randn(200, SIDE, generator=rng)
    one, other = ({name: values + both for name, values in side.items()} for side in (one, other))
    first, second = (layers(lambda _: torch.randn(SIDE * SIDE, generator=rng)) for _ in range(2))
    rows = pd.DataFrame(experiment.run(cell("kin", folder("one", one | first), folder("other", other | second))))
    embedded, inside = rows[rows["depth"].isna()], rows[rows["depth"].notna()]
    assert embedded["likeness"].tolist() == pytest.approx([0.5], abs=0.03)
    assert len(inside) == 6 * 4 * 4 and inside["likeness"].abs().max() < 0.05


def test_the_clearest_matrix_of_a_shape_is_drawn(folder):
    rng = np.random.default_rng(0)
    laws = [rng.laplace, rng.laplace, rng.standard_normal, rng.standard_normal]
    make = {i: torch.from_numpy(law(size=SIDE * SIDE)) for i, law in enumerate(laws)}
    rows = pd.DataFrame(experiment.run(cell("shapes", folder("made", layers(lambda i: make[i])))))
    assert set(rows["label"]) == {"sharp"} and (rows["tensor"].nunique(), len(rows)) == (1, 60)
    expected = np.exp(-np.sqrt(2) * rows["z"].abs()) / np.sqrt(2)
    assert np.allclose(rows["density"], expected, atol=0.06)


@pytest.mark.slow
def test_the_atlas_has_a_picture_and_a_place_for_each_model(toy, tmp_path):
    made = atlas.pages(toy, tmp_path / "figures")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"landscape", "matrices", "minilm"}
    text = "".join(made.values())
    body = findings.eligible(census.part(toy, "minilm", "values", "none"))
    share = findings.share(body, findings.gaussian(body))
    assert "(atlas-minilm)=" in text and f"**{share:.1%}** in Gaussian ones" in text and "arxiv.org/abs/1908" in text
    assert text.count("```{figure} _static/atlas/") == 3 and text.count(":alt: ") == 3
    nothing = atlas.pages(toy.iloc[:0].assign(model=[]), tmp_path / "none")
    assert all("No model has been measured yet" in text for text in nothing.values())


def test_rows_that_no_text_used_tell_the_decay(folder):
    rng = torch.Generator().manual_seed(0)
    before = {"embeddings.word_embeddings.weight": torch.randn(60, SIDE, generator=rng)}
    inner = layers(lambda _: torch.randn(SIDE * SIDE, generator=rng))
    after = 0.95 * before["embeddings.word_embeddings.weight"]
    after[:20] += 0.1 * torch.randn(20, SIDE, generator=rng)  # twenty that were used
    tuned = {"embeddings.word_embeddings.weight": after} | inner
    base = folder("base", before | inner)
    (row,) = experiment.run(cell("idle", folder("tuned", tuned), base))
    assert (row["rows"], row["idle"], row["same"]) == (60, 40, 0)
    assert row["left_low"] == row["left"] == row["left_high"] == 0.95
    after[20:] = before["embeddings.word_embeddings.weight"][20:]
    (row,) = experiment.run(cell("idle", folder("kept", {"embeddings.word_embeddings.weight": after} | inner), base))
    assert (row["idle"], row["same"]) == (40, 40) and "left" not in row


def test_what_the_record_says_of_decay_is_printed():
    told = census.of_decay()
    assert "in rxn-bert-ft **55 rows are 0.9511 times the base’s**" in told.replace("In", "in", 1)
    assert "In rxn-bert-ft-10k **562 rows are the base’s to the bit**" in told
    table = census.idle()
    assert table.loc["rxn-bert-ft, word embeddings", "left of the others"] == "0.9511 (0.9509 to 0.9513)"
    assert len(table) == 6 and (census.pairs()["g"] == ["-1.14", "0.87"]).all()
