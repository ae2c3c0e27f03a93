"""The world of list programs: meanings, disjoint splits, hidden tests that luck doesn't pass, people's mistakes."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from harness import registry
from harness.errors import InputError, UnknownName
from harness.sandbox import open_sandbox
from harness.tasks.list_operations import OPERATIONS, STYLES, Step, apply, body, draw, neighbours, other_numbers
from harness.tasks.list_programs import WRONG, list_programs, split_of
from harness.types import Completion, Job, Problem

NUMBERS = [4, -3, 0, 7, 6, -8, 6]
OUTCOMES = {
    "add2": [6, -1, 2, 9, 8, -6, 8],
    "subtract2": [2, -5, -2, 5, 4, -10, 4],
    "multiply3": [12, -9, 0, 21, 18, -24, 18],
    "negate": [-4, 3, 0, -7, -6, 8, -6],
    "square": [16, 9, 0, 49, 36, 64, 36],
    "absolute": [4, 3, 0, 7, 6, 8, 6],
    "even": [4, 0, 6, -8, 6],
    "odd": [-3, 7],
    "above4": [7, 6, 6],
    "below4": [-3, 0, -8],
    "least4": [4, 7, 6, 6],
    "multiples3": [-3, 0, 6, 6],
    "reverse": [6, -8, 6, 7, 0, -3, 4],
    "up": [-8, -3, 0, 4, 6, 6, 7],
    "down": [7, 6, 6, 4, 0, -3, -8],
    "first2": [4, -3],
    "skip3": [7, 6, -8, 6],
    "last2": [-8, 6],
    "sum": 12,
    "count": 7,
    "largest": 7,
    "smallest": -8,
}


def run(text: str, numbers: list[int]) -> Any:
    """What a program of ours does."""
    names: dict[str, Any] = {}
    exec(f"def f(x):{text}", names)
    return names["f"](list(numbers))


def passes(problem: Problem, text: str) -> bool:
    with contextlib.suppress(ValueError, TypeError, IndexError, AttributeError):
        return all(run(text, test.input[0]) == test.expected for test in problem.tests)
    return False


def pipelines(n: int) -> Iterator[tuple[Step, ...]]:
    rng = random.Random(3)
    return (draw(rng, rng.randint(1, 5)) for _ in range(n))


def test_every_operation_does_what_its_words_say() -> None:
    steps = [Step(each, next((k for k in (2, 3, 4) if f"{each.name}{k}" in OUTCOMES), 0)) for each in OPERATIONS]
    assert {str(step): apply((step,), NUMBERS) for step in steps} == OUTCOMES


def test_all_styles_and_spellings_of_a_pipeline_do_the_same() -> None:
    rng = random.Random(1)
    for pipeline in pipelines(150):
        for style in STYLES:
            text = body(pipeline, style, rng)
            wanted = apply(pipeline, NUMBERS)
            if wanted is not None:  # the largest of none
                assert run(text, NUMBERS) == wanted, text


def test_draws_repeat_and_fewer_are_the_first_of_more() -> None:
    some, more = list_programs("train", 20).problems, list_programs("train", 40).problems
    assert more[:20] == some
    assert len({problem.id for problem in (*more, *list_programs("train", 40, seed=1).problems)}) == 80


def test_no_pipeline_is_in_two_splits_in_any_draw() -> None:
    seen: dict[str, str] = {}
    for split in ("pretrain", "train", "validation", "test", "transfer"):
        for seed in (0, 1):
            problems = list_programs(split, 30, seed).problems  # type: ignore[arg-type]
            assert len({problem.meta["pipeline"] for problem in problems}) == 30
            for problem in problems:
                assert seen.setdefault(problem.meta["pipeline"], split) == split
                assert problem.split == split
    assert {split_of(pipeline) for pipeline in pipelines(300)} == set(seen.values())


def test_gold_programs_pass_in_the_sandbox_and_programs_for_the_examples_do_not() -> None:
    task = list_programs("test", 25)
    jobs = []
    for problem in task.problems:
        shown = [line[3:].split(")=") for line in problem.prompt.splitlines() if line.startswith("# f(")]
        cheat = "".join(f"\n    if x=={numbers[1:]}: return {value}" for numbers, value in shown)
        assert all(run(problem.answer or "", eval(numbers[1:])) == eval(value) for numbers, value in shown)
        for index, text in enumerate((problem.answer or "", cheat)):
            completion = Completion(problem_id=problem.id, index=index, text=text)
            jobs.append(Job(problem=problem, completion=task.extract(problem, completion)))
    with contextlib.closing(open_sandbox(workers=1)) as sandbox:
        for job, executions in sandbox.run(iter(jobs)):
            verdict = task.grade(job.problem, job.completion, executions)
            assert verdict.passed == (job.completion.index == 0), job.completion.program


def test_hidden_tests_tell_a_pipeline_from_its_neighbours() -> None:
    rng = random.Random(2)
    missed = total = 0
    for problem in list_programs("test", 60).problems:
        steps = {str(Step(o, k)): Step(o, k) for o in OPERATIONS for k in range(o.low, o.high + 1)}
        pipeline = tuple(steps[name] for name in problem.meta["pipeline"].split())
        assert " ".join(map(str, pipeline)) == problem.meta["pipeline"]
        others = [[rng.randint(-9, 9) for _ in range(8)] for _ in range(60)]
        for other in neighbours(pipeline):
            differs = any(apply(pipeline, x) not in (None, apply(other, x)) for x in others)
            total += differs
            missed += differs and all(apply(other, test.input[0]) == test.expected for test in problem.tests)
    assert total > 300
    assert missed <= total // 100


def test_hidden_inputs_are_many_and_of_many_lengths() -> None:
    for problem in list_programs("test", 60).problems:
        assert len({len(test.input[0]) for test in problem.tests}) >= 7
        assert len({str(test.expected) for test in problem.tests}) >= 5


def test_one_person_in_five_is_wrong() -> None:
    problems = list_programs("train", 300).problems
    wrong = sum(not passes(problem, problem.meta["demonstration"]) for problem in problems)
    assert wrong / 300 == pytest.approx(WRONG, abs=0.06)


def test_examples_tell_the_numbers_that_vague_words_keep_back() -> None:
    vague = 0
    for problem in list_programs("train", 300).problems:
        words = problem.prompt.splitlines()[0][2:].split(", ")
        steps = {str(Step(o, k)): Step(o, k) for o in OPERATIONS for k in range(o.low, o.high + 1)}
        pipeline = tuple(steps[name] for name in problem.meta["pipeline"].split())
        shown = [eval(line[4:].split(")=")[0]) for line in problem.prompt.splitlines() if line.startswith("# f(")]
        for place, (word, step) in enumerate(zip(words, pipeline, strict=True)):
            if word == step.operation.vague:
                vague += 1
                for other in other_numbers(pipeline, place):
                    assert any(apply(other, x) != apply(pipeline, x) for x in shown)
    assert vague > 10


def test_transfer_has_longer_pipelines_in_other_words() -> None:
    problems = list_programs("transfer", 50).problems
    assert {problem.level for problem in problems} <= {"3", "4", "5"}
    assert all(
        problem.prompt.startswith("# first ") and " then " in problem.prompt.splitlines()[0] for problem in problems
    )
    assert not any(" then " in problem.prompt for problem in list_programs("test", 50).problems)


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(InputError, match="has from 1 to 20000 problems, not 0"):
        list_programs(problems=0)
    with pytest.raises(UnknownName, match="did you mean 'problems'"):
        registry.build("task", "list_programs", {"problem": "3"})
    with pytest.raises(InputError, match="split='tset' is not usable"):
        registry.build("task", "list_programs", {"split": "tset"})
