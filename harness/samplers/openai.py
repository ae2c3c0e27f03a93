"""Completions from any server that speaks the OpenAI API: `openai(...)` returns the sampler.

vLLM, SGLang, llama.cpp, `transformers serve`, hosted ones: `/completions` continues a prompt, `/chat/completions`
replies to it. Requests run side by side in the background (`background`), patiently (`http_client`); one answer is one
completion unless `n_per_request` says otherwise, so that raising n or resuming asks for what is missing and no more.

`Completion.text` is the visible text: a chat server's `reasoning_content` is not in it, nor is anything from the first
stop string on. `n_tokens` is the server's count, reasoning and end token included. `logprob` is the sum over these
tokens where the server reports them. vLLM and llama.cpp report the model's own distribution (temperature 1, before
top_p and top_k) unless they are started otherwise, as the sampler `hf` does; others may report the one that was sampled
from, which an answer doesn't tell.

What is not sent is up to the server. vLLM, SGLang and llama.cpp, known by `owned_by`, are told to leave out the limits
and penalties of a model's generation_config.json; others are not (`extra` is sent as it is). `transformers serve` needs
extra={"generation_config": "{\\"do_sample\\": true}"}, or it stays greedy at every temperature; a sampler whose
completions of a problem are all equal says so in its notices.

Not handled: streaming, prompts as token ids, tools, Azure's addresses and headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.errors import InputError, UnknownName
from harness.samplers import http_client, openai_api, openai_server
from harness.samplers.background import Worker, stream
from harness.samplers.http_client import Client, Connection, Refused, open_client
from harness.samplers.openai_api import Asked, Settings, finished, read_answer, request_body
from harness.samplers.openai_notes import Notes
from harness.samplers.prompting import completions_per_problem
from harness.types import Budget, Completion, Form, Key, Problem

APIS = ("auto", "chat", "completions")
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
BUDGETED = {name: name for name in ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed")} | {
    "max_completion_tokens": "max_tokens"
}
"""Fields that the budget decides, and the name of its part."""


@dataclass(frozen=True, kw_only=True)
class OpenAISampler:
    """What `openai` returns. It holds no key and no open connection."""

    connection: Connection
    settings: Settings
    identity: str
    concurrency: int
    n_per_request: int
    logprobs: bool | None
    notices: list[str] = field(default_factory=list)
    """Sentences on usage, on what was sent again and on what is odd; complete when `sample` is done."""

    @property
    def form(self) -> Form:
        """How the completions are to be read: "message" for chat."""
        return "message" if self.settings.api == "chat" else "continuation"

    @property
    def facts(self) -> dict[str, str]:
        """What the server is and how it is asked, for the manifest; its numerics are not known."""
        return {"engine": self.settings.vendor or "unknown server", "api": self.settings.api}

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        """`budget.n`, or one, for every problem."""
        n = completions_per_problem(budget)
        return {problem.id: n for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        """Every completion of `budget` but those in `done`, as they come; all input is checked before the first."""
        n, skip = completions_per_problem(budget), frozenset(done)
        chosen = []
        for problem in problems:
            if wanted is not None and problem.id not in wanted:
                continue
            if not problem.context + problem.prompt:
                raise InputError(f"problem {problem.id!r} has an empty prompt: there is nothing to continue.")
            chosen.append((problem, openai_api.stop_strings(problem, budget, self.settings.api)))
        jobs = (
            Asked(problem=problem, indices=indices, stop=stop)
            for problem, stop in chosen
            for indices in _runs([i for i in range(n) if (problem.id, i) not in skip], self.n_per_request)
        )
        return self._stream(jobs, budget)

    def _stream(self, jobs: Iterator[Asked], budget: Budget) -> Iterator[Completion]:
        notes = Notes(self.settings)

        @asynccontextmanager
        async def start() -> AsyncIterator[Worker[Asked, Completion]]:
            async with open_client(self.connection, concurrency=self.concurrency) as client:
                notes.repeated = client.repeated
                requests = _Requests(client, self.settings, budget, notes, self.logprobs is not False, self.logprobs)
                yield requests.complete

        try:
            yield from stream(jobs, start, concurrency=self.concurrency)
        finally:
            self.notices[:] = notes.sentences(budget)


@dataclass(kw_only=False)
class _Requests:
    """The requests of one call of `sample`."""

    client: Client
    settings: Settings
    budget: Budget
    notes: Notes
    ask_logprobs: bool
    wish: bool | None
    """What the user said about log-probabilities; None: as the server can."""

    async def complete(self, asked: Asked) -> AsyncIterator[Completion]:
        """All completions of a job; where an answer has fewer than were asked for, the rest is asked for again."""
        left = asked
        while left.indices:
            answer = await self._answer(left)
            self.client.pace.charge((answer.prompt_tokens or 0) + (answer.completion_tokens or 0))
            self.notes.answer(answer, len(left.indices))
            for index, choice in zip(left.indices, answer.choices, strict=False):
                completion = finished(self.settings, left, index, answer, choice)
                self.notes.completion(completion, choice)
                yield completion
            left = Asked(problem=asked.problem, indices=left.indices[len(answer.choices) :], stop=asked.stop)

    async def _answer(self, asked: Asked) -> openai_api.Answer:
        while True:
            with_logprobs = self.ask_logprobs
            body = request_body(self.settings, asked, self.budget, logprobs=with_logprobs)
            try:
                return await self.client.ask(
                    self.settings.path,
                    body,
                    read=lambda found: read_answer(found, self.settings.api, len(asked.indices)),
                    about=f"problem {asked.problem.id!r}",
                )
            except Refused as error:
                if not (with_logprobs and self.wish is None and "logprob" in str(error).lower()):
                    raise
                self.ask_logprobs = False  # this server has none: the same once more, without


def openai(
    model: str,
    base_url: str,
    *,
    api: str = "auto",
    system_instruction: str | None = None,
    concurrency: int = 32,
    n_per_request: int = 1,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    timeout_s: float = 600.0,
    max_retries: int = 8,
    logprobs: bool | None = None,
    extra: str | dict[str, Any] = "",
    weights: str | None = None,
    max_tokens_field: str = "max_tokens",
    max_stops: int = 4,
    send_seed: bool = True,
    api_key_env: str = "OPENAI_API_KEY",
    api_key: str | None = None,
) -> OpenAISampler:
    """Completions from a server that speaks the OpenAI API (model=NAME,base_url=http://localhost:8000/v1).

    Args:
        model: the name by which the server knows the model.
        base_url: its address up to where /models and /completions begin.
        api: "completions" (the prompt is continued), "chat" (it is one user message), or "auto": chat if a first chat
            request of 16 tokens succeeds, as it does where there is a chat template.
        system_instruction: a system message; chat only.
        concurrency: most requests at the same time.
        n_per_request: completions of a problem per request, where the server knows `n`.
        requests_per_minute: requests start evenly spaced, no faster than this.
        tokens_per_minute: prompts and completions together; counted afterwards, so it holds on average.
        timeout_s: seconds for one request, to the last byte of the answer.
        max_retries: how often a request is sent again before the run gives up.
        logprobs: ask for log-probabilities; None: yes, and do without where the server refuses.
        extra: further fields of every request as JSON, {"reasoning_effort": "low"}; they count as part of the model. A
            field that is null is not sent, be it one of ours: {"top_p": null}.
        weights: folder of the weights that are served, to be hashed into the identity (see `openai_server`).
        max_tokens_field: "max_completion_tokens" for servers that want it (OpenAI's reasoning models).
        max_stops: stop strings sent; the original API takes 4, vLLM any number. All are applied here again.
        send_seed: send a seed with every request; some hosted servers refuse the field.
        api_key_env: environment variable that holds the key, if the server wants one.
        api_key: always an error: a key among the arguments would be written into the run's manifest.
    """
    http_client.package()
    if api_key is not None:
        raise InputError(
            "api_key is not taken as an argument, for arguments are written into the run's manifest: "
            "put the key into the environment variable OPENAI_API_KEY, or name another with api_key_env."
        )
    connection = _connection(
        base_url, api_key_env, timeout_s, max_retries, requests_per_minute=requests_per_minute, tokens=tokens_per_minute
    )
    for name, value in {"concurrency": concurrency, "n_per_request": n_per_request}.items():
        if value < 1:
            raise InputError(f"{name} is {value}: it must be at least 1.")
    if max_stops < 0:
        raise InputError(f"max_stops is {max_stops}: it must be 0 or more.")
    if api not in APIS:
        raise UnknownName("api", api, APIS)
    if max_tokens_field not in MAX_TOKENS_FIELDS:
        raise UnknownName("max_tokens_field", max_tokens_field, MAX_TOKENS_FIELDS)
    fields = _fields(extra)
    met = openai_server.meet(connection, model, api, max_tokens_field)
    if system_instruction is not None and met.api != "chat":
        raise InputError("system_instruction needs api=chat: put the instruction into the task's prompt instead.")
    return OpenAISampler(
        connection=connection,
        settings=Settings(
            model=model,
            api=met.api,
            system_instruction=system_instruction,
            extra=fields,
            vendor=met.vendor,
            max_tokens_field=max_tokens_field if met.api == "chat" else "max_tokens",
            max_stops=max_stops,
            send_seed=send_seed,
        ),
        identity=openai_server.identity(
            model,
            met,
            connection,
            weights=weights,
            parts={"system_instruction": system_instruction, "extra": fields},
        ),
        concurrency=concurrency,
        n_per_request=n_per_request,
        logprobs=logprobs,
    )


def _connection(
    base_url: str,
    api_key_env: str,
    timeout_s: float,
    max_retries: int,
    *,
    requests_per_minute: float | None,
    tokens: float | None,
) -> Connection:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise InputError("api_key_env is not the name of an environment variable: give the name, not the key.")
    if not 0 < timeout_s < float("inf"):
        raise InputError(f"timeout_s is {timeout_s:g}: it must be a number of seconds above 0.")
    if max_retries < 0:
        raise InputError(f"max_retries is {max_retries}: it must be 0 or more.")
    for name, rate in {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens}.items():
        if rate is not None and not rate > 0:
            raise InputError(f"{name} is {rate:g}: it must be above 0; leave it out for no limit.")
    return Connection(
        base_url=http_client.check_url(base_url),
        api_key_env=api_key_env,
        timeout_s=timeout_s,
        max_retries=max_retries,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens,
    )


def _fields(extra: str | dict[str, Any]) -> dict[str, Any]:
    """The extra fields of requests: nothing that the sampler or the budget says already, no key."""
    if not isinstance(extra, dict):
        try:
            extra = json.loads(extra or "{}")
        except ValueError as error:
            raise InputError(f'extra is not JSON ({error}): write extra={{"name": value}}.') from error
    if not isinstance(extra, dict):
        raise InputError('extra is not a JSON object: write extra={"name": value}.')
    for name, value in extra.items():
        if name in ("prompt", "messages", "n", "stream", "model", "logprobs"):
            raise InputError(f"extra holds {name}, which is the sampler's own: leave it out.")
        if name in BUDGETED and value is not None:
            raise InputError(
                f"extra holds {name}, which the budget says: give --{BUDGETED[name]}, or null not to send it."
            )
        if name.lower().replace("-", "_") in ("api_key", "authorization", "key", "token"):
            raise InputError(f"extra holds {name}: keys belong in the environment, not in a manifest.")
    return extra


def _runs(indices: Sequence[int], longest: int) -> Iterator[tuple[int, ...]]:
    """Consecutive indices together, `longest` at most."""
    run: list[int] = []
    for index in indices:
        if run and (index != run[-1] + 1 or len(run) == longest):
            yield tuple(run)
            run = []
        run.append(index)
    if run:
        yield tuple(run)
