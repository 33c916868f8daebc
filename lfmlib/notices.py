"""Warnings that name the line of who called the library, however deep inside it they come up."""

from __future__ import annotations

import sys
import warnings

_LIBRARY = __name__.partition(".")[0]


def warn(text: str) -> None:
    """Warn, as at the line that called the outermost function of the library.

    `warnings.warn` alone wants the number of frames in between, which differs from path to path.

    Args:
        text: what was found, and what to do about it.

    Examples:
        >>> import warnings
        >>> from lfmlib.notices import warn
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("these are toys")
        >>> caught[0].filename == warn.__code__.co_filename
        False
    """
    level, outermost, frame = 1, 1, sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == _LIBRARY:
            outermost = level
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=outermost + 1)
