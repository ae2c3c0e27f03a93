"""Tests out of texts that nobody vouches for: what is taken, what is dropped and why, and that nothing is ever run."""

import gzip
import json
from collections import Counter

import pytest

from harness.errors import InputError, RunMismatch
from harness.suites.literals import parameters_of, read_asserts, read_doctests
from harness.suites.written import Text, generated, texts_of, write_tests, writing_prompts
from harness.types import Budget, Problem


def calls(text: str, **options) -> list[tuple]:
    return [(call.arguments, call.expected) for call in read_asserts(text, "f", **options).calls]


def dropped(text: str, **options) -> dict[str, int]:
    return dict(read_asserts(text, "f", **options).dropped)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("f(1) == 2", (1,), 2),
        ("2 == f(1)", (1,), 2),
        ("f(1) == 2, 'a message'", (1,), 2),
        ("(f(1) == 2)", (1,), 2),
        ("f([1, -2.5], {'a': (1,)}) == {3, 4}", ([1, -2.5], {"a": (1,)}), {3, 4}),
        ("f() is None", (), None),
        ("f(1) is True", (1,), True),
        ("f(1)", (1,), True),
        ("not f(1)", (1,), False),
        ("f('''a\nb''') == [\n    1,\n]", ("a\nb",), [1]),
        ("f(1) == set()", (1,), set()),
        ("f(b'x', 1j, None) == ()", (b"x", 1j, None), ()),
    ],
)
def test_what_is_taken(text, arguments, expected):
    ((found, value),) = calls(f"assert {text}")
    assert (found, value) == (arguments, expected)
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f(1) ==", "syntax"),
        ("", "syntax"),
        ("f(1)\x00", "syntax"),
        ("f('\ud800') == 1", "syntax"),
        ("g(1) == 2", "other function"),
        ("f.g(1) == 2", "other function"),
        ("f(1) != 2", "other form"),
        ("f(1) > 2", "other form"),
        ("f(1) is 2", "other form"),
        ("f(1) == 2 == 2", "other form"),
        ("f(1) == 2 and f(2) == 3", "other form"),
        ("abs(f(1) - 2) < 1e-6", "other form"),
        ("sorted(f(1)) == [1]", "other form"),
        ("(f(1) == 2, 'always true')", "other form"),
        ("f(x) == 1", "not literal"),
        ("f(1) == f(2)", "not literal"),
        ("f(1) == 10**10**10", "not literal"),
        ("f(1) == 'a' * 10**9", "not literal"),
        ("f(1) == __import__('os').system('false')", "not literal"),
        ("f(*[1]) == 1", "not literal"),
        ("f({[]: 1}) == 1", "not literal"),
        ("f(...) == 1", "not literal"),
        ("f(a=1) == 1", "arguments"),
        ("f(" + "[" * 250 + "]" * 250 + ") == 1", "syntax"),
        ("-" * 3900 + "f(1)", "too large"),
        ("f(" + "-" * 3000 + "1) == 1", "too large"),
        ("f(1) == '" + "a" * 5000 + "'", "too large"),
        ("f(" + "9" * 3990 + ") == 1", None),
    ],
)
def test_what_is_dropped(text, reason):
    assert calls(f"assert {text}") == []
    assert sum(dropped(f"assert {text}").values()) == 1
    assert reason is None or dropped(f"assert {text}") == {reason: 1}


@pytest.mark.parametrize(
    "piece", ["(", "[", "{", "-", "~", "not ", "f(", "lambda:", "1+", "a.", "f(1)if ", "'", "\\", "*"]
)
def test_hostile_texts_harm_nobody(piece):
    for n in (100, 1000, 3990, 50_000, 300_000):
        text = "assert " + (piece * (n // len(piece)))
        for whole in (text, f"{text}\nassert f(1) == 2", "assert f(" + piece * 1200 + "1) == 2"):
            found = read_asserts(whole, "f")
            assert len(found.calls) + sum(found.dropped.values()) >= 1


def test_a_torn_tail_costs_only_itself_and_junk_between_asserts_nothing():
    text = "f(1) == 2\nassert f(2) == 3  # why\n\nprint('x')\n    assert f(3) == 4\n```\nprose\nassert f(4) == [5, 6"
    assert calls(f"assert {text}") == [((1,), 2), ((2,), 3), ((3,), 4)]
    assert dropped(f"assert {text}") == {"syntax": 1}


def test_the_first_five_that_name_the_function_count():
    lines = ["assert other(1) == 2", "assert f(x) == 1", "assert f(1) ==", *(f"assert f({i}) == {i}" for i in range(9))]
    assert [a for (a,), _ in calls("\n".join(lines), most=5)] == [0, 1, 2, 3]
    assert len(calls("\n".join(lines))) == 9


def test_keyword_arguments_go_by_the_signature():
    signature = 'import math\n\ndef f(a: int, b=2, c=3) -> int:\n    """Doc.\n    >>> f(1)\n    """\n'
    names = parameters_of(signature, "f")
    assert names == ("a", "b", "c")
    assert parameters_of("# words\ndef f(x):", "f") == ("x",)
    assert parameters_of("def f(*x):\n", "f") is None
    assert parameters_of("def g(x):\n", "f") is None
    assert parameters_of("def f(x:\n", "f") is None
    assert calls("assert f(1, c=4, b=5) == 6", parameters=names) == [((1, 5, 4), 6)]
    assert calls("assert f(b=1, a=2) == 6", parameters=names) == [((2, 1), 6)]
    for text in ("f(1, c=4) == 6", "f(1, a=2) == 6", "f(1, **{'b': 2}) == 6", "f(1, d=4) == 6"):
        assert dropped(f"assert {text}", parameters=names) == {"arguments": 1}


def test_doctests():
    text = '''
    >>> f([1.0, 2.0], 0.5)
    False
    >>> f(1)  # a remark
    'x'
    >>> g(2)
    3
    >>> f(2)
    >>> f(3)
    Traceback (most recent call last):
    >>> f(4)
    [1, 2]"""
    '''
    found = read_doctests(text, "f")
    assert [(c.arguments, c.expected) for c in found.calls] == [
        (([1.0, 2.0], 0.5), False),
        ((1,), "x"),
        ((4,), [1, 2]),
    ]
    assert found.dropped == {"other function": 1, "syntax": 2}


PROBLEM = Problem(id="p", task="t", prompt="def f(a, b=1):\n", entry_point="f")


def test_equal_tests_are_one_and_counted_and_contradictions_stay():
    texts = [
        Text("f(1, 2) == 3\nassert f(1,  b=2)==3\nassert f(1, 2) == 4"),
        Text("f({1, 2}) == 1\nassert f({2, 1}) == 1\nassert f(1.0, 2) == 3\nassert f(True, 2) == 3"),
    ]
    suite = generated([PROBLEM], {"p": texts, "q": texts}, by="me")
    assert [(test.input, test.expected) for test in suite.tests["p"]] == [
        ([1, 2], 3), ([1, 2], 4), ([{1, 2}], 1), ([1.0, 2], 3), ([True, 2], 3),
    ]  # fmt: skip
    assert suite.counts["p"] == (2, 1, 2, 1, 1)
    assert {test.source for test in suite.tests["p"]} == {"generated:me"}
    assert [test.id for test in suite.tests["p"]] == ["0", "1", "2", "3", "4"]
    assert suite.tests.keys() == {"p"}
    assert suite.notes == {"texts": 2, "asserts taken": 7}


def test_five_of_each_text_are_taken_and_more_if_asked():
    texts = {"p": [Text("\nassert ".join(f"f({i}) == {i}" for i in range(8)))]}
    assert len(generated([PROBLEM], texts, by="me").tests["p"]) == 5
    assert len(generated([PROBLEM], texts, by="me", per_text=8).tests["p"]) == 8


def test_chat_replies_have_their_asserts_in_fences():
    reply = "<think>assert f(9) == 9</think>Sure:\n```python\nassert f(1) == 2\nassert f(2) == 3\n```\nassert f(3) == 4"
    suite = generated([PROBLEM], {"p": [Text(reply, "message")]}, by="me")
    assert [test.input for test in suite.tests["p"]] == [[1], [2]]
    bare = generated([PROBLEM], {"p": [Text("assert f(3) == 4", "message")]}, by="me")
    assert [test.input for test in bare.tests["p"]] == [[3]]


def test_files_of_both_shapes(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"task_id": "p", "samples": ["f(1) == 1", "f(2) == 2"]}\n'))
    assert texts_of(file) == {"p": [Text("f(1) == 1"), Text("f(2) == 2")]}
    file = tmp_path / "b.jsonl"
    file.write_text('{"task_id": "p", "completion": "x"}\n{"problem_id": "p", "text": "y", "form": "message"}\n')
    assert texts_of(file) == {"p": [Text("x"), Text("y", "message")]}
    for row in (
        {"samples": ["x"]},
        {"task_id": "p", "samples": "x"},
        {"task_id": "p"},
        {"task_id": "p", "samples": [1]},
    ):
        file.write_text(json.dumps(row) + "\n")
        with pytest.raises(InputError, match="line 1"):
            texts_of(file)
    file.write_text('{"task_id": "p", "completion": "x", "form": "poem"}\n')
    with pytest.raises(InputError, match="poem"):
        texts_of(file)


def test_prompts():
    (one,) = writing_prompts([PROBLEM, Problem(id="q", task="t", prompt="How many?", answer="3")])
    assert one.prompt == "def f(a, b=1):\n    pass\n\n# check the correctness of f\nassert "
    assert one.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert one.answer is None
    (told,) = writing_prompts([PROBLEM], chat=True)
    assert "assert f(" in told.prompt
    assert "def f(a, b=1):\n    ..." in told.prompt


def test_sampling_is_stored_and_goes_on(tmp_path):
    """The sampler is the real `replay`: what it reads stands for a model."""
    rows = [{"task_id": name, "completion": f"f({i}) == {i}"} for name in ("p", "q") for i in range(3)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = [PROBLEM, Problem(id="q", task="t", prompt="def f(a):\n", entry_point="f")]
    options = {"model_args": {"path": str(file)}, "budget": Budget(n=3)}
    whole = write_tests(problems, "replay", out=tmp_path / "out", **options)
    assert whole == {name: [Text(f"f({i}) == {i}") for i in range(3)] for name in ("p", "q")}
    stored = tmp_path / "out" / "completions.jsonl"
    lines = stored.read_bytes().splitlines(keepends=True)
    stored.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # torn by a kill
    again = write_tests(problems, "replay", out=tmp_path / "out", **options)
    assert {name: sorted(texts) for name, texts in again.items()} == whole
    assert Counter(stored.read_bytes().splitlines(keepends=True)) == Counter(lines)
    with pytest.raises(RunMismatch, match="prompt"):
        write_tests(problems[:1], "replay", out=tmp_path / "out", **options)


def test_real_texts_of_codegen(shared_data):
    """4053 of some 20 000: most of these texts are empty, and their `assert`s stand alone."""
    with gzip.open(shared_data / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    problems = [Problem(id=r["task_id"], task="t", prompt=r["prompt"], entry_point=r["entry_point"]) for r in rows]
    suite = generated(
        problems, texts_of(shared_data / "humaneval_codegen16b_even_generated_tests.jsonl.gz"), by="codegen-16b"
    )
    assert len(suite.tests) == 75
    assert sum(map(len, suite.tests.values())) == 3275
    assert sum(map(sum, suite.counts.values())) == suite.notes["asserts taken"] == 4053
