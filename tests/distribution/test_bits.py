"""The histogram behind `kl_bits`: its cells, and where those of a float32 are too wide to tell a shape."""

import numpy as np
import pytest
import torch

from lfmlib.distribution.bits import coding_cells, tells_shape
from lfmlib.distribution.sketch import Sketch


def noise(mean: float = 0.0, dtype: torch.dtype = torch.float32) -> Sketch:
    return Sketch.of((torch.randn(10_000, generator=torch.Generator().manual_seed(0)) + mean).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_coding_cells_cut_no_rounding_cell(dtype):
    sketch = noise(dtype=dtype)
    edges, counts = coding_cells(sketch)
    assert np.isin(edges, sketch.grid.edges).all()
    assert (np.diff(edges) >= 0.1 * sketch.std * (1 - 1e-8)).all()
    assert counts.sum() == sketch.count


def test_a_shape_is_told_up_to_some_forty_standard_deviations_and_not_beyond_eighty():
    told = {mean: tells_shape(noise(mean)) for mean in (0.0, 10.0, -30.0, 80.0, -200.0)}
    assert told == {0.0: True, 10.0: True, -30.0: True, 80.0: False, -200.0: False}
    assert tells_shape(noise(200.0, torch.bfloat16))  # a cell for each of its values
