"""What the bulk of a causal model of the reader's is worth, on a text of theirs: chapter 14's measurements.

Rows are like those of the record `replacement`; its runs are parts of the text.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import findings
from ..experiments.replacement import FEW_SHARES
from ..findings.markup import code
from ..lab.tuning import body
from ..losses import replace
from .ch14_bulk import BOUNDS, edge_cost, foretold, part, replaceable
from .own_text import OwnText, Text, asked, loaded

STAND_INS = ("noise", "zero")
"""What takes their place."""


def measured(model: str, revision: str, text: Text, *, seed: int = 0, profile: str = "default") -> pd.DataFrame:
    """What it costs a causal model on a text to lose its least directions, or to have noise in their place.

    It says how long it will take, and shows progress. All matrices are held in float32 with their singular vectors,
    four times the size of the model.

    Args:
        model, revision: a causal model, as `lfmlib.chapters.own_text.loaded` takes it.
        text: from `lfmlib.chapters.own_text.read`.
        seed: of the noise.
        profile: of the chapter.

    Returns:
        Rows as of `lfmlib.experiments.replacement.run`, of ``what`` "model", "curve" and "edge"; ``seed`` is the part
        of the text, ``tokens`` how many it has. None without a text.

    Raises:
        ValueError: there is a text and no model; the model cannot be asked; or it foretells the text no better than the
            frequencies of its tokens.
    """
    if not text:
        return pd.DataFrame({"what": []})
    if not model:
        raise ValueError("`text` was given without a model: expected `-p model …`, a causal model to foretell it")
    tuned, encode = loaded(model, revision)
    loss = _Parts(asked(text, encode, tuned), tuned, profile)
    started = time.perf_counter()
    own = loss()
    if not (loss.own < loss.prior).all():
        raise ValueError(
            f"the model has {own:.2f} nats a token on this text, and the frequencies of tokens "
            f"{loss.prior.mean():.2f}: there is nothing that noise could take from it. Expected a text of a kind it "
            "can foretell"
        )
    once = time.perf_counter() - started
    parameters = dict(tuned.named_parameters())
    weights = {name: parameters[name] for name in body(tuned)["name"]}
    work = {name: w.numel() * min(w.shape) for name, w in weights.items()}
    splits: dict[str, replace.Split] = {}
    below: dict[str, float] = {}
    asks = len(STAND_INS) * (1 + len(FEW_SHARES))
    with tqdm(total=len(weights) + asks, leave=False) as bar:
        for name, w in weights.items():
            started = time.perf_counter()
            splits[name] = replace.Split(w)
            below[name] = splits[name].share_below_edge
            if not bar.n:
                minutes = ((time.perf_counter() - started) * sum(work.values()) / work[name] + 2 * once * asks) / 60
                bar.set_description(f"{len(weights)} matrices, {asks} losses, about {minutes:.0f} min")
            bar.update()
        rows = loss.rows({"what": "model"}, [{}])
        for stand_in in STAND_INS:
            for what, shares in (("edge", [below]), ("curve", FEW_SHARES)):
                how = {"stand_in": stand_in, "seed": seed, "splits": splits, "own": own}
                for share in shares:
                    found = replace.curve(loss, weights, [share], **how).rename(columns={"share": "replaced"})
                    about = {"what": what, "rule": "directions", "stand_in": stand_in}
                    about |= {"share": share} if what == "curve" else {}
                    rows += loss.rows(about, found.drop(columns="rise").to_dict("records"))
                    bar.update()
    return pd.DataFrame(rows)


class _Parts:
    """The loss of a model on all parts of a text; the mean is returned, and the last of each are kept."""

    def __init__(self, task: OwnText, model: nn.Module, profile: str):
        self.task, self.model, self.parts = task, model, task.parts(profile)
        self.prior = np.array([task.prior(**some) for some in self.parts])
        self.own = self.last = np.full(len(self.parts), np.nan)

    def __call__(self) -> float:
        with torch.no_grad():
            self.last = np.array([self.task.evaluate(self.model, **some)["loss"] for some in self.parts])
        if np.isnan(self.own).all():
            self.own = self.last
        return float(self.last.mean())

    def rows(self, about: dict, found: list[dict]) -> list[dict]:
        """A row for each part: what it is about, and what came out there the last time."""
        rows = []
        for place, some in enumerate(self.parts):
            own = {"own": self.own[place], "prior": self.prior[place]} if about["what"] == "model" else {}
            rise = {} if own else {"rise": self.last[place] - self.own[place]}
            rows += [
                about | one | own | rise | {"seed": place, "tokens": some["most"] * self.task.length} for one in found
            ]
        return rows


def told(rows: pd.DataFrame, text: Text, model: str = "") -> str:
    """What came out, in sentences; without a text, how to ask.

    Args:
        rows: from `measured`.
        text: the text.
        model: that was named.
    """
    if not len(rows):
        unasked = f", so {code(model)} was not asked" if model else ""
        return (
            f"No text was given{unasked}. `-p text file.txt` measures what the bulk of a causal model, `-p model …`, "
            "is worth on a text of yours; it says how long that takes before it begins."
        )

    def found(bound: float, stand_in: str) -> str:
        return part(replaceable(rows, bound, what="curve", rule="directions", stand_in=stand_in))

    words = "; ".join(
        f"for {bound:.0%} of what it knows, noise can stand for **{found(bound, 'noise')} %**, and nothing for "
        f"**{found(bound, 'zero')} %**"
        for bound in BOUNDS
    )
    return (
        f"{code(text.name)}, {rows['seed'].nunique()} parts of {int(rows['tokens'].iloc[0]):,} tokens: "
        f"{rows['own'].mean():.3f} nats a token, by the frequencies of the text’s own tokens "
        f"{rows['prior'].mean():.3f}. Below the edge of noise lie {100 * foretold(rows).mean():.0f} % of the squared "
        f"weights; fresh noise in their place costs {findings.span(100 * edge_cost(rows), 1, unit=' %')} of what the "
        f"model knows. Of its squared weights, {words}. Intervals are over parts of the text."
    )
