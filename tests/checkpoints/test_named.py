"""Models that have a name: where they lie, and that what is said of them is so."""

import pytest

import lfmlib
from lfmlib.checkpoints import named


@pytest.mark.parametrize("model", named.MODELS, ids=lambda model: model.name)
def test_what_is_said_of_a_named_model_is_so(model):
    checkpoint = lfmlib.open_checkpoint(model.name)
    assert checkpoint.files == [model.place()] and checkpoint.revision == model.revision
    assert model.place().stat().st_size == model.bytes


def test_a_model_that_is_not_here_is_listed_too(monkeypatch, tmp_path):
    absent = named.NamedModel("other", "org/other", "main", "model.safetensors", "no_such_package", "MIT", 1000)
    monkeypatch.setattr(named, "MODELS", (*named.MODELS, absent))
    table = named.at_hand().set_index("name")
    assert table.loc["minilm", "here"] and not table.loc["other", "here"]
    assert table.loc["other", ["licence", "place"]].tolist() == ["MIT", ""]
