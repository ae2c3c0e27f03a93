"""What every metric asks of its arguments: rows that may differ in length, whole ks, enough samples for each k.

Main functions: `ragged` reads a (P, n) array or a list of P arrays, `equal_n` cuts it into blocks of problems with
equally many samples, which is how the estimators stay vectorised, `check_ks` and `check_enough` refuse impossible ks.
Not handled: missing values. A NaN is an error here; leave ungraded samples out before (`harness.selectors` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Ragged = Array | Sequence[npt.ArrayLike]
"""A (P, n) array, or P arrays of (n_i,) where the number of samples differs between problems."""


def ragged(name: str, values: Ragged) -> list[Array]:
    """The P rows of a (P, n) array or of a list of 1-D arrays; `name` is for the error."""
    rows = [np.asarray(row) for row in values]
    if any(row.ndim != 1 for row in rows):
        raise ValueError(f"{name} must be a (problems, samples) array or a list of 1-D arrays, one per problem")
    for row in rows:
        if row.dtype.kind == "f" and np.isnan(row).any():
            raise ValueError(f"{name} holds NaN: leave ungraded samples out, they are not wrong ones")
    return rows


def equal_n(**columns: Ragged) -> Iterator[tuple[Ints, list[Array]]]:
    """Problems in blocks of equal n: their places (p,) among the P, and each named column as a (p, n) array."""
    read = {name: ragged(name, values) for name, values in columns.items()}
    lengths = {name: np.array([row.size for row in rows], dtype=np.int64) for name, rows in read.items()}
    first, *others = lengths
    for other in others:
        if not np.array_equal(lengths[first], lengths[other]):
            raise ValueError(f"{first} and {other} differ in shape: each needs one number per sample")
    for n in np.unique(lengths[first]):
        places = np.flatnonzero(lengths[first] == n)
        yield places, [np.stack([rows[p] for p in places]) for rows in read.values()]


def sample_counts(values: Ragged) -> Ints:
    """n of each problem: (P, n) or P rows -> (P,)."""
    return np.array([np.size(row) for row in values], dtype=np.int64)


def check_ks(ks: Sequence[int] | Ints | int) -> Ints:
    """ks as a (K,) array of whole numbers >= 1."""
    ks_K = np.atleast_1d(np.asarray(ks))
    if ks_K.ndim != 1 or ks_K.size == 0 or ks_K.dtype.kind not in "iu":
        raise ValueError(f"ks must be a list of whole numbers, not {ks!r}")
    if (ks_K < 1).any():
        raise ValueError(f"k must be at least 1, not {ks_K.min()}")
    return ks_K.astype(np.int64)


def check_enough(n_P: Ints, ks_K: Ints) -> None:
    """Refuses k > n: no unbiased estimator exists there, as E_p[g(C)] is a polynomial in p of degree <= n for any g,
    while 1 - (1-p)^k has degree k; plugging in c/n is up to 0.167 too low."""
    k = int(ks_K.max())
    short = int((n_P < k).sum())
    if short:
        raise ValueError(
            f"k={k} needs {k} samples; {counted(short, 'problem has', 'problems have')} fewer: "
            "report smaller ks or draw more samples"
        )


def counted(number: int, one: str, many: str) -> str:
    """The number with the right form of its words: 1 problem has, 3 problems have."""
    return f"{number} {one if number == 1 else many}"
