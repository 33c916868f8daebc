"""Control matrices: altered copies of a matrix, or noise in its place, to measure in the same way.

Each control destroys some properties of the matrix, which tells what a departure from noise comes from:

    rescaled        the scales of rows and columns divided out (see `rescaled`); dependence stays
    rows-permuted   each row's entries in a random order: the scale of every row stays, dependence goes
    permuted        all entries in a random order: only their distribution stays
    fresh           new Gaussian draws of the matrix's shape, type, mean and standard deviation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from ..options import check
from .gram import Matrix
from .inputs import tensor_of

Found = TypeVar("Found")

CONTROLS = ("rescaled", "rows-permuted", "permuted", "fresh")
"""Names of the controls, as explained above."""
TOLERANCE, MAX_ROUNDS = 1e-6, 200
"""When scales are divided out: no more than this share of change is left, or so many rounds were made."""

_ROWS = 256  # of noise, scaled in float64 at a time


def control(matrix, kind: str, *, seed: int = 0) -> torch.Tensor:
    """A control of a matrix.

    Args:
        matrix: ``(r, c)``, torch tensor or numpy array of any floating type.
        kind: one of `CONTROLS`.
        seed: of the random order or draws.

    Returns:
        ``(r, c)``, of the matrix's type (rescaled: float32, or of a float64 matrix float64), on its device.

    Raises:
        ValueError: unknown kind; or not a matrix that `lfmlib.spectrum` takes.

    Examples:
        >>> matrix = np.random.default_rng(0).standard_normal((256, 512)) * np.linspace(0.5, 2, 256)[:, None]
        >>> permuted = lfmlib.control(matrix, "permuted", seed=1)
        >>> bool(permuted.max() == matrix.max()), round(lfmlib.iid(permuted).row_share, 2)
        (True, 0.0)
    """
    check(kind=kind, seed=seed)
    (kind,) = checked_names(kind)
    w = tensor_of(matrix)
    if w.ndim != 2:
        raise ValueError(f"found shape {tuple(w.shape)}: expected a matrix; leave vectors out")
    if kind == "rescaled":
        return rescaled(w).to(torch.float64 if w.dtype == torch.float64 else torch.float32)
    generator = torch.Generator().manual_seed(seed)  # on the host, for the same draws on every device
    if kind == "permuted":
        order = torch.randperm(w.numel(), generator=generator).to(w.device)
        return w.reshape(-1)[order].reshape(w.shape)
    if kind == "rows-permuted":
        order = torch.rand(w.shape, generator=generator).argsort(dim=1).to(w.device)
        if w.element_size() == 1:  # torch cannot gather float8
            return w.contiguous().view(torch.uint8).gather(1, order).view(w.dtype)
        return w.gather(1, order)
    m = Matrix(w)
    draws = torch.randn(w.shape, generator=generator)
    made = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    for some, place in zip(draws.split(_ROWS), made.split(_ROWS), strict=True):  # a double takes four times a bfloat16
        place.copy_(m.mean + m.std * some.to(w.device).double())
    return made


def checked_names(controls: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names of controls, each once.

    Raises:
        ValueError: unknown name.
    """
    check(controls=controls or ())
    names = (controls,) if isinstance(controls, str) else tuple(dict.fromkeys(controls or ()))
    if unknown := [name for name in names if name not in CONTROLS]:
        raise ValueError(f"unknown control {', '.join(map(repr, unknown))}: expected one of {', '.join(CONTROLS)}")
    return names


def measure_controls(
    matrix, controls: str | Iterable[str], measure: Callable[[Any], Found], *, seed: int = 0
) -> dict[str, Found]:
    """Name → result of ``measure`` for each of the ``controls`` (one name, or several) of a matrix."""
    return {name: measure(control(matrix, name, seed=seed)) for name in checked_names(controls)}


def rescaled(matrix, *, tolerance: float = TOLERANCE, most: int = MAX_ROUNDS) -> torch.Tensor:
    """Divide out the scales of rows and columns, so that every row and column has root mean square 1.

    Alternating normalization (Sinkhorn and Knopp 1967, on the squared entries); a few rounds do unless many entries are
    zero. Values beyond the edge of a spectrum that disappear here came from unequal scales; those that stay, from
    correlation.

    Args:
        matrix: as in `spectrum`, with its errors. The mean is not subtracted; rows and columns of zeros stay.
        tolerance: stop when no scale changes by more than this share.
        most: largest number of rounds; some patterns of zeros have no solution, and end up partly scaled.

    Returns:
        float64 ``(r, c)``, where `lfmlib.structure.inputs.tensor_of` has the matrix: on the GPU if there is one.

    Examples:
        >>> matrix = np.random.default_rng(0).standard_normal((256, 512)) * np.linspace(0.5, 2, 256)[:, None]
        >>> rms = lfmlib.rescaled(matrix).square().mean(dim=1).sqrt()
        >>> round(float(rms.min()), 3), round(float(rms.max()), 3)
        (1.0, 1.0)
    """
    check(tolerance=tolerance, most=most)
    m = Matrix(matrix)
    rows, columns = _line_scales(m.given, tolerance, most)
    return m.given.to(torch.float64) / rows[:, None] / columns


def _line_scales(
    w: torch.Tensor, tolerance: float = TOLERANCE, most: int = MAX_ROUNDS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales of the rows and of the columns of a matrix (r, c), float64 ``(r,)`` and ``(c,)``, as of `rescaled`.

    A round costs a product of the squared entries with a vector for either side: the matrix itself stays as it is.
    """
    squares = w.to(torch.float64).square()
    filled = [int(squares.any(dim=axis).sum()) for axis in (0, 1)]  # columns and rows that are not all zero
    scales = [torch.ones(size, dtype=torch.float64, device=w.device) for size in w.shape]
    for _ in range(most):
        change = 0.0
        for axis, across in ((0, squares), (1, squares.T)):
            mean = across @ scales[1 - axis].square().reciprocal() / filled[axis] / scales[axis].square()
            more = torch.where(mean > 0, mean, 1.0).sqrt()
            scales[axis] *= more
            change = max(change, float((more - 1).abs().max()))
        if change <= tolerance:
            break
    return scales[0], scales[1]


def scale_gain(matrix) -> float:
    """Bits per entry that a Gaussian code saves with a scale for every row and column, instead of one for the matrix.

    Half the mean log2 of overall over local variance (the coding gain of Jayant and Noll 1984, for scales of rows and
    columns that multiply). Storing the scales is not charged. Entries equal to zero are left out.

    Args:
        matrix: as in `rescaled`, with its errors.
    """
    w = Matrix(matrix).given
    there = w != 0
    scales = enumerate(_line_scales(w))
    local = sum(torch.dot(there.sum(dim=1 - axis).double(), scale.log2()) for axis, scale in scales) / there.sum()
    return math.log2(float(w.to(torch.float64).square().mean())) / 2 - float(local)
