"""`iid` and `spectrum` of one matrix at once: what both need is made once."""

from __future__ import annotations

from .dependence import LAGS
from .entries import IID, entries_of, measured
from .gram import Matrix
from .likeness import alike, from_products
from .spectra import MAX_EXACT_SIDE, Spectrum, of_eigenvalues, spectrum
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
    m = Matrix(matrix)
    if m.p > MAX_EXACT_SIDE:
        return measured(w), spectrum(matrix)
    sums = Sums.of(w, LAGS)
    del w  # one copy less beside the Gram matrix and torch's copy of it
    products = m.products()
    smaller = from_products(products, m.mean, m.std, sums)
    values = of_eigenvalues(m, m.eigenvalues(products))
    del products
    w = entries_of(matrix)
    return measured(w, sums, alike(w, sums, smaller)), values
