"""A causal model of the reader's, asked for the next token of a text of theirs: chapter 10's measurements on it.

Rows are like those of the record `optimal`, which findings F11 and F12 judge; its runs are parts of the text.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..experiments.optimal import PRUNED_SHARE, law_rows
from ..findings import Finding
from ..findings.markup import code
from ..lab import smollm
from ..lab.language import Tokens
from ..lab.tuning import body
from ..losses import outliers, pruning
from ..structure import outlier_places
from .ch11_texts import quiet

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the weights that are pruned."""
ARMS = ("magnitude", "noise", "random")
"""Ways of pruning, within each matrix, by the names of `lfmlib.pruning` and of the record alike."""
RANDOM_SETS = 2
"""Random sets that the outliers are compared with."""
PARTS, WINDOWS = 5, 4
"""Parts of the text, and windows of each, at most; in quick runs `QUICK`."""
QUICK = (2, 1)
LOSSES = 2 + len(SHARES) * len(ARMS) + RANDOM_SETS
"""How often the loss of a part is asked for: as it is, without outliers or sets like them, and on the curves."""


def loaded(source: str, revision: str = "") -> tuple[nn.Module, object]:
    """A causal model in float32, and its tokenizer, a function of a text that returns ids.

    Raises:
        ValueError: transformers finds no causal model and tokenizer there; the message says what was given.
    """
    quiet()
    if source == smollm.NAME:
        return smollm.build().eval(), lambda text: smollm.tokenizer().encode(text).ids
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or None)
        model = AutoModelForCausalLM.from_pretrained(source, revision=revision or None, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`text` was given, and {source!r} has no causal model and tokenizer that transformers can load: expected "
            f"a hub id, or a folder with config.json, weights and tokenizer. It says: {str(error).splitlines()[0]}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def asked(path: str, encode, vocabulary: int) -> Tokens:
    """The next token of a text file, in windows of 256; all of it is held out, since nothing is trained.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the text is too short for two windows.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise FileNotFoundError(f"no file {place}: text is a file of plain text that the model is asked to foretell")
    ids = np.asarray(encode(place.read_text(encoding="utf-8", errors="replace")), dtype=np.int32)
    if len(ids) <= 2 * Tokens.length:
        raise ValueError(
            f"{place.name} has {len(ids):,} tokens for this model: expected more than {2 * Tokens.length}, and "
            f"{PARTS * WINDOWS * Tokens.length:,} for {PARTS} parts of full size"
        )
    return Tokens(ids, ids, ids, hashlib.sha256(ids.tobytes()).hexdigest(), vocabulary)


def measured(
    source: str,
    revision: str,
    text: str,
    laws: pd.DataFrame,
    noise: pd.DataFrame,
    *,
    seed: int = 0,
    profile: str = "default",
) -> pd.DataFrame:
    """Rows of what pruning and outliers cost a causal model on a text; none without a text.

    It says how long it will take, once the first loss has been measured, and shows progress.

    Args:
        source, revision, text: of the reader's.
        laws: rows of `lfmlib.laws` of the model, with the judged share pruned.
        noise: the same of noise in its place.
        seed: of what is random.
        profile: of the chapter.

    Raises:
        ValueError, FileNotFoundError: as `loaded` and `asked`.
    """
    if not text:
        return pd.DataFrame({"what": []})
    model, encode = loaded(source, revision)
    task = asked(text, encode, model.config.vocab_size)
    parts, windows = QUICK if profile == "quick" else (PARTS, WINDOWS)
    parts = min(parts, len(task.held_out))
    windows = min(windows, len(task.held_out) // parts)
    weights = {name: one for name, one in model.named_parameters() if name in set(body(model)["name"])}
    cuts = _cuts(open_checkpoint(model).only(list(weights)), laws)
    started, rows = time.perf_counter(), law_rows({PRUNED_SHARE: laws}, noise)
    task.evaluate(model, windows)
    minutes = (time.perf_counter() - started) * parts * LOSSES / 60
    bar = tqdm(range(parts), f"{parts} parts of the text, about {minutes:.0f} min", leave=False)
    for part in bar:
        some = {"most": windows, "skip": part * windows}
        rows += _of_part(lambda some=some: task.evaluate(model, **some)["loss"], weights, cuts, (seed, part))
        rows[-1] |= {"prior": task.prior(**some), "tokens": windows * task.length}
    return pd.DataFrame(rows)


def _of_part(loss, weights: dict[str, torch.Tensor], cuts: dict[str, float], seed: tuple[int, int]) -> list[dict]:
    rows, part = [], seed[1]
    for arm in ARMS:
        found = pruning.curve(loss, weights, SHARES, method=arm, seed=seed[0])
        if len(found) < len(SHARES):  # stopped: a curve that ends early would pass for one that never rises
            raise KeyboardInterrupt
        rows += [{"what": "curve", "arm": arm, "seed": part} | one for one in found.to_dict("records")]
    own = found.attrs["loss"]
    masks = {name: outlier_places.beyond(weights[name], cut) for name, cut in cuts.items()}
    some, total = {name: weights[name] for name in cuts}, sum(w.numel() for w in weights.values())
    sets = {("outliers", 0): masks}
    for draw in range(RANDOM_SETS):
        rng = np.random.default_rng([*seed, draw])
        sets["as large", draw] = {name: outliers.as_large(w, masks[name], rng) for name, w in some.items()}
    for (entries, draw), chosen in sets.items():
        share = sum(int(mask.sum()) for mask in chosen.values()) / total
        rise = outliers.damage(loss, some, chosen, "zeroed", own=own)
        about = {"what": "damage", "entries": entries, "change": "zeroed", "draw": draw, "seed": part}
        rows.append(about | {"sets": share, "rise": rise})
    return [*rows, {"what": "model", "own": own, "seed": part}]


def _cuts(model: Checkpoint, laws: pd.DataFrame) -> dict[str, float]:
    """Magnitude beyond which an entry is an outlier, by the model's own name of a matrix; ``laws`` may have the names
    of a file, whose matrices are told by role and depth."""
    by_name, places = (
        laws.set_index("tensor")["outlier_cut"],
        laws.drop_duplicates(["role", "depth", "tower"], keep=False),
    )
    by_place = {(one.role, one.depth, one.tower): one.outlier_cut for one in places.itertuples()}
    found = {one.name: by_name.get(one.name, by_place.get((one.role, one.depth, one.tower))) for one in model.tensors}
    return {name: cut for name, cut in found.items() if cut is not None}


def findings_of(rows: pd.DataFrame, model: str, provenance: dict, laws: pd.DataFrame) -> list[Finding]:
    """F11 and F12 of the reader's model; not judged, with the reason, where no text was given.

    Args:
        rows: from `measured`.
        model: its name.
        provenance: of the model, and of the text.
        laws: from `lfmlib.laws` of the model, with the judged share pruned.
    """
    if not len(rows):
        return [findings.f11(model, provenance), findings.f12(laws, model, provenance)]
    return [findings.f11_over_runs(rows, model, provenance), findings.f12_over_runs(rows, model, provenance)]


def told(rows: pd.DataFrame, text: str) -> str:
    """What came out, in a sentence; without a text, how to ask."""
    if not text:
        return (
            "No text was given. `-p text file.txt` asks a causal model for the next token of yours, and judges F11 and "
            "F12 of it; SmolLM2 takes about five minutes."
        )
    about = rows[rows["what"] == "model"]
    shares = {arm: 100 * findings.free_share(rows[rows["what"] != "law"], arm, of="gap").mean() for arm in ARMS}
    return (
        f"{code(Path(text).name)}, {len(about)} parts of {int(about['tokens'].iloc[0]):,} tokens: the model has "
        f"**{about['own'].mean():.3f}** nats a token, the frequencies of tokens alone {about['prior'].mean():.3f}. One "
        f"per cent of that gap is reached when {shares['magnitude']:.0f} % of the weights go by magnitude, "
        f"{shares['random']:.0f} % at random; and by noise as large as {shares['noise']:.0f} % by magnitude."
    )
