"""The book's build: stage, execute, render; and what chapters are opened and closed with."""

from ..extras import need

need("book", __name__)

TEMPORARY = "lfmlib-report-"
"""How the name of a results folder begins that is removed when the report is written (`lfmlib.book.model_report`)."""
