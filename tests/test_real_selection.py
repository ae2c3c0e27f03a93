"""Selection on real completions by real generated tests: what CodeT, B4, MBR-exec, MaxPass are worth on HumanEval."""

import pytest

import harness
from harness.estimates import per_problem
from harness.finished import results_of
from harness.metrics.inference import diff_ci
from harness.suites import problems_of, run_suite
from harness.suites.written import generated, texts_of

SELECTORS = [f"{rule}@20[generated]" for rule in ("codet", "b4", "mbr_exec", "max_pass")]


@pytest.mark.slow
def test_codet_on_codegen_16b(tmp_path, shared_data):
    """The CodeT paper (arXiv 2207.10397, table 2) has 36.7 by CodeT with 100 completions of all 164 problems, against a
    pass@1 of 29.7 by greedy decoding; here are 20 completions of half of them."""
    harness.evaluate(
        "humaneval",
        "replay",
        model_args={"path": str(shared_data / "humaneval_codegen16b_even.jsonl.gz")},
        task_args={"path": str(shared_data / "HumanEval.jsonl.gz")},
        budget=harness.Budget(n=20),
        output_path=tmp_path / "run",
    )
    texts = texts_of(shared_data / "humaneval_codegen16b_even_generated_tests.jsonl.gz")
    suite = generated(problems_of(tmp_path / "run"), texts, by="codegen-16b")
    assert (len(suite.tests), sum(map(len, suite.tests.values()))) == (75, 3275)
    run_suite(tmp_path / "run", suite)
    _, results = results_of(tmp_path / "run")
    numbers = per_problem(results, [1, 20], only=["pass@1", "pass@20", *SELECTORS])
    value = {name: 100 * u_P.mean() for name, u_P in numbers.items()}
    assert value["pass@1"] == pytest.approx(23.4, abs=1.5)
    for selector in ("codet@20[generated]", "b4@20[generated]", "mbr_exec@20[generated]"):
        assert diff_ci(numbers[selector] - numbers["pass@1"]).low > 0.04
        assert (numbers[selector] <= numbers["pass@20"] + 1e-9).all()
    assert value["codet@20[generated]"] == pytest.approx(37, abs=5)
    assert value["b4@20[generated]"] > value["mbr_exec@20[generated]"]
    assert value["max_pass@20[generated]"] < value["codet@20[generated]"] - 5
