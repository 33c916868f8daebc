"""Where each public name comes from, for type checkers and for the lazy imports of `lfmlib/__init__.py`."""

from . import cache as cache
from . import checkpoints as checkpoints
from . import deltas as deltas
from . import distribution as distribution
from . import findings as findings
from . import health as health
from . import losses as losses
from . import merging as merging
from . import noise_adapter as noise_adapter
from . import provenance as provenance
from . import structure as structure
from . import surveys as surveys
from .checkpoints.checkpoint import Checkpoint as Checkpoint
from .checkpoints.checkpoint import CheckpointError as CheckpointError
from .checkpoints.checkpoint import TensorInfo as TensorInfo
from .checkpoints.checkpoint import open_checkpoint as open_checkpoint
from .deltas.comparison import compare as compare
from .deltas.trends import depth_trend as depth_trend
from .distribution.bits import coding_cells as coding_cells
from .distribution.distances import Normality as Normality
from .distribution.distances import measure as measure
from .distribution.distances import normality as normality
from .distribution.law import Law as Law
from .distribution.law import optimal_law as optimal_law
from .distribution.shapes import Shape as Shape
from .distribution.shapes import classify as classify
from .distribution.sketch import Sketch as Sketch
from .losses import outliers as outliers
from .losses import pruning as pruning
from .losses import replace as replace
from .losses import tolerance as tolerance
from .merging.overlaps import overlap as overlap
from .merging.run import merge as merge
from .structure.controls import control as control
from .structure.controls import rescaled as rescaled
from .structure.entries import IID as IID
from .structure.entries import iid as iid
from .structure.spectra import Spectrum as Spectrum
from .structure.spectra import spectrum as spectrum
from .surveys.arrangements import arrangement as arrangement
from .surveys.optimal_laws import laws as laws
from .surveys.values import noise_twin as noise_twin
from .surveys.values import survey as survey

__version__: str
