"""The sampler `openai` against a server that fails: nothing lost, nothing twice, nothing mixed up."""

from __future__ import annotations

import email.utils
import socket
import threading
import time

import pytest

from harness.errors import HarnessError
from harness.samplers import background, http_client
from harness.samplers.openai import openai
from harness.samplers.openai_api import seed_for
from harness.types import Budget, Problem
from tests.samplers.faulty_server import MODEL, Fault, serve, text_for

BUDGET = Budget(n=3, temperature=0.8, max_tokens=8)
PROBLEMS = [Problem(id=f"p/{i}", task="t", prompt=f"prompt {i}") for i in range(8)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_BACKOFF_S", 0.002)
    monkeypatch.setattr(http_client, "LONGEST_BACKOFF_S", 0.05)


def sampler(server, **options):
    return openai(MODEL, server.url, **{"api": "completions", **options})


def check(completions, problems=PROBLEMS, n=3):
    """Every completion once, each with the text that belongs to its problem and index."""
    assert sorted((c.problem_id, c.index) for c in completions) == sorted((p.id, i) for p in problems for i in range(n))
    prompts = {p.id: p.prompt for p in problems}
    for c in completions:
        assert c.text == text_for(prompts[c.problem_id], seed_for(0, c.problem_id, c.index))


def once(fault):
    """The first attempt at every completion fails."""
    return lambda seen: fault if seen.path.endswith("completions") and seen.attempt == 0 else None


def broken(edit):
    return Fault(edit=edit)


FAULTS = {
    "500": Fault(status=500, body=b"<html>oops</html>"),
    "503": Fault(status=503, body=b""),
    "408": Fault(status=408, body=b"{}"),
    "409": Fault(status=409, body=b"{}"),
    "429": Fault(status=429, body=b'{"error": {"message": "slow down"}}'),
    "429, wait": Fault(status=429, body=b"{}", headers={"Retry-After": "0.01"}),
    "cut off": Fault(cut_at=10),
    "nothing": Fault(cut_at=0),
    "not JSON": Fault(body=b'{"choices": ['),
    "not UTF-8": Fault(body=b'\xff{"choices": []}'),
    "wrong JSON": Fault(body=b"[1, 2]"),
    "an error with status 200": Fault(body=b'{"error": {"message": "overloaded", "code": 503}}'),
    "no choices": broken(lambda answer: answer.update(choices=[])),
    "too many choices": broken(lambda answer: answer.update(choices=answer["choices"] * 2)),
    "no text": broken(lambda answer: [choice.pop("text", None) for choice in answer["choices"]]),
    "broken off": broken(lambda answer: [choice.update(finish_reason="abort") for choice in answer["choices"]]),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_costs_one_more_request_and_nothing_else(fault):
    with serve(once(fault)) as server:
        model = sampler(server)
        check(list(model.sample(PROBLEMS[:3], BUDGET)), PROBLEMS[:3])
        assert len(server.asked) == 2 * 9
    assert any("9 requests had to be sent again" in notice for notice in model.notices)


def test_too_slow_an_answer_is_asked_for_again():
    with serve(
        lambda seen: Fault(sleep_s=4.0) if seen.body.get("seed", 1) % 5 == 0 and seen.attempt == 0 else None
    ) as server:
        begun = time.monotonic()
        model = sampler(server, timeout_s=0.25)
        check(list(model.sample(PROBLEMS, BUDGET)))
        assert time.monotonic() - begun < 3.5
    assert any("too slow" in notice for notice in model.notices)


def test_all_sorts_of_faults_together():
    kinds = list(FAULTS.values())

    def faults(seen):
        # attempts 0, 1, 2 of most bodies fail, each in another way; which way hangs on the seed
        turn = seen.body.get("seed", 0) + 7 * seen.attempt
        return kinds[turn % len(kinds)] if seen.path.endswith("completions") and seen.attempt < turn % 4 else None

    problems = [Problem(id=f"p/{i}", task="t", prompt=f"prompt {i}") for i in range(40)]
    with serve(faults) as server:
        check(list(sampler(server, concurrency=16).sample(problems, BUDGET)), problems)


def test_n_per_request_asks_again_for_what_is_missing():
    def faults(seen):
        return broken(lambda answer: answer["choices"].pop()) if seen.body.get("n", 1) > 1 else None

    with serve(faults) as server:
        model = sampler(server, n_per_request=3)
        completions = list(model.sample(PROBLEMS, BUDGET, done=[("p/0", 1)]))
        assert [seen.body["n"] for seen in server.asked if "n" in seen.body] == [3] * 7
        assert len(server.asked) == 7 * 2 + 2
    assert sorted(c.index for c in completions if c.problem_id == "p/0") == [0, 2]
    check([c for c in completions if c.problem_id != "p/0"], PROBLEMS[1:])
    assert any("7 answers had fewer completions" in notice for notice in model.notices)


def test_concurrency_is_bounded_and_used():
    with serve(work_s=0.03) as server:
        check(list(sampler(server, concurrency=5).sample(PROBLEMS, BUDGET)))
        assert server.most == 5


def test_the_rate_limit_holds_for_retries_too():
    with serve(once(Fault(status=500, body=b""))) as server:
        problems = PROBLEMS[:3]
        check(list(sampler(server, requests_per_minute=60 / 0.012).sample(problems, BUDGET)), problems)
        starts = [seen.at for seen in server.asked]
    assert len(starts) == 18
    assert starts[-1] - starts[0] > 0.8 * 17 * 0.012


def test_the_token_limit_holds_on_average():
    with serve() as server:
        problems = PROBLEMS[:2]
        # 5 tokens for a request: 0.03 s each, counted when the answer is there
        check(list(sampler(server, tokens_per_minute=10_000, concurrency=1).sample(problems, BUDGET)), problems)
        starts = [seen.at for seen in server.asked]
    assert starts[-1] - starts[0] > 5 * 0.03 - 0.01


@pytest.mark.parametrize("form", ["seconds", pytest.param("date", marks=pytest.mark.slow)])
def test_retry_after_holds_back_every_request(form):
    told = threading.Event()

    def faults(seen):
        if not seen.path.endswith("completions"):
            return None
        if told.is_set():
            return Fault(edit=lambda answer: time.sleep(0.02))
        told.set()
        date = email.utils.formatdate(time.time() + 1.999, usegmt=True)  # whole seconds: one to two of them are left
        return Fault(status=429, body=b"{}", headers={"Retry-After": "0.2" if form == "seconds" else date})

    with serve(faults) as server:
        check(list(sampler(server, concurrency=4).sample(PROBLEMS, BUDGET)))
        starts = sorted(seen.at for seen in server.asked)
    assert len(starts) == 25
    assert starts[4] - starts[0] > (0.19 if form == "seconds" else 0.9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-1", 0), ("", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_forms_of_retry_after(text, seconds):
    assert http_client._retry_after({"retry-after": text}) == seconds


def test_a_date_to_come():
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 58 < http_client._retry_after({"retry-after": date}) <= 60


def test_an_endless_retry_after_is_not_waited_for():
    with serve(once(Fault(status=429, body=b'{"error": "daily limit"}', headers={"Retry-After": "7200"}))) as server:
        model = sampler(server)
        with pytest.raises(HarnessError, match=r"left alone for 7200 s .*daily limit"):
            list(model.sample(PROBLEMS, BUDGET))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"message": "too long"}}', r"problem 'p/\d': .* refuses with 400 \('too long'\): change"),
        (401, b'{"error": "who are you?"}', r"401 \('who are you\?'\): set the environment variable OPENAI_API_KEY"),
        (403, b"go away", r"403 \('go away'\): use a key \(OPENAI_API_KEY\)"),
        (404, b'{"detail": "Not Found"}', r"404 \('Not Found'\): check the model's name"),
        (422, b'{"detail": [{"msg": "no top_k"}]}', r"422 \(.*no top_k.*\): change"),
        (429, b'{"error": {"code": "insufficient_quota", "message": "pay"}}', r"429 \('pay'\): the account has"),
        (501, b"no", r"501"),
        (307, b"", r"307 \('moved to http://elsewhere/v1'\): give the address"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_sentence_and_is_not_repeated(status, body, said):
    fault = Fault(status=status, body=body, headers={"Location": "http://elsewhere/v1"})
    with serve(lambda seen: fault if seen.body else None) as server:
        model = sampler(server, concurrency=1)
        with pytest.raises(HarnessError, match=said) as error:
            list(model.sample(PROBLEMS, BUDGET))
        assert len(server.asked) == 1
    assert "\n" not in str(error.value)


def test_when_all_attempts_fail_what_was_finished_is_yielded_first():
    with serve(
        lambda seen: Fault(status=500, body=b"sick") if seen.body.get("prompt") == "prompt 5" else None
    ) as server:
        found = []
        with pytest.raises(HarnessError, match=r"problem 'p/5': .* asked 4 times in vain .*500: 'sick'.*repeat the"):
            found.extend(sampler(server, max_retries=3, concurrency=4).sample(PROBLEMS, BUDGET))
        # what comes before is there, and what was under way beside it
        assert {(f"p/{i}", j) for i in range(5) for j in range(3)} <= {(c.problem_id, c.index) for c in found}
        assert len([seen for seen in server.asked if seen.body["prompt"] == "prompt 5"]) >= 4


def test_what_is_under_way_when_another_fails_is_kept():
    slow = Fault(sleep_s=0.3)
    bad = Fault(status=400, body=b"bad")
    with serve(lambda seen: {"prompt 0": slow, "prompt 1": bad}.get(seen.body.get("prompt", ""))) as server:
        found = []
        with pytest.raises(HarnessError, match="bad"):
            found.extend(sampler(server, concurrency=2).sample(PROBLEMS, Budget()))
        assert [completion.problem_id for completion in found] == ["p/0"]
        assert len(server.asked) == 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there_yet(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_BACKOFF_S", 0.2)
    monkeypatch.setattr(http_client, "LONGEST_BACKOFF_S", 1.0)
    monkeypatch.setattr(http_client.random, "uniform", lambda low, high: high)  # no luck needed
    port, stop = free_port(), threading.Event()

    def late():
        time.sleep(0.25)
        with serve(port=port):
            stop.wait(10)

    thread = threading.Thread(target=late)
    thread.start()
    try:
        model = openai(MODEL, f"http://127.0.0.1:{port}/v1", api="completions")
        check(list(model.sample(PROBLEMS, BUDGET)))
    finally:
        stop.set()
        thread.join()


def test_no_server_at_all_is_one_sentence():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(HarnessError, match=r"the server at http://127\.0\.0\.1:\d+/v1 was asked 4 times in vain"):
        openai(MODEL, url)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "harness-stream"]


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_an_abandoned_iteration_leaves_nothing_behind(taken):
    problems = [Problem(id=f"p/{i}", task="t", prompt=f"prompt {i}") for i in range(100)]
    with serve(work_s=0.02) as server:
        before = threads()
        completions = sampler(server, concurrency=4).sample(problems, BUDGET)
        assert threads() == before  # nothing is begun before the first is asked for
        for _ in range(taken):
            next(completions)
        completions.close()
        assert threads() == before
        until = time.monotonic() + 5
        while server.connections and time.monotonic() < until:
            time.sleep(0.01)
        assert server.connections == 0
        assert taken <= len(server.asked) < 300


def test_a_finished_iteration_leaves_no_thread():
    with serve() as server:
        list(sampler(server).sample(PROBLEMS, BUDGET))
        assert threads() == []


def test_a_slow_taker_bounds_what_is_sampled_ahead(monkeypatch):
    real = background.stream
    monkeypatch.setattr("harness.samplers.openai.stream", lambda *a, **k: real(*a, **k, waiting=3))
    problems = [Problem(id=f"p/{i}", task="t", prompt=f"prompt {i}") for i in range(12)]
    with serve() as server:
        completions = sampler(server, concurrency=2).sample(problems, BUDGET)
        first = next(completions)
        time.sleep(0.1)
        assert len(server.asked) <= 2 + 3
        check([first, *completions], problems)
