"""The report on one model as one HTML file: chapter 13, executed by papermill in a folder that is thrown away.

It needs no repository: the chapter's notebook and the style sheets are package data of the wheel.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import nbformat

from ..chapters import ch13_matrices, ch13_report
from ..checkpoints.named import named
from ..checkpoints.stored import CheckpointError
from ..provenance import ROOT
from . import TEMPORARY
from .execute import Run, execute
from .layout import writable
from .one_file import write_report

CHAPTER = "13_what_does_the_report_say.ipynb"
INPUT_ERRORS = {error.__name__: error for error in (ValueError, FileNotFoundError, CheckpointError)}
"""What a chapter raises where a parameter, such as the model, is wrong; raised here as well, without its traceback."""


def report(
    model: str,
    out: str | Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    select: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    profile: str = "default",
    results: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Write the report on a model.

    Args:
        model: a path, hub id, address, or a name of `lfmlib models`.
        out: the HTML file.
        base: the model that it was fine-tuned from; None: no word on fine-tuning.
        revision: branch, tag or commit of ``model`` on the hub.
        select: regular expression; only tensors whose name it finds.
        sample: bytes to read of each tensor, in evenly spread pieces; None: all of them.
        seed: of noise, controls and planted damage.
        profile: "quick", "default" or "full": how much is looked at.
        results: folder for the report's tables and findings; None: they are not kept, and the page holds the smaller
            tables as links.
        progress: say on stderr what is done.

    Returns:
        ``out``.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from the chapter, of its parameters; or ``out`` or ``results``
            cannot be written.
        RuntimeError: the chapter failed otherwise. A note of each of these errors holds the cell and its traceback.
    """
    out = Path(out).expanduser().resolve()
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} for {out.name}: make it, or name another")
    if out.is_dir():
        raise ValueError(f"{out} is a folder, where the name of an HTML file was expected: {out / 'report.html'}, say")
    for folder in (out.parent, *([Path(results).expanduser()] if results else [])):
        writable(folder)
    # What is wrong with the model or its options is told at once, before Jupyter starts.
    checkpoint = ch13_report.opened(model, revision or "", select or "", sample or 0, base or "")
    if progress and (line := ch13_matrices.plan(checkpoint, profile, select or "", sample or 0)):
        print(line, file=sys.stderr)
    given = {"revision": revision, "select": select, "sample": sample, "seed": seed, "profile": profile}
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        place = Path(name).resolve()
        results = Path(results).expanduser().resolve() if results else place
        (run,) = execute(
            [chapter()],
            place,
            root=ROOT,
            cwd=place,  # a reader's folder may hold files that Python would take for modules
            parameters={"model": _whole(model), "base": base and _whole(base), "results": str(results), **given},
            say=partial(print, file=sys.stderr) if progress else lambda *words, **how: None,
        )
        if run.failure:
            raise _error(run)
        return write_report(run.notebook, out)


def chapter() -> Path:
    """The notebook of the chapter: the wheel's, or the one in this source tree."""
    places = [folder / "notebooks" / CHAPTER for folder in (Path(__file__).parents[1], ROOT)]
    return next((place for place in places if place.is_file()), places[-1])


def _whole(source: str) -> str:
    """A path as seen from any folder; hub ids and addresses as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if named(source) is None and path.exists() else source


def _error(run: Run) -> Exception:
    """What the chapter raised, as an error of its own kind where the input was wrong."""
    cells = nbformat.read(run.notebook, as_version=4).cells if run.notebook.exists() else []
    raised = [one for cell in cells for one in cell.get("outputs", []) if one.output_type == "error"]
    if raised:
        kind = INPUT_ERRORS.get(raised[0].ename)
        error = kind(raised[0].evalue) if kind else RuntimeError(f"{raised[0].ename}: {raised[0].evalue}")
    else:
        error = RuntimeError(run.failure.strip().splitlines()[-1].strip())
    error.add_note(f"{run.chapter} failed in {run.failure}")
    return error
