"""Where a finding comes from tells a model from itself trained further."""

import os

import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib.provenance import provenance


def test_files_that_were_trained_further_are_in_another_state(tmp_path):
    """The path alone does not tell: as in Noble-Lab/casanovo#122, two results of one name."""
    path = tmp_path / "model.safetensors"

    def where() -> dict:
        return provenance(lfmlib.open_checkpoint(str(path)), profile="quick")

    save_file({"w": torch.zeros(8, 8)}, path)
    first = where()
    assert first == where() and len(first["state"]) == 12
    save_file({"w": torch.ones(8, 8)}, path)
    os.utime(path, ns=(0, 1))  # the clock of a file may be coarse
    assert where()["state"] != first["state"]
    assert provenance(lfmlib.open_checkpoint("minilm"))["state"] is None  # its revision says it
    assert provenance(lfmlib.open_checkpoint({"w": torch.ones(8, 8)}))["state"] is None
