"""The self-test finds what is wrong with a grader, and nothing wrong with ours."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from harness import cli, evaluate, selftest, store
from harness.errors import InputError
from harness.leaderboards.render import render
from harness.sandbox import open_sandbox
from harness.selftest import Failure, Findings, Program, Row, collection
from harness.types import Execution, Job, Status

ATTACKS = collection("attacks")
VERSION = "namespaces, protocol 3, python 3.11.2 x86_64, stdlib"


class Grader:
    """A sandbox that calls every program the same."""

    version = VERSION

    def __init__(self, status: Status) -> None:
        self.status = status

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, tuple[Execution, ...]]]:
        for job in filter(None, jobs):
            tests = job.problem.tests if self.status == Status.passed else job.problem.tests[:1]
            yield job, tuple(
                Execution(
                    problem_id=job.problem.id, index=job.completion.index, test_id=test.id, status=self.status
                )
                for test in tests
            )  # fmt: skip

    def close(self) -> None:
        """Nothing to close."""


def errors(status: Status, *programs: Program) -> list[str]:
    return [each.error for _, found, _ in selftest.run_programs(programs, [Grader(status)]) for each in found]


def test_the_collections_are_what_they_should_be() -> None:
    odd = collection("odd")
    assert Counter(each.kind for each in ATTACKS).keys() == {"verdict", "hang", "harm", "leak"}
    assert {each.kind for each in odd} == {"odd"}
    assert len(ATTACKS) >= 180
    assert len(odd) >= 100
    for programs in (ATTACKS, odd):
        assert len({each.name for each in programs}) == len(programs)
        assert {each.problem.tests[0].kind for each in programs} == {"script", "call", "stdio"}
        assert all(each.problem.tests for each in programs)
    for each in ATTACKS:
        compile(each.text, each.name, "exec")
        assert each.right
        assert each.wrong
        assert each.text not in (each.right, each.wrong)


def test_a_grader_without_judgement_is_found_out() -> None:
    attack = next(each for each in ATTACKS if each.then is None)
    pair = next(each for each in ATTACKS if each.then is not None)
    odd = collection("odd")[0]
    assert errors(Status.passed, attack) == ["false positive"] * 2  # it and the wrong program after it
    assert errors(Status.passed, pair) == ["false positive"] * 3
    assert errors(Status.passed, odd) == []
    assert errors(Status.wrong, attack, odd) == ["false negative"] * 2  # the right program after it, and the odd one
    assert errors(Status.sandbox_error, attack, odd) == ["ungraded"] * 4


def test_a_late_verdict_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.selftest.run.LATE_S", -1)
    assert errors(Status.passed, collection("odd")[0]) == ["ungraded"]


def test_sandboxes_share_the_work_and_results_keep_their_order() -> None:
    graders = [Grader(Status.passed), Grader(Status.passed), Grader(Status.passed)]
    results = list(selftest.run_programs(ATTACKS, graders))
    assert [each.name for each, _, _ in results] == [each.name for each in ATTACKS]


FOUND = Findings(
    sandbox=VERSION,
    harness="0.1",
    rows=(
        Row(name="gold: toy", programs=3, failures=(), seconds=1),
        Row(name="attacks: hang", programs=2, failures=(), seconds=1),
        Row(
            name="attacks: leak",
            programs=4,
            failures=(Failure(program="peep", error="false positive", status="passed"),),
            seconds=1.25,
        ),
        Row(
            name="odd but correct",
            programs=5,
            failures=(Failure(program="open 0", error="false negative", status="wrong", detail="token\x1b 1"),),
            seconds=2,
        ),
    ),
)


def test_the_table_counts_and_lists() -> None:
    lines = [line.split() for line in selftest.describe(FOUND).splitlines()]
    assert ["|", "attacks:", "leak", "|", "4", "|", "1", "|", "0", "|", "0", "|", "1.2", "|"] in lines
    assert ["|", "odd", "but", "correct", "|", "5", "|", "0", "|", "1", "|", "0", "|", "2.0", "|"] in lines
    assert "odd but correct: open 0: false negative: wrong: token? 1" in selftest.describe(FOUND)
    assert [each.program for each in selftest.failures(FOUND)] == ["peep", "open 0"]
    assert selftest.sentence(FOUND) == (
        "Grader self-test (namespaces, protocol 3): 1 of 6 attacks passed, 1 of 5 odd but correct programs failed."
    )


def test_what_is_neither_is_said_too() -> None:
    after = Failure(program="right program after x", error="false negative", status="timeout")
    row = Row(name="attacks: hang", programs=2, failures=(after,), seconds=1)
    text = selftest.sentence(Findings(sandbox=VERSION, harness="", rows=(row,)))
    assert "0 of 2 attacks passed" in text
    assert text.endswith(", 1 programs were misjudged after an attack or not judged.")


def test_findings_go_to_the_leaderboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(name: str) -> Path:
        evaluate("first_steps", "first_steps", model_args={"system": "careful"}, limit=1, output_path=tmp_path / name)
        return tmp_path / name

    first = run("first")
    assert not (first / "selftest.json").exists()
    manifest, _ = store.read_results(first)
    path = store.selftest_file(manifest.sandbox)
    assert path.parent == tmp_path / "cache" / "treatment-harness"
    found = Findings(sandbox=manifest.sandbox, harness="0.1", rows=FOUND.rows)
    selftest.save(found, path)
    assert selftest.read(path) == found
    second = run("second")
    untested, tested = "Grader not self-tested here: run `harness selftest`.", selftest.sentence(found)
    path.unlink()
    assert untested in render([first]).splitlines()
    assert tested in render([second]).splitlines()
    assert {f"first: {untested}", f"second: {tested}"} <= set(render([first, second]).splitlines())
    other = Findings(sandbox=VERSION + "x", harness="0.1", rows=FOUND.rows)
    selftest.save(other, second / "selftest.json")  # of another sandbox than the run's
    assert untested in render([second])
    (second / "selftest.json").write_text("{}")
    with pytest.raises(InputError, match="not of this version"):
        render([second])


def test_an_attack_on_each_problem_and_what_follows_it(tier: str) -> None:
    by_problem = {each.problem.id: each for each in ATTACKS if each.kind == "verdict"}
    assert by_problem.keys() == {each.problem.id for each in ATTACKS}
    with open_sandbox(workers=1, limits=selftest.LIMITS, tier=tier) as sandbox:
        assert [found for _, found, _ in selftest.run_programs(by_problem.values(), [sandbox]) if found] == []


@pytest.mark.slow
def test_no_attack_passes_and_no_odd_program_fails(tier: str) -> None:
    found = selftest.selftest(tier=tier)
    assert [row.name for row in found.rows] == [
        "attacks: verdict", "attacks: hang", "attacks: harm", "attacks: leak", "odd but correct"
    ]  # fmt: skip
    assert selftest.failures(found) == []
    assert found.sandbox.startswith(tier)


def test_parts_can_be_run_alone() -> None:
    found = selftest.selftest(tasks="first_steps", only="gold")
    assert [(row.name, row.programs, row.failures) for row in found.rows] == [("gold: first_steps", 12, ())]
    assert "Sandbox" not in selftest.describe(found)


def test_the_command_keeps_what_it_found_and_fails_if_anything_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    good, wrong = collection("odd")[0], collection("odd")[0]
    wrong = msgspec.structs.replace(wrong, name="not right", text="print(7)")
    chosen = {"attacks": ATTACKS[:1], "odd": [good]}
    monkeypatch.setattr("harness.selftest.run.collection", chosen.__getitem__)
    run = CliRunner().invoke
    done = run(cli.app, ["selftest", "--workers", "1"])
    assert done.exit_code == 0, done.output
    (kept,) = (tmp_path / "treatment-harness").iterdir()
    assert [row.programs for row in selftest.read(kept).rows] == [1, 1]
    chosen["odd"] = [good, wrong]
    done = run(cli.app, ["selftest", "--workers", "1", "--only", "odd"])
    assert done.exit_code == 1
    assert "odd but correct: not right: false negative: wrong" in done.output
    assert [row.programs for row in selftest.read(kept).rows] == [1, 1]  # a part is not kept
    assert run(cli.app, ["selftest", "--only", "gold"]).exit_code != 0
