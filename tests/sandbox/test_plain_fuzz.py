"""The codec against mutated messages: plain values of exact types or Garbled, in bounded time, and nothing else."""

import collections
import datetime
import json
import random
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sandbox import compare, plain
from harness.sandbox.plain_types import ITEMS, KEYS, VALUES

LEAVES: tuple[Any, ...] = (
    None, True, 0, -(10**20), 1.5, float("nan"), 1e300, "", "é\ud800", b"\0", bytearray(b"x"), 2j, Fraction(1, 3),
    Decimal("1.10"), datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 1, 1, 1, 1, 5), datetime.time(1, 2),
    datetime.timedelta(days=-1, microseconds=3), range(3, 9, 2), object(), {1: 2}.keys(), {1: 2}.values(),
    {1: [2]}.items(), collections.OrderedDict(a=1), frozenset({1, "a"}),
)  # fmt: skip
ALLOWED = {
    *(type(leaf) for leaf in LEAVES if type(leaf) is not object),
    *(int, list, tuple, set, dict, collections.deque, plain.Opaque, plain.Consumed, KEYS, VALUES, ITEMS),
}
TAGS = [*"itdOszbycqvgrFDTfou", "x", ""]
JUDGED = (ArithmeticError, TypeError, ValueError, RecursionError)
"""What comparing hostile values may raise: the judge knows these."""


def tree(draw: random.Random, depth: int = 3) -> Any:
    """A value of everything that the codec carries, nested."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice(LEAVES)
    inner = [tree(draw, depth - 1) for _ in range(draw.randrange(4))]
    keys = [draw.choice([leaf for leaf in LEAVES if leaf.__hash__]) for _ in inner]
    return draw.choice([
        lambda: inner, lambda: tuple(inner), lambda: collections.deque(inner), lambda: iter(inner),
        lambda: dict(zip(keys, inner, strict=True)), lambda: set(keys), lambda: frozenset(keys),
    ])()  # fmt: skip


def paths(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every part of JSON data is."""
    items = enumerate(data) if type(data) is list else data.items() if type(data) is dict else ()
    return [here, *(path for key, item in items for path in paths(item, (*here, key)))]


def mutated(draw: random.Random, data: Any) -> Any:
    """JSON data with one part wrapped, renamed, repeated, moved or replaced."""
    path = draw.choice(paths(data))
    part = data
    for key in path:
        part = part[key]
    bodies = [part, [part], [part, part], str(part), {"t": [part]}, [], None, -1, "0x" + "f" * 40, 1e308, "nan", "é"]
    choices = [draw.choice(bodies), {draw.choice(TAGS): draw.choice(bodies)}, json.loads(json.dumps(part)) or part]
    if type(part) is dict:
        choices += [{draw.choice(TAGS): body for body in part.values()}, {**part, draw.choice(TAGS): 1}]
    if type(part) is list:
        choices += [part[::-1], part[1:], part * 300, [*part, draw.choice(bodies)]]
    new = draw.choice(choices)
    if not path:
        return new
    copy = json.loads(json.dumps(data))
    part = copy
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = new
    return copy


def types_of(value: Any) -> set[type]:
    """The exact types of a value and of all that it holds; iterators are used up."""
    kind = type(value)
    if kind in (dict, collections.OrderedDict):
        value = [*value.keys(), *value.values()]
    inside = kind in (list, tuple, set, frozenset, dict, collections.OrderedDict, collections.deque, plain.Consumed)
    parts = list(value) if inside or kind in (KEYS, VALUES, ITEMS) else []
    return {kind}.union(*map(types_of, parts))


def check(data: Any) -> None:
    """`data` decodes to allowed types, which encode again, compare and have a digest; or it is Garbled."""
    try:
        value = plain.loads(data)
    except plain.Garbled:
        return
    try:
        compare.same_value(value, value)
        compare.digest_value(value)
    except JUDGED:
        pass
    again = plain.encode(plain.loads(data))
    assert types_of(plain.loads(again)) == types_of(plain.loads(data)) <= ALLOWED


@given(st.integers(0, 2**32))
def test_mutated_messages_are_plain_values_or_garbled(seed: int) -> None:
    draw = random.Random(seed)
    data = plain.encode(tree(draw))
    check(data)
    for _ in range(8):
        data = mutated(draw, data)
        if len(json.dumps(data)) > 20_000:
            return
        check(data)


@given(st.integers(0, 2**32))
def test_messages_with_changed_bytes_are_plain_values_or_garbled(seed: int) -> None:
    draw = random.Random(seed)
    message = bytearray(plain.dumps(plain.encode(tree(draw))))
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(message) + 1)
        message[place : place + draw.randrange(3)] = bytes(draw.choices(b'{}[]",:0123456789eftdOsz\xff-nu"', k=2))
    try:
        data = plain.parse(bytes(message))
    except plain.Garbled:
        return
    check(data)


@given(st.integers(0, 2**32))
def test_every_type_survives_nested(seed: int) -> None:
    value = tree(random.Random(seed))
    encoded = plain.encode(value)
    twice = plain.encode(plain.loads(plain.parse(plain.dumps(encoded))))
    assert compare.digest_value(plain.loads(twice)) == compare.digest_value(plain.loads(encoded))
    assert len(plain.dumps(twice)) == len(plain.dumps(encoded))


def same_hash(k: int) -> dict[str, str]:
    return {"i": hex(k * (2**61 - 1))}


BIG = {"i": "0x" + "f" * (1 << 20)}
COSTLY = {
    "fraction": {"F": [BIG, {"i": "0xd" + "f" * ((1 << 20) - 1)}]},
    "fractions": [{"F": [{"i": "0x" + "f" * 16_000}, {"i": "0xd" + "f" * 15_000}]} for _ in range(130)],
    "sets of equal hashes": [{"s": [same_hash(k) for k in range(256)]} for _ in range(450)],
    "tuples that differ at their ends": {"s": [{"t": [*[0] * 4000, same_hash(k)]} for k in range(255)]},
    "decimals": [{"s": [{"D": f"{k}e999999999"} for k in range(200)]} for _ in range(700)],
    "integers": {"s": [{"i": "0x" + f"{k:x}" * 20_000} for k in range(1, 16)]},
    "one key": {"d": [[{"t": [{"z": [k]}]}, 0] for k in range(100_000)]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTLY)
def test_the_costliest_messages_take_seconds_at_most(name: str) -> None:
    message = json.dumps(COSTLY[name]).encode()
    assert len(message) < plain.MAX_BYTES
    started = time.process_time()
    try:
        value = plain.loads(plain.parse(message))
        compare.same_value(value, value)
        compare.digest_value(value)
    except plain.Garbled:
        assert name == "fraction"
    assert time.process_time() - started < 10  # the judge's own alarm is the last resort


def there(value: Any) -> Any:
    return plain.loads(plain.parse(plain.dumps(plain.encode(value))))


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([1, 2]), [1, 2]), (np.array([[1.5], [2]]), [[1.5], [2.0]]), (np.zeros((2, 0)), [[], []]),
        (np.array(7), 7), (np.array([True]), [True]), (np.array([1j]), [1j]), (np.array(["a", "bc"]), ["a", "bc"]),
        (np.int64(3), 3), (np.uint64(2**64 - 1), 2**64 - 1), (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(np.inf), float("inf")), (np.bool_(True), True), (np.complex64(1j), 1j), (np.str_("x"), "x"),
        ([np.int8(1), (np.array([2]),)], [1, ([2],)]), ({np.int64(1): np.float32(0.5)}, {1: 0.5}),
    ],
    ids=repr,
)  # fmt: skip
def test_numpy_arrives_as_lists_and_numbers(array: Any, wanted: Any) -> None:
    assert repr(there(array)) == repr(wanted)


def test_numpys_other_values_are_opaque_and_large_arrays_refused() -> None:
    record = np.zeros(1, dtype=[("a", int)])
    masked = np.ma.masked_array([1], [True])
    for value in (np.array([object()]), np.datetime64("2020-01-01"), np.longdouble(1), record, record[0], masked):
        assert type(there(value)) is plain.Opaque, value
    with pytest.raises(plain.TooLarge):
        plain.encode(np.broadcast_to(np.int8(0), (plain.MAX_RANGE + 1,)))
    with pytest.raises(plain.NotPlain):
        plain.encode(np.int64(1), strict=True)  # arguments and expected values are the task's: it says list or int


def test_a_fraction_that_takes_long_to_shorten_is_refused() -> None:
    with pytest.raises(plain.TooLarge):
        plain.encode(Fraction(3 << plain.MAX_FRACTION_BITS))
    assert there(Fraction(1, (1 << plain.MAX_FRACTION_BITS) - 1)) == Fraction(1, (1 << plain.MAX_FRACTION_BITS) - 1)
