"""Program x test matrices: what is asked of them, and their programs in groups of equal rows.

Main functions: `passes` and `outputs` read a matrix, `distinct_rows` numbers its groups, `by_group` counts a subset in
them. Not handled: outcomes that are not known; leave such tests or programs out before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.metrics.shapes import Array, Ints, Ragged, ragged
from harness.types import Floats


def passes(matrix_GC: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which program passes which test, (G, C) of True and False."""
    given = np.asarray(matrix_GC)
    if given.ndim != 2 or not (given.dtype == bool or np.isin(given, (0, 1)).all()):
        raise ValueError("passed must be a (programs, tests) matrix of True and False for each problem")
    return given.astype(bool)


def outputs(matrix_GC: npt.ArrayLike) -> Ints:
    """Values of one test as whole numbers, equal for equal ones, -1 for any that is negative: no value. (G, C)"""
    given = np.asarray(matrix_GC)
    if given.ndim != 2 or (given.dtype.kind not in "iu" and given.size):
        raise ValueError("output must be a (programs, tests) matrix of whole numbers for each problem, -1 for no value")
    return np.maximum(given.astype(np.int64), -1)


def zeros_and_ones(name: str, values_PG: Ragged) -> list[Floats]:
    """P rows of 0 or 1; `name` is for the error."""
    rows = [row.astype(np.float64) for row in ragged(name, values_PG)]
    if not all(np.isin(row, (0, 1)).all() for row in rows):
        raise ValueError(f"{name} must be 0 or 1 for each program")
    return rows


def check_programs(correct_PG: Sequence[Array], **others: Sequence[Array]) -> None:
    """Refuses matrices and columns that are not of the same programs."""
    programs = [len(row) for row in correct_PG]
    for name, other in others.items():
        if programs != [len(row) for row in other]:
            raise ValueError(f"correct and {name} differ in shape: each problem needs one row or number per program")


def distinct_rows(matrix_GC: Array) -> tuple[Array, Ints]:
    """The distinct rows, and which of them each row is: (G, C) -> (A, C), (G,)."""
    if not matrix_GC.shape[1]:
        return matrix_GC[:1], np.zeros(len(matrix_GC), dtype=np.int64)
    row_AC, group = np.unique(matrix_GC, axis=0, return_inverse=True)
    return row_AC, group.ravel().astype(np.int64)


def by_group(subset_BK: Ints, group: Ints, values: Floats | None = None) -> Array:
    """How many of each subset of places are in each group, or the sum of their values: (B, k), (G,) -> (B, A)."""
    rows, groups = len(subset_BK), int(group.max()) + 1
    cell = (np.arange(rows)[:, None] * groups + group[subset_BK]).ravel()
    weights = None if values is None else values[subset_BK].ravel()
    return np.bincount(cell, weights, rows * groups).reshape(rows, groups)
