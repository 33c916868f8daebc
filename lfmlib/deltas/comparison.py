"""Transformation weights ΔW = W - W₀: how far fine-tuning moved each matrix, what it did to its spread, how ΔW looks.

Both checkpoints are read in step, some rows at a time; only ΔW itself is held whole, if it is not too large.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.unread import tell_unread
from ..distribution import nulls
from ..distribution.distances import measure, qq_r2
from ..distribution.shapes import classify
from ..notices import warn
from ..options import check
from ..structure.random_matrices import null
from ..structure.spectra import top_ratio
from ..surveys.outcome import Rows
from ..surveys.rows import about, light
from ..surveys.run import each, over
from .budget import blocks, budget
from .fused import alike
from .kin import MIN_KINSHIP, kinship, refuse_strangers
from .opening import opened_pair
from .pairs import Pair, pair, read_pair
from .stand_ins import adding

HELD, BESIDES = 60_000_000, 1 << 22
"""Entries up to which ΔW is held whole (229 MiB), of all threads together; a larger one, usually an embedding, has
neither top_ratio nor a permuted control. And as how many more what a thread needs besides is reckoned."""
PERMUTED = 7
"""As how many entries held one entry of a permuted control is reckoned, of types of up to four bytes; that of a large
matrix takes more than there is room for, and is then alone. Noise is made as it is read, and takes no room."""
BUDGET = (
    "std_base", "std_tuned", "std_delta", "std_gain", "gain", "corr", "cov", "moved", "zeros", "rounding_std",
)  # fmt: skip
CONTROLS = ("noise", "permuted")
"""What can stand beside ΔW: "noise" adds Gaussian noise of its standard deviation to W₀ instead, "permuted" the entries
of ΔW in another order; both are stored in the type of W."""
NORMALITY = (
    "skewness",
    "excess_kurtosis",
    "ks",
    "ks_lower",
    "ks_upper",
    "kl_bits",
    "tail_bits",
    "wasserstein",
    "gg_shape",
    "weibull_k",
    "exponent_entropy",
)


def compare(
    base,
    tuned,
    *,
    select: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    seed: int = 0,
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare a model with the one it was fine-tuned from, matrix by matrix.

    Args:
        base, tuned: anything `open_checkpoint` takes; ``tuned`` may be a folder with an adapter of
            peft (LoRA, DoRA, noise), which is laid over the base without merging the two on disk.
        select: regular expression; only tensors of ``tuned`` whose name it finds.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.
        seed: of the controls; each tensor's stream also depends on its name.
        controls: some of `CONTROLS`, to be measured in the same way; of a large matrix "permuted" takes up to 37
            bytes an entry, and beyond `HELD` entries it is left out.

    Returns:
        One row per pair of matrices, in the order of ``tuned``, and one for each of its controls (column ``control``,
        "none" for the pair itself): tensor, base_tensor, role, depth, shape, dtype, numel;
        std_base, std_tuned, std_delta (population standard deviations of W₀, W, ΔW); std_gain = std_tuned - std_base;
        gain = (Var W - Var W₀) / Var ΔW, which is 1 for independent noise; corr, the correlation of ΔW and W₀; cov,
        their covariance; moved = RMS(ΔW) / RMS(W₀); zeros, the share of entries of ΔW that are exactly 0;
        rounding_std, the standard deviation that rounding W to its stored type alone gives to ΔW (where W₀ was rounded
        as well, √2 times that); the figures of
        `normality` of ΔW with their nulls on noise, `qq_r2`, and its shape (``label``); top_ratio, its largest singular
        value over the edge of noise, with its null. ``attrs["skipped"]`` says of every other tensor of either
        checkpoint why it is not there.

    Raises:
        ValueError: the two have no matrix in common, or are no kin: ΔW is as large as between unrelated models; an
            unknown control.
        FileNotFoundError, CheckpointError: from `open_checkpoint`.
        RuntimeError: the executor's workers have no lfmlib, or another.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> base = {f"layers.{k}.q_proj.weight": 0.02 * rng.standard_normal((64, 64)) for k in range(4)}
        >>> tuned = {name: w + 0.002 * rng.standard_normal((64, 64)) for name, w in base.items()}
        >>> table = lfmlib.compare(base, tuned, progress=False)
        >>> table[["role", "depth", "std_base", "std_delta"]].round(3)
          role  depth  std_base  std_delta
        0    q      0      0.02      0.002
        1    q      1      0.02      0.002
        2    q      2      0.02      0.002
        3    q      3      0.02      0.002
    """
    check(select=select, executor=executor, seed=seed, controls=controls or ())
    controls = (controls,) if isinstance(controls, str) else tuple(controls or ())
    if unknown := set(controls) - set(CONTROLS):
        raise ValueError(f"unknown control {', '.join(map(repr, sorted(unknown)))}: expected some of {CONTROLS}")
    base, tuned = opened_pair(base, tuned)
    base, tuned = alike(base, tuned)
    pairs, skipped = pair(base, tuned.select(select) if select else tuned)
    if select:  # what was not asked for is not missing
        found = re.compile(select).search
        skipped = {name: reason for name, reason in skipped.items() if found(name)}
    tell_unread({name: why for name, why in (base.skipped | tuned.skipped).items() if skipped.get(name) == why})
    _tell_unpaired(base, tuned, skipped)
    refuse_strangers(base, tuned, [partial(read_pair, one, tuned, base) for one in pairs])
    by_name = {one.tuned: one for one in pairs}
    wanted = [info for info in tuned.tensors if info.name in by_name]

    def call(names: list[str]) -> Callable[[], Rows]:
        some = {name: by_name[name] for name in names}
        theirs = light(base, {one.base for one in some.values()})
        measure = partial(_measured, base=theirs, pairs=some, controls=controls, seed=seed)
        return partial(each, light(tuned, names), measure)

    outcome = over(tuned, wanted, call, executor=executor, progress=progress)
    table = outcome.table(_columns(), skipped, source=tuned.name, base=base.name)
    if len(table) and (table["std_delta"] == 0).all():
        warn(f"ΔW is exactly zero in all {len(wanted)} matrices: {tuned.name} and {base.name} hold the same weights")
    return table


def _tell_unpaired(base: Checkpoint, tuned: Checkpoint, skipped: dict[str, str]) -> None:
    """Warn of matrices without a partner, other than heads, which fine-tuning drops and makes anew."""
    heads = {info.name for one in (base, tuned) for info in one.tensors if info.role in ("head", "pooler")}
    left = [
        name for name, why in skipped.items() if why.startswith(("only in the ", "of shape ")) and name not in heads
    ]
    if left:
        some = "; ".join(f"{name}: {skipped[name]}" for name in left[:3])
        warn(
            f"{len(left)} matrices have no row, since they have no partner ({some}{' …' if len(left) > 3 else ''}); "
            'attrs["skipped"] of the table says it of each'
        )


def delta(base, tuned, name: str) -> torch.Tensor:
    """ΔW of one matrix, float32, for its histogram or spectrum.

    Args:
        base, tuned: as for `compare`.
        name: of the matrix in ``tuned``.

    Raises:
        ValueError: there is no such pair; the reason is given.

    Examples:
        >>> from lfmlib.deltas.comparison import delta
        >>> w = np.random.default_rng(0).standard_normal((64, 64))
        >>> change = delta({"q_proj.weight": w}, {"q_proj.weight": 1.01 * w}, "q_proj.weight")
        >>> change.shape, bool(np.allclose(change, 0.01 * w, atol=1e-6))
        (torch.Size([64, 64]), True)
    """
    base, tuned = opened_pair(base, tuned)
    base, tuned = alike(base, tuned)
    pairs, skipped = pair(base, tuned)
    one = next((one for one in pairs if one.tuned == name), None)
    if one is None:
        raise ValueError(f"no pair for {name!r}: {skipped.get(name, f'{tuned.name} has no such matrix')}")
    new, old = read_pair(one, tuned, base)
    return new.float() - old.float() if new.dtype != torch.float64 else (new - old.double()).float()


def _measured(
    tuned: Checkpoint, info: TensorInfo, base: Checkpoint, pairs: dict[str, Pair], controls: tuple[str, ...], seed: int
) -> list[dict]:
    """The row of a pair, and those of its controls."""
    one = pairs[info.name]
    held = info.numel <= HELD
    controls = controls if held else tuple(kind for kind in controls if kind == "noise")
    with _room.of(info.numel * (PERMUTED if "permuted" in controls else 1) if held else 0):
        new, old = read_pair(one, tuned, base)
        if one.rows is not None and kinship(new, old) < MIN_KINSHIP:
            raise ValueError(f"its first {one.rows} rows are unlike those of {one.base}: other rows, not more of them")
        said = about(info) | {"base_tensor": one.base, "shape": tuple(new.shape), "numel": new.numel()}
        said["tower"] = info.tower if info.tower == base.origin(one.base)[0].tower else ""
        rows = [said | {"control": "none"} | figures(blocks(new), old, info.dtype)]
        for kind in controls:
            rng = np.random.default_rng([seed, *info.name.encode()])
            if kind == "noise":
                other = adding(blocks(old), float(rows[0]["std_delta"]), rng, new.dtype)
            else:
                other = blocks(_permuted(new, old, rng))
            rows.append(said | {"control": kind} | figures(other, old, info.dtype))
    base.check(one.base)
    return rows


def _permuted(new: torch.Tensor, old: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """W₀ and the entries of ΔW in another order, in the type of W."""
    order = torch.from_numpy(rng.permutation(new.numel()))
    moved = (new.double() - old).flatten()[order].view_as(new)
    return moved.add_(old).to(new.dtype)


def figures(new: Iterable[torch.Tensor], old: torch.Tensor, dtype: str) -> dict[str, Any]:
    """What a row of `compare` says of W, given by its `blocks`, and W₀, ``(out, in)``; ``dtype`` is the type W is
    stored in.

    Raises:
        ValueError: values that are not finite.
    """
    held = old.numel() <= HELD
    found = budget(new, old, dtype, held)
    row: dict[str, Any] = found.figures
    sketch, largest = found.sketch, np.nan
    if held and min(old.shape) > 1 and old.numel() >= 64 and sketch.std > 0:
        largest = top_ratio(found.held, overwrite=True)
    del found
    found = measure(sketch)
    row |= {name: found.get(name, getattr(sketch, name, np.nan)) for name in NORMALITY}
    row |= {"qq_r2": qq_r2(sketch), "label": classify(sketch).label if sketch.std > 0 else "other"}
    bands = {name: band for name, band in nulls.band("float32", sketch.count).items() if name in NORMALITY}
    row["top_ratio"] = largest
    if np.isfinite(largest):
        bands["top_ratio"] = null(*sorted(old.shape))["top_ratio"]
    for name, (low, high) in bands.items():
        row |= {f"{name}_null_low": low, f"{name}_null_high": high}
    return row


class _Room:
    """Entries that all threads together may hold: each waits until there is room for its own."""

    def __init__(self):
        self.used, self.changed = 0, threading.Condition()

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Have room for so many, at most `HELD`."""
        with self.changed:
            self.changed.wait_for(lambda: self.used + count <= HELD or not self.used)
            self.used += count + BESIDES
        try:
            yield
        finally:
            with self.changed:
                self.used -= count + BESIDES
                self.changed.notify_all()


_room = _Room()
if hasattr(os, "register_at_fork"):  # a child has no threads that could make room
    os.register_at_fork(after_in_child=lambda: _room.__init__())


def _columns() -> list[str]:
    about = ["tensor", "base_tensor", "role", "depth", "tower", "shape", "dtype", "numel", "control"]
    nulled = [*(name for name in NORMALITY if name in nulls.FIGURES), "top_ratio"]
    bands = [f"{name}_null_{side}" for name in nulled for side in ("low", "high")]
    return [*about, *BUDGET, *NORMALITY, "qq_r2", "label", "top_ratio", *bands]
