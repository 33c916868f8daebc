"""The command line ``lfmlib``: a command for each function that people call from a shell."""

from .commands import main

__all__ = ["main"]
