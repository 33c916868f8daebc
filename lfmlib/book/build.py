"""Make the book: run its chapters, lay out the pages, render them. ``python -m lfmlib.book --help``.

    build      execute, then render: what ``make book`` does
    execute    run the chapters with papermill, two at a time
    render     stage what has been executed and build the HTML
    report     one executed notebook as one HTML file to send around

The steps live in `execute`, `stage`, `render` and `one_file`; this module decides what goes where and in which order.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import yaml

from ..checkpoints.checkpoint import open_checkpoint
from ..checkpoints.stored import stamp_of
from ..deltas.opening import is_adapter, opened_pair
from ..deltas.pairs import akin
from ..provenance import ROOT, state
from .execute import Run, execute, is_changed, unfinished
from .layout import OWN, Layout, writable
from .one_file import write_report
from .render import broken_links, missing_pages, render
from .stage import stage, toc_chapters, toc_pages
from .unchanged import Basis

__all__ = ["Layout", "main", "run_chapters", "write_book"]

PROFILES = ("quick", "default", "full")
_COMMANDS = ("build", "execute", "render", "report")


def run_chapters(
    layout: Layout,
    chapters: Sequence[Path],
    *,
    parameters: dict,
    jobs: int = 2,
    models: Sequence[str] | None = None,
    force: bool = False,
) -> list[Run]:
    """Execute `chapters`, then name each failure with its cell and traceback and say where the notebook is.

    Those are kept that an earlier run made of the same; all are run where ``force`` says so, or where the states of
    the reader's ``models`` are not known: None.
    """
    # Chapters resolve a relative folder against this repository; the notebooks, which readers download, record it.
    results = layout.results
    given = results.relative_to(ROOT) if results.is_relative_to(ROOT) else results
    runs = execute(
        chapters,
        layout.executed,
        root=layout.root,
        parameters={**parameters, "results": given.as_posix()},
        jobs=jobs,
        basis=None if models is None else Basis(layout.root, results, models),
        force=force,
    )
    for run in runs:
        if run.failure:
            kept = f"The notebook is kept: {run.notebook}" if run.notebook.exists() else "No notebook was written."
            print(f"\n{run.chapter} failed in {run.failure}\n{kept}", file=sys.stderr)
    return runs


def write_book(layout: Layout) -> int:
    """Stage, render, add the one-file reports and check the outcome; return an exit status."""
    waiting = stage(layout.root, layout.stage, executed=layout.executed, results=layout.results)
    if waiting:
        print(f"not run to their end, so only named in the book: {', '.join(waiting)}")
    there = [chapter for chapter in toc_chapters(layout.root) if chapter.stem not in waiting]
    if old := [chapter.stem for chapter in there if is_changed(layout.executed / chapter.name, chapter)]:
        print(f"changed since they were run, and shown as they were then: {', '.join(old)}")
    if status := render(layout.stage, layout.html):
        print("The book was not built: see the warnings above, each of which counts as an error.", file=sys.stderr)
        return status
    baseurl = yaml.safe_load((layout.stage / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
    for chapter in there:
        target = layout.html / "reports" / f"{chapter.stem}.html"
        write_report(layout.executed / chapter.name, target, root=layout.root, baseurl=baseurl)
    problems = [f"page missing: {page}" for page in missing_pages(layout.html, toc_pages(layout.root))]
    problems += [f"broken link in {link}" for link in broken_links(layout.html)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """The command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0] not in _COMMANDS and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "build")
    options = _parser().parse_args(arguments)
    try:
        return _report(options, root) if options.command == "report" else _make(options, root)
    except (ValueError, OSError) as error:
        print(f"lfmlib.book: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; chapters that were finished are kept", file=sys.stderr)
        return 130


def _make(options: argparse.Namespace, root: Path) -> int:
    if not (root / "_toc.yml").is_file():
        raise FileNotFoundError(
            f"{root} is an installed copy of the library, without the book’s chapters: `lfmlib report MODEL` makes a "
            "page on a model; for the book, run this in its source tree"
        )
    started = time.monotonic()
    model, base = (_from_root(source, root) for source in (options.model, options.base))
    about = {"model": model, "base": base, "revision": options.revision, "profile": options.profile}
    layout = Layout.of(root, **about)
    with layout.held():
        if options.command != "render":
            chapters = _chosen(toc_chapters(root), options.chapters)
            writable(layout.results)
            models = _open(model, base, options.revision, options.select)
            parameters = about | {"select": options.select, "seed": options.seed}
            how = {"jobs": options.jobs, "models": models, "force": options.force}
            runs = run_chapters(layout, chapters, parameters=parameters, **how)
            if failed := [run for run in runs if run.failure]:
                print(f"\n{len(failed)} of {len(runs)} chapters failed", file=sys.stderr)
                return 1
        if options.command != "execute":
            if status := write_book(layout):
                return status
            print(f"{_shown(layout.html / 'index.html')}  ({time.monotonic() - started:.0f} s)")
    return 0


def _open(model: str | None, base: str | None, revision: str | None, select: str | None) -> list[str] | None:
    """Open the reader's models before any chapter starts, so that what is wrong with them is told once.

    Returns their revisions, or the states of their files; None where one has neither, since its files lie elsewhere.
    """
    opened = []
    if is_adapter(model):
        raise ValueError(
            f"{model} holds an adapter, and most chapters look at a whole model: write one with `lfmlib merge "
            f"{base or 'BASE'} {model} --method passthrough --out FOLDER` and name that folder; or run chapters 6 to 9 "
            "alone on the adapter, with papermill"
        )
    if model or revision or select:
        checkpoint = open_checkpoint(model or OWN, revision=revision, select=select)
        opened.append(checkpoint)
        if not any(len(info.shape) == 2 for info in checkpoint.tensors):
            shapes = ", ".join(str(list(info.shape)) for info in checkpoint.tensors[:3])
            raise ValueError(
                f"{checkpoint.name} holds no matrix to measure: found {len(checkpoint.tensors)} tensors ({shapes} …); "
                "name a model with matrices, or select them"
            )
    if model and base:
        before, after = opened_pair(base, model, revision=revision)
        akin(before, after)
        opened.append(before)
    elif base:
        opened.append(open_checkpoint(base))
    if not all(one.revision or state(one.files) for one in opened):
        return None
    stamps = [one.revision or [(path.name, *stamp_of(path)) for path in one.files] for one in opened]
    return [f"{one.source} {found} {one.config}" for one, found in zip(opened, stamps, strict=True)]


def _report(options: argparse.Namespace, root: Path) -> int:
    if not options.notebook.is_file():
        raise FileNotFoundError(f"there is no notebook {options.notebook}; execute a chapter first, with papermill")
    if options.html.is_dir() or options.html.resolve() == options.notebook.resolve():
        raise ValueError(f"{options.html} is no place for the report: expected the name of another file, OUT.html")
    if reason := unfinished(nbformat.read(options.notebook, as_version=4)):
        raise ValueError(f"{options.notebook} is not an executed chapter: {reason}. Run it to its end first")
    print(_shown(write_report(options.notebook, options.html, root=root)))
    return 0


def _chosen(chapters: list[Path], wanted: str | None) -> list[Path]:
    """The chapters named by two-digit number or file name, or all of them."""
    if not wanted:
        return chapters
    names = [name.strip().removesuffix(".ipynb") for name in wanted.split(",")]
    unknown = [name for name in names if not any(name in (path.stem, path.stem[:2]) for path in chapters)]
    if unknown:
        valid = ", ".join(path.stem for path in chapters)
        raise ValueError(f"no chapter {', '.join(unknown)}; the chapters are: {valid}")
    return [path for path in chapters if path.stem in names or path.stem[:2] in names]


def _from_root(source: str | None, root: Path) -> str | None:
    """A model given as a path is meant from where the reader stands; chapters run in the root."""
    if source and Path.cwd() != root and Path(source).exists():
        return str(Path(source).resolve())
    return source or None


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _from(least: int) -> Callable[[str], int]:
    """What reads a whole number of the command line that is not below ``least``."""

    def number(text: str) -> int:
        if not text.strip().lstrip("+").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} was given, a whole number from {least} on is expected")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lfmlib.book", description="Make the book, or parts of it.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    about = argparse.ArgumentParser(add_help=False)
    about.add_argument("--model", help="checkpoint to measure: hub id, folder or file (default: the chapter's own)")
    about.add_argument("--base", help="checkpoint that MODEL was fine-tuned from")
    about.add_argument("--revision", help="commit, tag or branch of MODEL on the hub")
    about.add_argument("--profile", choices=PROFILES, help="how much to measure; quick takes seconds, for a first look")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--select", metavar="REGEX", help="measure only tensors whose name matches")
    running.add_argument("--seed", type=_from(0), metavar="N", help="seed of everything random")
    running.add_argument("--jobs", type=_from(1), default=2, metavar="N", help="chapters that run at once (default: 2)")
    running.add_argument("--chapters", metavar="01,03", help="run only these (default: all in _toc.yml)")
    text = "run chapters also where nothing has changed since they were last run"
    running.add_argument("--force", action="store_true", help=text)
    helps = {
        "build": "run every chapter, then render the book (the default)",
        "execute": "run the chapters with papermill",
        "render": "render what has been executed",
    }
    for name, text in helps.items():
        parents = [about] if name == "render" else [about, running]
        commands.add_parser(name, help=text, description=text, parents=parents)
    text = "turn one executed notebook into one HTML file without code, to send to a colleague"
    report = commands.add_parser("report", help=text, description=text)
    report.add_argument("notebook", type=Path, metavar="IN.ipynb")
    report.add_argument("html", type=Path, metavar="OUT.html")
    return parser
