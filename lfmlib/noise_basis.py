"""The frozen random matrices of noise adapters: the same random numbers for ever, on every machine and device.

NumPy keeps the stream of its bit generators, but not what it makes of them, and torch keeps neither. So 16 bits of
Philox (Salmon et al. 2011) choose one of 65,536 quantiles of the law, and a checksum of these quantiles is verified.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from functools import cache

import numpy as np
import torch
from scipy import special

LAWS = ("gaussian", "uniform", "signs")
"""Laws of the frozen entries, all of mean 0 and variance 1."""
STREAM = "philox-quantiles-1"
"""Version of the stream of random numbers; stored with every adapter."""
_CHECKSUMS = {"gaussian": "c5f5ea2d3eff3897", "uniform": "283ffb1f8f146c26", "signs": "c9e690197cd3e1a0"}


def basis(shape: tuple[int, int], law: str, seed: int, name: str, number: int = 0) -> torch.Tensor:
    """A frozen random matrix, float32 ``shape``, of unit variance: a function of its arguments alone.

    Args:
        shape: ``(out, in)``.
        law: one of `LAWS`.
        seed: of the adapter.
        name: of the layer.
        number: of the basis, where a layer has several.

    Raises:
        ValueError: unknown law.
        RuntimeError: this machine computes other quantiles than the ones adapters are stored with.
    """
    stream = np.random.Philox(key=[seed, zlib.crc32(name.encode()) + (number << 32)])
    count = shape[0] * shape[1]
    words = stream.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
    return torch.from_numpy(_quantiles(law)[words].reshape(shape))


@cache
def _quantiles(law: str) -> np.ndarray:
    """65,536 equally likely values of a law, float32, of mean 0 and variance 1."""
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r} of a noise adapter: expected one of {', '.join(LAWS)}")
    middle = (np.arange(1 << 16) + 0.5) / (1 << 16)
    values = {"gaussian": special.ndtri(middle), "uniform": 2 * middle - 1, "signs": np.sign(middle - 0.5)}[law]
    values = values / math.sqrt(np.mean(values**2))
    # Rounded on a grid that all machines agree on, although their last digits may not.
    table = (np.round(values * 2**16) / 2**16).astype(np.float32)
    found = hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()[:16]
    if found != _CHECKSUMS[law]:
        raise RuntimeError(
            f"the {law} quantiles of this machine have the checksum {found}, those that noise adapters are stored with "
            f"{_CHECKSUMS[law]}: an adapter would come out as another one. Report the versions of numpy and scipy"
        )
    return table
