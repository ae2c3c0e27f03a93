"""What values between the judge and a program can be: limits on their size, errors, and the types of our own.

Used through `plain`, the codec. Not handled here: the coding itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_BYTES = 4 << 20
"""Of one encoded value."""
MAX_DEPTH = 200
MAX_INT_BITS = 1 << 22
MAX_FRACTION_BITS = 1 << 16
"""Of a numerator or a denominator: bringing a fraction to its lowest terms is quadratic."""
MAX_ITEMS = 100_000
"""That are taken from a generator or iterator."""
MAX_RANGE = MAX_BYTES // 2
"""Numbers in a range or an array: as many as a list of one-digit numbers could hold."""
MAX_EQUAL_HASHES = 256
"""In one set or dict: equal hashes make it quadratic to build, and honest data has none."""
SMALL_INT = 10**15
MAX_NUMERAL = 10_000
"""Characters of a Decimal."""


class NotPlain(Exception):
    """A value that strict encoding refuses: it is not plain data, and no program made it."""


class TooLarge(ValueError):
    """A value beyond one of the limits above."""


class Garbled(ValueError):
    """Bytes that `dumps` does not produce, or that are beyond the limits."""


class Opaque:
    """A value that was not plain data: true, hashable, and equal to nothing, itself included."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.kind} object>"


class Consumed:
    """What a generator or iterator gave: iterable once, equal to nothing but itself."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.items)


_DICT: dict[int, int] = {}
_ITERABLES: tuple[Any, ...] = ([], (), "", _DICT, _DICT.values(), _DICT.items(), set(), range(0))
ITERATORS: tuple[type, ...] = (
    *(type(iter(each)) for each in _ITERABLES),
    *(type(_ for _ in ()), type(reversed([])), map, filter, zip, reversed, enumerate, Consumed),
)
KEYS: type = type(_DICT.keys())
VALUES: type = type(_DICT.values())
ITEMS: type = type(_DICT.items())
