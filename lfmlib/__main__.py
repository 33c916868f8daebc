"""``python -m lfmlib``: see `lfmlib.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
