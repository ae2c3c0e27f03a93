"""`harness.evaluate` with a checkpoint: sampled, stored, graded; a larger n samples only what is missing."""

import json

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
