"""A causal model of the reader's, asked for the next token of a text of theirs: chapter 10's measurements on it.

Rows are like those of the record `optimal`, which findings F11 and F12 judge; its runs are parts of the text.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..experiments.optimal import PRUNED_SHARE, law_rows
from ..findings import Finding
from ..findings.markup import code
from ..lab.tuning import body
from ..losses import outliers, pruning
from ..records.experiment import brief
from ..structure import outlier_places
from .own_text import Text, asked, loaded

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the weights that are pruned."""
ARMS = ("magnitude", "noise", "random")
"""Ways of pruning, within each matrix, by the names of `lfmlib.pruning` and of the record alike."""
RANDOM_SETS = 2
"""Random sets that the outliers are compared with."""
LOSSES = len(ARMS) * (1 + len(SHARES)) + 1 + RANDOM_SETS
"""How often the loss of a part is asked for: on the curves and before each, without outliers, and without sets like
them."""


def measured(
    source: str,
    revision: str,
    text: Text,
    laws: pd.DataFrame,
    noise: pd.DataFrame,
    *,
    seed: int = 0,
    profile: str = "default",
) -> pd.DataFrame:
    """Rows of what pruning and outliers cost a causal model on a text; none without a text.

    What is pruned are the matrices that ``laws`` has. It says how long it will take, and shows progress.

    Args:
        source, revision: of the reader's model.
        text: from `lfmlib.chapters.own_text.read`.
        laws: rows of `lfmlib.laws` of the model, with the judged share pruned.
        noise: the same of noise in its place.
        seed: of what is random.
        profile: of the chapter.

    Raises:
        ValueError: as of `loaded` and `asked`; or the model has none of these matrices, or foretells the text no better
            than the frequencies of its tokens.
    """
    if not text:
        return pd.DataFrame({"what": []})
    model, encode = loaded(source, revision)
    task = asked(text, encode, model)
    parts = task.parts(profile)
    cuts = _cuts(open_checkpoint(model).only(list(body(model)["name"])), laws)
    weights = {name: one for name, one in model.named_parameters() if name in cuts}
    if not weights:
        raise ValueError(f"no matrix of {source!r} as transformers loads it is one of those that were measured here")
    rows, started = law_rows({PRUNED_SHARE: laws}, noise), time.perf_counter()
    if not (own := task.evaluate(model, **parts[0])["loss"]) < (prior := task.prior(**parts[0])):
        raise ValueError(
            f"the model has {own:.2f} nats a token on this text, and the frequencies of tokens {prior:.2f}: there is "
            "nothing that pruning could take from it. Expected a text of a kind it can foretell"
        )
    minutes = (time.perf_counter() - started) * len(parts) * LOSSES / 60
    for part, some in enumerate(tqdm(parts, f"{len(parts)} parts of the text, {minutes:.0f} min or more", leave=False)):
        found = _of_part(lambda some=some: task.evaluate(model, **some)["loss"], weights, cuts, 1_000 * seed + part)
        found[-1] |= {"prior": task.prior(**some), "tokens": some["most"] * task.length}
        rows += [row | {"seed": part} for row in found]
    return pd.DataFrame(rows)


def _of_part(loss: Callable[[], float], weights: dict, cuts: dict[str, float], seed: int) -> list[dict]:
    rows = []
    for arm in ARMS:
        found = pruning.curve(loss, weights, SHARES, method=arm, seed=seed)
        if len(found) < len(SHARES):  # stopped: a curve that ends early would pass for one that never rises
            raise KeyboardInterrupt
        rows += [{"what": "curve", "arm": arm, **one, "rise": brief(one["rise"])} for one in found.to_dict("records")]
    own = found.attrs["loss"]
    masks = {name: outlier_places.beyond(w, cuts[name]) for name, w in weights.items()}
    sets = {("outliers", 0): masks}
    for draw in range(RANDOM_SETS):
        sets["as large", draw] = {
            name: outliers.as_large(w, masks[name], np.random.default_rng([seed, draw, *name.encode()]))
            for name, w in weights.items()
        }
    total = sum(w.numel() for w in weights.values())
    for (entries, draw), chosen in sets.items():
        rise = outliers.damage(loss, weights, chosen, "zeroed", own=own)
        about = {"what": "damage", "entries": entries, "change": "zeroed", "draw": draw, "rise": brief(rise)}
        rows.append(about | {"sets": sum(int(mask.sum()) for mask in chosen.values()) / total})
    return [*rows, {"what": "model", "own": own}]


def _cuts(model: Checkpoint, laws: pd.DataFrame) -> dict[str, float]:
    """Magnitude beyond which an entry is an outlier, by the model's own name of a matrix; ``laws`` may have the names
    of a file, whose matrices are told by role, depth and tower."""
    by_name = laws.set_index("tensor")["outlier_cut"]
    places = laws.drop_duplicates(["role", "depth", "tower"], keep=False)
    by_place = {(one.role, one.depth, one.tower): one.outlier_cut for one in places.itertuples()}
    found = {one.name: by_name.get(one.name, by_place.get((one.role, one.depth, one.tower))) for one in model.tensors}
    return {name: cut for name, cut in found.items() if cut is not None}


def placed(
    found: dict[str, list[Finding]], rows: pd.DataFrame, model: str, provenance: dict, laws: pd.DataFrame
) -> dict[str, list[Finding]]:
    """F11 and F12 of the chapter, with the reader's model in front, unless the record has it and no text was given;
    without a text they are not judged, and say why.

    Args:
        found: by id, from the record.
        rows: from `measured`.
        model: its name.
        provenance: of the model, with its text.
        laws: from `lfmlib.laws` of the model, with the judged share pruned.
    """
    if not len(rows):
        own = [findings.f11(model, provenance), findings.f12(laws, model, provenance)]
        own = [one for one in own if model not in [other.model for other in found[one.id]]]
    else:
        own = [findings.f11_over_runs(rows, model, provenance), findings.f12_over_runs(rows, model, provenance)]
    return {one.id: [one, *(other for other in found[one.id] if other.model != model)] for one in own}


def told(rows: pd.DataFrame, text: Text) -> str:
    """What came out, in a sentence; without a text, how to ask.

    Args:
        rows: from `measured`.
        text: the text.
    """
    if not len(rows):
        return (
            "No text was given. `-p text file.txt` asks a causal model for the next token of yours, and judges F11 and "
            "F12 of it. It says how long that takes before it begins."
        )
    about = rows[rows["what"] == "model"]
    reached = {}
    for arm in ARMS:
        shares = findings.free_share(rows, arm, of="gap")
        most = "more than " if (shares >= SHARES[-1]).any() else ""
        reached[arm] = f"{most}{100 * shares.mean():.0f} %"
    return (
        f"{code(text.name)}, {len(about)} parts of {int(about['tokens'].iloc[0]):,} tokens: the model has "
        f"**{about['own'].mean():.3f}** nats a token, the frequencies of the text’s own tokens "
        f"{about['prior'].mean():.3f}. One per cent of that gap is reached when {reached['magnitude']} of the weights "
        f"go by magnitude, {reached['random']} at random, and by noise as large as {reached['noise']} by magnitude."
    )
