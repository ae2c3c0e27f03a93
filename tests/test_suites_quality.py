"""Quality of suites: validity, rates against verdicts, and mutants that are found or not."""

import ast

import pytest

import harness
from harness.errors import InputError
from harness.suites import problems_of, run_suite
from harness.suites.mutants import mutants
from harness.suites.quality import describe, quality, read_quality
from harness.types import Test as Case
from tests.test_suites import LIMITS, PROGRAMS, suite_of, write_run


def test_quality_on_a_small_run(tmp_path):
    programs = [*PROGRAMS[:-1], "1 / 0\n"]  # the last one fails here too, without taking all of its time
    run = write_run(tmp_path, programs)
    run_suite(run, suite_of(), limits=LIMITS, workers=1)
    found = quality(run, "generated", most_mutants=50, workers=1)
    (row,) = found.rows
    assert (row.tests, row.valid, row.right, row.wrong) == (4, 3, 3, 6)
    assert found.validity == found.validity_of_problems == 0.75
    assert (found.accepts.true_positive, found.accepts.false_positive) == (0, 0)
    assert (found.accepts_valid.true_positive, found.accepts_valid.false_positive) == (1, 0)
    assert found.single.true_positive == 0.75
    assert found.single.false_positive == pytest.approx((2 + 2) / 4 / 6)
    assert found.single_valid.false_positive == pytest.approx((2 + 2) / 3 / 6)
    assert (row.mutants, row.killed) == (4, 4)  # x - 1, x + 2, x + 0, return None
    assert read_quality(run, "generated") == found
    assert "75.00% of all" in describe(found)
    assert "100.00% of 4 mutants" in describe(found)


def test_a_suite_that_sees_little_kills_little(tmp_path):
    gold = "def f(x):\n    return x + 1\n"
    run = write_run(tmp_path, [gold])
    run_suite(run, suite_of((Case(id="0", kind="call", input=[""], expected=1),)), workers=1)  # not valid: it raises
    assert read_quality(run, "generated") is None
    found = quality(run, "generated", workers=1)
    assert (found.validity, found.mutants, found.kill_rate) == (0, 4, 0)
    assert found.accepts_valid.true_positive is None, "no valid test: nothing was measured"
    assert found.accepts.false_positive is None, "no wrong completion"


SOURCE = '''
import math
LIMIT = 3
def f(xs, k=2):
    """Doc: 1 + 2 is 3."""
    total = 0
    for x in xs:
        if x > k and x != 3:
            total += x * 2
    return total
'''


def changed(text):
    """Lines of a mutant that the program has not, and lines that it lacks."""
    before, after = ast.unparse(ast.parse(SOURCE)).splitlines(), text.splitlines()
    return tuple(line.strip() for line in after if line not in before)


def test_mutants_have_one_fault_each():
    found = mutants(SOURCE, most=100)
    assert len(found) == len(set(found))
    assert {changed(text) for text in found} == {
        ("total = 1",), ("total = -1",), ("pass",), ("return",),
        ("if x >= k and x != 3:",), ("if x > k and x == 3:",), ("if x > k or x != 3:",),
        ("if x > k and x != 4:",), ("if x > k and x != 2:",), ("if not (x > k and x != 3):",),
        ("total -= x * 2",), ("total += x // 2",), ("total += x * 3",), ("total += x * 1",),
    }  # fmt: skip
    assert [changed(text) for text in found].count(("pass",)) == 3  # an assignment, the if, the sum
    for text in found:
        assert "LIMIT = 3" in text
        assert "Doc: 1 + 2 is 3." in text
        assert "k=2" in text
        ast.parse(text)


def test_the_seed_and_the_program_say_which():
    assert mutants(SOURCE, most=5) == mutants(SOURCE, most=5)
    assert mutants(SOURCE, most=5) != mutants(SOURCE, most=5, seed=1)
    assert set(mutants(SOURCE, most=5)) < set(mutants(SOURCE, most=100))
    assert mutants(SOURCE, most=0) == []
    with pytest.raises(InputError, match="cannot be parsed"):
        mutants("def f(")


@pytest.mark.slow
def test_generated_tests_of_codegen_16b(tmp_path, shared_data):
    """Eight problems, all 100 completions of each."""
    from harness.suites.written import generated, texts_of

    harness.evaluate(
        "humaneval",
        "replay",
        model_args={"path": str(shared_data / "humaneval_codegen16b_even.jsonl.gz")},
        task_args={"path": str(shared_data / "HumanEval.jsonl.gz")},
        samples=[f"HumanEval/{i}" for i in (0, 2, 4, 8, 12, 14, 16, 22)],
        output_path=tmp_path / "run",
    )
    texts = texts_of(shared_data / "humaneval_codegen16b_even_generated_tests.jsonl.gz")
    suite = generated(problems_of(tmp_path / "run"), texts, by="codegen-16b")
    run_suite(tmp_path / "run", suite)
    found = quality(tmp_path / "run", "generated", most_mutants=5)
    assert 0.2 < found.validity < 0.9
    assert found.accepts_valid.true_positive > 0.8
    assert found.accepts_valid.false_positive < 0.2
    assert found.kill_rate > 0.6
