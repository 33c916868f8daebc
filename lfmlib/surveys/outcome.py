"""What comes of measuring tensors on workers: rows, parts that add up to rows, and reasons why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..notices import warn
from .journal import Journal

Rows = list[tuple[str, list[dict] | str]]
"""For each tensor its name and its rows, or why it could not be measured."""
LOST = "the worker that measured it died"
INTERRUPTED = "interrupted before it was measured"


@dataclass(frozen=True)
class Spread:
    """How a huge tensor is measured in parts, on several workers.

    Attributes:
        part: picklable; of a checkpoint, a name, the first value and the one after the last, in the order of
            `Checkpoint.chunks`: something that adds up (``+``, in any order), or why it cannot be measured.
        rows: of a tensor and the sum of its parts, as for the tensor in one piece.
        worth: values that are worth a task on another process, where they are read from a disk: each task costs whoever
            hands it over some milliseconds.
    """

    part: Callable[[Checkpoint, str, int, int], Any]
    rows: Callable[[TensorInfo, Any], list[dict]]
    worth: int


@dataclass(frozen=True)
class Task:
    """What is handed to a worker.

    Attributes:
        call: picklable.
        tensors: that it measures, or measures a part of.
        cost: how long it takes, in the unit of `lfmlib.surveys.forecast.Cost`.
        parts: of how many parts of its one tensor this is one; 0 where it measures tensors whole.
    """

    call: Callable[[], Any]
    tensors: list[TensorInfo]
    cost: float
    parts: int = 0


class Outcome:
    """What has come of measuring tensors, so far.

    Attributes:
        rows: of each measured tensor, by name.
        failed: why each other has none, by name.
        interrupted: whether Ctrl-C came.
    """

    def __init__(self, wanted: list[TensorInfo], journal: Journal | None = None, spread: Spread | None = None):
        self.wanted, self.journal, self.spread = wanted, journal, spread
        self.rows: dict[str, list[dict]] = {}
        self.failed: dict[str, str] = {}
        self.interrupted = False
        self._sums: dict[str, _Sum] = {}

    def take(self, task: Task, found: Any) -> None:
        """Add what a task returned; of a part of a tensor, nothing is known before the last one."""
        if task.parts and self.spread:
            info = task.tensors[0]
            found = self._sums.setdefault(info.name, _Sum(task.parts)).add(found, info, self.spread)
        finished = {name: result for name, result in found if not isinstance(result, str)}
        self.rows |= finished
        self.failed |= {name: result for name, result in found if name not in finished}
        if self.journal and finished:
            self.journal.keep(finished)

    def warn(self) -> None:
        """Say whether it was interrupted, and how many tensors were lost with their workers."""
        if self.interrupted:
            text = f"interrupted: {len(self.rows)} of {len(self.wanted)} tensors measured"
            warn(text)
            missing = [info.name for info in self.wanted if info.name not in self.rows]
            self.failed = dict.fromkeys(missing, INTERRUPTED) | self.failed
        if lost := sum(why.startswith(LOST) for why in self.failed.values()):
            text = f"{lost} of {len(self.wanted)} tensors were not measured: their workers died. Call again for these"
            warn(text)
        missing = {name: why for name, why in self.failed.items() if not why.startswith((LOST, INTERRUPTED))}
        if missing:
            text = f"{len(missing)} of {len(self.wanted)} tensors have no row{_first(missing)}"
            warn(text)

    def table(self, columns: Iterable[str], skipped: Mapping[str, str], **attrs) -> pd.DataFrame:
        """The rows as a table, in checkpoint order; ``skipped`` and what failed stand in its ``attrs``."""
        rows = [row for info in self.wanted for row in self.rows.get(info.name, ())]
        table = pd.DataFrame(rows, columns=list(columns))
        table["depth"] = table["depth"].astype("Int64")
        table.attrs.update(attrs, skipped={**skipped, **self.failed}, interrupted=self.interrupted)
        if not self.wanted:
            warn(f"there is nothing to measure{_first(skipped)}")
        return table


class _Sum:
    """The parts of one huge tensor as they come; integers add up to the same whatever their order."""

    def __init__(self, count: int):
        self.left, self.total = count, None

    def add(self, part, info: TensorInfo, spread: Spread) -> Rows:
        """The tensor's rows when this was the last part, or why it has none; nothing until then."""
        self.left -= 1
        if isinstance(part, list):  # its worker died
            ((_, part),) = part
        try:
            if isinstance(part, str) or isinstance(self.total, str):
                self.total = self.total if isinstance(self.total, str) else part
            else:
                self.total = part if self.total is None else self.total + part
            if self.left:
                return []
            return [(info.name, self.total if isinstance(self.total, str) else spread.rows(info, self.total))]
        except Exception as error:  # as of `each`
            self.total = reason(error)
            return [] if self.left else [(info.name, self.total)]


def reason(error: Exception) -> str:
    """Why a tensor has no row, in words; an error that does not explain itself is named by its type."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"found no {error.filename} where its values are to be read: every worker needs it at the same place"
    text = str(error)
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def died(error: BaseException) -> bool:
    """Whether an executor says with this that a worker died, more often than it bears."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in ("KilledWorker", "NoValidWorkerError")


def _first(skipped: Mapping[str, str]) -> str:
    """The end of a sentence about tensors that have no row: why the first of them has none."""
    for name, why in skipped.items():
        return f": {name}: {why}" + ('; attrs["skipped"] says it of each' if len(skipped) > 1 else "")
    return ""
