"""Rehearsals: recorded cells measured again under each instruction set that this processor can play, before any of them
is drawn to be measured again elsewhere.

A record's tolerances are declared; whether a cell keeps them on another processor is measured here. Each cell is
measured in a process that plays one set (see `lfmlib.records.instructions`), with a lab's cache of its own, so that
nothing that was trained under another set goes into it. NAME.json keeps for each cell and set

    ratio   the largest difference over what is allowed, over all metrics, rounded up to four digits: up to 1 the cell
            came out as recorded. None: it differs by what no tolerance covers, as rows or labels.
    at      the metric, or what differs, in words.
    allowed the hash of the tolerances that the ratio is relative to: by others the rehearsal does not count.
    origin  where it was rehearsed.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .. import cache
from . import instructions
from .experiment import Comparison, Experiment, affordable, compare, measure, tell_failure
from .files import sha256
from .workers import each

CELLS = 6
"""Steady cells of a record that are looked for: of all its parts and models in turn."""
SECONDS = 120.0
"""Core-seconds that the rehearsed cells may cost together, under one set, without models that must be trained first,
and without cells that proved unsteady, in whose place others are looked for."""
ROOM = 0.5
"""Largest ratio of a cell that is drawn: what another processor adds to those that were played is not known."""


@dataclass(frozen=True)
class Rehearsal:
    """What the rehearsals of a record say.

    Attributes:
        recorded: how many cells the record holds.
        cells: how many were rehearsed under every set.
        steady: how many of them stayed within `ROOM` of every tolerance; only these are drawn.
        apart: how many did not come out as recorded, under one set or more.
        largest: the largest ratio of those that did come out; NaN where there is none.
        metric: where that was.
    """

    recorded: int
    cells: int
    steady: int
    apart: int
    largest: float
    metric: str

    def __str__(self) -> str:
        """In a sentence; empty where nothing was rehearsed."""
        if not self.cells:
            return ""
        *first, last = instructions.SETS
        came = f"; {self.apart} came apart" if self.apart else ""
        return (
            f"Of {self.cells} rehearsed under {', '.join(first)} and {last}, {self.steady} stayed within "
            f"{ROOM:g} of every tolerance{came}."
        )


def drawable(current: Experiment, record: dict, budget: float) -> list[str]:
    """Sorted keys of the recorded cells that cost at most ``budget`` core-seconds and need no others."""
    alone = {current.key(cell) for cell in current.cells if current.alone is None or current.alone(cell)}
    return sorted(alone & set(affordable(record["cells"], budget)))


def drawn_from(current: Experiment, record: dict, budget: float) -> list[str]:
    """Of the `drawable` cells those that are `steady`; where the record has none, those not known to come apart."""
    keys, known = drawable(current, record, budget), _outcomes(current, record)
    if kept := steady(current, record):
        return [key for key in keys if key in kept]
    return [key for key in keys if key not in known or _largest(known[key]) <= 1]


def steady(current: Experiment, record: dict) -> set[str]:
    """Keys of the cells that were rehearsed under every set and stayed within `ROOM` of every tolerance."""
    return {key for key, sets in _outcomes(current, record).items() if _whole(sets) and _largest(sets) <= ROOM}


def summary(current: Experiment, record: dict) -> Rehearsal:
    """What the rehearsals of a record say."""
    whole = [sets for sets in _outcomes(current, record).values() if _whole(sets)]
    came_out = [one for sets in whole if _largest(sets) <= 1 for one in sets.values()]
    worst = max(came_out, key=_ratio, default={"ratio": math.nan, "at": ""})
    apart = sum(_largest(sets) > 1 for sets in whole)
    return Rehearsal(len(record["cells"]), len(whole), len(steady(current, record)), apart, worst["ratio"], worst["at"])


def chosen(current: Experiment, record: dict, budget: float) -> list[str]:
    """Keys of the cells to rehearse: of the `drawable`, of all parts and models in turn and by their hashes within
    each, until `CELLS` of them are not known to be unsteady, or until `SECONDS` are spent.

    Parts and models that an unsteady cell was found in come last, but for that cell.
    """
    cells, known = {current.key(cell): cell for cell in current.cells}, _outcomes(current, record)
    unsteady = {key for key, sets in known.items() if _largest(sets) > ROOM}
    seen: Counter[tuple] = Counter()
    places = {}
    for key in drawable(current, record, budget):
        kind = cells[key].get("part"), cells[key].get("model")
        places[key] = kind, seen[kind], key
        seen[kind] += 1
    shaken = {places[key][0] for key in unsteady & set(places)}
    taken: list[str] = []
    spent = 0.0
    for key in sorted(places, key=lambda key: (key not in known and places[key][0] in shaken, *places[key][1:])):
        spent += 0.0 if key in unsteady else record["cells"][key]["core_seconds"]
        if spent > SECONDS or len(set(taken) - unsteady) == CELLS:
            break
        taken.append(key)
    return taken


def rehearse(
    current: Experiment,
    record: dict,
    rows: dict[str, list[dict]],
    keep: Callable[[], None],
    *,
    origin: str,
    budget: float,
    jobs: int,
) -> int:
    """Rehearse the `chosen` cells under the sets that they lack, and others for those that prove unsteady; return how
    many measurements failed, which are told on stderr and left to the next time.

    Args:
        current: the experiment.
        record: what NAME.json holds; outcomes are put into it, and those by other tolerances taken out.
        rows: key of a cell → its recorded rows.
        keep: called after each measurement, to write the record.
        origin: key of ``record["origins"]``: this machine and code.
        budget: core-seconds that a drawn cell may cost.
        jobs: processes at once.
    """
    cells, known = {current.key(cell): cell for cell in current.cells}, _outcomes(current, record)
    for key, entry in record["cells"].items():
        entry.pop("rehearsed", None)
        entry.update({"rehearsed": known[key]} if key in known else {})
    playable = []
    for name, played in instructions.SETS.items():
        if reason := played.missing:
            tqdm.write(f"{current.name}: no rehearsal under {name}: {reason}", file=sys.stderr)
        else:
            playable.append(name)
    tried: set[tuple[str, str]] = set()
    failed = 0
    while todo := {
        name: missing
        for name in playable
        if (missing := _lacking(current, record, budget, name) - {key for one, key in tried if one == name})
    }:
        for name, keys in todo.items():
            played, environment = instructions.SETS[name], instructions.environment(name)
            results = each(
                partial(_measure, current, played),
                [cells[key] for key in sorted(keys)],
                jobs,
                environment | {"LFMLIB_CACHE": str(_cache(name))},
            )
            with contextlib.closing(results):
                for cell, result in tqdm(results, f"{current.name} under {name}", len(keys), unit="cell"):
                    key = current.key(cell)
                    tried.add((name, key))
                    if isinstance(result, Exception):
                        failed += 1
                        tell_failure(f"{current.name} failed under {name}", cell, result)
                        continue
                    found = _outcome(compare(current, cell, record, rows[key], result))
                    outcome = found | {"allowed": _allowed(current, record, cell), "origin": origin}
                    record["cells"][key].setdefault("rehearsed", {})[name] = outcome
                    keep()
    return failed


def _lacking(current: Experiment, record: dict, budget: float, name: str) -> set[str]:
    """Of the `chosen` cells those that a set has not been played for."""
    known = _outcomes(current, record)
    return {key for key in chosen(current, record, budget) if name not in known.get(key, {})}


def _measure(current: Experiment, played: instructions.InstructionSet, cell: dict) -> dict:
    """Measure a cell in a process that plays a set."""
    played.check()
    return measure(current, cell)


def _cache(name: str) -> Path:
    """The cache of what is trained under a set; downloaded models, which no processor changes, are shared."""
    folder, models = cache.home() / "rehearsals" / name, cache.home() / "models"
    for one in (folder, models):
        one.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "models").symlink_to(models, target_is_directory=True)
    return folder


def _outcome(found: Comparison) -> dict:
    if found.problems:
        return {"ratio": None, "at": "; ".join(found.problems)}
    columns = (found.metrics[name] for name in ("metric", "difference", "allowed"))
    ratios = {metric: _over(difference, allowed) for metric, difference, allowed in zip(*columns, strict=True)}
    metric = max(ratios, key=ratios.__getitem__, default="")
    largest = ratios.get(metric, 0.0)
    return {"ratio": math.ceil(1e4 * largest) / 1e4 if math.isfinite(largest) else None, "at": metric}


def _over(difference: float, allowed: float) -> float:
    """A difference over what is allowed, where nothing may differ and anything may."""
    if difference <= allowed:
        return difference / allowed if 0 < allowed < math.inf else 0.0
    return difference / allowed if allowed else math.inf


def _outcomes(current: Experiment, record: dict) -> dict[str, dict[str, dict]]:
    """Key → set → outcome, of the cells that have one by the tolerances as they are now."""
    found = {}
    for cell in current.cells:
        if sets := record["cells"].get(key := current.key(cell), {}).get("rehearsed"):
            now = _allowed(current, record, cell)
            found[key] = {name: one for name, one in sets.items() if one["allowed"] == now}
    return {key: sets for key, sets in found.items() if sets}


def _allowed(current: Experiment, record: dict, cell: dict) -> str:
    """The hash of what may differ in a cell, eight digits of it."""
    spread = record["spread"].get("metrics", {})
    tolerances = {name: max(current.tolerance(cell, name), spread.get(name, 0.0)) for name in current.metrics}
    return sha256([tolerances, dict(current.least)])[:8]


def _whole(sets: dict[str, dict]) -> bool:
    return set(instructions.SETS) <= set(sets)


def _largest(sets: dict[str, dict]) -> float:
    return max(map(_ratio, sets.values()))


def _ratio(outcome: dict) -> float:
    return math.inf if outcome["ratio"] is None else outcome["ratio"]
