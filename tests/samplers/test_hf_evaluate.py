"""`harness.evaluate` with a checkpoint: sampled, stored, graded; a larger n samples only what is missing."""

import json
import signal
import subprocess
import sys
import time

import pytest

import harness
from harness.errors import InputError, RunMismatch


def evaluate(tmp_path, model, *, n, temperature=1.0, **options):
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p/{i}", "prompt": "1 + 1 =", "answer": "2"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return harness.evaluate(
        "jsonl",
        "hf",
        model_args={"pretrained": str(model), "batch_size": 4},
        task_args={"path": str(path)},
        budget=harness.Budget(n=n, temperature=temperature, max_tokens=4),
        output_path=tmp_path / "run",
        **options,
    )


def texts(tmp_path):
    rows = map(json.loads, (tmp_path / "run" / "completions.jsonl").read_text().splitlines())
    return {(row["problem_id"], row["index"]): row["text"] for row in rows}


def test_a_larger_n_keeps_what_was_sampled(tmp_path, tiny):
    evaluate(tmp_path, tiny, n=2)
    before = texts(tmp_path)
    lines = (tmp_path / "run" / "completions.jsonl").read_bytes()
    results = evaluate(tmp_path, tiny, n=4, k=[1, 4])
    assert len(before) == 6
    assert len(texts(tmp_path)) == 12
    assert (tmp_path / "run" / "completions.jsonl").read_bytes().startswith(lines)
    estimates = results.estimates["jsonl"]
    assert set(estimates) >= {"pass@1", "pass@4", "maj@4", "best@4[mean logprob]", "vote@4[mean logprob]"}
    assert estimates["pass@1"].n_samples == (4, 4)


def test_other_sampling_is_another_experiment(tmp_path, tiny):
    evaluate(tmp_path, tiny, n=2)
    with pytest.raises(RunMismatch, match=r"budget\.temperature was 1\.0, is now 0\.5"):
        evaluate(tmp_path, tiny, n=2, temperature=0.5)


def test_greedy_with_several_completions_is_refused_before_work(tmp_path, tiny):
    with pytest.raises(InputError, match="temperature 0"):
        evaluate(tmp_path, tiny, n=2, temperature=0.0)
    assert not (tmp_path / "run").exists()


def test_the_manifest_says_how_it_was_sampled(tmp_path, tiny):
    evaluate(tmp_path, tiny, n=1)
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["sampler"]
    assert facts.pop("engine").startswith("transformers ")
    assert facts == {"dtype": "float32", "device": facts["device"], "chat_template": "none"}


@pytest.mark.slow
def test_killed_and_resumed_the_completions_are_those_of_a_run_in_one_piece(tmp_path, tiny):
    rows = [{"id": f"p/{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(40)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "harness", "eval", "--tasks", "jsonl", "--model", "hf", "--n", "12"]
    command += ["--task_args", f"path={tmp_path / 'problems.jsonl'}", "--max_tokens", "60", "--temperature", "1"]

    def arguments(name, batch_size):
        return [*command, "--model_args", f"pretrained={tiny},batch_size={batch_size}", "-o", str(tmp_path / name)]

    subprocess.run(arguments("whole", 64), check=True, capture_output=True)
    file = tmp_path / "run" / "completions.jsonl"
    for kill_at, batch_size in ((20, 7), (130, 1), (300, 33)):
        with subprocess.Popen(arguments("run", batch_size), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and (not file.is_file() or file.read_bytes().count(b"\n") < kill_at):
                time.sleep(0.01)
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    before = len(file.read_bytes().splitlines())
    assert before < 480
    subprocess.run(arguments("run", 64), check=True, capture_output=True)
    killed = texts(tmp_path)
    (tmp_path / "run").rename(tmp_path / "killed")
    (tmp_path / "whole").rename(tmp_path / "run")
    assert killed == texts(tmp_path)
    assert len(killed) == 480
