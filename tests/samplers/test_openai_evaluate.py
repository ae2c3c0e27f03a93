"""`harness.evaluate` with the sampler `openai`: a run folder that survives its server, a kill and a larger n."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

import harness
from harness.errors import HarnessError, RunMismatch
from harness.samplers import http_client
from harness.samplers.openai_api import seed_for
from tests.samplers.faulty_server import ENTRY, MODEL, Fault, serve, text_for

KEY = "sk-secret-0123456789"
PROBLEMS = {f"p/{i}": f"{i} + 1 =" for i in range(6)}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_BACKOFF_S", 0.002)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def write_problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"id": name, "prompt": prompt, "answer": "2"} for name, prompt in PROBLEMS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(tmp_path, server, *, n, **arguments):
    return harness.evaluate(
        "jsonl",
        "openai",
        model_args={"model": MODEL, "base_url": server.url, "api": "completions", "concurrency": 4, **arguments},
        task_args={"path": str(write_problems(tmp_path))},
        budget=harness.Budget(n=n, temperature=0.8, max_tokens=8),
        output_path=tmp_path / "run",
    )


def stored(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]


def check(tmp_path, n):
    """Every completion once, with its own text; the key is nowhere."""
    rows = stored(tmp_path)
    assert sorted((row["problem_id"], row["index"]) for row in rows) == sorted(
        (p, i) for p in PROBLEMS for i in range(n)
    )
    for row in rows:
        seed = seed_for(0, row["problem_id"], row["index"])
        assert row["text"] == text_for(PROBLEMS[row["problem_id"]], seed)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_run_that_the_server_breaks_off_goes_on_elsewhere(tmp_path):
    sick = Fault(status=500, body=KEY.encode())
    with (
        serve(lambda seen: sick if seen.body.get("prompt") == "4 + 1 =" else None) as server,
        pytest.raises(HarnessError, match=r"problem 'p/4': .*500: '\[key\]'"),
    ):
        evaluate(tmp_path, server, n=2, max_retries=2)
    kept = len(stored(tmp_path))
    assert kept >= 8
    with serve() as server:  # at another port
        results = evaluate(tmp_path, server, n=2)
        assert len(server.asked) == 12 - kept
    check(tmp_path, 2)
    assert results.estimates["jsonl"]["pass@1"].n_samples == (2, 2)
    with serve() as server:  # a larger n asks for what is missing
        evaluate(tmp_path, server, n=3)
        assert len(server.asked) == 6
    check(tmp_path, 3)


def test_another_model_behind_the_name_is_another_experiment(tmp_path):
    with serve() as server:
        evaluate(tmp_path, server, n=1)
    with serve(entry={**ENTRY, "root": "weights-2"}) as server, pytest.raises(RunMismatch, match="weights"):
        evaluate(tmp_path, server, n=1)


@pytest.mark.slow
def test_killed_while_it_samples(tmp_path):
    def command(server):
        arguments = f"model={MODEL},base_url={server.url},api=completions,concurrency=3"
        task = ["--tasks", "jsonl", "--task_args", f"path={write_problems(tmp_path)}"]
        options = ["--n", "4", "--temperature", "0.8", "--max_tokens", "8", "--output_path", str(tmp_path / "run")]
        return [
            sys.executable,
            "-m",
            "harness",
            "eval",
            "--model",
            "openai",
            "--model_args",
            arguments,
            *task,
            *options,
        ]

    with serve(work_s=0.05) as server:
        with subprocess.Popen(command(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 20
            while len(server.asked) < 10 and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        asked = len(server.asked)
        assert 10 <= asked < 24
        finished = subprocess.run(command(server), check=True, capture_output=True, text=True)
        # answered and not yet stored when the kill came: those under way, and a few that waited to be taken
        assert 24 <= len(server.asked) <= 24 + 3 + 7
    check(tmp_path, 4)
    assert "the server counted" in finished.stdout + finished.stderr
    assert KEY not in finished.stdout + finished.stderr
