"""What an installation may leave out: a missing package is asked for by the extra that brings it."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "adapters": ("peft",),
    "gguf": ("gguf",),
    "onnx": ("onnx",),
    "lab": ("peft", "sklearn", "tokenizers", "transformers"),
    "book": (
        "IPython",
        "bs4",
        "matplotlib",
        "matplotlib_inline",
        "nbconvert",
        "nbformat",
        "papermill",
        "seaborn",
        "yaml",
    ),
}
"""Extra → the modules without which that part of the library cannot be imported."""


def need(extra: str, what: str) -> None:
    """Raise ModuleNotFoundError if a module of an extra is not installed here.

    Args:
        extra: a key of `EXTRAS`.
        what: the part of the library that wants it, as the message names it.
    """
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{what} needs what is not installed here ({', '.join(missing)}); run: pip install 'lfmlib[{extra}]'",
            name=missing[0],
        )
