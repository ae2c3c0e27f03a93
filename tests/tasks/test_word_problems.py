"""The world of word problems: stories and their sums, disjoint splits, people's slips, answers as GSM8K's."""

import random
import re

import pytest

from harness.errors import InputError
from harness.tasks.stories import BUS, MOST, SHOP, STYLES, Change, Story, draw, drill, in_words, quantities, solution
from harness.tasks.word_problems import WRONG, split_of, word_problems
from harness.types import Completion, Problem, Task

STORY = Story(12, (Change("gains", 3, 4), Change("loss", 6), Change("half"), Change("gain", 1), Change("double")))
SUM = re.compile(r"(.+)=(\d+)")


def right(task: Task, problem: Problem, text: str) -> bool:
    completion = Completion(problem_id=problem.id, index=0, text=text)
    return bool(task.grade(problem, task.extract(problem, completion), ()).passed)


def test_a_story_is_told_and_worked_out() -> None:
    rng = random.Random(0)
    assert quantities(STORY) == [12, 24, 18, 9, 10, 20]
    told = in_words(STORY, SHOP, rng)
    assert re.fullmatch(
        r"\w+ has 12 (\w+), \w+ 3 \w+ of 4, .*6.*, loses half, \w+ 1, doubles them\. How .* now\?", told
    )
    assert in_words(STORY, BUS, rng).startswith("A bus has 12 riders, 3 groups of 4 get on, 6 ")
    steps = " 3*4=12\n12+12=24\n24-6=18\n18/2=9\n9+1=10\n10*2=20\n#### 20"
    assert solution(STORY, "steps", rng) == steps
    assert solution(STORY, "products first", rng) == steps
    assert solution(STORY, "chain", rng) == " ((12+3*4-6)/2+1)*2=20\n#### 20"
    assert solution(STORY, "answer", rng) == " #### 20"
    swapped = Story(9, (Change("loss", 5), Change("gains", 2, 3)))
    assert solution(swapped, "gains first", rng) == " 2*3=6\n9+6=15\n15-5=10\n#### 10"
    assert quantities(Story(9, (Change("half"),))) == quantities(Story(3, (Change("loss", 3),))) == []


def test_all_styles_come_to_the_answer_and_slips_do_not() -> None:
    rng = random.Random(1)
    for steps in (1, 2, 3, 4) * 25:
        story = draw(rng, steps)
        answer = quantities(story)[-1]
        assert all(1 <= quantity <= MOST for quantity in quantities(story))
        for style in STYLES:
            text = solution(story, style, rng)
            assert text.endswith(f"#### {answer}")
            assert all(eval(match[1]) == int(match[2]) for match in map(SUM.fullmatch, text.split()) if match)
    slips = [solution(Story(20, (Change("gain", 3),)), style, rng, slips=True) for style in STYLES]
    assert not any(text.endswith("#### 23") for text in slips)


def test_gold_solutions_are_right_and_one_person_in_five_is_wrong() -> None:
    for split in ("train", "transfer"):
        task = word_problems(split, 300)
        assert all(right(task, problem, task.gold(problem).text) for problem in task.problems)  # type: ignore[union-attr]
        wrong = sum(not right(task, problem, problem.meta["demonstration"]) for problem in task.problems)
        assert wrong / 300 == pytest.approx(WRONG, abs=0.06)


def test_no_story_is_in_two_splits_in_any_draw() -> None:
    seen: dict[str, str] = {}
    for split in ("pretrain", "train", "validation", "test", "transfer"):
        for seed in (0, 1):
            stories = [p.meta["story"] for p in word_problems(split, 150, seed).problems if p.level != "drill"]  # type: ignore[arg-type]
            assert len(set(stories)) == len(stories) > 50
            assert all(seen.setdefault(story, split) == split for story in stories)
    assert split_of(STORY) == split_of(Story(12, STORY.changes))
    assert word_problems("test", 40).problems[:20] == word_problems("test", 20).problems


def test_transfer_is_another_family_and_a_base_model_sees_a_little_of_it() -> None:
    assert all("riders" in problem.prompt for problem in word_problems("transfer", 50).problems)
    assert not any("riders" in problem.prompt for problem in word_problems("train", 50).problems)
    kinds = [(p.level == "drill", "riders" in p.prompt) for p in word_problems("pretrain", 600).problems]
    assert 0.35 < sum(is_drill for is_drill, _ in kinds) / 600 < 0.5
    assert 0.04 < sum(is_bus for _, is_bus in kinds) / 600 < 0.14


def test_drills_are_right() -> None:
    for line in drill(random.Random(0), 300):
        match = SUM.fullmatch(line)
        assert match
        assert eval(match[1]) == int(match[2]) <= 2 * MOST


def test_what_a_model_adds_after_its_answer_is_not_read() -> None:
    task = word_problems("test", 1)
    (problem,) = task.problems
    assert right(task, problem, f" 1+1=2\n#### {problem.answer}\nQ: Tom has 3 pens. How many pens now?\nA: #### 3")
    assert not right(task, problem, " I don't know")
    with pytest.raises(InputError, match="has from 1 to 20000 problems, not 30000"):
        word_problems(problems=30000)
