"""The tables and sentences that chapters print: a module for each notebook that needs one, and what several share."""

from ..extras import need

need("book", __name__)
