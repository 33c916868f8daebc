"""The book's build: stage, execute, render; and what chapters are opened and closed with."""

import sys

from ..extras import need

try:
    need("book", __name__)
except ModuleNotFoundError as error:
    if sys.argv[0] != "-m":  # what it is while Python locates a module to run: a command tells in a line what it lacks
        raise
    print(error, file=sys.stderr)
    sys.exit(2)

TEMPORARY = "lfmlib-report-"
"""How the name of a results folder begins that is removed when the report is written (`lfmlib.book.model_report`)."""
