"""``python -m lfmlib.book``: see `lfmlib.book.build`."""

import signal
import sys

from .build import main

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no “…” must not end a build
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill also stops the children
    sys.exit(main())
