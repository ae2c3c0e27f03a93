"""Sweeps as they run: what is left to do, what may change; killed, interrupted, twice at once, with a failing arm."""

import fcntl
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.errors import InputError, RunMismatch
from harness.sweep import find_gpus, shares, side_by_side
from harness.sweeps import Arm, Setting, Sweep
from harness.sweeps.folder import Job, left_out, merged, missing
from harness.trials import Evaluation, TaskUse
from harness.types import Budget
from tests import in_process

TOY = f"{Path(__file__).parent / 'toy_task.py'}:toy"


def planned(*arms: str, settings: tuple[str, ...] = ("a", "b"), seeds: tuple[int, ...] = (0, 1), n: int = 8) -> Sweep:
    """A sweep that nobody runs."""
    from harness.recipes import recipe

    evaluation = Evaluation(on={"test": TaskUse(task="toy")}, budget=Budget(n=n, temperature=1.0))
    setting = Setting(base="./base", train=TaskUse(task="toy"), evaluation=evaluation)
    treatments = {name: recipe({"recipe": "rft", "sample": {"n": 4}}) for name in arms}
    return Sweep(
        name="plan",
        settings=dict.fromkeys(settings, setting),
        arms={name: Arm(treatment=treatment) for name, treatment in treatments.items()},
        seeds=seeds,
    )


def begun(out: Path, sweep: Sweep, *done: Job) -> None:
    """A folder in which these jobs are finished."""
    (out / "sweep.json").write_text(json.dumps(msgspec.to_builtins(sweep)))
    for job in done:
        job.folder(out).mkdir(parents=True)
        (job.folder(out) / ("evaluated.json" if job.arm is None else "trial_results.json")).touch()


def test_what_is_left_begins_with_base_models_and_first_seeds(tmp_path: Path) -> None:
    sweep = planned("x", "y")
    names = [str(job) for job in missing(sweep, tmp_path)]
    assert names[:4] == ["a, base model", "b, base model", "a, x, seed 0", "a, y, seed 0"]
    assert len(names) == 2 + 2 * 2 * 2
    begun(tmp_path, sweep, Job("a"), *(Job("a", arm, seed) for arm in "xy" for seed in (0, 1)), Job("b", "y", 1))
    left = [str(job) for job in missing(sweep, tmp_path)]
    assert left == ["b, base model", "b, x, seed 0", "b, y, seed 0", "b, x, seed 1"]


def test_an_arm_or_a_seed_may_come_and_what_was_run_stays(tmp_path: Path) -> None:
    before = planned("x", "y")
    assert merged(before, tmp_path) == before
    begun(tmp_path, before, Job("a"), Job("a", "x", 0), Job("a", "x", 1))
    now = planned("y", "z", settings=("a", "c"), seeds=(1, 2))
    everything = merged(now, tmp_path)
    assert list(everything.arms) == ["y", "z", "x"]
    assert list(everything.settings) == ["a", "c"]  # nothing of b was begun
    assert everything.seeds == (1, 2, 0)
    assert left_out(now, tmp_path) == ["the arm x", "seed 0"]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (planned("x", n=16), "settings.a.evaluation.budget.n was 8 and is 16"),
        (
            msgspec.structs.replace(
                planned("x"), arms={"x": Arm(treatment=planned("x").arms["x"].treatment, control="frozen")}
            ),
            "arms.x.control was not given and is 'frozen'",
        ),
        (msgspec.structs.replace(planned("x"), name="other"), "name was 'plan' and is 'other'"),
    ],
)
def test_what_was_begun_keeps_its_meaning(now: Sweep, message: str, tmp_path: Path) -> None:
    begun(tmp_path, planned("x"))
    with pytest.raises(RunMismatch, match=message):
        merged(now, tmp_path)


def test_where_an_arm_belongs_and_what_it_is_compared_with_may_change(tmp_path: Path) -> None:
    begun(tmp_path, planned("x", "y"))
    arms = {"x": planned("x").arms["x"], "y": msgspec.structs.replace(planned("y").arms["y"], only=("a",), placebo="x")}
    assert merged(msgspec.structs.replace(planned("x", "y"), arms=arms, parallel=7), tmp_path).arms == arms
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="is not of this version"):
        merged(planned("x"), tmp_path)


def test_what_is_only_about_speed_may_change(tmp_path: Path) -> None:
    begun(tmp_path, before := planned("x"))
    treatment = before.arms["x"].treatment
    for improve, same in (({"processes": 2, "batch_tokens": 7}, True), ({"epochs": 9.0}, False)):
        changed = msgspec.structs.replace(treatment, improve=msgspec.structs.replace(treatment.improve, **improve))
        now = msgspec.structs.replace(before, arms={"x": Arm(treatment=changed)})
        if same:
            assert merged(now, tmp_path).arms["x"].treatment == changed
        else:
            with pytest.raises(RunMismatch, match=r"improve\.epochs"):
                merged(now, tmp_path)


def test_places_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = planned("x")
    assert side_by_side(sweep, 9, parallel=3, gpus=2) == 3
    assert side_by_side(msgspec.structs.replace(sweep, parallel=5), 9, parallel=None, gpus=2) == 5
    assert side_by_side(sweep, 9, parallel=None, gpus=2) == 2
    assert side_by_side(sweep, 1, parallel=4, gpus=0) == 1
    assert shares(["0"], 2) == [{}, {}]
    dealt = [each["CUDA_VISIBLE_DEVICES"] for each in shares(["0", "1", "2"], 2)]
    assert dealt == ["0,2", "1"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in shares(["4", "5"], 3)] == ["4", "5", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert find_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []


# --- real sweeps


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer, made in another process."""
    folder = tmp_path_factory.mktemp("base")
    code = (
        "import importlib.util, sys, pathlib\n"
        "spec = importlib.util.spec_from_file_location('tiny_models', sys.argv[1])\n"
        "models = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(models)\n"
        "models.save(pathlib.Path(sys.argv[2]), 1)\n"
    )
    models = Path(__file__).parent / "samplers" / "conftest.py"
    subprocess.run([sys.executable, "-c", code, str(models), str(folder)], check=True, capture_output=True)
    return folder


def written(folder: Path, base: Path, **more: Any) -> Path:
    """A sweep in which two arms of four fail."""
    crash = base.parent / "crash.py"
    crash.write_text("import os\n\n\ndef crash(group):\n    os.kill(os.getpid(), 9)\n")
    rows = {"dedupe": "none", "pick": "first", "human": "none"}
    improve = {"learning_rate": 3e-3, "epochs": 2, "schedule": "constant", "warmup": 0, "until": "epochs"}
    sample = {"n": 12, "temperature": 1.0, "max_tokens": 6}
    plan = {
        "name": "letters",
        "settings": {
            "toy": {
                "base": str(base),
                "train": {"task": TOY, "args": {"n": 12}},
                "evaluation": {
                    "on": {"test": {"task": TOY, "args": {"split": "test", "n": 12}}},
                    "budget": {"n": 4, "temperature": 1.0, "max_tokens": 6},
                },
            }
        },
        "arms": {
            "rest_em": {
                "treatment": {
                    "recipe": "rest_em", "iterations": 2, "sample": sample, "select": rows, "improve": improve,
                }
            },
            "no rows": {"of": "rest_em", "treatment": {"select": {"threshold": 2.0}}},
            "crash": {"of": "rest_em", "treatment": {"reward": {"terms": {f"{crash}:crash": 1.0}}}},
            "grpo": {
                "treatment": {
                    "recipe": "grpo",
                    "sample": {**sample, "n": 4},
                    "on_policy": {"rounds": 8, "problems": 12, "learning_rate": 1e-3},
                }
            },
            **more.pop("arms", {}),
        },
        "seeds": [0],
        "parallel": 2,
        **more,
    }  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(plan))  # JSON is YAML
    return path


def command(path: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "harness", "sweep", str(path), "--output_path", str(out)]


def run(path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(path, out), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(written(folder, base), folder / "out")
    return folder / "out", done


def results(out: Path) -> Iterator[tuple[str, Any]]:
    """What a sweep found, file by file. Of records that are written as they come the order is no result, nor are the
    last digits of a log-probability, which depend on what was sampled together."""
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name in ("completions.jsonl", "verdicts.jsonl"):
            yield name, sorted(re.sub(rb'"logprob":[^,}]*', b"", line) for line in path.read_bytes().splitlines())
        elif path.name in ("results.json", "rows.jsonl", "model.safetensors"):
            yield name, path.read_bytes()
        elif path.name in ("report.json", "failed.json", "trial.json"):
            yield name, [line for line in path.read_text().splitlines() if '"seconds"' not in line]  # the clock differs


@pytest.mark.slow
def test_a_failed_arm_is_a_row_and_not_the_end(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = whole
    assert done.returncode == 1
    assert f"The report is {out / 'report.md'}." in done.stdout
    assert "harness: toy, no rows, seed 0 failed: there are no rows to train on (" in done.stderr
    failed = json.loads((out / "toy" / "crash" / "seed_0" / "failed.json").read_text())["error"]
    why = "its process was ended by SIGKILL (was there enough memory?): toy/crash/seed_0.log has what it said."
    assert failed == why
    base = json.loads((out / "toy" / "base" / "evaluated.json").read_text())
    for arm in ("rest_em", "grpo"):
        accounts = json.loads((out / "toy" / arm / "seed_0" / "trial_results.json").read_text())
        assert accounts[0]["estimates"] == base["estimates"]
        assert not (out / "toy" / arm / "seed_0" / "iteration_0").exists()  # it was evaluated once for all


@pytest.mark.slow
def test_a_sweep_that_was_killed_again_and_again_ends_the_same(
    whole: tuple[Path, subprocess.CompletedProcess[str]], base: Path, tmp_path: Path
) -> None:
    path, out, draws = written(tmp_path, base), tmp_path / "out", random.Random(5)
    for ending, lines in ((signal.SIGKILL, 3), (signal.SIGINT, 2), (signal.SIGKILL, 4)):
        with subprocess.Popen(command(path, out), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            told = (line for line in process.stderr if line.startswith("["))
            assert len(list(itertools.islice(told, lines))) == lines
            if ending == signal.SIGINT:
                process.send_signal(signal.SIGSTOP)  # or it may be done before the second one has said anything
                second = run(path, out)
                process.send_signal(signal.SIGCONT)
                sentence = f"harness: {out} is being written by another process: wait for it, or stop it.\n"
                assert (second.returncode, second.stderr) == (2, sentence)
            time.sleep(draws.uniform(0, 0.6 if ending == signal.SIGKILL else 0.1))
            process.send_signal(ending)
            said = process.stderr.read()
        if ending == signal.SIGINT:
            assert process.returncode == 130
            assert "the same command goes on" in said
            with (out / ".processes").open() as file:  # nobody is left
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert run(path, out).returncode == 1
    killed, undisturbed = dict(results(out)), dict(results(whole[0]))
    assert killed.keys() == undisturbed.keys()
    for name, found in undisturbed.items():
        assert killed[name] == found, name


@pytest.mark.slow
def test_what_is_added_runs_alone(
    base: Path, tmp_path: Path, whole: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "out"
    subprocess.run(["cp", "-a", str(whole[0]), str(out)], check=True)
    files = [name for name, _ in results(out) if not name.endswith(("report.json", "failed.json"))]
    before = {name: os.stat(out / name).st_mtime_ns for name in files}
    frozen = {"of": "grpo", "control": "frozen"}
    done = run(written(tmp_path, base, arms={"frozen": frozen, "no rows": frozen}), out)
    assert done.returncode == 2
    assert "arms.no rows." in done.stderr
    done = run(written(tmp_path, base, arms={"frozen": frozen}), out)
    assert done.returncode == 1
    assert "toy, frozen, seed 0: done" in done.stderr
    assert "toy, no rows, seed 0: failed" in done.stderr  # it was tried again
    assert "grpo, seed 0" not in done.stderr
    assert {name: os.stat(out / name).st_mtime_ns for name in before} == before


def test_a_base_model_that_is_not_there_fails_its_arms_and_leaves_a_report(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    done = in_process.run("sweep", written(tmp_path, missing), "--output_path", tmp_path / "out", status=1)
    assert f"{missing} does not exist" in done.stderr
    page = (tmp_path / "out" / "report.md").read_text()
    assert "The base model is not evaluated yet." in page
    assert f"the base model failed: {missing} does not exist" in page
