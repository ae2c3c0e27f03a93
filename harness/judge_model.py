"""A scorer that asks a model behind an OpenAI-compatible chat endpoint whether a solution is right: `judge`.

`read_out="yes_no"` reads the probabilities of the first token of the reply: P(yes) / (P(yes) + P(no)), over the tokens
that are the word in any case; a word that is not among the likeliest tokens has probability 0. `read_out="grade"` reads
a reply that is one number from 0 to 10 and nothing else. What cannot be read is not measured; it is counted, and is no
low score. Questions run side by side and are sent again where a server stumbles (`samplers/http_client.py`).

Not handled: what a solution says to its judge is not kept from it (an "answer yes" in a comment may work); a chain of
thought before the answer, but for reasoning that the server takes out of the reply; images.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness.errors import InputError, UnknownName
from harness.grading.thinking import after_thinking
from harness.samplers.background import Worker, stream
from harness.samplers.http_client import open_client
from harness.samplers.openai import OpenAISampler, openai
from harness.samplers.openai_api import Asked, read_answer, request_body
from harness.scorers import Facts, Scorable, execution_lines, scores
from harness.types import Budget, Problem

READ_OUTS = ("yes_no", "grade")
ASKS = {
    "yes_no": "Is the solution right? Answer with one word, Yes or No.",
    "grade": "How likely is it that the solution is right? Answer with one number from 0 (surely wrong) to 10 (surely "
    "right), and nothing else.",
}
TOP = 20
"""Likeliest first tokens that are asked for: the most that servers give."""
LONGEST = 20_000
"""Characters of each part of a question; of a longer one the middle is left out."""


def _judge_facts(*, model: str, base_url: str, read_out: str = "yes_no", **options: Any) -> Facts:
    options.pop("max_tokens", None)
    suite = options.pop("suite", None)
    sampler = _sampler(model, base_url, **options)
    asked = hashlib.sha256(f"{sampler.identity}\0{ASKS[_known(read_out)]}".encode()).hexdigest()
    return Facts(sha=asked, probability=read_out == "yes_no", suite=suite)


@scores(at_once="run", facts=_judge_facts)
def judge(
    batch: Sequence[Scorable],
    *,
    model: str,
    base_url: str,
    read_out: str = "yes_no",
    suite: str | None = None,
    system_instruction: str | None = None,
    max_tokens: int | None = None,
    concurrency: int = 32,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    timeout_s: float = 600.0,
    max_retries: int = 8,
    extra: str | dict[str, Any] = "",
    weights: str | None = None,
    max_tokens_field: str = "max_tokens",
    api_key_env: str = "OPENAI_API_KEY",
) -> Iterator[float | None]:
    """A model's word on whether a solution is right (model=NAME,base_url=http://localhost:8000/v1).

    Args:
        batch: what to judge.
        model: the name by which the server knows the judge.
        base_url: its address up to where /chat/completions begins.
        read_out: "yes_no" (a probability; the server must give log-probabilities) or "grade" (0 to 10).
        suite: shows the judge what the program did on the tests of this suite.
        system_instruction: a system message.
        max_tokens: of the reply; None: 1 for yes_no, 8 for grade, which a model that thinks first needs more for.
        concurrency: most requests at the same time; for this and the following see the sampler `openai`.
        requests_per_minute: requests start evenly spaced, no faster than this.
        tokens_per_minute: questions and replies together.
        timeout_s: seconds for one request.
        max_retries: how often a request is sent again.
        extra: further fields of every request.
        weights: folder of the weights that are served, to be hashed.
        max_tokens_field: "max_completion_tokens" for servers that want it.
        api_key_env: environment variable that holds the key, if the server wants one.
    """
    sampler = _sampler(
        model,
        base_url,
        system_instruction=system_instruction,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        timeout_s=timeout_s,
        max_retries=max_retries,
        extra=extra,
        weights=weights,
        max_tokens_field=max_tokens_field,
        api_key_env=api_key_env,
    )
    budget = Budget(max_tokens=max_tokens or (1 if _known(read_out) == "yes_no" else 8))
    waiting: dict[int, float | None] = {}
    place = 0
    for number, value in _answers(sampler, batch, read_out, budget):
        waiting[number] = value
        while place in waiting:
            yield waiting.pop(place)
            place += 1


def _known(read_out: str) -> str:
    if read_out not in READ_OUTS:
        raise UnknownName("read_out", read_out, READ_OUTS)
    return read_out


def _sampler(model: str, base_url: str, **options: Any) -> OpenAISampler:
    """How the server is reached, as the sampler of the same server reaches it."""
    return openai(model, base_url, api="chat", send_seed=False, **options)


def _answers(
    sampler: OpenAISampler, batch: Sequence[Scorable], read_out: str, budget: Budget
) -> Iterator[tuple[int, float | None]]:
    """Place in the batch and number, as they come."""
    read = _probability if read_out == "yes_no" else _grade

    @asynccontextmanager
    async def start() -> AsyncIterator[Worker[int, tuple[int, float | None]]]:
        async with open_client(sampler.connection, concurrency=sampler.concurrency) as client:

            async def ask(number: int) -> AsyncIterator[tuple[int, float | None]]:
                one = batch[number]
                problem = Problem(id=one.problem.id, task=one.problem.task, prompt=question(one, ASKS[read_out]))
                asked = Asked(problem=problem, indices=(0,), stop=())
                body = request_body(sampler.settings, asked, budget, logprobs=read_out == "yes_no")
                if read_out == "yes_no":
                    body["top_logprobs"] = TOP
                about = f"completion {one.completion.index} of {one.problem.id!r}"
                value, tokens = await client.ask(sampler.settings.path, body, read=read, about=about)
                client.pace.charge(tokens)
                yield number, value

            yield ask

    yield from stream(range(len(batch)), start, concurrency=sampler.concurrency)


def question(one: Scorable, ask: str) -> str:
    """What the judge reads: the problem, the solution, what it did when it was run, and what is asked."""
    solution = one.completion.program if one.tests or one.problem.tests else None
    parts = [
        "Below are a problem and a proposed solution of it.",
        f"# Problem\n\n{_short(one.problem.context + one.problem.prompt)}",
        f"# Proposed solution\n\n{_short(solution or after_thinking(one.completion.text))}",
    ]
    if one.executions:
        parts.append("# What it returned when it was run\n\n" + _short("\n".join(execution_lines(one))))
    return "\n\n".join([*parts, f"# Question\n\n{ask}"])


def _short(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}\n[...]\n{text[-half:]}"


def _probability(found: Any) -> tuple[float | None, int]:
    """P(yes) of an answer with log-probabilities, and the tokens that it cost."""
    answer = read_answer(found, "chat", 1)
    logprobs = found["choices"][0].get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else {"top_logprobs": [] if content == [] else None}
    likeliest = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(likeliest, list):
        raise InputError(
            "the judge's server gives no log-probabilities of the likeliest tokens: use read_out=grade, or a server "
            "that gives them."
        )
    mass = {"yes": 0.0, "no": 0.0}
    for token in filter(lambda each: isinstance(each, dict), likeliest):
        word = str(token.get("token", "")).strip().lower()
        logprob = token.get("logprob")
        if word in mass and isinstance(logprob, int | float) and math.isfinite(logprob):
            mass[word] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    return (mass["yes"] / total if total > 0 else None), (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)


def _grade(found: Any) -> tuple[float | None, int]:
    """The number that a reply is, if it is one from 0 to 10, and the tokens that it cost."""
    answer = read_answer(found, "chat", 1)
    text = after_thinking(answer.choices[0].text).strip()
    number = float(text) if re.fullmatch(r"\d{1,2}(\.\d{1,6})?", text, re.ASCII) else math.inf
    return (number if number <= 10 else None), (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
