"""How long a table will take, and how much memory: said once the first tensors are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..checkpoints.checkpoint import TensorInfo
from .outcome import Task

CALM_SECONDS = 20.0
"""Seconds below which there is nothing to say."""
MIN_SECONDS = 1.0
"""Seconds that must have gone by, so that what is done once, such as compiling, does not count for much."""
COUNTING_BYTES = 1 << 27
"""Memory that counting the values of a tensor takes, whatever its size."""


@dataclass(frozen=True)
class Cost:
    """What a tensor takes, by its size, shape and type.

    Attributes:
        time: how long, in any unit; by default as long as it has values.
        memory: how many bytes a worker holds at most while it measures it, beside a mapped file.
    """

    time: Callable[[TensorInfo], float] = lambda info: info.numel
    memory: Callable[[TensorInfo], int] = lambda info: COUNTING_BYTES


class Forecast:
    """What is to be expected of a run.

    Args:
        todo: tensors to measure.
        tasks: in the order in which they are begun.
        cost: of a tensor.
        workers: how many measure at the same time; None where that is not known.
        started: when the first task was handed over, in seconds of any clock.
    """

    def __init__(self, todo: list[TensorInfo], tasks: list[Task], cost: Cost, workers: int | None, started: float):
        self.todo, self.tasks, self.started = todo, tasks, started
        self.workers = min(workers, max(1, len(tasks))) if workers else None
        self.total = sum(task.cost for task in tasks)
        self.memory = sum(sorted(map(cost.memory, todo))[-(self.workers or 1) :]) if todo else 0
        self.said = False

    def seconds(self, left: Iterable[Task], now: float) -> float:
        """How long the run takes from its start to its end; of tasks that are under way, half is taken to be done.

        Args:
            left: tasks that are not finished, in the order in which they are begun.
            now: on the clock of ``started``.
        """
        costs = [task.cost for task in left]
        done = self.total - sum(costs) + sum(costs[: self.workers or 0]) / 2
        return (now - self.started) * self.total / done if done > 0 else float("inf")

    def after(self, left: Iterable[Task], now: float) -> str:
        """What to say after a task is finished: a line where the run is a long one, once; else nothing.

        Examples:
            >>> from lfmlib.surveys.forecast import Cost, Forecast
            >>> from lfmlib.surveys.outcome import Task
            >>> info = lfmlib.open_checkpoint({"w": np.zeros((1000, 1000), np.float32)}).tensors[0]
            >>> tasks = [Task(len, [info], 1.0) for _ in range(10)]
            >>> Forecast([info] * 10, tasks, Cost(), 2, started=0.0).after(tasks[2:], now=60.0)
            '10 matrices, 10.0 M weights: about 3 min on 2 workers, 0.2 GiB'
        """
        if self.said or now - self.started < MIN_SECONDS or (seconds := self.seconds(left, now)) < CALM_SECONDS:
            return ""
        self.said = True
        return line(self.todo, seconds, self.workers, self.memory)


def line(todo: Sequence[TensorInfo], seconds: float, workers: int | None, memory: int) -> str:
    """What tensors take in all, in a line; ``memory`` is that of one worker where it is not known how many there are.

    Examples:
        >>> from lfmlib.surveys.forecast import line
        >>> line(lfmlib.open_checkpoint({"w": np.zeros((1000, 1000))}).tensors, 7000, None, 1 << 30)
        '1 matrix, 1.0 M weights: about 1.9 h, 1.0 GiB for each worker'
    """
    many = f"{len(todo):,} matri{'x' if len(todo) == 1 else 'ces'}"
    weights = _scaled(sum(info.numel for info in todo))
    on = f" on {workers} worker{'s' * (workers > 1)}" if workers else ""
    each = "" if workers else " for each worker"
    return f"{many}, {weights} weights: about {_time(seconds)}{on}, {memory / 2**30:.1f} GiB{each}"


def _scaled(count: int) -> str:
    """A number of weights, in thousands, millions or billions."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {sign}"
    return str(count)


def _time(seconds: float) -> str:
    """Seconds in words, as exact as a forecast is."""
    if seconds < 90:
        return f"{round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
