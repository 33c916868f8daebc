"""Read the tensors of a pickled file that holds other objects too, such as settings, without running their code.

Lightning saves hyperparameters beside the weights, as objects of argparse, omegaconf or a class of the author's.
torch's restricted unpickler refuses every class that it does not know; here each of these names stands for a class that
keeps nothing and does nothing, so that the tensors beside such objects can be read.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_lock = threading.RLock()  # the names that torch allows are those of the whole process
MAX_LOOKUPS = (
    300_000_000  # names, times bytes of the pickle: at each opcode that makes an object torch goes through them
)
SETTINGS_MODULES = (
    "argparse",
    "collections",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "pathlib",
    "types",
    "typing",
    "uuid",
)
"""Modules of Python whose objects are found among settings."""
DICTIONARIES = re.compile(r"dict", re.IGNORECASE)


class LeftOut:
    """Stands for an object of a class that is not loaded; takes whatever it is made of, and keeps nothing."""

    def __new__(cls, *args, **kwargs):
        """An object of this class, whatever it is made of."""
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _LeftOutDict:
    """Stands for a subclass of dict: torch's unpickler fills only plain dictionaries, so it makes one of these."""

    def __new__(cls, *args, **kwargs):
        return OrderedDict()


@contextmanager
def without_code(path: Path, pickle_bytes: int) -> Iterator[None]:
    """A context in which `torch.load` makes `LeftOut` objects of the classes in `path` that it would refuse.

    A pickle that names anything else of Python's own modules stays refused, and so does one with very many classes.
    """
    with _lock:
        names = get_unsafe_globals_in_checkpoint(path)
        if any(name.startswith("torch.distributed.") for name in names):
            names = get_unsafe_globals_in_checkpoint(path)
        if len(names) * pickle_bytes > MAX_LOOKUPS or any(_runs(name) for name in names):
            names = []
        with safe_globals([(_stand_in(name), name) for name in names]):
            yield


def _runs(name: str) -> bool:
    """Whether a name may be that of something that runs programs, which no settings need: such a file is refused."""
    root = name.partition(".")[0]
    return root in sys.stdlib_module_names and root not in SETTINGS_MODULES


def _stand_in(name: str) -> type:
    """A class in place of the one called `name`, which messages call by that name."""
    return type(name, (_LeftOutDict if DICTIONARIES.search(name.rpartition(".")[2]) else LeftOut,), {})
