"""lfmlib: are the weights of large models Gaussian? The library behind “Gaussian Never Fades”.

Data flows one way: checkpoint → sketch → statistics → table → finding. Figures (`lfmlib.plots`), chapters
(`lfmlib.book.notebook`) and the book's build (`lfmlib.book`) are imported by name where they are wanted.
"""

from . import findings
from .checkpoints.checkpoint import Checkpoint, CheckpointError, TensorInfo, open_checkpoint
from .deltas.comparison import compare
from .deltas.trends import depth_trend
from .distribution.distances import Normality, coding_cells, measure, normality
from .distribution.law import Law, optimal_law
from .distribution.shapes import Shape, classify
from .distribution.sketch import Sketch
from .losses import outliers, pruning, tolerance
from .merging.overlaps import overlap
from .merging.run import merge
from .structure.controls import control, rescaled
from .structure.entries import IID, iid
from .structure.spectra import Spectrum, spectrum
from .surveys.arrangements import arrangement
from .surveys.optimal_laws import laws
from .surveys.values import noise_twin, survey

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
