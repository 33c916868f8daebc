"""A causal model of the reader's, asked for the next token of a text of theirs: chapter 10's measurements on it.

Rows are like those of the record `optimal`, which findings F11 and F12 judge; its runs are parts of the text.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.named import named
from ..deltas.pairs import is_adapter
from ..experiments.optimal import PRUNED_SHARE, law_rows
from ..findings import Finding
from ..findings.markup import code
from ..lab import smollm
from ..lab.language import Tokens
from ..lab.tuning import body
from ..losses import outliers, pruning
from ..records.experiment import brief
from ..structure import outlier_places

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the weights that are pruned."""
ARMS = ("magnitude", "noise", "random")
"""Ways of pruning, within each matrix, by the names of `lfmlib.pruning` and of the record alike."""
RANDOM_SETS = 2
"""Random sets that the outliers are compared with."""
PARTS, WINDOWS = 5, 4
"""Parts of the text, and windows of each, at most; in quick runs `QUICK`."""
QUICK = (2, 1)
LOSSES = len(ARMS) * (1 + len(SHARES)) + 1 + RANDOM_SETS
"""How often the loss of a part is asked for: on the curves and before each, without outliers, and without sets like
them."""
MOST_BYTES = 16_000_000
"""Bytes of a text that are read."""

Encode = Callable[[str], list[int]]


def read(text: str) -> str:
    """The reader's text; "" where none was named. Of a longer one than `MOST_BYTES` the beginning, with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text in UTF-8.
    """
    if not text:
        return ""
    place = Path(text).expanduser()
    if not place.is_file():
        found = "a folder" if place.is_dir() else "no file"
        raise FileNotFoundError(f"{place} is {found}: expected a file of text, which the model is asked to foretell")
    with place.open("rb") as file:
        content = file.read(MOST_BYTES)
    if place.stat().st_size > MOST_BYTES:
        warnings.warn(f"{place.name}: only its first {MOST_BYTES / 1e6:.0f} MB are read", stacklevel=2)
    try:
        return content.decode("utf-8-sig", "strict" if len(content) < MOST_BYTES else "ignore")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place.name} is no text in UTF-8 (byte {error.start:,}): expected plain text") from error


def loaded(source: str, revision: str = "") -> tuple[nn.Module, Encode]:
    """A causal model in float32, and its tokenizer, a function of a text that returns ids.

    Raises:
        ValueError: there is no causal model, whole and not quantized, or no tokenizer; the message says which.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if source == smollm.NAME:
        tokens = smollm.tokenizer()
        return smollm.build().to(device).eval(), lambda text: tokens.encode(text, add_special_tokens=False).ids
    if named(source) or Path(source).expanduser().is_file() or is_adapter(source):
        raise ValueError(
            f"`text` was given, and {source!r} cannot be asked: expected {smollm.NAME!r}, a hub id, or a folder with "
            "config.json, weights and tokenizer; merge an adapter into its model first"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"revision": revision or None, "trust_remote_code": False}
    whole = {"dtype": torch.float32, "output_loading_info": True} | where
    with smollm.quietly():
        tokenizer = _had("tokenizer", source, partial(AutoTokenizer.from_pretrained, source, **where))
        model, about = _had("causal model", source, partial(AutoModelForCausalLM.from_pretrained, source, **whole))
    if missing := sorted(about["missing_keys"]):
        raise ValueError(f"{source!r} lacks {missing[0]}, without which it foretells nothing: expected a causal model")
    if getattr(model.config, "quantization_config", None):
        raise ValueError(f"{source!r} is quantized: expected weights in a float type, which can be pruned")
    return model.to(device).eval(), lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def _had(what: str, source: str, load: Callable):
    """What ``load`` gives, or a ValueError that says what was not to be had."""
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300] or repr(error)
        raise ValueError(
            f"`text` was given, and transformers finds no {what} in {source!r}: expected a hub id, or a folder with "
            f"config.json, weights and tokenizer. It says: {said}"
        ) from error


class OwnText(Tokens):
    """A text that is all held out, since nothing is trained; what is known without the model are the frequencies of
    the text itself, the least that a code by frequencies could reach."""

    def __init__(self, ids: np.ndarray, vocabulary: int):
        super().__init__(ids, ids, ids, "", vocabulary)

    def prior(self, most: int | None = None, side: str = "test", skip: int = 0) -> float:
        """Loss of these frequencies, in nats per token, on some of the windows."""
        counts = np.bincount(self.train, minlength=self.classes)
        return float(-np.log(counts[self._some(side, most, skip)[:, 1:].numpy()] / len(self.train)).mean())


def asked(text: str, encode: Encode, model: nn.Module) -> OwnText:
    """The next token of a text, in windows of 256.

    Raises:
        ValueError: the text is too short for two windows, the tokenizer is not the model's, or the model sees what it
            is asked for.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.asarray(encode(text), dtype=np.int32)
    if len(ids) <= 2 * Tokens.length:
        raise ValueError(
            f"the text has {len(ids):,} tokens for this model: expected more than {2 * Tokens.length}, and "
            f"{PARTS * WINDOWS * Tokens.length + 1:,} for {PARTS} parts of full size"
        )
    if ids.max() >= vocabulary:
        raise ValueError(
            f"the tokenizer has ids up to {ids.max():,}, the model {vocabulary:,} tokens: they do not belong together"
        )
    seen = torch.from_numpy(ids[:9].astype(np.int64))[None].to(model.device)
    other = seen.clone()
    other[0, -1] = (other[0, -1] + 1) % vocabulary
    with torch.no_grad():
        first, second = (model(input_ids=one).logits[0, :-1].float() for one in (seen, other))
    if (first - second).abs().max() > 1e-3 * first.abs().max():
        raise ValueError("what this model says of a token depends on the next: expected a causal model")
    return OwnText(ids, vocabulary)


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

    What is pruned are the matrices that ``laws`` has. It says how long it will take, and shows progress.

    Args:
        source, revision: of the reader's model.
        text: from `read`.
        laws: rows of `lfmlib.laws` of the model, with the judged share pruned.
        noise: the same of noise in its place.
        seed: of what is random.
        profile: of the chapter.

    Raises:
        ValueError: as `loaded` and `asked`; or the model has none of these matrices, or foretells the text no better
            than the frequencies of its tokens.
    """
    if not text:
        return pd.DataFrame({"what": []})
    model, encode = loaded(source, revision)
    task = asked(text, encode, model)
    parts, windows = QUICK if profile == "quick" else (PARTS, WINDOWS)
    parts = min(parts, len(task.held_out))
    windows = min(windows, len(task.held_out) // parts)
    cuts = _cuts(open_checkpoint(model).only(list(body(model)["name"])), laws)
    weights = {name: one for name, one in model.named_parameters() if name in cuts}
    if not weights:
        raise ValueError(f"no matrix of {source!r} as transformers loads it is one of those that were measured here")
    rows, started = law_rows({PRUNED_SHARE: laws}, noise), time.perf_counter()
    if not (own := task.evaluate(model, windows)["loss"]) < (prior := task.prior(windows)):
        raise ValueError(
            f"the model has {own:.2f} nats a token on this text, and the frequencies of tokens {prior:.2f}: there is "
            "nothing that pruning could take from it. Expected a text of a kind it can foretell"
        )
    minutes = (time.perf_counter() - started) * parts * LOSSES / 60
    for part in tqdm(range(parts), f"{parts} parts of the text, {minutes:.0f} min or more", leave=False):
        some = {"most": windows, "skip": part * windows}
        found = _of_part(lambda some=some: task.evaluate(model, **some)["loss"], weights, cuts, 1_000 * seed + part)
        found[-1] |= {"prior": task.prior(**some), "tokens": windows * task.length}
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


def told(rows: pd.DataFrame, text: str) -> str:
    """What came out, in a sentence; without a text, how to ask.

    Args:
        rows: from `measured`.
        text: name of the file.
    """
    if not len(rows):
        return (
            "No text was given. `-p text file.txt` asks a causal model for the next token of yours, and judges F11 and "
            "F12 of it; it says how long that takes before it begins."
        )
    about = rows[rows["what"] == "model"]
    reached = {}
    for arm in ARMS:
        shares = findings.free_share(rows, arm, of="gap")
        most = "more than " if (shares >= SHARES[-1]).any() else ""
        reached[arm] = f"{most}{100 * shares.mean():.0f} %"
    return (
        f"{code(Path(text).name)}, {len(about)} parts of {int(about['tokens'].iloc[0]):,} tokens: the model has "
        f"**{about['own'].mean():.3f}** nats a token, the frequencies of the text’s own tokens "
        f"{about['prior'].mean():.3f}. One per cent of that gap is reached when {reached['magnitude']} of the weights "
        f"go by magnitude, {reached['random']} at random, and by noise as large as {reached['noise']} by magnitude."
    )
