"""CPU limits from gold solutions: what they are, what they do to verdicts, and that a run keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness import gold
from harness.evaluate import evaluate
from harness.types import Completion, Execution, Job, Limits, Problem, Status, Test

BURN = "    import time\n    end = time.process_time() + {}\n    while time.process_time() < end: pass\n    return x\n"


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def start(self, *counts: int) -> None: ...
    def sampled(self) -> None: ...
    def graded(self) -> None: ...


def run(folder: Path, golds: dict[str, str], program: str, **limits: float) -> tuple[dict[str, str], Notes]:
    """Statuses by problem id: `program` on each of the problems, whose gold solutions are given."""
    tests = [{"kind": "call", "input": [3], "expected": 3}]
    rows = [
        {"id": name, "prompt": "def f(x):\n", "entry_point": "f", "tests": tests} | ({"answer": text} if text else {})
        for name, text in golds.items()
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"problem_id": name, "text": program} for name in golds]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    notes: Any = Notes()
    evaluate(
        "jsonl",
        "replay",
        task_args={"path": str(folder / "problems.jsonl")},
        model_args={"path": str(folder / "completions.jsonl")},
        limits=Limits(**limits),  # type: ignore[arg-type]
        workers=min(len(golds), 2),
        output_path=folder / "run",
        progress=notes,
    )
    lines = (folder / "run/verdicts.jsonl").read_text().splitlines()
    return {row["problem_id"]: row["status"] for row in map(json.loads, lines)}, notes


def test_a_problem_has_the_time_that_its_gold_solution_needs(tmp_path: Path) -> None:
    golds = {"quick": "    return x\n", "slow": BURN.format(0.06), "without": ""}
    found, _ = run(tmp_path, golds, BURN.format(0.65))
    assert found == {"quick": "timeout", "slow": "passed", "without": "passed"}
    limits = json.loads((tmp_path / "run/limits.json").read_text())
    assert limits["quick"] == 0.5
    assert 1.2 <= limits["slow"] <= 3.0
    assert "without" not in limits


def test_without_a_factor_all_have_the_same_time(tmp_path: Path) -> None:
    found, _ = run(tmp_path, {"quick": "    return x\n"}, BURN.format(0.65), gold_factor=0)
    assert found == {"quick": "passed"}
    assert not (tmp_path / "run/limits.json").exists()


def test_a_gold_solution_that_fails_is_told_and_costs_nobody_time(tmp_path: Path) -> None:
    found, notes = run(tmp_path, {"wrong": "    return 4\n"}, BURN.format(0.65))
    assert found == {"wrong": "passed"}
    assert [note for note in notes.notes if "wrong" in note]


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_has_the_limits_that_it_had(tmp_path: Path) -> None:
    golds = {"quick": "    return x\n"}
    assert run(tmp_path, golds, BURN.format(0.65))[0] == {"quick": "timeout"}
    (tmp_path / "run/limits.json").write_text('{"quick": 2.0}')
    (tmp_path / "run/verdicts.jsonl").write_text("")
    assert run(tmp_path, golds, BURN.format(0.65))[0] == {"quick": "passed"}
    (tmp_path / "run/limits.json").write_text('{"quick": "long"}')
    with pytest.raises(Exception, match=r"limits\.json is damaged"):
        run(tmp_path, golds, BURN.format(0.65))


@pytest.mark.parametrize(
    ("gold_s", "limit"), [(0.0, 0.5), (0.024, 0.5), (0.025, 0.5), (0.0251, 0.6), (0.1, 2.0), (0.15, 3.0), (9.0, 3.0)]
)
def test_limits_are_between_the_floor_and_the_ceiling(gold_s: float, limit: float) -> None:
    assert gold._limit(Limits(), gold_s) == pytest.approx(limit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gold_text", "factor"),
    [
        (BURN.format(0.45), 2),  # all tests in one process
        ("    import time\n    time.sleep(3)\n    return x\n", 20),
    ],
)
def test_a_gold_solution_passes_under_its_own_limit(tmp_path: Path, gold_text: str, factor: float) -> None:
    found, _ = run(tmp_path, {"p": gold_text}, gold_text, gold_factor=factor)
    assert found == {"p": "passed"}


def test_calls_share_a_process_and_other_tests_do_not() -> None:
    tests = tuple(Test(id=str(n), kind=kind, input="") for n, kind in enumerate(["call", "call", "stdio", "stdio"]))
    problem = Problem(id="p", task="t", prompt="", tests=tests)
    job = Job(problem=problem, completion=Completion(problem_id="p", index=0, text=""))

    def executions(*seconds: float | None) -> list[Execution]:
        return [
            Execution(problem_id="p", index=0, test_id=str(n), status=Status.passed, cpu_s=used)
            for n, used in enumerate(seconds)
        ]

    assert gold._cpu_s(job, executions(0.2, 0.3, 0.1, 0.4)) == pytest.approx(0.5)
    assert gold._cpu_s(job, executions(None, 0.3, 0.1, 0.4)) == pytest.approx(0.4)


def test_the_ceiling_is_above_the_floor() -> None:
    assert gold._limit(Limits(cpu_s=0.2), 0.001) == 0.2
