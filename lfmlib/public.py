"""Everything that `lfmlib` hands out by name, imported when the first of these names is asked for."""

# ruff: noqa: F401

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
