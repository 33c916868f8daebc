"""The tables and sentences that chapters print: one module per notebook, and what several share."""
