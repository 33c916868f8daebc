"""lfmlib: are the weights of large models Gaussian? The library behind “Gaussian Never Fades”.

Data flows one way: checkpoint → sketch → statistics → table → finding. Figures (`lfmlib.plots`), chapters
(`lfmlib.notebook`) and the book's build (`lfmlib.book`) are imported by name where they are wanted.
"""

from . import findings, outliers, pruning, tolerance
from .arrangement import arrangement
from .checkpoints.checkpoint import Checkpoint, CheckpointError, TensorInfo, open_checkpoint
from .controls import control, rescaled
from .delta import compare, depth_trend
from .iid import IID, iid
from .merge import merge
from .normality import Normality, coding_cells, measure, normality
from .optimal import Law, laws, optimal_law
from .overlap import overlap
from .shapes import Shape, classify
from .sketch import Sketch
from .spectrum import Spectrum, spectrum
from .survey import noise_twin, survey

__all__ = [
    "IID",
    "Checkpoint",
    "CheckpointError",
    "Law",
    "Normality",
    "Shape",
    "Sketch",
    "Spectrum",
    "TensorInfo",
    "arrangement",
    "classify",
    "coding_cells",
    "compare",
    "control",
    "depth_trend",
    "findings",
    "iid",
    "laws",
    "measure",
    "merge",
    "noise_twin",
    "normality",
    "open_checkpoint",
    "optimal_law",
    "outliers",
    "overlap",
    "pruning",
    "rescaled",
    "spectrum",
    "survey",
    "tolerance",
]
