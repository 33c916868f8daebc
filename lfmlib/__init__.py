"""lfmlib: are the weights of large models Gaussian? The library behind “Gaussian Never Fades”.

Data flows one way: checkpoint → sketch → statistics → table → finding. Figures (`lfmlib.plots`), what
chapters print (`lfmlib.chapters`) and the book's build (`lfmlib.book`) are imported by name where they are wanted.
"""

from importlib.metadata import version

import lazy_loader

# What each name is and where it comes from stands in `__init__.pyi`. Nothing is imported before it is used, so that
# opening a checkpoint needs no statistics, and measuring one no peft; type checkers read the same file.
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version(__name__)

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
    "replace",
    "rescaled",
    "spectrum",
    "survey",
    "tolerance",
]
