"""`Sketch`, the exact, mergeable distribution of one tensor, taken in one pass.

A bfloat16 or float16 tensor has at most 65,536 distinct values, a float8 tensor 256: counting bit patterns gives the
whole distribution, and every moment, quantile and distance follows from the counts without reading the tensor again. A
float32 (or a float64, through its float32 rounding) is counted by its leading 16 bits, and each bin also has the
integer sums of the trailing bits and of their squares: mean and variance are exact, and the empirical distribution
function is exact at bin edges.

Everything kept is an integer, so adding sketches is exact, associative and commutative: one thread, two workers or a
cluster give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from . import moments, quantiles
from .counting import (
    LIMB_BITS,
    count_patterns,
    count_patterns_torch,
    count_words,
    count_words_torch,
    key_to_float,
    limbs,
)
from .formats import SMALLEST_FLOAT32, Grid, grid, in_arrays, stored_words

_CHUNK_WORDS = 1 << 26  # per call of a counting loop, far below where a sum of squares could overflow
_MAX_VALUES = 1 << 46  # in a sketch, beyond which its sums could overflow


@dataclass(frozen=True, eq=False)
class Cells:
    """The occupied cells of a sketch by ascending value; float64 arrays of one length unless said otherwise.

    Attributes:
        index: int64, index among the cells of the grid.
        count: int64, number of values in the cell.
        value: mean of the values in the cell.
        lower, upper: the cell's edges.
        spread: sum of squared deviations of the cell's values from ``value``; 0 unless the grid is wide.
    """

    index: np.ndarray
    count: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    spread: np.ndarray


class Sketch:
    """Exact distribution of a set of floating-point values of one storage type.

    Make one with `Sketch.of`, and add two with ``+``. Sketches are immutable; two of the same values are equal
    (``==``), whatever the order and chunks of the values were.

    Attributes:
        dtype: storage type of the values.
        sums: the integers counted, see `__init__`.

    Examples:
        >>> values = np.random.default_rng(0).standard_normal(65536)
        >>> sketch = lfmlib.Sketch.of(values)
        >>> sketch
        Sketch(65,536 float64 values, mean 0.002437, std 0.9994)
        >>> sketch == lfmlib.Sketch.of(values[:1000]) + lfmlib.Sketch.of(values[1000:])
        True
    """

    def __init__(self, dtype: str, sums: np.ndarray, span: tuple[int, int] | None = None):
        """Wrap raw sums; use `Sketch.of` instead.

        Args:
            dtype: storage type, one of `lfmlib.distribution.formats.DTYPES`.
            sums: int64 ``(1, patterns)`` counts; in a wide grid ``(5, patterns)``: counts, sums of the centred
                trailing bits, high and low limb of the sums of their squares, zeros of either sign.
            span: monotone keys of the smallest and largest finite value (wide grids only).
        """
        self.dtype = dtype
        self.sums = sums
        self._span = span
        sums.setflags(write=False)

    @classmethod
    def of(cls, values) -> Sketch:
        """Sketch an array, a tensor or an iterable of them.

        Args:
            values: numpy array or torch tensor (any shape, strides and device; numpy arrays also of ml_dtypes' bfloat16
                and float8; of a masked array, what is not masked), anything that NumPy makes an array of, such as a
                column or a table of pandas, or an iterable of numbers, or of arrays or tensors of one type, which is
                read once, chunk by chunk.

        Raises:
            ValueError: integers, booleans or complex numbers; chunks of different types; no chunk at all; a finite
                float64 outside float32's range, or no larger one than those below it; text, or a mapping, such as a
                whole model.

        Examples:
            >>> half = torch.tensor([0.5, -0.25, 0.5, 0.0], dtype=torch.bfloat16)
            >>> lfmlib.Sketch.of(half).zeros
            1
            >>> lfmlib.Sketch.of(np.full(100, value) for value in (0.5, 1.5)).mean
            1.0
        """
        if isinstance(values, Sketch):
            return values
        if isinstance(values, torch.Tensor) or hasattr(values, "__array__"):
            return cls._of_one(values)._in_range()
        if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
            raise ValueError(
                f"cannot sketch a {type(values).__name__}: expected an array, a tensor or chunks of them; of a whole "
                "checkpoint, `lfmlib.survey` measures each matrix"
            )
        total = None
        for chunk in in_arrays(values):
            part = cls._of_one(chunk)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("cannot sketch an empty iterable: no chunk says what type the values have")
        return total._in_range()

    def _in_range(self) -> Sketch:
        """This sketch, unless all it counted are float64 that float32 does not tell apart."""
        largest = max(abs(self.min), abs(self.max)) if self.dtype == "float64" else 0.0
        if 0 < largest <= SMALLEST_FLOAT32:
            raise ValueError(
                "all float64 values lie below float32's range (1.4e-45), through which float64 is counted: scale the "
                "values first"
            )
        return self

    @classmethod
    def _of_one(cls, values) -> Sketch:
        dtype, words = stored_words(values)
        shape = grid(dtype)
        if not shape.wide:
            if isinstance(words, torch.Tensor):
                counts = count_patterns_torch(words, shape.patterns)
            else:
                counts = np.zeros(shape.patterns, dtype=np.int64)
                count_patterns(words, counts)
            return cls(dtype, counts[None, :])
        total = None
        for start in range(0, max(len(words), 1), _CHUNK_WORDS):
            part = words[start : start + _CHUNK_WORDS]
            if isinstance(part, torch.Tensor):
                bins, span = count_words_torch(part)
            else:
                bins, span = np.zeros((1 << 16, 4), np.int64), np.array([0x7FFFFFFF, -0x80000000], np.int64)
                count_words(part, bins, span)
            sketch = cls(dtype, limbs(bins), (int(span[0]), int(span[1])))
            total = sketch if total is None else total + sketch
        assert total is not None  # nothing is a chunk, too
        return total

    def __add__(self, other: Sketch) -> Sketch:
        """The sketch of both sets of values together.

        Raises:
            ValueError: the storage types differ, so the cells do too.
            OverflowError: more than 2**46 values, beyond which the sums are not kept exactly.
        """
        if not isinstance(other, Sketch):
            return NotImplemented
        if self.dtype != other.dtype:
            raise ValueError(
                f"cannot add a sketch of {other.dtype} to one of {self.dtype}: their cells differ; "
                "convert the values to one type before sketching"
            )
        if self.count + other.count > _MAX_VALUES:
            raise OverflowError(f"a sketch holds at most {_MAX_VALUES:,} values exactly: keep these two apart")
        sums = self.sums + other.sums
        if self._span is None or other._span is None:
            return Sketch(self.dtype, sums)
        sums[2] += sums[3] >> LIMB_BITS
        sums[3] &= 2**LIMB_BITS - 1
        span = min(self._span[0], other._span[0]), max(self._span[1], other._span[1])
        return Sketch(self.dtype, sums, span)

    def without(self, part: Sketch) -> Sketch:
        """The sketch of these values without those of ``part``.

        In wide grids ``min`` and ``max`` stay those of all values.

        Raises:
            ValueError: ``part`` has values that are not in this sketch.
        """
        sums = self.sums - part.sums if self.dtype == part.dtype else None
        if sums is None or (sums[0] < 0).any():
            raise ValueError(f"{part!r} is no part of {self!r}")
        if self._span is not None:
            sums[2] += sums[3] >> LIMB_BITS
            sums[3] &= 2**LIMB_BITS - 1
        return Sketch(self.dtype, sums, self._span)

    def __eq__(self, other) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        return self.dtype == other.dtype and self._span == other._span and np.array_equal(self.sums, other.sums)

    def __repr__(self) -> str:
        return f"Sketch({self.count:,} {self.dtype} values, mean {self.mean:.4g}, std {self.std:.4g})"

    # -- counts ------------------------------------------------------------------------------------------------------

    @property
    def grid(self) -> Grid:
        """The value grid of the storage type."""
        return grid(self.dtype)

    @cached_property
    def patterns(self) -> np.ndarray:
        """Counts of the finite bit patterns, int64 ``(patterns,)``; zero at infinities and NaN."""
        return np.where(self.grid.finite, self.sums[0], 0)

    @cached_property
    def count(self) -> int:
        """Number of finite values; every statistic is over these."""
        return int(self.patterns.sum())

    @cached_property
    def nonfinite(self) -> int:
        """Number of infinities and NaN, counted apart."""
        return int(self.sums[0].sum()) - self.count

    @cached_property
    def zeros(self) -> int:
        """Number of exact zeros of either sign."""
        if self.grid.wide:
            return int(self.sums[4].sum())
        return int(self.patterns[0] + self.patterns[len(self.patterns) // 2])

    @cached_property
    def subnormals(self) -> int:
        """Number of nonzero values below the smallest normal number of the type (float64: of float32)."""
        return int(self.patterns.reshape(2, self.grid.exponents, -1)[:, 0].sum()) - self.zeros

    @cached_property
    def grid_counts(self) -> np.ndarray:
        """Counts of the grid's cells by ascending value, int64 ``(cells,)``."""
        shape = self.grid
        counts = self.patterns[shape.order]
        if not shape.wide:  # the middle cell is zero's; minus zero has none of its own
            counts[counts.size // 2] += self.patterns[shape.patterns // 2]
        return counts

    @cached_property
    def grid_below(self) -> np.ndarray:
        """Number of values below each edge of the grid, int64 ``(cells + 1,)``."""
        return np.concatenate([[0], np.cumsum(self.grid_counts)])

    @cached_property
    def magnitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts of the values other than zero by magnitude.

        Returns:
            edges: float64 ``(m + 1,)``, ascending edges of all cells on one side of zero.
            negative, positive: int64 ``(m,)``, numbers of values in these cells below and above zero.
        """
        counts, middle = self.grid_counts, (self.grid.edges.size - 1) // 2
        if not self.grid.wide:  # the middle cell is zero's
            return self.grid.edges[middle + 1 :], counts[:middle][::-1], counts[middle + 1 :]
        negative, positive = counts[:middle][::-1].copy(), counts[middle:].copy()
        negative[0] -= self.sums[4, self.grid.patterns // 2]
        positive[0] -= self.sums[4, 0]
        return self.grid.edges[middle:], negative, positive

    @cached_property
    def cells(self) -> Cells:
        """The occupied cells by ascending value."""
        shape, counts = self.grid, self.grid_counts
        index = np.flatnonzero(counts > 0)  # of a boolean array it takes a tenth of the time
        count, value = counts[index], shape.values[index]
        spread = np.zeros(index.size)
        if shape.wide:
            linear, high, low = (self.sums[row][shape.order[index]] for row in (1, 2, 3))
            offset = linear / count  # mean of the centred trailing bits
            lower, upper = shape.edges[index], shape.edges[index + 1]
            step = (upper - lower) / 2.0**16  # one unit of the trailing bits
            value = value + np.copysign(step, value) * offset
            spread = np.maximum(high * 2.0**LIMB_BITS + low - linear * offset, 0.0) * step**2
        return Cells(index, count, value, shape.edges[index], shape.edges[index + 1], spread)

    # -- moments -----------------------------------------------------------------------------------------------------

    @cached_property
    def _mean_and_std(self) -> tuple[float, float]:
        return moments.mean_and_std(self)

    @property
    def mean(self) -> float:
        """Mean, exact before one rounding; NaN without values."""
        return self._mean_and_std[0]

    @property
    def std(self) -> float:
        """Population standard deviation; the variance is exact before one rounding. NaN without values."""
        return self._mean_and_std[1]

    @cached_property
    def _third_and_fourth(self) -> tuple[float, float, float, float]:
        return moments.third_and_fourth(self)

    @property
    def skewness(self) -> float:
        """Third standardized moment (population); off by at most `skewness_error`."""
        return self._third_and_fourth[0]

    @property
    def excess_kurtosis(self) -> float:
        """Fourth standardized moment (population) minus 3; off by at most `excess_kurtosis_error`."""
        return self._third_and_fourth[1]

    @property
    def skewness_error(self) -> float:
        """Certified bound on the error of `skewness`: 0 for 8- and 16-bit types; large if abs(mean) >> std."""
        return self._third_and_fourth[2]

    @property
    def excess_kurtosis_error(self) -> float:
        """Certified bound on the error of `excess_kurtosis`: 0 for 8- and 16-bit types; large if abs(mean) >> std."""
        return self._third_and_fourth[3]

    # -- order -------------------------------------------------------------------------------------------------------

    @cached_property
    def min(self) -> float:
        """Smallest finite value (of float64 its float32 rounding); NaN without values."""
        return self._extreme(0)

    @cached_property
    def max(self) -> float:
        """Largest finite value (of float64 its float32 rounding); NaN without values."""
        return self._extreme(-1)

    def _extreme(self, end: int) -> float:
        if not self.count:
            return np.nan
        return key_to_float(self._span[end]) if self._span is not None else float(self.cells.value[end])

    def cdf(self, x):
        """Share of the values that are at most ``x``; scalar or array.

        Exact for 8- and 16-bit types. For float32 exact at cell edges; inside a cell the values are taken to be spread
        evenly, so it is off by at most the cell's own share (below 0.004 for a Gaussian). NaN without values.

        Examples:
            >>> half = lfmlib.Sketch.of(torch.tensor([0.5, -0.25, 0.5, 0.0], dtype=torch.bfloat16))
            >>> float(half.cdf(0)), float(half.cdf(0.5))
            (0.5, 1.0)
        """
        x = np.asarray(x, dtype=np.float64)
        if not self.count:
            return np.full(x.shape, np.nan)[()]
        return np.where(np.isnan(x), np.nan, quantiles.share_up_to(self, x))[()]

    def quantile(self, q):
        """Quantile by NumPy's default (linear) definition; ``q`` is a scalar or array of shares in [0, 1].

        Exact for 8- and 16-bit types; for float32 within the width of one cell (under 0.8 % of the value). NaN without
        values.

        Raises:
            ValueError: a share outside [0, 1].

        Examples:
            >>> half = lfmlib.Sketch.of(torch.tensor([0.5, -0.25, 0.5, 0.0], dtype=torch.bfloat16))
            >>> half.quantile([0, 0.5, 1]).tolist()
            [-0.25, 0.25, 0.5]
        """
        q = np.asarray(q, dtype=np.float64)
        if (outside := ~((q >= 0) & (q <= 1))).any():  # NaN, too
            raise ValueError(f"quantiles are shares between 0 and 1, not {q[outside].flat[0]}")
        if not self.count:
            return np.full(q.shape, np.nan)[()]
        position = q * (self.count - 1)
        whole = np.floor(position).astype(np.int64)
        left = quantiles.ranked(self, whole)
        right = quantiles.ranked(self, np.minimum(whole + 1, self.count - 1))
        return (left + (right - left) * (position - whole))[()]
