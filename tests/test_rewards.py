"""Reward terms against what they say, and their sum: None is never 0, order plays no part."""

import random
from pathlib import Path

import pytest

from harness import registry, rewards
from harness.errors import InputError, UnknownName
from harness.recipes import Reward, TermUse, recipe
from harness.rewards import Graded, needs_all_tests, score
from harness.types import Completion, Execution, Problem, Status, Test, Verdict

CALLS = tuple(Test(id=f"t{i}", kind="call", input=[i], expected=i) for i in range(4))
REFERENCE = "def f(x):\n    total = 0\n    for item in x:\n        total += item\n    return total\n"
CODE = Problem(id="code", task="t", prompt="def f(x):\n", tests=CALLS, answer=REFERENCE, cpu_s=2.0)
MATHS = Problem(id="maths", task="t", prompt="1 + 1 =", answer="2")


def made(
    passed=True,
    *,
    index=0,
    text="",
    answer=None,
    program=None,
    statuses=None,
    cpu_s=(),
    problem=MATHS,
    n_tokens=None,
    status=None,
) -> Graded:
    """A graded completion; `statuses` and `cpu_s` of its executions, one for each test as far as they go."""
    completion = Completion(
        problem_id=problem.id, index=index, text=text, answer=answer, program=program, n_tokens=n_tokens
    )
    ran = statuses or ["passed"] * len(cpu_s)
    executions = tuple(
        Execution(
            problem_id=problem.id,
            index=index,
            test_id=problem.tests[i].id,
            status=Status(each),
            cpu_s=cpu_s[i] if cpu_s else None,
        )
        for i, each in enumerate(ran)
    )
    known = Status.passed if passed else Status.sandbox_error if passed is None else Status.wrong
    verdict = Verdict(problem_id=problem.id, index=index, passed=passed, status=known, answer=answer)
    return Graded(problem, completion, verdict, executions)


def value(term: str, graded: Graded, **args) -> float | None:
    return score([graded], Reward(terms={term: TermUse(args=args)}))[0].terms[term]


def test_tests_and_wrong_label_are_opposites_and_ungraded_stays_ungraded() -> None:
    assert [value("tests", made(passed)) for passed in (True, False, None)] == [1, 0, None]
    assert [value("wrong_label", made(passed)) for passed in (True, False, None)] == [0, 1, None]


def test_fraction_is_of_all_tests_or_not_known() -> None:
    assert value("fraction", made(False, problem=CODE, statuses=["passed", "wrong", "passed", "timeout"])) == 0.5
    assert value("fraction", made(False, problem=CODE, statuses=["passed", "wrong"])) is None
    assert value("fraction", made(True, problem=CODE)) == 1
    broken = made(None, problem=CODE, statuses=["passed", "wrong", "passed", "sandbox_error"])
    assert value("fraction", broken) is None
    assert value("fraction", made(False, problem=CODE, statuses=["compile_error"] * 4)) == 0
    assert value("fraction", made(False)) == 0
    assert needs_all_tests(Reward(terms={"format": 1, "fraction": 1}))
    assert not needs_all_tests(Reward(terms={"tests": 1, "speed": 1}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a\nb</think>\n<answer>2</answer>", 1),
        ("  <think></think><answer></answer>\n", 1),
        ("<think>a</think><answer>2</answer> done", 0),
        ("<think>a</think> so <answer>2</answer>", 0),
        ("<answer>2</answer><think>a</think>", 0),
        ("<think>a<think>b</think><answer>2</answer>", 0),
        ("<think>a</think><answer>1</answer><answer>2</answer>", 0),
        ("<think>a</think><answer>2", 0),
        ("2", 0),
    ],
)
def test_format_wants_each_block_once_and_nothing_else(text, expected) -> None:
    assert value("format", made(text=text)) == expected


def test_format_takes_other_tags_and_a_template_that_opens_the_first() -> None:
    text = "thoughts</think><answer>2</answer>"
    assert (value("format", made(text=text)), value("format", made(text=text), opened=True)) == (0, 1)
    assert value("format", made(text="<a.>x</a.>"), tags=["a."]) == 1
    assert value("format", made(text="<ab>x</ab>"), tags=["a."]) == 0
    with pytest.raises(InputError, match="no tags"):
        value("format", made(), tags=[])


def test_extracted_does_not_ask_whether_it_is_right() -> None:
    assert value("extracted", made(False, answer="3")) == 1
    assert value("extracted", made(False)) == 0
    assert value("extracted", made(False, problem=CODE, program="x = 1")) == 1
    assert value("extracted", made(False, problem=CODE, program="  ")) == 0


def test_length_is_the_soft_punishment_of_dapo() -> None:
    found = [value("length", made(n_tokens=n), limit=100, buffer=20) for n in (0, 80, 85, 90, 100, 130, None)]
    assert found == [0, 0, -0.25, -0.5, -1, -1, None]
    with pytest.raises(InputError, match="buffer"):
        value("length", made(n_tokens=1), limit=10, buffer=20)
    with pytest.raises(InputError, match=r"term length needs limit: give it in its args, limit=VALUE"):
        value("length", made(n_tokens=1))


def test_the_coin_is_by_id_and_index_fair_and_independent_of_order() -> None:
    pool = [made(index=i, text=str(i)) for i in range(2000)]
    coin = Reward(terms={"random": TermUse(args={"probability": 0.25})})
    heads = {one.graded.completion.index for one in score(pool, coin) if one.reward}
    assert len(heads) / 2000 == pytest.approx(0.25, abs=0.04)
    random.Random(0).shuffle(pool)
    assert {one.graded.completion.index for one in score(pool, coin) if one.reward} == heads
    assert {one.graded.completion.index for one in score(pool[:50], coin) if one.reward} <= heads
    other = Reward(terms={"random": TermUse(args={"probability": 0.25, "seed": 1})})
    assert {one.graded.completion.index for one in score(pool, other) if one.reward} != heads


def test_majority_is_the_most_frequent_answer() -> None:
    group = [made(passed, index=i, answer=a) for i, (a, passed) in enumerate([("a", True), ("b", False), ("b", False)])]
    assert [one.reward for one in score(group, Reward(terms={"majority": 1}))] == [0, 1, 1]


def test_majority_ties_go_to_the_first_by_index() -> None:
    answers = ["b", "a", "a", None, "b"]
    group = [made(False, index=i, answer=a) for i, a in enumerate(answers)]
    for order in (group, group[::-1]):
        by_index = {one.graded.completion.index: one.reward for one in score(order, Reward(terms={"majority": 1}))}
        assert [by_index[i] for i in range(5)] == [1, 0, 0, 0, 1]
    assert [one.reward for one in score([made(), made(index=1)], Reward(terms={"majority": 1}))] == [None, None]
    ungraded = [made(None, index=0), made(True, index=1, answer="a")]
    assert [one.reward for one in score(ungraded, Reward(terms={"majority": 1}))] == [None, 1]


def test_majority_is_of_each_problem_alone() -> None:
    other = Problem(id="other", task="t", prompt="")
    pool = [made(answer="a"), made(answer="b", problem=other), made(answer="a", index=1)]
    assert [one.reward for one in score(pool, Reward(terms={"majority": 1}))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("statuses", "program", "expected"),
    [
        (["compile_error"], "x = 1", 0),
        (["passed", "wrong"], "x = 1", 1),
        (["runtime_error"], "x = (", 1),  # the sandbox's word counts
        ([], "x = 1", 1),
        ([], "x = (", 0),
        ([], None, 0),
        ([], "(" * 5000, 0),
        ([], "x\0", 0),
        (["sandbox_error"], "x = 1", 1),
    ],
)
def test_compiles(statuses, program, expected) -> None:
    assert value("compiles", made(False, problem=CODE, statuses=statuses, program=program)) == expected


def test_programs_of_other_languages_are_not_read_as_python() -> None:
    lua = Problem(id="lua", task="t", prompt="", tests=CALLS, answer="x = 1", language="lua")
    for term in ("compiles", "lint", "ast_match", "dataflow_match"):
        assert value(term, made(problem=lua, program="x = 1")) is None
    assert value("compiles", made(False, problem=lua, statuses=["compile_error"])) == 0


@pytest.mark.parametrize(
    ("program", "expected"),
    [("x = 1", 1), ("y = x is 1", 0), (r"s = '\d'", 0), ("assert (1, 'no')", 0), ("return 1", 0), ("(", 0), (None, 0)],
)
def test_lint_is_what_python_warns_of(program, expected) -> None:
    assert value("lint", made(problem=CODE, program=program)) == expected


def test_speed_is_one_minus_the_share_of_the_limit() -> None:
    assert value("speed", made(problem=CODE, cpu_s=(0.1, 0.2, 0.3, 0.4))) == pytest.approx(0.5)  # calls share a process
    assert value("speed", made(problem=CODE, cpu_s=(3.0, 0, 0, 0))) == 0
    assert value("speed", made(problem=CODE, cpu_s=(1.0,)), limit_s=4) == 0.75
    assert value("speed", made(problem=CODE)) is None
    scripts = Problem(
        id="s", task="t", prompt="", tests=tuple(Test(id=t.id, kind="stdio", input="") for t in CALLS), cpu_s=1.0
    )
    assert value("speed", made(problem=scripts, cpu_s=(0.1, 0.5, 0.25))) == 0.5  # each has its own
    with pytest.raises(InputError, match="limit_s"):
        value("speed", made(problem=Problem(id="x", task="t", prompt="", tests=CALLS)))


def test_ast_match_counts_subtrees_without_names() -> None:
    renamed = REFERENCE.replace("total", "s").replace("item", "i").replace("= 0", "= 7")
    assert value("ast_match", made(problem=CODE, program=renamed)) == 1
    assert value("ast_match", made(problem=CODE, program="import os")) == 0
    assert value("ast_match", made(problem=CODE, program="(")) == 0
    # Reference: Module, FunctionDef, arguments, Assign, For, AugAssign, Return have something below them.
    # Found again: arguments, Assign, Return.
    part = value("ast_match", made(problem=CODE, program="def f(y):\n    z = 1\n    return z\n"))
    assert part == pytest.approx(3 / 7)
    assert value("ast_match", made()) is None  # no program is asked for
    twice = Problem(id="twice", task="t", prompt="", tests=CALLS, answer="a = 1\nb = 2\n")
    assert value("ast_match", made(problem=twice, program="c = 3")) == pytest.approx(1 / 3)  # Module and an Assign more


def test_dataflow_match_counts_edges_between_numbered_variables() -> None:
    # Edges of the reference: item <- x, total <- total, total <- item, return <- total.
    renamed = REFERENCE.replace("total", "s").replace("item", "i")
    assert value("dataflow_match", made(problem=CODE, program=renamed)) == 1
    assert value("dataflow_match", made(problem=CODE, program="def f(x):\n    t = 0\n    return t\n")) == 0.25
    assert value("dataflow_match", made(problem=CODE, program="def f(x): return 0")) == 0
    assert value("dataflow_match", made(problem=CODE, program="(")) == 0


def test_the_reference_may_go_on_from_the_prompt() -> None:
    humaneval = Problem(id="h", task="t", prompt="def f(x):\n", tests=CALLS, answer="    y = x\n    return y\n")
    whole = humaneval.prompt + (humaneval.answer or "")
    assert value("ast_match", made(problem=humaneval, program=whole)) == 1
    assert value("dataflow_match", made(problem=humaneval, program=whole)) == 1


def test_deep_programs_are_read_without_recursion() -> None:
    deep = "x = " + "+".join("1" for _ in range(900))
    assert value("ast_match", made(problem=CODE, program=deep)) == 0


def test_the_reward_is_the_weighted_sum_and_every_term_is_beside_it() -> None:
    text = "<think></think><answer>2</answer>"
    reward = Reward(terms={"tests": 1.0, "format": TermUse(weight=0.25), "wrong_label": 0})
    found = score([made(True, text=text), made(False, text=text), made(True, text="2")], reward)
    assert [one.reward for one in found] == [1.25, 0.25, 1.0]
    assert found[1].terms == {"tests": 0, "format": 1, "wrong_label": 1}


def test_a_reward_is_none_where_a_term_that_counts_is_none() -> None:
    pool = [made(None, text="x"), made(True, text="x", index=1)]
    assert [one.reward for one in score(pool, Reward(terms={"tests": 1, "constant": 1}))] == [None, 2]
    assert [one.reward for one in score(pool, Reward(terms={"tests": 0, "constant": 1}))] == [1, 1]


def test_a_gate_closes_a_term_and_what_is_not_measured_stays_so() -> None:
    gated = Reward(terms={"tests": 1, "speed": TermUse(weight=0.5, gate="tests")})
    fast = {"problem": CODE, "cpu_s": (0.0,)}
    found = score([made(True, **fast), made(False, **fast), made(None, **fast), made(True, problem=CODE)], gated)
    assert [one.terms["speed"] for one in found] == [1, 0, None, None]
    assert [one.reward for one in found] == [1.5, 0, None, None]
    assert score([made(False, problem=CODE)], gated)[0].reward == 0  # closed, whatever is behind it
    with pytest.raises(UnknownName, match=r"gate of speed called 'test': did you mean 'tests'"):
        score([made()], Reward(terms={"tests": 1, "speed": TermUse(gate="test")}))


def test_shuffled_rewards_keep_their_numbers_in_each_problem() -> None:
    other = Problem(id="other", task="t", prompt="")
    pool = [made(i % 3 == 0, index=i) for i in range(30)] + [made(i < 2, index=i, problem=other) for i in range(5)]
    pool.append(made(None, index=30))
    plain, mixed = score(pool, Reward()), score(pool, Reward(shuffled=True))
    for problem in ("maths", "other"):
        both = [
            sorted(one.reward for one in scored if one.graded.problem.id == problem and one.reward is not None)
            for scored in (plain, mixed)
        ]
        assert both[0] == both[1]
    assert [one.reward for one in plain] != [one.reward for one in mixed]
    assert mixed[-1].reward is None
    assert [one.terms for one in plain] == [one.terms for one in mixed]
    again = score(pool[::-1], Reward(shuffled=True))[::-1]
    assert [one.reward for one in again] == [one.reward for one in mixed]


OWN = rewards.__doc__.partition("my_terms.py:polite`:\n\n")[2].partition("\n\nWith")[0]


def test_a_term_of_your_own_is_five_lines(tmp_path: Path) -> None:
    code = "\n".join(line.removeprefix("    ") for line in OWN.splitlines()) + "\n"
    assert len([line for line in code.splitlines() if line]) <= 5
    (tmp_path / "my_terms.py").write_text(code)
    name = f"{tmp_path}/my_terms.py:polite"
    assert value(name, made(text="Please.")) == 1
    assert value(name, made(text="Please."), word="danke") == 0
    treatment = recipe({"recipe": "rest_em", "reward": {"terms": {name: {"weight": 0.1, "args": {"word": "danke"}}}}})
    assert score([made(text="Danke!")], treatment.reward)[0].reward == 1.1


def test_a_group_term_of_your_own_and_values_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from harness.rewards import needs\n"
        "@needs(group=True)\n"
        "def rank(group):\n    return [one.completion.index / len(group) for one in group]\n"
        "@needs(group=True)\ndef short(group):\n    return []\n"
        "def nan(graded):\n    return float('nan')\n"
        "def word(graded):\n    return 'good'\n"
    )
    pool = [made(index=i) for i in (2, 0, 1, 3)]
    assert [one.reward for one in score(pool, Reward(terms={f"{tmp_path}/mine.py:rank": 4}))] == [2, 0, 1, 3]
    for name, message in (("short", "0 values for 4"), ("nan", "gave nan for"), ("word", "gave 'good' for")):
        with pytest.raises(InputError, match=message):
            score(pool, Reward(terms={f"{tmp_path}/mine.py:{name}": 1}))


def test_unknown_terms_and_arguments_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no term 'test': did you mean 'tests'"):
        score([made()], Reward(terms={"test": 1}))
    with pytest.raises(UnknownName, match="argument of the term random 'probabilty': did you mean 'probability'"):
        value("random", made(), probabilty=1)
    assert {"tests", "fraction", "majority"} <= registry.names("term").keys()
