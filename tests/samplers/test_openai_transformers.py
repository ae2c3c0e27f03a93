"""The sampler `openai` against `transformers serve`, for real: greedy texts are those of the sampler `hf`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import harness
from harness.errors import InputError
from harness.samplers.hf import hf
from harness.samplers.openai import openai
from harness.types import Budget, Problem
from tests.samplers.real_servers import free_port, running

pytestmark = [pytest.mark.slow]

PROMPTS = ["def f(x):\n", "Question: how many apples are left?\nAnswer:", "a", "return", "    return a + b\n\n\ndef g"]
PROBLEMS = [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(PROMPTS)]
SAMPLE = '{"generation_config": "{\\"do_sample\\": true}"}'


@pytest.fixture(scope="module", params=["tiny", "chat"])
def served(request, tmp_path_factory):
    """A folder and the address of a server that serves it."""
    folder, port = request.getfixturevalue(request.param), free_port()
    log = tmp_path_factory.mktemp("log") / "server.txt"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu"]
    cache = tmp_path_factory.mktemp("cache")
    options = ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with running([*command, *options], port, log=log, HF_HOME=str(cache)) as url:
        yield folder, url


def texts(completions):
    return {(c.problem_id, c.index): c.text for c in completions}


@pytest.mark.parametrize("stopped", [False, True])
def test_greedy_texts_are_those_of_hf(served, stopped):
    folder, url = served
    # One letter each: with "42" among them this server stopped one prompt after a "4", too.
    budget = Budget(max_tokens=24, stop=("e", "A", "d") if stopped else ())
    theirs = {c.problem_id: c for c in openai(str(folder), url).sample(PROBLEMS, budget)}
    ours = {c.problem_id: c for c in hf(str(folder)).sample(PROBLEMS, budget)}
    assert not stopped or any(c.stop_reason == "stop" and c.n_tokens < 24 for c in ours.values())
    assert {name: c.text for name, c in theirs.items()} == {name: c.text for name, c in ours.items()}
    assert {name: c.form for name, c in theirs.items()} == {name: c.form for name, c in ours.items()}
    assert {name: c.n_tokens for name, c in theirs.items()} == {name: c.n_tokens for name, c in ours.items()}
    assert all(c.logprob is None for c in theirs.values())  # this server takes the field and gives none


def test_sampling_needs_a_word_and_is_then_told_by_seed(served):
    folder, url = served
    budget = Budget(n=4, temperature=1.0, max_tokens=12)
    greedy = openai(str(folder), url, concurrency=1)
    list(greedy.sample(PROBLEMS, budget))
    assert any("all completions of each problem are equal at temperature 1" in notice for notice in greedy.notices)
    model = openai(str(folder), url, concurrency=1, extra=SAMPLE)
    first = texts(model.sample(PROBLEMS, budget))
    assert len({*first.values()}) > len(PROBLEMS)
    assert model.identity != greedy.identity
    begun = texts(model.sample(PROBLEMS, Budget(n=2, temperature=1.0, max_tokens=12)))
    rest = texts(model.sample(PROBLEMS, budget, done=begun))
    assert begun | rest == first


def test_another_models_name_is_refused_in_the_servers_words(served):
    _, url = served
    with pytest.raises(InputError, match="Server is pinned to"):
        openai("another", url)


def test_evaluate(served, tmp_path):
    folder, url = served
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "p/0", "prompt": "1 + 1 =", "answer": "2"}\n')
    results = harness.evaluate(
        "jsonl",
        "openai",
        model_args=f"model={folder},base_url={url},concurrency=2",
        task_args={"path": str(path)},
        budget=Budget(n=3, temperature=0.8, max_tokens=8),
        output_path=tmp_path / "run",
    )
    assert results.estimates["jsonl"]["pass@1"].n_samples == (3, 3)
