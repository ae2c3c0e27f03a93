"""What a sweep says before it runs, and while it runs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from harness.metrics.power import mde
from harness.power import WITHIN
from harness.sweep import Line
from harness.sweeps import Sweep, sweep
from harness.sweeps.display import display, duration
from harness.sweeps.folder import Job
from harness.sweeps.plan import TRAINING, completions, describe, estimator, seconds_per_completion
from harness.trials import Evaluated


def _sibling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep_files", Path(__file__).with_name("test_sweeps.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def planned(tmp_path: Path) -> Sweep:
    files = _sibling()
    plan = files.changed("arms", "grpo", {"treatment": {"recipe": "grpo", "on_policy": {"rounds": 3, "problems": 5}}})
    return sweep(files.written(tmp_path, plan))


def account(iteration: int, seconds: float) -> Evaluated:
    return Evaluated(
        iteration=iteration, checkpoint="x", trained=None, rows=None, sampled_tokens=None, seconds={"evaluate": seconds}
    )


def finish(job: Job, out: Path, *seconds: float) -> None:
    """Leaves what a finished job leaves, as far as estimates read it."""
    made = [account(iteration, each) for iteration, each in enumerate(seconds)]
    job.folder(out).mkdir(parents=True)
    name, data = ("evaluated.json", made[0]) if job.arm is None else ("trial_results.json", made)
    (job.folder(out) / name).write_bytes(msgspec.json.encode(data))


def test_work_is_counted_in_completions(planned: Sweep) -> None:
    every_split = 8 * (24 + 30)
    assert completions(planned, Job("letters")) == every_split
    assert completions(planned, Job("letters", "rft")) == 24 * 4 + every_split
    assert completions(planned, Job("letters", "grpo")) == 3 * 5 * 8 + every_split
    own = 8 * (12 + 30)  # other training problems: the base model is evaluated on them, too
    assert completions(planned, Job("letters", "longer")) == 12 * 4 + 2 * own


def test_time_comes_from_what_has_run_or_is_said_to_be_assumed(planned: Sweep, tmp_path: Path) -> None:
    assert seconds_per_completion(planned, tmp_path, "letters") == (pytest.approx(0.002), "assumed")
    assert seconds_per_completion(planned, tmp_path, "others") == (
        pytest.approx(1024 / 3 / 10_000),
        "assumed",
    )  # scratch
    assert "assumed: 1,000 or 10,000 tokens per second" in describe(planned, tmp_path)
    finish(Job("letters"), tmp_path, 43.2)
    assert seconds_per_completion(planned, tmp_path, "letters") == (pytest.approx(TRAINING * 0.1), "base")
    finish(Job("letters", "rft", 1), tmp_path, 43.2, 105.6)  # of which the first was the base model's
    assert seconds_per_completion(planned, tmp_path, "letters") == (pytest.approx(0.2), "trials")
    assert "measured in the trials that are finished" in describe(planned, tmp_path)


def test_seconds_left_of_a_running_sweep(planned: Sweep, tmp_path: Path) -> None:
    left = estimator(planned, tmp_path, parallel=2)
    running = Line(Job("letters", "rft", 0), status="running", started=1000.0)
    assert left([running], 1010.0) is None  # nothing is measured
    finish(Job("letters", "rft", 1), tmp_path, 0, 105.6)
    lines = [running, Line(Job("letters", "rft", 1), status="done"), Line(Job("letters", "random reward"))]
    assert left(lines, 1010.0) == pytest.approx(105.6)  # the longer one of two side by side
    assert left([*lines, Line(Job("letters", "random reward", 1))], 1010.0) == pytest.approx((3 * 105.6 - 10) / 2)


def test_the_plan_says_what_runs_and_what_can_be_detected(planned: Sweep, tmp_path: Path) -> None:
    finish(Job("letters", "rft", 1), tmp_path, 0, 1)
    text = describe(planned, tmp_path, parallel=2)
    rows = [line.split() for line in text.splitlines()]
    assert ["letters", "rft", "rft", "1", "24", "528", "1", "1"] in rows
    assert ["letters", "random", "reward", "random_reward", "of", "rft", "1", "24", "528", "2", "0"] in rows
    noise = WITHIN / 8 / 2 + WITHIN / 8  # two seeds, and the base model once
    comparisons = 5 + 4  # with the base model, and with placebos: one arm has two
    points = 100 * mde(30, 1, within=noise, between=0.05**2, level=1 - 0.05 / comparisons)
    assert any(row[:4] == ["rft", "base", "model", f"{points:.1f}"] for row in rows)
    assert "(letters, others: the base model is not here yet)" in text


def test_elsewhere_than_on_a_terminal_there_is_a_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line(Job("letters", "rft", 0)), Line(Job("letters", "rft", 1))]
    with display(lambda lines, now: 100.0) as show:
        show(lines)
        lines[0].status, lines[0].said = "running", "iteration 1: sampling."
        show(lines)
        show(lines)
        lines[0].status = "done"
        show(lines)
        lines[1].status, lines[1].error = "failed", "no rows."
        show(lines)
    assert capsys.readouterr().err.splitlines() == [
        "[0:00] letters, rft, seed 0: iteration 1: sampling.",
        "[0:00] letters, rft, seed 0: done (1 of 2 done, 1 waiting, 0:00 so far, about 1:40 left)",
        "[0:00] letters, rft, seed 1: failed: no rows. (1 of 2 done, 1 failed, 0:00 so far)",
    ]


def test_a_terminal_has_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    line = Line(Job("letters", "rft", 0), status="running", said="iteration 1: sampling.", completions=20, of=1000)
    with display(lambda lines, now: 60.0) as show:
        show([line])
    shown = capsys.readouterr().err
    assert "iteration 1: sampling." in shown
    assert "20 of 1,000" in shown
    assert "0 of 1 done, 1 running, 0:00 so far, about 1:00 left" in shown


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
