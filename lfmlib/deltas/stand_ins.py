"""Stand-ins for the ΔW of a training: made of Gaussian noise, or of ΔW itself with some property destroyed.

What a stand-in keeps of ΔW, and what a task still gains by it, tells which property of ΔW the task needs:

    gaussianized  the order of the entries kept, their values replaced by Gaussian ones of the same rank
    flattened     every entry's sign kept, all of one size
    signs-drawn   every entry's size kept, its sign drawn
    resampled     every entry drawn from all entries: only their distribution kept
    permuted      the same entries in a random order: only their distribution kept
    noise-scaled  Gaussian noise with the root mean square of every row and column: only these kept
    noise         Gaussian noise of ΔW's mean and standard deviation: only these kept
    reversed      -ΔW: everything kept but the direction
    none          zero
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from scipy import special

from ..distribution.distances import qq_r2
from ..distribution.sketch import Sketch
from .budget import blocks

STAND_INS: Mapping[str, str] = {
    "trained": "everything",
    "gaussianized": "which entry is larger",
    "flattened": "the signs",
    "signs-drawn": "the sizes",
    "resampled": "the histogram",
    "permuted": "the histogram",
    "noise-scaled": "the sizes of rows and columns",
    "noise": "mean and std",
    "reversed": "all but the direction",
    "none": "nothing",
}
"""Name of each stand-in → what it keeps of ΔW, in words; "trained" is ΔW itself."""


def stand_in(delta: torch.Tensor, kind: str, rng: np.random.Generator) -> torch.Tensor:
    """A stand-in for ΔW.

    Args:
        delta: ΔW, ``(out, in)``.
        kind: a key of `STAND_INS`.
        rng: source of order and draws.

    Returns:
        float32, of the shape of ΔW. Its root mean square is that of ΔW, exactly or in expectation ("none": 0).

    Raises:
        ValueError: unknown kind.

    Examples:
        >>> from lfmlib.deltas.stand_ins import stand_in
        >>> delta = torch.tensor([[0.1, -0.4, 0.2, -0.3]])
        >>> stand_in(delta, "reversed", np.random.default_rng(0))
        tensor([[-0.1000,  0.4000, -0.2000,  0.3000]])
    """
    if kind not in STAND_INS:
        raise ValueError(f"unknown stand-in {kind!r}: expected one of {', '.join(STAND_INS)}")
    values = delta.detach().cpu().double().numpy()
    size = np.sqrt(np.mean(values**2))
    if kind == "gaussianized":
        made = np.empty(values.size)
        made[values.ravel().argsort(kind="stable")] = special.ndtri((np.arange(values.size) + 0.5) / values.size)
        made = made.reshape(values.shape) * values.std() / made.std() + values.mean()
    elif kind == "flattened":
        made = size * np.sign(values)
    elif kind == "signs-drawn":
        made = np.abs(values) * rng.choice([-1.0, 1.0], values.shape)
    elif kind == "resampled":
        made = rng.choice(values.ravel(), values.shape)
    elif kind == "permuted":
        made = rng.permutation(values.ravel()).reshape(values.shape)
    elif kind == "noise-scaled":
        square = values**2
        made = np.sqrt(np.outer(square.mean(1), square.mean(0))) / (size or 1) * rng.standard_normal(values.shape)
    elif kind == "noise":
        made = values.mean() + values.std() * rng.standard_normal(values.shape)
    else:
        made = {"trained": values, "reversed": -values, "none": np.zeros_like(values)}[kind]
    return torch.from_numpy(made.astype(np.float32))


def transport(delta, points: int = 199) -> pd.DataFrame:
    """The optimal transport from Gaussian noise to the distribution of ΔW: T(z) = F⁻¹(Φ(z)).

    The map is a straight line if ΔW is Gaussian; how close it is to one says `qq_r2`.

    Args:
        delta: a `Sketch` of ΔW, or anything `Sketch.of` takes.
        points: number of points of the map, equally spaced in z over the range of as many normal values.

    Returns:
        Columns: z, a standard normal value; value, what it becomes, in standard deviations of ΔW from its mean; line,
        what it would become if ΔW were Gaussian (z itself). ``attrs["r2"]`` is `qq_r2`.

    Raises:
        ValueError: ΔW has not two different values.

    Examples:
        >>> from lfmlib.deltas.stand_ins import transport
        >>> noise = 0.001 * np.random.default_rng(0).standard_normal(65536)
        >>> round(transport(noise).attrs["r2"], 3)
        1.0
    """
    sketch = Sketch.of(delta)
    if not sketch.count or sketch.std == 0:
        raise ValueError(f"ΔW has {sketch.count} values and a std of {sketch.std}: there is nothing to map noise to")
    reach = special.ndtri(1 - 0.5 / sketch.count)
    z = np.linspace(-reach, reach, points)
    value = (np.array([sketch.quantile(q) for q in special.ndtr(z)]) - sketch.mean) / sketch.std
    found = pd.DataFrame({"z": z, "value": value, "line": z})
    found.attrs["r2"] = qq_r2(sketch)
    return found


@torch.no_grad()
def added(base: torch.Tensor, std: float, rng: np.random.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
    """W₀ + Gaussian noise, rounded once to the stored type: a fine-tune whose ΔW is noise.

    Args:
        base: W₀, ``(out, in)``, on the CPU.
        std: standard deviation of the noise, in the unit of W₀.
        rng: source of the noise.
        dtype: type of the result; None: that of W₀.
    """
    made = torch.empty(base.shape, dtype=dtype or base.dtype)
    for there, some in zip(blocks(made), adding(blocks(base), std, rng, dtype), strict=True):
        there.copy_(some)
    return made


def adding(
    base: Iterable[torch.Tensor], std: float, rng: np.random.Generator, dtype: torch.dtype | None = None
) -> Iterator[torch.Tensor]:
    """The blocks of `added`, which do not depend on how W₀ is divided into blocks.

    Args:
        base: blocks of rows of W₀, ``(rows, in)`` each, in order.
        std, rng, dtype: as for `added`.
    """
    for some in base:
        kind = dtype or some.dtype
        wide = torch.float64 if kind == torch.float64 else torch.float32
        noise = torch.from_numpy(rng.standard_normal(tuple(some.shape), dtype=np.float32))
        yield (some.to(wide) + std * noise.to(wide)).to(kind)


def low_rank(shape: tuple[int, int], rank: int, std: float, rng: np.random.Generator) -> torch.Tensor:
    """The product BA of Gaussian factors, float32: what a low-rank adapter would add if its factors were noise.

    Its entries are not Gaussian: those of one row are, given that row of B, but the norms of the rows of B differ.

    Args:
        shape: ``(out, in)``.
        rank: of the product.
        std: standard deviation of its entries.
        rng: source of the factors.
    """
    b, a = (rng.standard_normal(size, dtype=np.float32) for size in ((shape[0], rank), (rank, shape[1])))
    product = torch.from_numpy(b @ a)
    return product * (std / product.std(correction=0))
