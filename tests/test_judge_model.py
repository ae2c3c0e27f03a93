"""The judge against a real HTTP server: what it is asked, what is read of its answers, what is not measured."""

import json
import math
import threading

import numpy as np
import pytest

import harness
from harness.columns import read_provenance
from harness.errors import InputError, RunMismatch, UnknownName
from harness.finished import results_of
from harness.judge_model import LONGEST, judge, question
from harness.scorers import Scorable, facts_of
from harness.types import Completion, Execution, Problem, Status, Test
from harness.verifiers import rate
from tests.samplers.faulty_server import MODEL, Fault, serve


def solutions(texts, **fields) -> list[Scorable]:
    return [
        Scorable(
            problem=Problem(id=f"p/{i}", task="t", context="Shots. ", prompt=f"Question {i}", **fields),
            completion=Completion(problem_id=f"p/{i}", index=i, text=text),
        )
        for i, text in enumerate(texts)
    ]


def likeliest(*tokens):
    """An edit that gives the first token of a reply these likeliest tokens: (text, probability)."""

    def edit(answer) -> None:
        if "choices" in answer:
            top = [{"token": token, "logprob": math.log(p) if p else -9999.0} for token, p in tokens]
            answer["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": top}]}

    return edit


def saying(text):
    """An edit that makes this the reply."""

    def edit(answer) -> None:
        if "choices" in answer:
            answer["choices"][0]["message"]["content"] = text

    return edit


def asked(edit_for, batch, **options):
    """What a server whose answers are edited, by the question, makes the judge say; and what it was asked."""

    def faults(seen):
        return Fault(edit=edit_for(seen.body["messages"][-1]["content"])) if seen.body else None

    with serve(faults, chat=True) as server:
        found = list(judge(batch, model=MODEL, base_url=server.url, **options))
        return found, [seen.body for seen in server.asked]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([("Yes", 0.6), ("No", 0.2), ("Maybe", 0.2)], 0.75),
        ([("yes", 0.3), (" YES", 0.3), ("\n no", 0.2), ("Nope", 0.2)], 0.75),
        ([("No", 0.9)], 0.0),
        ([("Yes", 1.0), ("No", 0.0)], 1.0),
        ([("Sure", 0.9), ("Yess", 0.1)], None),
        ([], None),
    ],
)
def test_a_probability_is_read_of_the_first_token(tokens, expected):
    (found,), (body,) = asked(lambda _: likeliest(*tokens), solutions(["four"]))
    assert found == (None if expected is None else pytest.approx(expected))
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
    assert (body["temperature"], "seed" in body) == (0.0, False)
    content = body["messages"][0]["content"]
    assert [content.count(part) for part in ("Shots. Question 0", "four", "Yes or No")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7.0), (" 10\n", 10.0), ("0", 0.0), ("7.5", 7.5), ("<think>3</think>8", 8.0)]
    + [(text, None) for text in ("11", "-1", "7/10", "seven", "7 8", "", "1e1", "nan", "٧", "I say 7", "<think>7")],
)
def test_a_grade_is_a_number_and_nothing_else(text, expected):
    (found,), (body,) = asked(lambda _: saying(text), solutions(["four"]), read_out="grade")
    assert found == expected
    assert "logprobs" not in body
    assert "from 0" in body["messages"][0]["content"]


def test_answers_are_in_the_order_of_the_questions_whatever_the_server_does():
    """Later questions are answered first, some only at the second attempt."""
    batch = solutions([f"answer {i}" for i in range(12)])
    lock, tries = threading.Lock(), set()

    def faults(seen):
        if not seen.body:
            return None
        content = seen.body["messages"][-1]["content"]
        number = int(content.split("Question ")[1].split("\n")[0])
        with lock:
            first = number not in tries
            tries.add(number)
        if first and number % 4 == 0:
            return Fault(status=503)
        return Fault(edit=saying(str(number % 11)), sleep_s=0.02 * (12 - number))

    with serve(faults, chat=True) as server:
        found = list(judge(batch, model=MODEL, base_url=server.url, read_out="grade", concurrency=6))
    assert found == [i % 11 for i in range(12)]


def test_a_server_without_log_probabilities_is_a_sentence():
    def none(answer) -> None:
        if "choices" in answer:
            answer["choices"][0]["logprobs"] = None

    for edit in (none, lambda answer: None):  # none at all, or of the sampled token alone
        with pytest.raises(InputError, match="no log-probabilities of the likeliest tokens: use read_out=grade"):
            asked(lambda _, edit=edit: edit, solutions(["four"]))
    with pytest.raises(UnknownName, match="read_out 'yesno': did you mean 'yes_no'"):
        asked(lambda _: None, solutions(["four"]), read_out="yesno")


def test_the_judge_reads_programs_what_they_did_and_not_too_much():
    tests = (Test(id="0", kind="call", input=[3, "a"], expected="secret"),)
    ran = (Execution(problem_id="p", index=0, test_id="0", status=Status.wrong, value="7"),)
    one = Scorable(
        problem=Problem(id="p", task="t", prompt="def f(x, y):", entry_point="f", tests=tests),
        completion=Completion(problem_id="p", index=0, text="<think>hm", program="def f(x, y): return 7"),
        executions=ran,
        tests=tests,
    )
    text = question(one, "Right?")
    assert "def f(x, y): return 7" in text
    assert "f(3, 'a') = 7" in text
    assert "secret" not in text
    assert text.endswith("Right?")
    long = Scorable(problem=one.problem, completion=Completion(problem_id="p", index=0, text="", program="x" * 10**6))
    assert len(question(long, "Right?")) < LONGEST + 500


def test_a_run_is_judged_once_and_the_judge_is_part_of_the_column(tmp_path):
    problems = [{"id": f"p/{i}", "prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    texts = [(f"p/{i}", text) for i in range(3) for text in (str(2 * i), "1")]
    rows = "".join(json.dumps({"problem_id": name, "text": text}) + "\n" for name, text in texts)
    (tmp_path / "c.jsonl").write_text(rows)
    run = tmp_path / "run"
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(tmp_path / "c.jsonl")},
        task_args={"path": str(tmp_path / "p.jsonl")},
        output_path=run,
    )

    def faults(seen):
        if not seen.body:
            return None
        wrong = "# Proposed solution\n\n1\n" in seen.body["messages"][-1]["content"]
        if "4" in str(seen.body["messages"]):
            return Fault(edit=likeliest(("Maybe", 0.9)))
        return Fault(edit=likeliest(("Yes", 0.1 if wrong else 0.8), ("No", 0.2)))

    with serve(faults, chat=True) as server:
        args = {"model": MODEL, "base_url": server.url, "concurrency": "2"}
        rate(run, "judge", args=args)
        told = read_provenance(run, "judge")
        assert told.probability
        _, results = results_of(run)
        scores = results.scores["judge"]
        np.testing.assert_allclose(scores[0], [0.8, 1 / 3])
        np.testing.assert_allclose(scores[1], [0.8, 1 / 3])
        np.testing.assert_allclose(scores[2], [np.nan, 1 / 3])
        assert told.unmeasured == 1
        before = len(server.asked)
        assert before == 6
        rate(run, "judge", args={**args, "concurrency": "4"})  # how it is asked may change
        assert len(server.asked) == before
        with pytest.raises(RunMismatch, match="read_out"):
            rate(run, "judge", args={**args, "read_out": "grade"})
    with serve(faults, chat=True, entry={"id": MODEL, "root": "other weights"}) as server:
        with pytest.raises(RunMismatch, match="or the judge has changed"):
            rate(run, "judge", args={**args, "base_url": server.url})
        assert facts_of(judge, {"model": MODEL, "base_url": server.url, "read_out": "grade"}).probability is False
