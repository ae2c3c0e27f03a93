"""What a run can detect, before it is run: the table of the specification, and one measured in a run."""

import json

import pytest

import harness
from harness.errors import InputError
from harness.power import describe_power


def problems(folder, number):
    path = folder / f"{number}.jsonl"
    path.write_text("".join(json.dumps({"id": f"p/{i}", "prompt": "?", "answer": "1"}) + "\n" for i in range(number)))
    return {"path": str(path)}


@pytest.mark.parametrize(
    ("number", "n", "low", "high"), [(30, 1, 26.8, 27.2), (164, 16, 3.1, 3.6), (500, 4, 3.3, 3.5), (1319, 64, 0.6, 0.9)]
)
def test_the_table_of_the_specification(tmp_path, number, n, low, high):
    text = describe_power("jsonl", problems(tmp_path, number), n=n)
    assert f"a difference of {low} to {high} points" in text


def test_spread_measured_in_a_run(tmp_path):
    task = problems(tmp_path, 10)
    for name, texts in (("mixed", ("1", "0")), ("sure", ("1", "1")), ("single", ("1",))):
        rows = [json.dumps({"problem_id": f"p/{i}", "text": text}) + "\n" for i in range(10) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        options = {"model_args": {"path": str(tmp_path / f"{name}.jsonl")}, "task_args": task}
        harness.evaluate("jsonl", "replay", **options, output_path=tmp_path / name)
    assert "of 0.250 per arm" in describe_power("jsonl", task, n=4, like=tmp_path / "mixed")
    assert "of 0.000 per arm" in describe_power("jsonl", task, n=4, like=tmp_path / "sure")
    with pytest.raises(InputError, match="at least two"):
        describe_power("jsonl", task, n=4, like=tmp_path / "single")
