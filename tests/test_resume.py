"""Killed with -9 at any moment, a run goes on: the same results.json, nothing graded twice, nothing lost."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import FULL


def write_task(folder: Path, problems: int) -> list[str]:
    rows = [
        {
            "id": f"p/{i}",
            "entry_point": "f",
            "prompt": "",
            "tests": [{"kind": "call", "input": [i], "expected": i + 1}] * 2,
        }
        for i in range(problems)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Every completion is another program, so that none is graded by looking up an equal one.
    texts = [
        f"def f(x):\n    return x + {1 + index % 2}  # {i} {index}\n" for i in range(problems) for index in range(10)
    ]
    lines = [json.dumps({"problem_id": f"p/{n // 10}", "text": text}) + "\n" for n, text in enumerate(texts)]
    (folder / "completions.jsonl").write_text("".join(lines))
    options = ["--task_args", f"path={folder}/problems.jsonl", "--model_args", f"path={folder}/completions.jsonl"]
    return [sys.executable, "-m", "harness", "eval", "--tasks", "jsonl", "--model", "replay", *options, "--k", "1,5"]


def kill_and_finish(tmp_path: Path, problems: int, kills: int, seed: int) -> None:
    command = write_task(tmp_path, problems)
    begun = time.monotonic()
    subprocess.run([*command, "--output_path", tmp_path / "whole"], check=True, capture_output=True)
    seconds = time.monotonic() - begun
    rng = random.Random(seed)
    killed = [*command, "--output_path", tmp_path / "killed"]
    hits = 0
    for _ in range(kills):
        with subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(rng.uniform(0.2, 0.6 + seconds / kills))
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            hits += process.returncode == -signal.SIGKILL
            assert b"Traceback" not in errors
    assert hits > kills / 2
    subprocess.run(killed, check=True, capture_output=True)
    assert (tmp_path / "killed" / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    for name in ("completions", "verdicts", "executions"):
        assert records(tmp_path / "killed" / f"{name}.jsonl") == records(tmp_path / "whole" / f"{name}.jsonl")
    assert set(records(tmp_path / "killed" / "verdicts.jsonl").values()) == {1}


def records(path: Path) -> Counter[tuple[str, int]]:
    """How many records each completion has in a file."""
    return Counter((row["problem_id"], row["index"]) for row in map(json.loads, path.read_text().splitlines()))


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    kill_and_finish(tmp_path, problems=400 if FULL else 200, kills=20 if FULL else 8, seed=1)
