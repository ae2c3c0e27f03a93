"""What every sampler that runs a language model does with problems and texts: `requests` says what is to be sampled.

Prompts as token ids, chat templates, stop strings, the room after a prompt, the errors of a budget, and the text that
sampled ids stand for: `hf` and `vllm` read all of it here, so that they agree. Not handled: truncation of prompts.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.errors import InputError
from harness.types import Budget, Form, Key, Problem

ANCHOR_TOKENS = 8
"""Prompt tokens that are decoded together with a completion, see `added_text`."""


class Reader(Protocol):
    """What a sampler must know to turn a problem into token ids."""

    @property
    def folder(self) -> Path:
        """Where the model's files are; only named in errors."""

    @property
    def form(self) -> Form:
        """How the completions are to be read: "message" when the chat template is applied."""

    @property
    def config(self) -> Any:
        """transformers' configuration of the model."""

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer."""

    @property
    def system_instruction(self) -> str | None:
        """The system message, if any."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The completions of one problem that are still to be sampled."""

    problem_id: str
    indices: tuple[int, ...]
    prompt_ids: list[int]
    room: int
    """Most tokens that each may get."""
    stop: tuple[str, ...]


def requests(
    reader: Reader,
    problems: Sequence[Problem],
    *,
    budget: Budget,
    done: Collection[Key] = (),
    wanted: Collection[str] | None = None,
    context: int | None = None,
) -> list[Request]:
    """What of `budget` is missing from `done`, problem by problem; all input is checked here.

    `context` is the most tokens that a sampler can hold, where that is less than the model can.
    """
    n, skip = completions_per_problem(budget), frozenset(done)
    found = []
    for problem in problems:
        missing = tuple(index for index in range(n) if (problem.id, index) not in skip)
        if not missing or (wanted is not None and problem.id not in wanted):
            continue
        ids = prompt_ids(reader, problem)
        found.append(
            Request(
                problem_id=problem.id,
                indices=missing,
                prompt_ids=ids,
                room=min(budget.max_tokens, room(reader.config, problem, ids, context)),
                stop=stop_strings(reader, problem, budget),
            )
        )
    return found


def completions_per_problem(budget: Budget) -> int:
    """n, or the error that says what of the budget is wrong."""
    n = 1 if budget.n is None else budget.n
    if n < 1:
        raise InputError(f"n is {n}: at least one completion per problem is needed.")
    if not (math.isfinite(budget.temperature) and budget.temperature >= 0):
        raise InputError(f"temperature is {budget.temperature}: it must be 0 (greedy) or more.")
    if budget.temperature == 0 and n > 1:
        raise InputError(f"temperature 0 gives {n} equal completions: set n to 1, or a temperature above 0.")
    if not 0 < budget.top_p <= 1:
        raise InputError(f"top_p is {budget.top_p}: it must be above 0 and at most 1 (1 is no limit).")
    if budget.top_k < 0:
        raise InputError(f"top_k is {budget.top_k}: it must be 0 (no limit) or more.")
    if budget.max_tokens < 1:
        raise InputError(f"max_tokens is {budget.max_tokens}: it must be at least 1.")
    return n


def stop_strings(reader: Reader, problem: Problem, budget: Budget) -> tuple[str, ...]:
    """The budget's, else those of a problem whose prompt is continued."""
    stop = budget.stop or (problem.stop if reader.form == "continuation" else ())
    if "" in stop:
        raise InputError(f"one of the stop strings of problem {problem.id!r} is empty: it would stop at once.")
    return stop


def prompt_ids(reader: Reader, problem: Problem) -> list[int]:
    """Token ids of what the model sees, special tokens included."""
    text, tokenizer = problem.context + problem.prompt, reader.tokenizer
    if reader.form == "message":
        # The template writes the special tokens itself: the tokenizer's own would be a second BOS.
        ids = _tokenize(tokenizer, _render(reader, text), special=False)
    else:
        ids = _tokenize(tokenizer, text, special=True)
        if ids and ids[-1] == tokenizer.eos_token_id and ids[-1:] != _tokenize(tokenizer, text, special=False)[-1:]:
            ids.pop()  # some tokenizers close every text with EOS: nothing is left to continue after that
    if not ids:
        raise InputError(f"problem {problem.id!r} has an empty prompt: there is nothing to continue.")
    size = getattr(reader.config.get_text_config(), "vocab_size", None)
    if size is not None and max(ids) >= size:
        raise InputError(
            f"problem {problem.id!r} has token {max(ids)} and the model in {reader.folder} knows {size} tokens: "
            "the tokenizer belongs to another model."
        )
    return ids


def _tokenize(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _render(reader: Reader, text: str) -> str:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": text}]
    if reader.system_instruction is not None:
        messages.insert(0, {"role": "system", "content": reader.system_instruction})
    try:
        return str(reader.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        roles = " and ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template of {reader.folder} refuses a {roles} message ({error}): "
            "leave out system_instruction, or set apply_chat_template to false."
        ) from error


def template(tokenizer: Any, folder: Path, *, wanted: bool | None, system_instruction: str | None) -> str | None:
    """Text of the chat template to apply, or None; `wanted` None takes the tokenizer's if it has one."""
    found = None
    if wanted or (wanted is None and tokenizer.chat_template):
        if not tokenizer.chat_template:
            raise InputError(f"the tokenizer of {folder} has no chat template: set apply_chat_template to false.")
        found = str(tokenizer.get_chat_template())
    if system_instruction is not None and found is None:
        raise InputError(
            "system_instruction needs a chat template: put the instruction into the task's prompt instead."
        )
    return found


def facts(template: str | None) -> dict[str, str]:
    """What a manifest says of how prompts were wrapped."""
    sha = "none" if template is None else hashlib.sha256(template.encode()).hexdigest()[:16]
    return {"chat_template": sha}


def room(config: Any, problem: Problem, prompt: Sequence[int], context: int | None = None) -> int:
    """Tokens that fit after the prompt."""
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    size = min(sys.maxsize if own is None else own, sys.maxsize if context is None else context)
    if len(prompt) >= size:
        raise InputError(
            f"problem {problem.id!r} has a prompt of {len(prompt)} tokens, which leaves no room in the model's "
            f"{size}: use fewer few-shot examples, or leave the problem out."
        )
    return int(size) - len(prompt)


def added_text(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What `ids` add to the text of the prompt.

    Decoded together with the prompt's end, because many tokenizers drop the space before the first word of what they
    decode, which would change the indentation of a program.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    anchor, ids = list(prompt[-ANCHOR_TOKENS:]), list(ids)
    before, whole = tokenizer.decode(anchor, **options), tokenizer.decode(anchor + ids, **options)
    # Bytes that are no UTF-8 can change how the ones before them are shown: no common start then.
    return str(whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids, **options))


def end_ids(tokenizer: Any, configured: int | Sequence[int] | None, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end a completion: EOS of the tokenizer, those of the generation config, stop strings that are
    special tokens.

    The last never show in the text, where the other stop strings are looked for.
    """
    ends = {
        tokenizer.eos_token_id,
        *([configured] if configured is None or isinstance(configured, int) else configured),
    }
    special = set(tokenizer.all_special_ids)
    ends |= special.intersection(tokenizer.convert_tokens_to_ids(list(stop)))
    return frozenset(token for token in ends if token is not None)
