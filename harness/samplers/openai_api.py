"""What is said to an OpenAI-compatible server and how its answers are read: `request_body`, `read_answer`, `finished`.

`/completions` continues a prompt, `/chat/completions` replies to one user message (after a system message, if there is
one). Pure functions: the network is `http_client`'s. Not handled: streamed answers, tools, images, token ids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import InputError
from harness.samplers.formats.found import encodable
from harness.samplers.http_client import Unusable
from harness.types import Budget, Completion, Problem

Api = Literal["completions", "chat"]
SEEDS = 2**31
"""Seeds are below this: some servers take no larger ones."""

NEUTRAL: dict[str, dict[str, Any]] = {
    name: {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0} for name in ("vllm", "sglang", "llamacpp")
}
"""By the `owned_by` of a server's models: fields that switch off what these servers, unasked, take from the model's
generation_config.json or from defaults of their own (llama.cpp: top_k 40, min_p 0.05)."""

STOPPED = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})
CUT = frozenset({"length", "max_tokens", "model_length"})
BROKEN_OFF = frozenset({"abort", "error", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all requests have in common."""

    model: str
    api: Api
    system_instruction: str | None
    extra: dict[str, Any]
    vendor: str
    """`owned_by` of the model, in the server's words; "" if it says nothing."""
    max_tokens_field: str
    max_stops: int
    send_seed: bool

    @property
    def path(self) -> str:
        """Where requests go, after base_url."""
        return "/chat/completions" if self.api == "chat" else "/completions"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Completions of one problem to be sampled by one request: consecutive indices."""

    problem: Problem
    indices: tuple[int, ...]
    stop: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One completion in a server's answer."""

    text: str
    finish_reason: str | None
    tokens: tuple[tuple[str, float], ...] | None
    """Text and log-probability of the sampled tokens, where the server tells."""
    reasoned: bool
    """There is reasoning apart from the text."""
    empty: bool
    """There is no text at all: a filter, a tool call, or nothing but reasoning."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A server's answer, checked."""

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    """Of all choices together."""
    model: str | None
    fingerprint: str | None


def seed_for(seed: int, problem_id: str, index: int) -> int:
    """The seed of one completion. Those of a problem are consecutive, so no two are equal; vLLM counts on in the same
    way where one request asks for several, which are then the same as if each had been asked for alone."""
    digest = hashlib.sha256(f"{seed}\0{problem_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + index) % SEEDS


def request_body(settings: Settings, asked: Asked, budget: Budget, *, logprobs: bool) -> dict[str, Any]:
    """The JSON of a request; `extra` has the last word, and null takes a field out."""
    prompt = asked.problem.context + asked.problem.prompt
    body: dict[str, Any] = {"model": settings.model, "temperature": budget.temperature, "top_p": budget.top_p}
    if settings.api == "chat":
        system = settings.system_instruction
        body["messages"] = [] if system is None else [{"role": "system", "content": system}]
        body["messages"].append({"role": "user", "content": prompt})
    else:
        body["prompt"] = prompt
    body[settings.max_tokens_field] = budget.max_tokens
    body |= NEUTRAL.get(settings.vendor, {})
    if budget.top_k > 0:
        body["top_k"] = budget.top_k
    if asked.stop:
        body["stop"] = list(asked.stop[: settings.max_stops])
    if settings.send_seed and budget.temperature > 0:
        body["seed"] = seed_for(budget.seed, asked.problem.id, asked.indices[0])
    if len(asked.indices) > 1:
        body["n"] = len(asked.indices)
    if logprobs:
        body["logprobs"] = True if settings.api == "chat" else 1
    return {name: value for name, value in (body | settings.extra).items() if value is not None}


def read_answer(found: Any, api: Api, n: int) -> Answer:
    """Checks an answer to a request for `n` completions; there may be fewer.

    Raises:
        Unusable: it is not of the API's form, has no completion or too many, or the server broke off.
    """
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unusable(f"no list of choices in {found!r:.200}")
    if not 1 <= len(choices) <= n:
        raise Unusable(f"{len(choices)} completions where {n} {'was' if n == 1 else 'were'} asked for")
    places = [choice["index"] for choice in choices if "index" in choice]
    if len({*map(str, places)}) < len(places):
        raise Unusable("two completions with the same index")
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        choices=tuple(_chat_choice(choice) if api == "chat" else _text_choice(choice) for choice in choices),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        model=_string(found.get("model")),
        fingerprint=_string(found.get("system_fingerprint")),
    )


def _text_choice(choice: dict[str, Any]) -> Choice:
    text, logprobs = choice.get("text"), choice.get("logprobs")
    if not isinstance(text, str):
        raise Unusable(f"a choice without text: {choice!r:.200}")
    tokens = None
    if isinstance(logprobs, dict) and isinstance(logprobs.get("token_logprobs"), list):
        values = logprobs["token_logprobs"]
        names = logprobs.get("tokens")
        tokens = _tokens(names if isinstance(names, list) and len(names) == len(values) else [""] * len(values), values)
    elif isinstance(logprobs, dict):  # llama.cpp has the chat form here, too
        tokens = _chat_tokens(logprobs)
    return Choice(text=encodable(text), finish_reason=_reason(choice), tokens=tokens, reasoned=False, empty=False)


def _chat_choice(choice: dict[str, Any]) -> Choice:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unusable(f"a choice without message: {choice!r:.200}")
    content = message.get("content")
    if isinstance(content, list):  # parts: the text of those that have some, without thinking
        content = "".join(part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text")
    text = content if isinstance(content, str) else message.get("refusal")
    logprobs = choice.get("logprobs")
    return Choice(
        text=encodable(text) if isinstance(text, str) else "",
        finish_reason=_reason(choice),
        tokens=_chat_tokens(logprobs) if isinstance(logprobs, dict) else None,
        reasoned=bool(message.get("reasoning_content") or message.get("reasoning")),
        empty=not isinstance(text, str),
    )


def _chat_tokens(logprobs: dict[str, Any]) -> tuple[tuple[str, float], ...] | None:
    content = logprobs.get("content")
    if not isinstance(content, list) or not all(isinstance(token, dict) for token in content):
        return None
    return _tokens([token.get("token") for token in content], [token.get("logprob") for token in content])


def _tokens(names: Sequence[Any], values: Sequence[Any]) -> tuple[tuple[str, float], ...] | None:
    """None unless there is a log-probability for every token; -9999 is some servers' word for "not among the top"."""
    if not values or not all(isinstance(value, int | float) and -9999 < value < math.inf for value in values):
        return None
    return tuple((str(name), float(value)) for name, value in zip(names, values, strict=True))


def _reason(choice: dict[str, Any]) -> str | None:
    reason = _string(choice.get("finish_reason"))
    if reason in BROKEN_OFF:
        raise Unusable(f"a completion that the server broke off (finish_reason {reason!r})")
    return reason


def finished(settings: Settings, asked: Asked, index: int, answer: Answer, choice: Choice) -> Completion:
    """The record of one completion: cut at the first stop string, its tokens counted where that can be exact."""
    cuts = {stop: place for stop in asked.stop if (place := choice.text.find(stop)) >= 0}
    alone = len(answer.choices) == 1
    n_tokens = answer.completion_tokens if alone else None
    tokens, text, reason = choice.tokens, choice.text, choice.finish_reason
    if choice.reasoned and tokens is not None and len(tokens) != n_tokens:
        tokens = None  # not of all tokens: those of the reasoning, or those of the text, are missing
    if cuts:
        first = min(cuts, key=lambda stop: (cuts[stop], len(stop)))
        text = text[: cuts[first]]
        if first not in asked.stop[: settings.max_stops] or reason in CUT:  # the server went on behind it
            tokens = _up_to(tokens, choice.text, cuts[first] + len(first)) if tokens else None
            n_tokens = None
    if n_tokens is None and tokens is not None:
        n_tokens = len(tokens)
    return Completion(
        problem_id=asked.problem.id,
        index=index,
        text=text,
        form="message" if settings.api == "chat" else "continuation",
        logprob=None if tokens is None else math.fsum(value for _, value in tokens),
        n_tokens=n_tokens,
        stop_reason="stop" if cuts or reason in STOPPED else "length" if reason in CUT else None,
    )


def _up_to(tokens: Sequence[tuple[str, float]], text: str, end: int) -> tuple[tuple[str, float], ...] | None:
    """The tokens that make `text[:end]`, the one that completes it whole; None if their texts are not the text's."""
    so_far = ""
    for count, (name, _) in enumerate(tokens, 1):
        so_far += name
        if len(so_far) >= end:
            return tuple(tokens[:count]) if so_far[:end] == text[:end] else None
    return None


def stop_strings(problem: Problem, budget: Budget, api: Api) -> tuple[str, ...]:
    """The budget's, else those of a problem whose prompt is continued."""
    stop = budget.stop or (problem.stop if api == "completions" else ())
    if "" in stop:
        raise InputError(f"one of the stop strings of problem {problem.id!r} is empty: it would stop at once.")
    return stop


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _string(value: Any) -> str | None:
    return encodable(value) if isinstance(value, str) and value else None
