"""Sampling and grading go on at the same time, and neither runs away from the other."""

import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import registry
from harness.evaluate import evaluate
from harness.sandbox import pool
from harness.types import Budget, Completion, Key, Problem

SLOW = "def double(x):\n    t = 0\n    while t < 4_000_000:\n        t += 1\n    return 2 * x\n"
FAST = "def double(x):\n    return 2 * x\n"
TASK = """
from harness import Problem, Task, Test
from harness.grading.code import verdict
from harness.grading.programs import standalone

def double():
    test = Test(id="0", kind="call", input=[3], expected=6)
    shared = {"task": "double", "prompt": "", "entry_point": "double", "tests": (test,)}
    problems = tuple(Problem(id=f"p/{i}", **shared) for i in range(8))
    return Task(name="double", problems=problems, extract=standalone, grade=verdict, gold=lambda problem: None)
"""


@dataclass
class Timed:
    """One completion for every problem, each after a pause; notes what was graded when."""

    programs: Sequence[str]
    pause_s: float
    verdicts: Path
    identity: str = "timed"
    graded_when_sampled: list[int] = field(default_factory=list)

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        return {problem.id: 1 for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        for problem, program in zip(problems, self.programs, strict=True):
            time.sleep(self.pause_s)
            graded = self.verdicts.read_text().count("\n") if self.verdicts.is_file() else 0
            self.graded_when_sampled.append(graded)
            yield Completion(problem_id=problem.id, index=0, text=program, form="program")


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Sequence[str], pause_s: float) -> Timed:
    (tmp_path / "double.py").write_text(TASK)
    sampler = Timed(programs, pause_s, tmp_path / "run" / "verdicts.jsonl")
    build = registry.build
    monkeypatch.setattr(registry, "build", lambda kind, *rest: sampler if kind == "sampler" else build(kind, *rest))
    results = evaluate(f"{tmp_path / 'double.py'}:double", "timed", workers=1, output_path=tmp_path / "run")
    assert results.estimates["double"]["pass@1"].value == 1.0
    stored = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["problem_id"] for line in stored) == [f"p/{i}" for i in range(8)]
    return sampler


def test_grading_does_not_wait_for_the_last_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = run(tmp_path, monkeypatch, [FAST] * 8, 0.15)
    # When the last completion is sampled, all but those of the last moments have their verdict.
    assert sampler.graded_when_sampled[-1] >= 4


def test_the_model_does_not_wait_for_slow_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = run(tmp_path, monkeypatch, [SLOW, *[FAST + f"# {i}\n" for i in range(7)]], 0.0)
    assert sampler.graded_when_sampled == [0] * 8


def test_the_model_waits_when_too_much_is_not_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["harness.evaluate"], "MOST_AHEAD", 2)
    monkeypatch.setattr(pool, "MAX_ASIDE", 1)
    sampler = run(tmp_path, monkeypatch, [SLOW + f"# {i}\n" for i in range(8)], 0.0)
    # One runs, one is put aside as slow, one is on its way to them, two wait and one has no room: the last could only
    # be sampled when the others had their verdicts.
    assert sampler.graded_when_sampled[-1] >= 8 - 1 - 1 - 1 - 2 - 1
