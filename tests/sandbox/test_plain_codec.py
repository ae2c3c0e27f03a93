"""The codec: what survives the way between two processes, and that hostile bytes never do more than raise Garbled."""

import collections
import datetime
import enum
import itertools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sandbox import plain

# no NaN, which is equal to nothing, and no fold, which equality does not see: both would need another comparison
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.text(st.characters(categories=["Cs", "L"])) | st.complex_numbers(allow_nan=False) | st.fractions()
    | st.decimals(allow_nan=False) | st.dates() | st.timedeltas()
    | st.times().map(lambda moment: moment.replace(fold=0)) | st.datetimes().map(lambda moment: moment.replace(fold=0))
)  # fmt: skip
hashables = scalars | st.lists(scalars, max_size=3).map(tuple) | st.lists(scalars, max_size=3).map(frozenset)
values = st.recursive(
    hashables | st.lists(hashables, max_size=3).map(set),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.lists(st.tuples(hashables, inner), max_size=4).map(dict)
    ),
    max_leaves=10,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("itdOszbycqvgrFDTfoux"), inner, max_size=2)
    ),
    max_leaves=20,
)


def there_and_back(value: Any) -> Any:
    return plain.loads(plain.parse(plain.dumps(plain.encode(value))))


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, and in the order and the types of what it holds."""
    return type(one) is type(other) and repr(one) == repr(other)


@given(values)
def test_plain_data_survives_exactly(value: Any) -> None:
    returned = there_and_back(value)
    assert returned == value
    assert type(returned) is type(value)
    assert same(returned, value) or "{" in repr(value)  # the order in a set may differ


@given(json_values)
def test_hostile_json_is_a_value_or_garbled(data: Any) -> None:
    try:
        value = plain.loads(data)
    except plain.Garbled:
        return
    assert (value == value) in (True, False)


@given(st.binary(max_size=200))
def test_hostile_bytes_are_json_or_garbled(data: bytes) -> None:
    try:
        plain.parse(data)
    except plain.Garbled:
        return


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"9" * 10_000, b'{"i":"0x' + b"f" * 3_000_000 + b'"}', b"NaN", b'{"f":"1e5"}', b'{"c":[1,2]}',
     b'{"T":["eval","1"]}', b'{"s":[[1]]}', b'{"d":[[1]]}', b'{"F":[1,0]}', b'{"F":["1e9999999"]}', b'{"zz":1}',
     b'{"r":[0,10000000,1]}',
     b'{"r":[0,1' + b"0" * 40 + b',1]}', b"[" * 200 + b'{"D":"1"}' + b"]" * 200, b'{"g":[' + b"0," * 100_000 + b"0]}",
     b'{"i":"0x' + b"f" * 1_048_577 + b'"}', b'{"T":["timedelta",[1e308,0,0]]}', b'{"t":1,"s":2}',
     b'{"D":"' + b"9" * 20_000 + b'"}', b'{"t":' * 300 + b"[]" + b"}" * 300, b'{"s":[' + b",".join(
         b'{"i":"%s"}' % hex(k * (2**61 - 1)).encode() for k in range(1, 1000)) + b"]}"],
    ids=lambda data: data[:12].decode(),
)  # fmt: skip
def test_each_limit_refuses(data: bytes) -> None:
    with pytest.raises(plain.Garbled):
        plain.loads(plain.parse(data))


def test_nesting_up_to_the_limit_survives() -> None:
    value: Any = 1
    for level in range(plain.MAX_DEPTH):
        value = (value,) if level % 2 else [value]
    assert there_and_back(value) == value
    with pytest.raises(plain.TooLarge):
        plain.encode([value])


def test_subclasses_travel_by_value_and_their_methods_are_not_called() -> None:
    def lie(*_: Any) -> Any:
        raise AssertionError("called")

    methods = dict.fromkeys(("__eq__", "__iter__", "__int__", "__float__", "__str__", "__len__", "items", "hex"), lie)
    for builtin, value in (
        (int, 7),
        (float, 1.5),
        (str, "a"),
        (list, [1]),
        (tuple, (1,)),
        (dict, {1: 2}),
        (bytes, b"x"),
    ):
        subclass: Any = type("Sub", (builtin,), methods | {"__hash__": builtin.__hash__})
        assert same(there_and_back(subclass(value)), value)


def test_class_can_not_lie_about_its_type() -> None:
    liar = type("Liar", (), {"__class__": int, "__int__": lambda self: 3})
    assert type(there_and_back(liar())) is plain.Opaque


def test_odd_values_keep_their_meaning() -> None:
    assert there_and_back({1: 2, 3: 4}.keys()) == {1, 3}
    assert there_and_back({1: 2}.items()) == {(1, 2)}
    assert list(there_and_back({1: 2, 3: 2}.values())) == [2, 2]
    assert there_and_back(range(2, 9, 3)) == range(2, 9, 3)
    assert there_and_back(enum.IntEnum("E", "A B").B) == 2  # type: ignore[attr-defined]
    assert there_and_back(collections.Counter("aab")) == {"a": 2, "b": 1}
    for iterator in (iter([1, 2]), (x for x in (1, 2)), map(int, "12"), itertools.chain([1], [2])):
        returned = there_and_back(iterator)
        assert returned != [1, 2]
        assert list(returned) == [1, 2]
        assert list(returned) == []
    assert there_and_back([Fraction(1, 3), Decimal("1.10"), datetime.date(2020, 1, 2)]) == [
        Fraction(1, 3), Decimal("1.10"), datetime.date(2020, 1, 2)
    ]  # fmt: skip
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back(-(7**6000)) == -(7**6000)  # more digits than Python prints
    assert there_and_back((1,)) != [1]


def test_everything_else_is_opaque_and_equal_to_nothing() -> None:
    returned = there_and_back(object())
    assert returned != returned
    assert bool(returned)
    assert there_and_back(lambda: 1) != 1
    assert there_and_back({object(): 1}) != {}
    with pytest.raises(plain.NotPlain):
        plain.encode([object()], strict=True)
    with pytest.raises(TypeError):
        plain.encode([returned], strict=True)


def test_what_can_be_decoded_can_be_encoded_again() -> None:
    deepest: Any = Decimal(1)
    for _ in range(plain.MAX_DEPTH - 1):
        deepest = [deepest]
    for value in (deepest, (1 << plain.MAX_INT_BITS) - 1, Decimal("9" * plain.MAX_NUMERAL), range(plain.MAX_RANGE)):
        assert there_and_back(value) == value
    with pytest.raises(plain.TooLarge):
        plain.encode([deepest])


def test_an_ordered_dict_keeps_its_type_and_order() -> None:
    pairs = [("b", 1), ("a", [2])]
    assert same(there_and_back(collections.OrderedDict(pairs)), collections.OrderedDict(pairs))
    assert there_and_back(collections.OrderedDict(pairs)) != collections.OrderedDict(pairs[::-1])
    assert there_and_back(collections.OrderedDict(pairs)) == dict(pairs[::-1])


def test_endless_and_huge_values_are_refused() -> None:
    for value in (itertools.count(), 1 << (plain.MAX_INT_BITS + 1), range(10**30), range(10**7), Decimal("9" * 10_001)):
        with pytest.raises(plain.TooLarge):
            plain.encode(value)
