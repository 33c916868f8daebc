"""lfmlib: are the weights of large models Gaussian? The library behind “Gaussian Never Fades”.

Data flows one way: checkpoint → sketch → statistics → table → finding. Figures (`lfmlib.plots`), chapters
(`lfmlib.notebook`) and the book's build (`lfmlib.book`) are imported by name where they are wanted.
"""

from . import findings
from .checkpoint import Checkpoint, CheckpointError, TensorInfo, open_checkpoint
from .normality import Normality, coding_cells, measure, normality
from .shapes import Shape, classify
from .sketch import Sketch
from .survey import noise_twin, survey

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Normality",
    "Shape",
    "Sketch",
    "TensorInfo",
    "classify",
    "coding_cells",
    "findings",
    "measure",
    "noise_twin",
    "normality",
    "open_checkpoint",
    "survey",
]
