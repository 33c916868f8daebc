"""`iid` and `spectrum` of one matrix at once: what both need is made once, or sampled where it is large."""

from __future__ import annotations

import numpy as np

from .dependence import LAGS
from .entries import IID, measured
from .gram import Matrix
from .inputs import entries_of
from .krylov import MIN_SIDE
from .likeness import alike, from_products
from .line_samples import alike_of_sample
from .spectra import MAX_EXACT_SIDE, Spectrum, fast_spectrum, of_eigenvalues, spectrum
from .sums import Sums


def together(matrix) -> tuple[IID, Spectrum]:
    """`lfmlib.iid` and `lfmlib.spectrum` of a matrix, without controls and intervals.

    The inner products of its smaller side's lines are made once, for their correlations as for the eigenvalues: two
    Gram matrices instead of three. The mean squared correlation of that side differs by less than 1e-3 of its null's
    width from that of `lfmlib.iid`; all other figures are the same. Memory: while eigenvalues are computed, two float64
    matrices of the smaller side squared; else two float32 copies of the matrix (of a float64 one float64).

    Args:
        matrix: as for `lfmlib.iid`, of floating numbers.

    Raises:
        ValueError: as from `lfmlib.iid` and `lfmlib.spectrum`.

    Examples:
        >>> from lfmlib.structure.together import together
        >>> entries, values = together(np.random.default_rng(0).standard_normal((256, 512)))
        >>> round(entries.row_alike, 2), values.outliers
        (1.0, 0)
    """
    w = entries_of(matrix)
    if min(w.shape) > MAX_EXACT_SIDE:
        return measured(w), spectrum(matrix)
    m = Matrix(matrix)
    sums = Sums.of(w, LAGS)
    del w  # one copy less beside the Gram matrix and torch's copy of it
    products = m.products()
    smaller = from_products(products, m.mean, m.std, sums)
    values = of_eigenvalues(m, m.eigenvalues(products))
    del products
    w = entries_of(matrix)
    return measured(w, sums, alike(w, sums, smaller)), values


def together_fast(matrix, *, seed: int = 0) -> tuple[IID, Spectrum, dict[str, float]]:
    """`together` in a time that grows with the number of entries alone.

    What one pass over the entries gives is as of `together`. What takes products of all rows, or of all columns, is
    estimated: `row_corr` and `col_corr` (and `row_alike`, `col_alike`) from 512 rows and columns
    (`lfmlib.structure.line_samples`), the spectrum from a Krylov space (`lfmlib.structure.krylov`). Nulls are those of
    the estimates. A matrix whose smaller side is at most `MIN_SIDE` is measured by `together`, which then takes no
    longer.

    Args:
        matrix: as for `lfmlib.iid`, of floating numbers.
        seed: of what is sampled.

    Returns:
        The figures, and the standard errors of those that are estimates by their names: none where all is exact.

    Raises:
        ValueError: as from `lfmlib.iid` and `lfmlib.spectrum`.

    Examples:
        >>> from lfmlib.structure.together import together_fast
        >>> entries, values, errors = together_fast(np.random.default_rng(0).standard_normal((1100, 1200)))
        >>> round(entries.row_alike, 2), values.outliers, list(errors)
        (1.0, 0, ['row_corr', 'col_corr', 'row_alike', 'col_alike', 'ks', 'effective_rank'])
    """
    if min(np.shape(matrix), default=0) <= MIN_SIDE:
        return *together(matrix), {}
    w = entries_of(matrix)
    sums = Sums.of(w, LAGS)
    rows, columns, (row_error, column_error) = alike_of_sample(w, seed=seed)
    entries = measured(w, sums, (rows, columns))
    r, c = w.shape
    del w
    values, errors = fast_spectrum(Matrix(matrix), seed=seed)
    likeness = {"row_corr": row_error, "col_corr": column_error}
    likeness |= {"row_alike": row_error * (c - 1), "col_alike": column_error * (r - 1)}
    return entries, values, likeness | errors
