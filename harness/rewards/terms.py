"""Reward terms of verdicts, texts and answers. Each is 1 or 0 unless it says otherwise, None where not measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import registry
from harness.errors import InputError
from harness.rewards import Graded, needs
from harness.rewards.chance import coin
from harness.scorers import Scorable, account
from harness.types import Status


def tests(graded: Graded) -> float | None:
    """1 where the completion is right: every test passed, or the answer is the reference's."""
    return None if graded.verdict.passed is None else float(graded.verdict.passed)


tests.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test of its own


@needs(all_tests=True)
def fraction(graded: Graded) -> float | None:
    """The share of tests passed; by the verdict where a problem has an answer and no tests.

    Programs must be run on every test (`--all_tests`): where a failed one was not, the share is not known.
    """
    if graded.verdict.passed or not graded.problem.tests:
        return tests(graded)
    statuses = [one.status for one in graded.executions]
    complete = [one.test_id for one in graded.executions] == [test.id for test in graded.problem.tests]
    if not complete or Status.sandbox_error in statuses:
        return None
    return sum(status == Status.passed for status in statuses) / len(statuses)


def wrong_label(graded: Graded) -> float | None:
    """1 where the completion is wrong: the opposite of `tests`."""
    return None if graded.verdict.passed is None else float(not graded.verdict.passed)


def format_tags(graded: Graded, *, tags: tuple[str, ...] = ("think", "answer"), opened: bool = False) -> float:
    """1 where the text is its tagged blocks, each once and in order, and nothing else.

    Args:
        graded: the completion.
        tags: `<think>...</think>`, then `<answer>...</answer>`. None of their tags may stand inside a block.
        opened: the chat template has written the first opening tag already, so the text starts inside that block.
    """
    if not tags:
        raise InputError("the term format has no tags: name some, or use the term extracted.")
    any_tag = "|".join(f"</?{re.escape(tag)}>" for tag in tags)
    blocks = [rf"<{re.escape(tag)}>(?:(?!{any_tag}).)*</{re.escape(tag)}>" for tag in tags]
    if opened:
        blocks[0] = blocks[0].removeprefix(f"<{re.escape(tags[0])}>")
    return float(re.fullmatch(r"\s*" + r"\s*".join(blocks) + r"\s*", graded.completion.text, re.DOTALL) is not None)


def extracted(graded: Graded) -> float:
    """1 where the task found an answer or a program in the text, right or wrong."""
    found = graded.completion.program if graded.problem.tests else graded.completion.answer
    return float(bool((found or graded.verdict.answer or "").strip()))


def length(graded: Graded, *, limit: int, buffer: int) -> float | None:
    """From 0 down to -1 for completions that come near the limit (DAPO, arXiv 2503.14476, "soft overlong punishment").

    0 up to limit - buffer tokens, then falling evenly to -1 at the limit and beyond it.
    """
    if not 0 < buffer <= limit:
        raise InputError(f"the term length has limit {limit} and buffer {buffer}: 0 < buffer <= limit is needed.")
    if graded.completion.n_tokens is None:
        return None
    beyond = graded.completion.n_tokens - (limit - buffer)
    return -min(max(beyond / buffer, 0.0), 1.0)


def constant(graded: Graded, *, value: float = 1.0) -> float:
    """The same for every completion, graded or not."""
    return value


def random_coin(graded: Graded, *, probability: float = 0.5, seed: int = 0) -> float:
    """1 with a fixed probability, by problem id and index alone: nothing of the text plays a part."""
    if not 0 <= probability <= 1:
        raise InputError(f"the term random has probability {probability}: it must be from 0 to 1.")
    return float(coin("random", seed, graded.problem.id, graded.completion.index) < probability)


@needs(group=True)
def majority(group: Sequence[Graded]) -> list[float | None]:
    """1 where the answer is the most frequent one of the problem's completions (Huang et al. 2022, arXiv 2210.11610).

    Ties go to the answer that comes first by index. A completion without an answer has no vote and gets 0; None for all
    where no completion has an answer, as with programs, and for those that could not be graded.
    """
    answers = [one.verdict.answer for one in group]
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return [None] * len(group)
    winner = max(votes, key=lambda answer: votes[answer])  # the first of equals: a Counter keeps the order of arrival
    return [
        None if one.verdict.passed is None and answer is None else float(answer == winner)
        for one, answer in zip(group, answers, strict=True)
    ]


@needs(group=True)
def verifier(group: Sequence[Graded], *, path: str) -> list[float | None]:
    """A trained verifier's probability that the completion is right, whatever its verdict (a filter by `threshold`).

    The verifier (a folder with verifier.json) must do without execution results: training runs no suites.
    """
    if "execution" in account(Path(path)).inputs:
        raise InputError(
            f"the verifier {path} looks at execution results, and training runs no suites: train one without them "
            "(inputs=prompt,program)."
        )
    scored = [Scorable(problem=one.problem, completion=one.completion) for one in group]
    return list(registry.bind("scorer", "verifier", {"path": path})(scored))
