"""Values as plain data between the judge and a program's process: tagged JSON, decoded into exact built-in types.

Main functions: `encode` and `loads`. `loads` reads hostile data: it builds nothing but built-in and standard-library
values, and refuses what is too large, too deep or made of equal hashes. What is not plain data arrives as an `Opaque`,
equal to nothing. Subclasses of built-in types travel by value, without a call of any method that they could override.
numpy arrays and scalars that a program gives arrive as what `tolist()` and `item()` give, nested lists and Python
numbers: the judge has no numpy, and an array is then equal to the list of its numbers, not to a tuple.
Not handled: identity, mutation of arguments, and values shared within a value (they arrive as copies).

JSON: None, bool, most str, small int, finite float and list are themselves; all else is an object with one tag as key.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from math import isfinite
from typing import Any

from harness.sandbox.plain_types import (
    ITEMS,
    ITERATORS,
    KEYS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_EQUAL_HASHES,
    MAX_FRACTION_BITS,
    MAX_INT_BITS,
    MAX_ITEMS,
    MAX_NUMERAL,
    MAX_RANGE,
    SMALL_INT,
    VALUES,
    Consumed,
    Garbled,
    NotPlain,
    Opaque,
    TooLarge,
)

__all__ = [
    "MAX_BYTES", "MAX_DEPTH", "MAX_FRACTION_BITS", "MAX_INT_BITS", "MAX_ITEMS", "MAX_NUMERAL", "MAX_RANGE", "SMALL_INT",
    "Consumed", "Encoded", "Garbled", "NotPlain", "Opaque", "TooLarge", "decode", "dumps", "encode", "loads", "parse",
]  # fmt: skip

Encoded = Any
"""What `json` understands."""


def encode(value: Any, *, strict: bool = False, depth: int = 0) -> Encoded:
    """`value` as JSON-ready data. What is not plain becomes an opaque mark, or NotPlain if `strict`."""
    kind = type(value)
    if value is None or kind is bool or (kind is str and value.isascii()):
        return value
    if kind is int and -SMALL_INT < value < SMALL_INT:
        return value
    if kind is float and isfinite(value):
        return value
    if depth >= MAX_DEPTH:
        raise TooLarge(f"nested deeper than {MAX_DEPTH}")

    def many(items: Iterable[Any]) -> list[Encoded]:
        return [encode(item, strict=strict, depth=depth + 1) for item in items]

    if kind is list:
        return many(value)
    if kind is tuple:
        return {"t": many(value)}
    if kind is dict:
        return {"d": [many(pair) for pair in value.items()]}
    return _encode_rare(value, kind, many, strict)


def _encode_rare(value: Any, kind: type, many: Callable[[Iterable[Any]], list[Encoded]], strict: bool) -> Encoded:
    if kind is OrderedDict:  # the order of two of them matters when they are compared
        return {"O": [many(pair) for pair in value.items()]}
    for builtin, to_json in _BY_BUILTIN:
        if issubclass(kind, builtin):  # asks the real type: `__class__` can lie
            return to_json(value, many)
    if kind is KEYS or kind is VALUES or kind is ITEMS:
        return {"v": ["keys" if kind is KEYS else "values" if kind is VALUES else "items", many(value)]}
    if kind in ITERATORS or kind.__module__ == "itertools":
        return {"g": many(_capped(value))}
    exact = _EXACT.get((kind.__module__, kind.__qualname__))
    if exact is not None and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind:
        return exact(value, many)
    if kind is Opaque:
        if strict:
            raise TypeError(f"{value!r} came from the program and is not plain data: it cannot be sent back")
        return {"o": value.kind}
    if strict:
        raise NotPlain(f"a value of type {kind.__name__} cannot be sent to the program")
    numbers = _from_numpy(value, kind)
    if numbers is not None:
        return many(numbers) if type(numbers) is list else many((numbers,))[0]
    return {"o": str(kind.__name__)[:80]}


def _from_numpy(value: Any, kind: type) -> Any:
    """The list or number that a numpy array or scalar stands for; None for all else, and for what is no number or text.

    numpy is not imported for it: where a value is of one of its types, it is there.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not (kind is numpy.ndarray or (issubclass(kind, numpy.generic) and kind.__module__ == "numpy")):
        return None
    if value.dtype.kind not in "biufcSU" or value.dtype.char in "gG":  # an object, a date, a record, a long double
        return None
    if value.size > MAX_RANGE:
        raise TooLarge(f"an array of more than {MAX_RANGE} numbers")
    return value.tolist()


def _capped(items: Iterable[Any]) -> Iterator[Any]:
    iterator = iter(items)
    yield from islice(iterator, MAX_ITEMS)
    for _ in iterator:
        raise TooLarge(f"an iterator of more than {MAX_ITEMS} items")


def _encode_int(value: int, many: object) -> Encoded:
    exact = int.__int__(value)
    if exact.bit_length() > MAX_INT_BITS:
        raise TooLarge(f"an integer of more than {MAX_INT_BITS} bits")
    return exact if -SMALL_INT < exact < SMALL_INT else {"i": hex(exact)}


def _encode_float(value: float, many: object) -> Encoded:
    exact = float.__float__(value)
    return exact if isfinite(exact) else {"f": repr(exact)}


def _encode_str(value: str, many: object) -> Encoded:
    exact = str.__str__(value)
    try:
        exact.encode()
    except UnicodeEncodeError:  # JSON would join two surrogates to one character
        return {"u": exact.encode("utf-8", "surrogatepass").hex()}
    return exact


def _encode_range(value: range, many: Many) -> Encoded:
    if _too_long(value):
        raise TooLarge(f"a range of more than {MAX_RANGE} numbers")
    return {"r": many([value.start, value.stop, value.step])}


def _too_long(value: range) -> bool:
    return len(value[: MAX_RANGE + 1]) > MAX_RANGE  # len(value) itself may be beyond what len can say


def _encode_decimal(value: Any, many: object) -> Encoded:
    text = str(value)
    if len(text) > MAX_NUMERAL:
        raise TooLarge(f"a decimal of more than {MAX_NUMERAL} characters")
    return {"D": text}


def _encode_fraction(value: Any, many: Many) -> Encoded:
    parts = [value.numerator, value.denominator]
    if max(part.bit_length() for part in parts) > MAX_FRACTION_BITS:
        raise TooLarge(f"a fraction of more than {MAX_FRACTION_BITS} bits")
    return {"F": many(parts)}


Many = Callable[[Iterable[Any]], list[Encoded]]
_BY_BUILTIN: tuple[tuple[type, Callable[[Any, Many], Encoded]], ...] = (
    (int, _encode_int),
    (float, _encode_float),
    (str, _encode_str),
    (list, lambda value, many: many(list.__iter__(value))),
    (tuple, lambda value, many: {"t": many(tuple.__iter__(value))}),
    (dict, lambda value, many: {"d": [many(pair) for pair in dict.items(value)]}),
    (set, lambda value, many: {"s": many(set.__iter__(value))}),
    (frozenset, lambda value, many: {"z": many(frozenset.__iter__(value))}),
    (bytes, lambda value, many: {"b": bytes.hex(value)}),
    (bytearray, lambda value, many: {"y": bytearray.hex(value)}),
    (complex, lambda value, many: {"c": many([complex.real.__get__(value), complex.imag.__get__(value)])}),
    (deque, lambda value, many: {"q": many(deque.__iter__(value))}),
)
_EXACT: dict[tuple[str, str], Callable[[Any, Many], Encoded]] = {
    ("builtins", "range"): _encode_range,
    ("fractions", "Fraction"): _encode_fraction,
    ("decimal", "Decimal"): _encode_decimal,
    ("datetime", "datetime"): lambda value, many: {"T": ["datetime", value.isoformat()]},
    ("datetime", "date"): lambda value, many: {"T": ["date", value.isoformat()]},
    ("datetime", "time"): lambda value, many: {"T": ["time", value.isoformat()]},
    ("datetime", "timedelta"): lambda value, many: {
        "T": ["timedelta", [value.days, value.seconds, value.microseconds]]
    },
}
"""By module and name: importing these modules here would make every fork of the zygote dearer."""


def decode(data: Encoded, depth: int = 0) -> Any:
    """The value that `data` stands for. Raises Garbled, or another error of bad data that `loads` turns into it."""
    if type(data) is list:
        return _decode_many(data, depth)
    if type(data) is not dict:
        return data
    if len(data) != 1 or depth >= MAX_DEPTH:  # `encode` refuses every tag at that depth, scalars too
        raise Garbled("an object without exactly one tag, or nested too deep")
    ((tag, body),) = data.items()
    if tag not in _DECODERS:
        raise Garbled("an unknown tag")
    return _DECODERS[tag](body, depth)


def _decode_many(items: Any, depth: int) -> list[Any]:
    if type(items) is not list or depth >= MAX_DEPTH:
        raise Garbled("not a list, or nested too deep")
    return [decode(item, depth + 1) if type(item) in (list, dict) else item for item in items]


def _hashable(items: list[Any]) -> list[Any]:
    if len(items) > MAX_EQUAL_HASHES and len(items) - len({hash(item) for item in items}) > MAX_EQUAL_HASHES:
        raise Garbled("too many equal hashes")
    return items


def _decode_int(body: Any, depth: int) -> int:
    if type(body) is not str or len(body) > MAX_INT_BITS // 4 + 4:
        raise Garbled("not an integer of a legal size")
    value = int(body, 16)
    if value.bit_length() > MAX_INT_BITS:
        raise Garbled("not an integer of a legal size")
    return value


def _decode_dict(body: Any, depth: int) -> dict[Any, Any]:
    pairs = [_decode_many(pair, depth) for pair in body]
    _hashable([key for key, _ in pairs])
    return dict(pairs)


def _decode_view(body: Any, depth: int) -> Any:
    name, items = body
    found = _decode_many(items, depth)
    if name == "keys":
        return dict.fromkeys(_hashable(found)).keys()
    if name == "values":
        return dict(enumerate(found)).values()
    _hashable([key for key, _ in found])
    return dict(found).items()


def _decode_float(body: Any, depth: int) -> float:
    if body not in ("nan", "inf", "-inf"):
        raise Garbled("a float that should have been a number")
    return float(body)


def _decode_iterator(body: Any, depth: int) -> Consumed:
    if type(body) is not list or len(body) > MAX_ITEMS:
        raise Garbled("not an iterator of a legal length")
    return Consumed(_decode_many(body, depth))


def _decode_integers(body: Any, depth: int, n: int) -> list[int]:
    found = _decode_many(body, depth)
    if len(found) != n or any(type(each) is not int for each in found):
        raise Garbled(f"not {n} integers")
    return found


def _decode_fraction(body: Any, depth: int) -> Any:
    parts = _decode_integers(body, depth, 2)
    if max(part.bit_length() for part in parts) > MAX_FRACTION_BITS:
        raise Garbled("not a fraction of a legal size")
    return import_module("fractions").Fraction(*parts)


def _decode_range(body: Any, depth: int) -> range:
    value = range(*_decode_integers(body, depth, 3))
    if _too_long(value):
        raise Garbled("not a range of a legal length")
    return value


def _decode_complex(body: Any, depth: int) -> complex:
    real, imaginary = _decode_many(body, depth)
    if type(real) is not float or type(imaginary) is not float:
        raise Garbled("a complex number of something else than floats")
    return complex(real, imaginary)


def _decode_decimal(body: Any, depth: int) -> Any:
    if type(body) is not str or len(body) > MAX_NUMERAL:
        raise Garbled("not a decimal of a legal size")
    return import_module("decimal").Decimal(body)


def _decode_moment(body: Any, depth: int) -> Any:
    name, value = body
    if name == "timedelta":
        return import_module("datetime").timedelta(*_decode_integers(value, 0, 3))
    if name not in ("datetime", "date", "time"):
        raise Garbled("an unknown moment")
    return getattr(import_module("datetime"), name).fromisoformat(value)


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "i": _decode_int,
    "f": _decode_float,
    "t": lambda body, depth: tuple(_decode_many(body, depth)),
    "d": _decode_dict,
    "O": lambda body, depth: OrderedDict(_decode_dict(body, depth)),
    "s": lambda body, depth: set(_hashable(_decode_many(body, depth))),
    "z": lambda body, depth: frozenset(_hashable(_decode_many(body, depth))),
    "u": lambda body, depth: bytes.fromhex(body).decode("utf-8", "surrogatepass"),
    "b": lambda body, depth: bytes.fromhex(body),
    "y": lambda body, depth: bytearray.fromhex(body),
    "c": _decode_complex,
    "q": lambda body, depth: deque(_decode_many(body, depth)),
    "v": _decode_view,
    "g": _decode_iterator,
    "r": _decode_range,
    "F": _decode_fraction,
    "D": _decode_decimal,
    "T": _decode_moment,
    "o": lambda body, depth: Opaque(str(body)[:80]),
}


def dumps(data: Encoded) -> bytes:
    """JSON-ready data (`encode`d values and plain words) as ASCII bytes."""
    return _to_json(data).encode("ascii")


def _refuse(name: str) -> Any:
    raise Garbled(f"the bare word {name}")


# made once: `json.dumps` and `json.loads` make both anew for each message
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_from_json = json.JSONDecoder(parse_constant=_refuse).decode


def parse(message: bytes | bytearray) -> Any:
    """Hostile bytes as JSON data, values not yet decoded; Garbled if they are none."""
    try:
        return _from_json(message.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Garbled("not JSON") from error


def loads(data: Encoded) -> Any:
    """The value in hostile JSON data; Garbled whatever is wrong with it."""
    try:
        return decode(data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Garbled(f"no value: {type(error).__name__}") from error
