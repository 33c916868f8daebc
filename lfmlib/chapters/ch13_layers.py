"""Do the layers of a model stand in their order? In sentences, with exchanges that are planted to see what would be
found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..health import gains, order, planted


def layers(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int) -> str:
    """Whether the layers stand in their order, those without a state of `lfmlib.health.states.examine`, in a
    sentence for each tower."""
    return " ".join(_in_order(*tower) for tower in _towers(checkpoint, states, sample, seed))


def _in_order(tower: str, hurt: list[int], found: order.Likeness | str) -> str:
    """Whether the layers of a tower stand in their order, in a sentence."""
    name = f"{tower.capitalize()}: " if tower else ""
    out = f" Left out: layer{'s' if len(hurt) > 1 else ''} {', '.join(map(str, hurt))}." if hurt else ""
    if isinstance(found, str):
        return f"{name}Whether layers stand in their order cannot be told: {found}.{out}"
    result = found.order()
    alike = (
        f"column norms of neighbouring layers correlate by {result.neighbours:.2f} in the mean, those of distant ones "
        f"by {result.distant:.2f}"
    )
    if not result.judged:
        return f"{name}Whether layers stand in their order cannot be told: {alike}.{out}"
    if result.exchanged.empty:
        return (
            f"{name}**No two layers look exchanged**: {alike}, and no exchange makes neighbours more alike than unlike "
            f"layers do by themselves.{out}"
        )
    best = result.exchanged.iloc[0]
    more = [f"{first:.0f} and {second:.0f}" for first, second in result.exchanged[["first", "second"]].to_numpy()[1:]]
    then = f"; then {', '.join(more)}" if more else ""
    return (
        f"{name}**Layers {best['first']:.0f} and {best['second']:.0f} look exchanged{then}**: {alike}, and putting "
        f"them back raises the sum over neighbours by {best['gain']:.2f} ({best['z']:.1f} standard errors of chance, "
        f"{best['rise']:.1f} of unlikeness).{out}"
    )


def exchange_test(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int, most: int = 12) -> str:
    """Pairs of layers exchanged in thought, and how many are named rightly, in a sentence for each tower.

    Where the model's own layers look exchanged, they are put back before.
    """
    words = []
    for tower, _, found in _towers(checkpoint, states, sample, seed):
        name = f"{tower.capitalize()}: " if tower else ""
        if isinstance(found, str):
            words.append(f"{name}No exchange can be seen: {found}.")
            continue
        before = ""
        for first, second in found.order().exchanged[["first", "second"]].to_numpy():
            back = np.arange(len(found.depths))
            places = np.searchsorted(found.depths, [first, second])
            back[places] = back[places[::-1]]
            found, before = found.moved(back), ", put in order before"
        called = planted.exchanges(found, seed, most)["called"].value_counts()
        right, wrong, unseen = (called.get(one, 0) for one in ("right", "wrong", "nothing"))
        words.append(
            f"{name}Of {called.sum()} exchanges of two layers of this model{before}, **{right} are named rightly**, "
            f"{wrong} wrongly, and {unseen} are not seen."
        )
    return " ".join(words)


def _towers(
    checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int
) -> Iterator[tuple[str, list[int], order.Likeness | str]]:
    """Of each tower its name, the layers that are damaged, and how alike the others are, or why that is not known."""
    for tower in order.towers(checkpoint) or [""]:
        hurt = sorted(_hurt(states, tower))
        try:
            found = order.profiles(checkpoint, _rows(checkpoint, sample), hurt, tower)
            yield tower, hurt, order.Likeness.of(found, seed=seed)
        except ValueError as error:
            yield tower, hurt, str(error)


def _hurt(states: pd.DataFrame, tower: str) -> set[int]:
    """Depths of a tower's layers with a matrix that is looked at for their order and says nothing of it; pruned ones
    still do."""
    hurt = states["role"].isin(gains.READERS) & (states["state"] != "pruned")
    if "tower" in states:
        hurt &= states["tower"] == tower
    return set(states.loc[hurt, "depth"].dropna().astype(int))


def _rows(checkpoint: Checkpoint, sample: int) -> int:
    """Rows of a matrix to look at for the order of layers: few where only a sample is wanted, and they must travel."""
    widest = max((info.shape[1] for info in checkpoint.tensors if info.role in gains.READERS), default=1)
    return max(16, min(512, sample // (4 * widest))) if sample and checkpoint.traffic is not None else 512
