"""Speed and memory against the limits, as ratios from one run: ``make bench``."""

from pathlib import Path

FOLDER = Path("_build/bench")
"""Where made checkpoints and other people's environments are kept between runs."""


def report(name: str, value: str, limit: str, met: bool) -> None:
    """One line of the table."""
    print(f"{name:<66} {value:>16}   limit {limit:<10} {'met' if met else 'MISSED'}", flush=True)
