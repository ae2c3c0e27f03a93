"""Text to values: every form that users write, and one sentence for every form that nobody can read."""

import pytest

from harness.config import arguments_by_task, parse_arguments, parse_ks, parse_list
from harness.errors import InputError, UnknownName


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("", {}),
        ("path=a.jsonl", {"path": "a.jsonl"}),
        ("path=a.jsonl,n=3", {"path": "a.jsonl", "n": "3"}),
        ("path=a,b.jsonl,n=3", {"path": "a,b.jsonl", "n": "3"}),
        ("path=x=y", {"path": "x=y"}),
        (["path=a", "n=3"], {"path": "a", "n": "3"}),
        ({"path": 1}, {"path": 1}),
        ("humaneval.path=a", {"humaneval.path": "a"}),
    ],
)
def test_arguments(text, expected):
    assert parse_arguments(text, "--model_args") == expected


@pytest.mark.parametrize("text", ["path", "path=a,path=b", "=a"])
def test_arguments_that_nobody_can_read(text):
    with pytest.raises(InputError, match="--model_args"):
        parse_arguments(text, "--model_args")


def test_arguments_by_task():
    assert arguments_by_task({"path": "a"}, ["humaneval"]) == {"humaneval": {"path": "a"}}
    assert arguments_by_task({"b.path": "x"}, ["a", "b"]) == {"a": {}, "b": {"path": "x"}}
    with pytest.raises(InputError, match=r"write a\.path"):
        arguments_by_task({"path": "x"}, ["a", "b"])
    with pytest.raises(UnknownName, match="did you mean 'gsm8k'"):
        arguments_by_task({"gsm8.path": "x"}, ["gsm8k", "b"])


@pytest.mark.parametrize(
    ("text", "expected"), [("1,10,100", (1, 10, 100)), ("10,1,1", (1, 10)), (4, (4,)), ([2, 1], (1, 2))]
)
def test_ks(text, expected):
    assert parse_ks(text) == expected


@pytest.mark.parametrize("text", ["", "0", "1.5", "a", "-1"])
def test_ks_that_are_none(text):
    with pytest.raises(InputError, match="--k"):
        parse_ks(text)


def test_list():
    assert parse_list(" a, b ,,") == ["a", "b"]
