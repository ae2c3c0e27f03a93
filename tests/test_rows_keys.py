"""What makes completions the same, and how far they are apart: distance, equations, program keys, RFT's choice."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.recipes import Selection
from harness.rewards import Graded, Scored
from harness.rows import select
from harness.rows.distance import distance
from harness.rows.keys import equations_hold, key_of, program_key
from harness.types import Completion, Problem, Status, Verdict


def right(texts: list[str], programs: list[str] | None = None) -> list[Scored]:
    """Right completions of one problem."""
    problem = Problem(id="a", task="t", prompt="")
    return [
        Scored(
            Graded(
                problem,
                Completion(problem_id="a", index=i, text=text, program=programs[i] if programs else None),
                Verdict(problem_id="a", index=i, passed=True, status=Status.passed),
            ),
            {"tests": 1.0},
            1.0,
        )
        for i, text in enumerate(texts)
    ]


def naive_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (x != y))
    return row[-1]


@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
@settings(max_examples=80, deadline=None)
def test_distance_is_levenshteins(a, b) -> None:
    assert distance(a, b) == naive_distance(a, b)


def test_distance_of_long_texts() -> None:
    draw = random.Random(1)
    a, b = ("".join(draw.choices("abcdef ", k=n)) for n in (150, 90))
    assert distance(a, b) == naive_distance(a, b)
    assert distance("", "abc") == 3


def rft_by_the_paper(texts: list[str]) -> list[str]:
    """Steps 4 and 5 of RFT's procedure on right completions without wrong equations, from its description."""
    keys: list[str] = []
    stand: list[str] = []
    for text in texts:
        key = "|".join(part.partition(">>")[0] for part in text.split("<<")[1:]).replace(" ", "")
        if key not in keys:
            keys.append(key)
            stand.append(text)
            continue
        place = keys.index(key)
        others = [text for i, text in enumerate(stand) if i != place]
        if sum(naive_distance(text, o) for o in others) > sum(naive_distance(stand[place], o) for o in others):
            stand[place] = text
    return stand


@given(st.lists(st.tuples(st.sampled_from(["1+1=2", "1 + 1=2", "2*2=4", ""]), st.text("ab ", max_size=8)), max_size=9))
@settings(max_examples=60, deadline=None)
def test_farthest_is_the_greedy_choice_of_rft(parts) -> None:
    texts = [f"{tail}<<{equation}>>" if equation else tail for equation, tail in parts]
    made = right(texts)
    rows = select(made[::-1], Selection(dedupe="equations", pick="farthest"))  # in order of index all the same
    assert Counter(row.completion for row in rows) == Counter(rft_by_the_paper(texts))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("no equation at all", True),
        ("<<3+4=7>> and << 10 / 4 = 2.5 >>", True),
        ("<<3+4=7>> <<3+4=8>>", False),
        ("<<2/3=0.667>>", True),
        ("<<2/3=0.66>>", False),
        ("<<-(2-5)*2**3=24>>", True),
        ("<<3+4>>", False),
        ("<<>>", False),
        ("<<1=1=2>>", True),  # only the first two sides are looked at
        ("<<5,000+1=5001>>", False),
        ("<<1/0=1>>", False),
        ("<<9**9**9**9=1>>", False),
        ("<<(-8)**0.5=2>>", False),
        ("<<True+1=2>>", False),
        ("<<__import__('os')=1>>", False),
        ("<<" + "(" * 150 + "1=1>>", False),
        ("<<" + "-" * 5000 + "1=1>>", False),
    ],
)
def test_equations_are_checked_by_arithmetic_alone(text, holds) -> None:
    assert equations_hold(text) is holds


def test_a_wrong_equation_rejects_and_no_equation_is_one_key() -> None:
    texts = ["<<1+1=2>> so 2", "<<1+1=3>> so 2", "it is 2", "two", "<<1 + 1 = 2>> that is 2"]
    made = right(texts)
    assert [row.index for row in select(made, Selection(dedupe="equations"))] == [0, 2]


PROGRAM = 'def f(x, n):\n    """Adds."""\n    total = x + n  # sum\n    return total\n'


@pytest.mark.parametrize(
    "same",
    [
        "def f(a, b):\n    c = a + b\n    return c\n",
        "def f(n, x):\n    total = (n +\n  x)\n    return total\n",
        "'''Module.'''\ndef f(x, n):\n  'Other.'\n  total = x + n\n  return total\n",
    ],
)
def test_program_keys_forget_names_layout_and_docstrings(same) -> None:
    assert program_key(same) == program_key(PROGRAM)


BUILTIN = "def f(a):\n    def g(sum): return sum\n    return sum"
SHADOWED = "N = 5\nM = 6\ndef f():\n    def g(N): return N\n    return N"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PROGRAM, PROGRAM.replace("x + n", "n + x")),
        (PROGRAM, PROGRAM.replace("def f", "def g")),
        (PROGRAM, PROGRAM.replace("x + n", "x - n")),
        ("def f(a, b):\n    return a - b\nf(a=1, b=2)", "def f(b, a):\n    return b - a\nf(a=1, b=2)"),
        (BUILTIN, BUILTIN.replace("sum", "max")),
        (SHADOWED, SHADOWED.replace("(N): return N\n    return N", "(M): return M\n    return M")),
        ("def f(a):\n    return locals()", "def f(b):\n    return locals()"),
        ("from x import *\ndef f(a):\n    return a", "from x import *\ndef f(b):\n    return b"),
        ("x = 1\nprint(x)", "y = 1\nprint(y)"),
        ("class A:\n    x = 1", "class A:\n    y = 1"),
    ],
)  # fmt: skip
def test_programs_that_could_differ_have_different_keys(one, other) -> None:
    assert program_key(one) != program_key(other)


def test_program_key_of_methods_lambdas_and_what_is_no_python() -> None:
    assert program_key("class A:\n  def m(self, k):\n    return k") == program_key(
        "class A:\n  def m(s, v):\n    return v"
    )
    assert program_key("f = lambda a: a") == program_key("f = lambda b: b")
    assert program_key("def f(") is None
    assert program_key("def f():\n    'only'") == program_key("def f():\n    pass")
    made = right(["1", "2", "3", "4"], ["def f(", "def f( ", "x = 1", "x  = 1"])
    assert [row.index for row in select(made, Selection(dedupe="program"))] == [0, 1, 2]
    assert key_of(made[0].graded, "program") == "def f("
