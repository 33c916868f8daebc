"""Run chapters with papermill, a few at a time, and say what happened to each.

Every chapter gets a process of its own (``python -m papermill``, the same command a reader types), so that a crash, a
memory leak or a changed setting in one never reaches another, and Ctrl-C has something definite to stop.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from ..cache import file_hash
from ..findings.finding import whole
from ..provenance import commit, surroundings
from .unchanged import READS_OTHERS, Basis

__all__ = ["Run", "execute", "failure_report", "is_changed", "is_complete", "unfinished"]

TAKES_OVER = {"05_what_does_the_spectrum_say": "04_are_the_weights_independent"}
"""Chapter → one that measures the same table, whose rows it reads once that has ended."""
LONGEST = ("06_what_does_fine_tuning_add", "11_does_it_help_adaptation", "10_what_is_an_optimal_weight")
"""Chapters that begin first, in this order, since they take longest. 7 to 9 look at the fine-tune that 6 trains, and
would wait for it."""
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PAPERMILL_CELLS = {"injected-parameters", "papermill-error-cell-tag"}  # cells that the source notebook does not have


@dataclass(frozen=True)
class Run:
    """What became of one chapter: its executed notebook, the seconds it took, and the failure if there was one."""

    chapter: str
    notebook: Path
    seconds: float
    failure: str | None = None


def execute(
    chapters: Sequence[Path],
    out: Path,
    *,
    root: Path,
    parameters: Mapping[str, object],
    jobs: int = 2,
    say=print,
    cwd: Path | None = None,
    basis: Basis | None = None,
    force: bool = False,
) -> list[Run]:
    """Execute `chapters` into the folder `out`, `jobs` at a time, and return their runs; `root` is the repository.

    They run in the folder `cwd`, by default in `root`, in their order but for those of `LONGEST`. Where a ``basis`` is
    given, a chapter that an earlier run made of the same is kept as it is, unless all are to run: ``force``.

    A chapter receives those of `parameters` that its parameters cell declares: not every chapter takes a model; the
    rest are the book's own, whatever a reader has saved in the cell. The others keep running when one fails. On Ctrl-C
    all children are stopped before the interrupt goes on. A notebook is complete, as `is_complete` tells, only when
    papermill has come to its end and found no error.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: expected how many chapters run at once, 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    width = max((len(path.stem) for path in chapters), default=0)
    environment = _environment(max(1, min(jobs, len(chapters))))
    stamp = {"commit": commit(root), "surroundings": surroundings()}
    waiting, running, runs = sorted(chapters, key=_place), [], []
    try:
        while waiting or running:
            while len(running) < jobs and (source := _ready(waiting, [child.source for child in running])):
                waiting.remove(source)
                given, other = _given(source, parameters)
                kept = basis and not force and basis.keeps(out / source.name, source, given)
                how = "kept: nothing that it is made from has changed" if kept else "started"
                for words in (how, other):
                    if words:
                        say(f"{source.stem:<{width}}  {words}", flush=True)
                if kept:
                    runs.append(Run(source.stem, out / source.name, 0.0))
                    continue
                running.append(_Child(source, out / source.name, cwd or root, given, environment, basis))
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                run = child.finish(stamp)
                runs.append(run)
                say(f"{run.chapter:<{width}}  {'FAILED' if run.failure else 'ok':<7}{run.seconds:6.1f} s", flush=True)
            time.sleep(0.05)
    finally:
        _stop(child.process for child in running)
    return sorted(runs, key=lambda run: run.chapter)


def _place(chapter: Path) -> int:
    """Where a chapter stands among those that begin first; behind them all others."""
    return LONGEST.index(chapter.stem) if chapter.stem in LONGEST else len(LONGEST)


def _ready(waiting: Sequence[Path], running: Sequence[Path]) -> Path | None:
    """The first chapter that waits for no other one."""
    others = {path.stem for path in (*waiting, *running)}
    for path in waiting:
        before = others - {path.stem} if path.stem == READS_OTHERS else {TAKES_OVER.get(path.stem)} & others
        if not before:
            return path
    return None


class _Child:
    """One papermill process. Its messages go to a log beside the notebook, shown only if no cell explains a failure."""

    def __init__(
        self, source: Path, target: Path, cwd: Path, given: Mapping, environment: Mapping, basis: Basis | None = None
    ):
        self.source, self.target, self.started = source, target, time.monotonic()
        self.basis, self.given = basis, given
        self.made_from = basis.made_from(source, given) if basis else None
        self.log = target.with_suffix(".log")
        target.unlink(missing_ok=True)  # an older run must not pass for this one
        command = [sys.executable, "-m", "papermill", str(source), str(target), "--cwd", str(cwd), "-k", "python3"]
        command += ["--no-progress-bar", "--log-level", "ERROR", "-y", yaml.safe_dump(given)]
        with self.log.open("wb") as log:
            # Its own session: the terminal's Ctrl-C reaches this program only, which then stops each child once.
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, stamp: Mapping[str, object]) -> Run:
        seconds = time.monotonic() - self.started
        failure = None
        if self.process.returncode:
            failure = self._reason()
        elif lost := self._stamped(stamp):
            failure = lost
        self.log.unlink()
        return Run(self.source.stem, self.target, seconds, failure)

    def _reason(self) -> str:
        """Why papermill gave up: the cell that failed, or else the end of what it said and what the disk is like."""
        try:
            found = failure_report(self.target)
        except (OSError, ValueError) as error:
            found = self._torn(error)
        return found or _tail(self.log.read_text(encoding="utf-8", errors="replace"))

    def _stamped(self, stamp: Mapping[str, object]) -> str | None:
        """Mark the notebook as complete, or say why it cannot be."""
        try:
            notebook = nbformat.read(self.target, as_version=4)
            notebook.metadata["lfm"] = {**stamp, "complete": True, "chapter": file_hash(self.source)}
            if self.basis and self.made_from == self.basis.made_from(self.source, self.given):
                notebook.metadata["lfm"] |= self.basis.marks(notebook, self.source, self.made_from)
            with whole(self.target) as partial:
                nbformat.write(notebook, partial)
        except (OSError, ValueError) as error:
            return self._torn(error)
        return None

    def _torn(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else "only a part of it is there"
        free = shutil.disk_usage(self.target.parent).free
        said = _tail(self.log.read_text(encoding="utf-8", errors="replace"))
        return (
            f"writing its notebook ({reason}): {free / 1e6:,.0f} MB are free on the disk of {self.target.parent}. Free "
            f"some space and run it again.\n{said}"
        )


def is_complete(path: Path) -> bool:
    """Whether a chapter was executed to its end by `execute`, without an error."""
    try:
        return bool(nbformat.read(path, as_version=4).metadata.get("lfm", {}).get("complete"))
    except (FileNotFoundError, ValueError):  # never begun, or cut off while it was written
        return False


def is_changed(path: Path, chapter: Path) -> bool:
    """Whether a chapter is another now than when it was executed to `path`."""
    return nbformat.read(path, as_version=4).metadata["lfm"].get("chapter") not in (None, file_hash(chapter))


def unfinished(notebook: nbformat.NotebookNode) -> str | None:
    """Why a notebook, however it was run, is not whole: what did not run, or failed. None where it is."""
    cells = [(number, cell) for number, cell in enumerate(notebook.cells, start=1) if cell.cell_type == "code"]
    cells = [(number, cell) for number, cell in cells if cell.source.strip()]
    waiting = [number for number, cell in cells if cell.execution_count is None]
    for number, cell in cells:
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                return f"cell {number} failed with {output.ename}: {output.evalue}"
        times = cell.metadata.get("execution", {})  # as nbclient and JupyterLab note them
        if "iopub.execute_input" in times and "shell.execute_reply" not in times:
            return f"cell {number} began and did not end: its kernel died, or was stopped"
    if waiting:
        return f"code cells that have not run: {len(waiting)} of {len(cells)}, the first of them cell {waiting[0]}"
    run = notebook.metadata.get("papermill", {})
    if run and (run.get("exception") or not run.get("end_time")):
        return "papermill did not come to its end"
    return None


def failure_report(path: Path) -> str | None:
    """Name the cell that failed in an executed notebook, with the head of its source and its traceback."""
    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    # Papermill adds cells of its own; numbers here are those of the source notebook, as JupyterLab shows them in order.
    cells = [cell for cell in notebook.cells if not _PAPERMILL_CELLS & set(cell.metadata.get("tags", []))]
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    places = [(f"cell {number} of {len(cells)}", cell) for number, cell in enumerate(cells, start=1)]
    for place, cell in [*places, *(("the injected parameters", cell) for cell in injected)]:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                head = "\n".join(f"    | {line}" for line in cell.source.splitlines()[:4])
                trace = _tail("\n".join(output.traceback) or f"{output.ename}: {output.evalue}")
                return f"{place} (id {cell.get('id', '?')}):\n{head}\n{trace}"
    return None


def _tail(text: str, lines: int = 30) -> str:
    kept = _ANSI.sub("", text).rstrip().splitlines()
    return "\n".join((["    …"] if len(kept) > lines else []) + [f"    {line}" for line in kept[-lines:]])


def _given(source: Path, parameters: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """What a chapter is run with, and in words where its saved parameters cell holds something else.

    The cell's metadata hold the book's own values: JupyterLab saves by itself what a reader has set in the cell.
    """
    cells, declared = nbformat.read(source, as_version=4).cells, _declared(source)
    own = next((cell.metadata["lfm"]["defaults"] for cell in cells if "lfm" in cell.metadata), {})
    own = {name: value for name, value in own.items() if name in declared}
    asked = {name: value for name, value in parameters.items() if value is not None and name in declared}
    other = [name for name in own if name not in asked and own[name] != declared[name]]
    saved, run = (", ".join(f"{name} = {some[name]!r}" for name in other) for some in (declared, own))
    return (
        own | asked,
        f"saved with {saved}, run with {run}: `git restore {source.parent.name}/{source.name}` undoes it"
        if other
        else "",
    )


def _declared(source: Path) -> dict[str, object]:
    """Names in the chapter's parameters cell, with the values written there."""
    from papermill import inspect_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)  # a chapter without such a cell is no news here
    try:
        return {name: _value(found["default"]) for name, found in inspect_notebook(str(source)).items()}
    except ValueError as error:
        raise ValueError(f"{source.name}: {error} Its metadata need a kernelspec with language python.") from None


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # an expression
        return text


def _environment(jobs: int) -> dict[str, str]:
    """The children's environment: each of `jobs` gets its share of the cores, unless the reader has set it."""
    environment = dict(os.environ)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment.setdefault(name, threads)
    environment.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else the kernel warns about frozen modules
    return environment


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    """End the processes; papermill takes its kernel down on SIGTERM, and a kernel whose parent is gone ends itself."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
