"""Which of the tensors that a checkpoint leaves out are weights whose values were not read.

A checkpoint also leaves out what nobody misses: names tied to others, pieces of what it lists, what lies beside the
model. A table without such a tensor is whole; one without a weight is not, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..notices import warn
from .state_dicts import BESIDE

NOT_MISSED = re.compile(
    r"tied to |a copy of |a constant of the graph|a scale or zero point of |a buffer|a piece of (?!a quantized)"
    rf"|beside codes|{BESIDE}|not a tensor|no adapter on it"
)
"""How reasons begin of what no table misses; what lies beside codes is told with them."""


def unread(skipped: Mapping[str, str]) -> dict[str, str]:
    """Of a checkpoint's ``skipped`` the weights that could not be read, and why.

    Examples:
        >>> from lfmlib.checkpoints.unread import unread
        >>> unread({"head": "tied to embed", "q": "on the meta device: it has a shape but no values"})
        {'q': 'on the meta device: it has a shape but no values'}
    """
    return {name: why for name, why in skipped.items() if not NOT_MISSED.match(why)}


def tell_unread(skipped: Mapping[str, str]) -> None:
    """Warn that a table has no rows of weights that could not be read."""
    missing = unread(skipped)
    for name, why in list(missing.items())[:1]:
        more = '; attrs["skipped"] says it of each' if len(missing) > 1 else ""
        some = "1 tensor was" if len(missing) == 1 else f"{len(missing)} tensors were"
        warn(f"{some} not read, and the table lacks what it holds: {name}: {why}{more}")
