"""The comparers of call and stdio tests, case by case."""

# ruff: noqa: E501 - one program to a line

import math
from collections import OrderedDict

import pytest

from harness.sandbox import compare, plain


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (1, 1), (1, 1.0), (1, True), (1.0, 1), (0.1 + 0.2, 0.3), (1e10, 1e10 + 1), (math.nan, math.nan), (math.inf, math.inf),
        ([1, [2]], (1, [2])), ((1,), (1,)), ({"a": 1.0}, {"a": 1}), ({"a": 1.0}, OrderedDict(a=1)), ({1, 2}, {2, 1}), ([0.1 * 3], [0.3]), ("a", "a"),
        (None, None), ([], ()),
    ],
)  # fmt: skip
def test_same_values(expected: object, got: object) -> None:
    assert compare.same_value(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (1, 2), (1, 1.0000001), (1, "1"), ("1", 1), (1.0, 1.001), (1.0, math.nan), (1.0, "1.0"), (1.0, 10**400), (1.0, 1j),
        ((1,), [1]), ([1], [1, 2]), ([1, 2], [1]), ([1], {1}), ({1}, [1]), ({"a": 1}, {"a": 1, "b": 2}), ({}, []), (None, 0),
        ([], None), ([1], "1"), (None, plain.Opaque("X")), ([1], plain.Consumed([1])), ("a", b"a"),
    ],
)  # fmt: skip
def test_different_values(expected: object, got: object) -> None:
    assert not compare.same_value(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [("3\n", "3"), ("1 2\n3", "1\n2 3\n\n"), ("0.3333333", "0.33333334"), ("1.0e3", "1000"), ("2.0", "2"), ("", " \n"), ("a.b", "a.b"),
     ("1e3", "1e3"), (".5", "5e-1"), ("1e400", "1e400"), ("a\u3000b", "a\u3000b"), ("a b", "a\x0b\x0cb")],
)  # fmt: skip
def test_same_outputs(expected: str, got: str) -> None:
    assert compare.same_output(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("3", "3.0"), ("3", "4"), ("1 2", "1"), ("1", "1 2"), ("0.5", "nan"), ("nan", "0.1"), ("0.5", "0.50001"), ("10000000", "10000001"),
        ("1.5", "1_5"), ("YES", "yes"), ("1.0", "one"), ("e", "0"), ("1" * 500 + ".0", "1" * 500),
        ("1e3", "1000"), ("1.0e400", "1.0e999"), ("1e400", "1e999"), ("1 2", "1\x1c2"), ("1 2", "1\u30002"), ("1 2", "1\x852"),
        ("1.5", "１.5"), ("1.0", "1e-999999999"),
    ],
)  # fmt: skip
def test_different_outputs(expected: str, got: str) -> None:
    assert not compare.same_output(expected, got)
    assert "expected" in (compare.explain_output(expected, got) or "")


def test_digests_name_equal_values_equally() -> None:
    digest = compare.digest_value
    assert digest([1, 2.0, True]) == digest((1.0, 2, 1))
    assert digest({1, 2, 3}) == digest(frozenset({3, 2, 1}))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest(value) for value in (1, "1", [1], {1}, {1: 1}, None, 1.5, b"1")}) == 8
    assert compare.digest_output("1 2\n") == compare.digest_output("1\n2")
    assert digest(OrderedDict([("b", 1), ("a", 2)])) == digest({"a": 2, "b": 1})
