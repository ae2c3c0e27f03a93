"""The run folder: what was accepted is kept, what was torn is dropped and said, nothing is mixed up."""

import msgspec
import pytest

from harness.errors import InputError, RunMismatch
from harness.store import open_run, read_results, read_run
from harness.types import Budget, Completion, Execution, Limits, Manifest, Status, TaskRecord, Verdict


def manifest(**changes) -> Manifest:
    task = TaskRecord(name="t", spec="t", args={}, revision="1", n_problems=2, problems_sha="a", prompts_sha="b")
    base = Manifest(
        tasks=(task,),
        model="replay",
        model_args={"path": "x"},
        model_identity="sha",
        budget=Budget(),
        limits=Limits(),
        grader="1",
        sandbox="s",
        environment={},
        started="2026-01-01",
    )
    return msgspec.structs.replace(base, **changes)


def fill(run, index: int) -> None:
    run.add_completion(Completion(problem_id="p", index=index, text="\x00 é \n"))
    execution = Execution(problem_id="p", index=index, test_id="0", status=Status.passed)
    run.add_verdict([execution] * 2, Verdict(problem_id="p", index=index, passed=True, status=Status.passed))


def test_what_was_written_is_read_back(tmp_path):
    with open_run(tmp_path / "run", manifest()) as run:
        for index in range(3):
            fill(run, index)
    _, completions, verdicts = read_run(tmp_path / "run")
    assert [c.index for c in completions] == [0, 1, 2]
    assert completions[0].text == "\x00 é \n"
    assert [v.passed for v in verdicts] == [True] * 3


@pytest.mark.parametrize("name", ["completions", "executions", "verdicts"])
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped_with_a_notice(tmp_path, name, cut):
    path = tmp_path / "run"
    with open_run(path, manifest()) as run:
        fill(run, 0)
        fill(run, 1)
    file = path / f"{name}.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    with open_run(path, manifest()) as run:
        assert any(f"{name}.jsonl" in notice for notice in run.notices)
        assert ("p", 0) in run.verdicts
        assert len(run.completions) == (1 if name == "completions" else 2)
    with open_run(path, manifest()) as run:
        assert not any("torn" in notice for notice in run.notices)


def test_executions_without_a_verdict_are_dropped(tmp_path):
    path = tmp_path / "run"
    with open_run(path, manifest()) as run:
        fill(run, 0)
        fill(run, 1)
    verdicts = (path / "verdicts.jsonl").read_bytes().splitlines(keepends=True)
    (path / "verdicts.jsonl").write_bytes(verdicts[0])
    with open_run(path, manifest()) as run:
        assert len((path / "executions.jsonl").read_bytes().splitlines()) == 2
        fill(run, 1)
    assert len((path / "executions.jsonl").read_bytes().splitlines()) == 4


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "run"
    with open_run(path, manifest()) as run:
        fill(run, 0)
        fill(run, 1)
    lines = (path / "completions.jsonl").read_bytes().splitlines(keepends=True)
    (path / "completions.jsonl").write_bytes(b"{garbage\n" + lines[1])
    with pytest.raises(InputError, match=r"completions\.jsonl, line 1 is damaged"), open_run(path, manifest()):
        pass


def test_another_experiment_is_refused_by_the_field_that_differs(tmp_path):
    with open_run(tmp_path / "run", manifest()):
        pass
    other = manifest(budget=Budget(temperature=0.7))
    with (
        pytest.raises(RunMismatch, match=r"budget\.temperature was 0.0, is now 0\.7"),
        open_run(tmp_path / "run", other),
    ):
        pass


def test_more_completions_and_other_places_are_the_same_experiment(tmp_path):
    with open_run(tmp_path / "run", manifest()):
        pass
    with open_run(tmp_path / "run", manifest(budget=Budget(n=64), model_args={"path": "y"})) as run:
        assert run.manifest.started == "2026-01-01"


def test_two_writers_are_refused(tmp_path):
    with (
        open_run(tmp_path / "run", manifest()),
        pytest.raises(RunMismatch, match="written by another process"),
        open_run(tmp_path / "run", manifest()),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), open_run(tmp_path / "file" / "run", manifest()):
        pass


def test_a_folder_that_is_not_a_run_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1'])
def test_results_of_another_kind_are_a_sentence(tmp_path, text):
    with open_run(tmp_path / "run", manifest()) as run:
        with pytest.raises(InputError, match=r"no results\.json yet"):
            read_results(run.path)
        (run.path / "results.json").write_text(text)
        with pytest.raises(InputError, match="harness score"):
            read_results(run.path)
