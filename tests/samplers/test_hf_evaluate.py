"""`harness.evaluate` with a checkpoint: sampled, stored, graded; a larger n samples only what is missing."""

import json
import os
import signal
import time

import pytest

import harness
from harness import processes
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


def evaluate_apart(folder, name, model, batch_size):
    """In a process of its own."""
    harness.evaluate(
        "jsonl",
        "hf",
        model_args={"pretrained": model, "batch_size": batch_size},
        task_args={"path": f"{folder}/problems.jsonl"},
        budget=harness.Budget(n=12, temperature=1.0, max_tokens=60),
        output_path=f"{folder}/{name}",
    )


@pytest.mark.slow
def test_killed_and_resumed_the_completions_are_those_of_a_run_in_one_piece(tmp_path, tiny):
    rows = [{"id": f"p/{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(40)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run" / "completions.jsonl"
    with (tmp_path / "log.txt").open("ab") as log:

        def start(name, batch_size):
            function = f"{__name__}:evaluate_apart"
            return processes.start(function, str(tmp_path), name, str(tiny), batch_size, output=log)

        assert start("whole", 64).wait() == 0
        for kill_at, batch_size in ((20, 7), (130, 1), (300, 33)):
            child = start("run", batch_size)
            while not file.is_file() or file.read_bytes().count(b"\n") < kill_at:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        assert len(file.read_bytes().splitlines()) < 480
        assert start("run", 64).wait() == 0
    killed = texts(tmp_path)
    (tmp_path / "run").rename(tmp_path / "killed")
    (tmp_path / "whole").rename(tmp_path / "run")
    assert killed == texts(tmp_path)
    assert len(killed) == 480
