"""lfmlib: are the weights of large models Gaussian? The library behind “Gaussian Never Fades”.

Data flows one way: checkpoint → sketch → statistics → table → finding. Figures (`lfmlib.plots`), chapters
(`lfmlib.book.notebook`) and the book's build (`lfmlib.book`) are imported by name where they are wanted.
"""

# ruff: noqa: F403, F405

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *

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


def __getattr__(name: str) -> Any:
    """Import the public names when one is asked for: torch takes seconds, which ``lfmlib --help`` need not wait for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import public

    globals().update({each: getattr(public, each) for each in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
