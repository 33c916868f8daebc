"""The command line: ``python -m lfmlib.records --help``."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Sequence

from .. import records


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return {"run": _run, "check": _check, "rehearse": _rehearse, "list": _list}[options.command](options)
    except (ModuleNotFoundError, OSError, RuntimeError, ValueError) as error:
        print(f"lfmlib.records: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; finished cells are kept, and the next run goes on from there", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    failed = sum(records.run(name, jobs=options.jobs, only=_settings(options)) for name in options.names)
    if failed:
        print(f"{failed} failed (see above); finished cells are kept, and the next run tries again", file=sys.stderr)
        return 1
    return _list(options)


def _check(options: argparse.Namespace) -> int:
    names = list(records.EXPERIMENTS) if options.all else options.names
    how = {"jobs": options.jobs, "only": _settings(options), "budget_seconds": options.seconds}
    found = records.check_all(names, progress=True, **how)
    for comparison in found:
        print(comparison)
    notices = [text for name in names if (text := records.notice(name))]
    print(*notices, f"{sum(one.equal for one in found)} of {len(found)} cells are as recorded", sep="\n")
    return 1 if notices or not all(one.equal for one in found) else 0


def _rehearse(options: argparse.Namespace) -> int:
    names = options.names or list(records.EXPERIMENTS)
    failed = sum(records.rehearse(name, jobs=options.jobs) for name in names)
    for name in names:
        print(f"{name}: {str(records.rehearsed(name)) or 'nothing was rehearsed under every set'}")
    return 1 if failed else 0


def _settings(options: argparse.Namespace) -> dict[str, str]:
    return dict(setting.partition("=")[::2] for setting in options.only)


def _list(options: argparse.Namespace) -> int:
    for name in options.names or records.EXPERIMENTS:
        experiment = records.registered(name)
        try:
            cells = records.provenance(name)["cells"]
            minutes = sum(entry["core_seconds"] for entry in cells.values()) / 60
            state = records.notice(name) or f"{len(cells)} cells, {minutes:.1f} core-minutes"
        except FileNotFoundError:
            state = f"{len(experiment.cells)} cells, none measured yet: {records.files.measured_by(name)}"
        print(f"{name}: {experiment.description}\n    {state}")
    if not records.EXPERIMENTS:
        print("no experiment is registered yet")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lfmlib.records", description="Measure long experiments; check them."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    helps = {
        "run": "measure the cells that a record lacks; may be stopped, and goes on where it stopped",
        "check": "measure recorded cells again and compare",
        "rehearse": "measure recorded cells under the instruction sets of other processors; goes on where it stopped",
        "list": "list experiments and the state of their records",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("names", nargs="+" if name == "run" else "*", metavar="NAME")
        if name != "list":
            command.add_argument("--jobs", type=int, default=2, metavar="N", help="cells that run at once (default: 2)")
        if name in ("run", "check"):
            command.add_argument(
                "--only",
                nargs="+",
                action="extend",  # given twice, both count
                default=[],
                metavar="KEY=VALUE",
                help="cells with these settings",
            )
        if name == "check":
            command.add_argument("--all", action="store_true", help="every experiment")
            text = "only cells that cost at most so many core-seconds"
            command.add_argument("--seconds", type=float, default=math.inf, metavar="S", help=text)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill also stops the workers
    sys.exit(main())
