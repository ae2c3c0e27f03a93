"""The scoring service: rewards are those of a run of ours, and what it does not know it refuses."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import scoring
from harness import service as service_module
from harness.errors import HarnessError, InputError
from harness.evaluate import load_tasks
from harness.recipes import Reward, TermUse
from harness.rewards.chance import coin
from harness.scoring import score, serve
from harness.types import Task

TOY = f"{Path(__file__).parent / 'toy_task.py'}:toy"
DOUBLE = {
    "id": "double",
    "prompt": "def double(x):\n",
    "split": "train",
    "entry_point": "double",
    "stop": ["\nprint"],
    "cpu_s": 0.3,
    "tests": [{"kind": "call", "input": [n], "expected": 2 * n} for n in (3, 4)],
}


@pytest.fixture
def toy() -> Task:
    return load_tasks([TOY], {TOY: {"n": 3}})[0]


@pytest.fixture
def double(tmp_path: Path) -> Task:
    (tmp_path / "problems.jsonl").write_text(json.dumps(DOUBLE) + "\n")
    return load_tasks(["jsonl"], {"jsonl": {"path": str(tmp_path / "problems.jsonl")}})[0]


@contextmanager
def served(tasks: list[Task], reward: Reward, **settings: Any) -> Iterator[scoring.Service]:
    """As a command sees it: with its address in the environment."""
    with serve(tasks, reward, **settings) as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv(scoring.URL, service.url)
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
        yield service


def post(url: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """As any other client sends it."""
    request = urllib.request.Request(url, body, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_a_text_has_the_reward_of_the_treatment(toy: Task) -> None:
    reward = Reward(terms={"tests": 2.0, "length": TermUse(weight=1.0, args={"limit": 4, "buffer": 2})})
    with served([toy], reward) as service:
        ids = ["toy/train/0", "toy/train/2", "toy/train/0"]
        assert score(ids, ["e", "x", [{"role": "assistant", "content": "xxe"}]], n_tokens=[2, 4, 3]) == [2, -1, 1.5]
        assert score(ids[:1], ["e"]) == [None]  # without its length one term cannot be measured
        assert (service.calls, service.unscored) == (4, 1)
        one = {"problem_id": "toy/train/1", "completion": "abe", "n_tokens": 1}
        answer = {"problem_id": "toy/train/1", "reward": 2.0, "terms": {"tests": 1.0, "length": 0.0}, "passed": True}
        assert post(service.url, json.dumps(one).encode()) == (200, answer)
        assert post(service.url, json.dumps([one]).encode()) == (200, [answer])


def test_what_is_wrong_with_a_request_is_said(toy: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MOST_BYTES", 300)
    with served([toy], Reward()) as service:
        with pytest.raises(
            HarnessError, match="no training or validation problem 'toy/test/0': no other can be scored"
        ):
            score(["toy/test/0"], ["e"])
        one = {"problem_id": "toy/train/1", "completion": "e"}
        for body, status, message in [
            (b"{", 400, 'the request is not {"problem_id"'),
            (b'{"problem": "toy/train/0"}', 400, 'the request is not {"problem_id"'),
            (b'[{"problem_id": "toy/train/0", "completion": 3}]', 400, r"Expected `str`, got `int`"),
            (b"\xff", 400, 'the request is not {"problem_id"'),
            (b" " * 301, 413, "send at most 300"),
        ]:
            found, said = post(service.url, body)
            assert (found, message in said) == (status, True), said
        found, said = post(service.url[:-1], json.dumps(one).encode())
        assert (found, said) == (403, "this is not the address in HARNESS_SCORING_URL.")
        for module in (scoring, service_module):
            monkeypatch.setattr(module, "MOST_COMPLETIONS", 2)
        assert post(service.url, json.dumps([one] * 3).encode()) == (
            400,
            "3 completions in one request: send at most 2.",
        )
        assert score(["toy/train/0", "toy/train/1", "toy/train/2"], ["e", "", "e"]) == [1, 0, 1]  # in two requests
        assert service.calls == 3
        service.check()
    with pytest.raises(HarnessError, match="the scoring service does not answer"):
        scoring._post(service.url, [one])
    with pytest.raises(HarnessError, match="HARNESS_SCORING_URL is not set"):
        score(["toy/train/0"], ["e"])


def test_test_problems_are_never_served(toy: Task) -> None:
    tests = load_tasks([TOY], {TOY: {"split": "test"}})[0]
    with pytest.raises(InputError, match="of the test split"), serve([toy, tests], Reward()):
        pass


def test_programs_run_in_the_sandbox_up_to_the_stop_string(double: Task) -> None:
    texts = ["    return 2 * x\nprint(1 / 0)\n", "    return x * x\n", "    while True: pass\n", "    return x + x\n"]
    with served([double], Reward(terms={"fraction": 1.0}), workers=2) as service:
        assert score(["double"] * 4, texts) == [1, 0, 0, 1]
        assert post(service.url, json.dumps({"problem_id": "double", "completion": texts[1]}).encode())[1] == {
            "problem_id": "double",
            "reward": 0.0,
            "terms": {"fraction": 0.0},
            "passed": False,
        }


@pytest.mark.slow
def test_many_ask_at_once_and_an_endless_program_does_not_outlive_the_service(double: Task) -> None:
    with served([double], Reward(), workers=2) as service:
        found: dict[int, list[float | None]] = {}

        def ask(place: int) -> None:
            texts = [f"    return {factor} * x  # {place}\n" for factor in (place % 3, 2)]
            found[place] = score(["double"] * 2, texts)

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {place: [float(place % 3 == 2), 1.0] for place in range(24)}
        assert service.calls == 48
        left: list[str] = []

        def ask_in_vain() -> None:
            try:
                score(["double"] * 200, [f"    while True: {n}\n" for n in range(200)])
            except HarnessError as error:
                left.append(str(error))

        hanging = threading.Thread(target=ask_in_vain)
        hanging.start()
        time.sleep(0.3)
        started = time.monotonic()
    hanging.join(5)
    assert time.monotonic() - started < 5
    assert left
    assert service.error is None


def test_rewards_of_a_group_need_the_group(toy: Task) -> None:
    for reward in (Reward(terms={"majority": 1.0}), Reward(shuffled=True)):
        with served([toy], reward) as service:
            with pytest.raises(HarnessError, match="its reward depends on others: send them together"):
                score(["toy/train/0"], ["e"])
            ids = ["toy/train/0", "toy/train/1"] * 3
            rewards = score(ids, ["eeee", "e", "xxxx", "e", "xxxx", "x"])
            assert service.calls == 6
        if not reward.shuffled:
            assert rewards == [0, 1, 1, 1, 1, 0]


def test_a_random_reward_is_drawn_anew_for_every_completion(toy: Task) -> None:
    with served([toy], Reward(terms={"random": 1.0})):
        drawn = [score(["toy/train/0"], ["e"])[0] for _ in range(20)]
    assert drawn == [float(coin("random", 0, "toy/train/0", index) < 0.5) for index in range(20)]
    assert 0 < sum(filter(None, drawn)) < 20


def test_a_mistake_in_a_term_of_the_users_is_raised_in_the_harness(toy: Task, tmp_path: Path) -> None:
    (tmp_path / "terms.py").write_text("def broken(graded):\n    return {}['key']\n")
    with served([toy], Reward(terms={f"{tmp_path}/terms.py:broken": 1.0})) as service:
        with pytest.raises(HarnessError, match=r"could not be scored \(KeyError: 'key'\)"):
            score(["toy/train/0"], ["e"])
        with pytest.raises(KeyError):
            service.check()


def test_thoughts_of_a_chat_model_are_no_answer(toy: Task) -> None:
    text = "<think>e</think>xxxxxe"
    with served([toy], Reward(), form="message"):
        assert score(["toy/train/0"] * 2, [text, "<think>x</think>e"]) == [0, 1]
    with served([toy], Reward(), stop=["x"]):
        assert score(["toy/train/0", "toy/train/0"], ["exe", "xe"]) == [1, 0]
