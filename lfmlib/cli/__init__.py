"""The command line ``lfmlib``: a command for each of the library's functions that people call from a shell."""

from .commands import main

__all__ = ["main"]
