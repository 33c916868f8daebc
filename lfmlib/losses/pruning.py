"""Pruning: how much a loss rises when a share of the weights is set to zero.

The weights with the smallest scores are pruned first. A score is the ``magnitude`` (Han et al. 2015, arXiv 1506.02626),
``random``, or that of ``wanda``: the magnitude times the norm of the input that the weight is multiplied with (Sun et
al. 2023, arXiv 2306.11695). Scores are compared ``within`` a row, as Wanda does it, within a matrix, or among all
weights. The control ``noise`` sets nothing to zero: it adds to each matrix Gaussian noise whose squared norm is, in
expectation, that of the weights that pruning by magnitude would take away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..options import check
from .crossing import crossing
from .weights import Weights, restored, rng

METHODS = ("magnitude", "random", "wanda", "noise")
"""Ways to choose the weights that go, as explained above, and noise of the same size as a control."""
WITHIN = ("row", "matrix", "all")
"""Among which weights scores are compared."""


def curve(
    loss: Callable[[], float],
    weights: Weights,
    shares: Sequence[float],
    *,
    progress: bool = False,
    seed: int = 0,
    method: str = "magnitude",
    within: str = "matrix",
    inputs: Weights | None = None,
    draws: int = 1,
) -> pd.DataFrame:
    """The rise of a loss with the share of weights that are set to zero.

    Args:
        loss: of the weights as they are when it is called, on fixed data.
        weights: name → matrix ``(out, in)``, changed in place, and restored to the bit whatever happens.
        shares: of the weights to set to zero, each at least 0 and at most 1.
        method: one of `METHODS`.
        within: among which weights scores are compared, one of `WITHIN`.
        inputs: name → norms ``(in,)`` of the inputs, for Wanda (see `input_norms`).
        draws: number of draws of "random" or "noise"; the other methods draw nothing.
        seed: of the draws; each also depends on the name of the matrix.
        progress: show a bar.

    Returns:
        Columns: draw; share; zeroed, the share of the weights that is zero after pruning (of "noise" the share itself);
        rise, in the unit of the loss. ``attrs["loss"]`` is the loss before. Ctrl-C returns the rows that are done, if
        there are any.

    Raises:
        ValueError: an unknown ``method`` or ``within``, a share outside [0, 1], no weights, inputs that Wanda lacks, or
            a loss that is not finite before anything is pruned.

    Examples:
        >>> weights = {"w": torch.tensor([[0.1, -0.2, 0.3, -2.0]])}
        >>> wanted = weights["w"].clone()
        >>> loss = lambda: float((weights["w"] - wanted).square().sum())
        >>> lfmlib.pruning.curve(loss, weights, [0.25, 0.5, 1.0])[["share", "rise"]].round(2)
           share  rise
        0   0.25  0.01
        1   0.50  0.05
        2   1.00  4.14
    """
    check(draws=draws)
    if not isinstance(shares, Iterable):
        raise ValueError(f"shares is {shares!r}: expected a list of numbers between 0 and 1")
    if wrong := [share for share in shares if not 0 <= share <= 1]:
        raise ValueError(f"{wrong[0]} is no share of the weights: expected numbers between 0 and 1")
    if not weights:
        raise ValueError("there are no weights to prune")
    _check(method, within, weights, inputs)
    own, rows = float(loss()), []
    if not math.isfinite(own):
        raise ValueError(f"the loss is {own} before anything is pruned: there is nothing it could rise from")
    steps = [(draw, share) for draw in range(draws) for share in shares]
    try:
        with restored(weights) as before:
            for draw, share in tqdm(steps, f"pruning, {method}", disable=not progress, leave=False, delay=1):
                zeroed = prune(weights, before, share, method, within, inputs, (seed, draw))
                rows.append((draw, share, zeroed, float(loss()) - own))
    except KeyboardInterrupt:
        if not rows:
            raise
    found = pd.DataFrame(rows, columns=["draw", "share", "zeroed", "rise"])
    found.attrs["loss"] = own
    return found


def largest_share(found: pd.DataFrame, bound: float) -> float:
    """The share of pruned weights at which the rise of the loss first exceeds ``bound``.

    Args:
        found: rows of `curve`; several draws are averaged.
        bound: in the unit of the loss.

    Returns:
        Between 0 and 1, interpolated linearly between the shares that were measured and (0, no rise); the largest share
        where the bound is never exceeded, and 0 where it is not above 0.

    Examples:
        >>> found = pd.DataFrame({"share": [0.2, 0.4], "rise": [0.0, 0.1]})
        >>> round(lfmlib.pruning.largest_share(found, 0.05), 2)
        0.3
    """
    mean = found.groupby("share")["rise"].agg(lambda rises: rises.mean(skipna=False))
    mean = mean[mean.index > 0]
    return crossing(mean.index.to_numpy(float), mean.to_numpy(float), bound)[0]


@torch.no_grad()
def prune(
    weights: Weights,
    before: Weights,
    share: float,
    method: str,
    within: str = "matrix",
    inputs: Weights | None = None,
    seed: tuple[int, int] = (0, 0),
) -> float:
    """Set the weights to what pruning makes of ``before``, and return the share of them that is zero.

    Args:
        weights: name → matrix, changed in place.
        before: name → the same matrix as it was.
        share: of the weights to set to zero.
        method, within, inputs: as for `curve`.
        seed: two numbers, of the draw.
    """
    _check(method, within, weights, inputs)
    if method == "noise":
        taken = _masks({name: w.abs() for name, w in before.items()}, share, within)
        for name, w in weights.items():
            lost = before[name][taken[name]].double().square().sum().item()
            unit = torch.from_numpy(rng(seed, name).standard_normal(tuple(w.shape), dtype=np.float32)).to(w.device)
            w.copy_(before[name].float() + math.sqrt(lost / w.numel()) * unit)
        return share
    taken = _masks(scores(before, method, inputs, seed), share, within)
    for name, w in weights.items():
        w.copy_(before[name].masked_fill(taken[name], 0))
    return sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())


def scores(
    weights: Weights, method: str, inputs: Weights | None = None, seed: tuple[int, int] = (0, 0)
) -> dict[str, torch.Tensor]:
    """The score of each weight; the smallest are pruned first.

    Args:
        weights, method, inputs: as for `curve`, without "noise".
        seed: two numbers, of the draw.

    Returns:
        Name → scores, of the shape of the matrix.
    """
    if method == "random":
        return {
            name: torch.from_numpy(rng(seed, name).random(tuple(w.shape), dtype=np.float32)).to(w.device)
            for name, w in weights.items()
        }
    sizes = {name: w.detach().abs().float() for name, w in weights.items()}
    if method == "magnitude":
        return sizes
    assert inputs is not None, "Wanda's scores need the norms of the inputs"
    return {name: w * inputs[name].to(w) for name, w in sizes.items()}


def input_norms(
    model: nn.Module, names: Sequence[str], run: Callable[[], object], along: Weights | None = None
) -> dict[str, torch.Tensor]:
    """The norm of every input of linear layers over all tokens of some data, as Wanda needs it.

    Padding is left out where modules are given it as those of transformers are: by keyword, as an ``attention_mask`` of
    two dimensions, ``(sequences, tokens)``.

    Args:
        model: the model.
        names: of weights, such as "layers.0.mlp.fc1.weight", each of an `nn.Linear`.
        run: calls the model on the data.
        along: name → ``(count, in)``, unit vectors along which the norm is taken; None: along each coordinate.

    Returns:
        name → float32 ``(in,)``, or ``(count,)``: √Σ x² over the tokens.

    Raises:
        ValueError: a name is not that of a linear layer's weight, or the data did not reach its layer.
    """
    squares: dict[str, torch.Tensor] = {}
    masks: list[torch.Tensor | None] = [None]  # of each module whose forward is running, innermost last

    def enter(module, given, named) -> None:
        mask = named.get("attention_mask")
        masks.append(mask if mask is not None and mask.dim() == 2 else masks[-1])

    def leave(module, given, output) -> None:
        masks.pop()

    def watch(name: str):
        def hook(module, given) -> None:
            x = given[0].detach().double()
            if masks[-1] is not None and masks[-1].shape == x.shape[:-1]:
                x = x * masks[-1].to(x)[..., None]
            x = x.flatten(0, -2)
            x = x if along is None else x @ along[name].to(x).T
            squares[name] = squares.get(name, 0) + x.square().sum(0)

        return hook

    known = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{wrong[0]} is no linear layer’s weight: its inputs are not defined. Leave it out")
    hooks = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in model.modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    hooks += [known[name].register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [name for name in names if name not in squares]:
        raise ValueError(f"no input reached {missed[0]}: show the model data that uses every layer")
    return {name: square.sqrt().float() for name, square in squares.items()}


def _masks(score: Weights, share: float, within: str) -> dict[str, torch.Tensor]:
    """True where a weight is among the share with the smallest scores; of equal scores the first are taken."""
    if within == "all":
        together = torch.cat([one.flatten() for one in score.values()])
        mask = _smallest(together[None], share)[0]
        parts = mask.split([one.numel() for one in score.values()])
        return {name: part.view_as(one) for (name, one), part in zip(score.items(), parts, strict=True)}
    if within == "row":
        return {name: _smallest(one, share) for name, one in score.items()}
    return {name: _smallest(one.reshape(1, -1), share).view_as(one) for name, one in score.items()}


def _smallest(rows: torch.Tensor, share: float) -> torch.Tensor:
    """True at the smallest entries of each row, as many as the share comes to when rounded; of equal ones the first."""
    count = round(share * rows.shape[1])
    if not count:
        return torch.zeros_like(rows, dtype=torch.bool)
    largest = rows.kthvalue(count, dim=1, keepdim=True).values  # of those that go: no sort of the whole
    mask, equal = rows < largest, rows == largest
    wanted = count - mask.sum(1, keepdim=True)
    if bool((equal.sum(1, keepdim=True) > wanted).any()):
        equal &= equal.cumsum(1, dtype=torch.int32) <= wanted
    return mask | equal


def _check(method: str, within: str, weights: Weights, inputs: Weights | None) -> None:
    for what, known, given in (("method", METHODS, method), ("place to compare scores", WITHIN, within)):
        if given not in known:
            raise ValueError(f"unknown {what} {given!r}: expected one of {', '.join(known)}")
    for name, w in weights.items():
        if not w.numel() or (w.dim() != 2 and within == "row"):
            raise ValueError(f"{name} is of shape {tuple(w.shape)}: expected a matrix (out, in) with entries to prune")
    if method == "wanda" and (missing := [name for name in weights if name not in (inputs or {})]):
        raise ValueError(f"Wanda needs the norms of the inputs of {missing[0]}: pass inputs= (see input_norms)")
