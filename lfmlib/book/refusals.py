"""What a notebook shows where a model or a parameter is refused: the sentence that says what to do, and nothing above.

A refusal is an error that this library raises on purpose; whatever else goes wrong keeps its traceback.
"""

from __future__ import annotations

import linecache
import sys
from pathlib import Path

REFUSED = (ValueError, FileNotFoundError, FileExistsError)
"""Kinds of errors that the library raises of what it is given; `CheckpointError` is a ValueError."""
_LIBRARY = str(Path(__file__).parents[1])


def install(shell) -> None:
    """Let an IPython shell show refusals as their sentence."""
    shell.set_custom_exc(REFUSED, _show)


def _show(shell, kind, error, trace, tb_offset=None) -> None:
    if not _is_raised_here(trace):
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        return
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # for %tb
    shell._showtraceback(kind, error, [f"{kind.__name__}: {error}", "(`%tb` in a new cell shows where.)"])


def _is_raised_here(trace) -> bool:
    """Whether the innermost frame is a `raise` of the library, and not a mistake that Python found in it."""
    while trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_code.co_filename
    return name.startswith(_LIBRARY) and linecache.getline(name, trace.tb_lineno).lstrip().startswith("raise ")
