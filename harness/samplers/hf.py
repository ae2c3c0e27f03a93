"""Samples a causal language model, from a folder or the Hub, with transformers: `hf(...)` returns the sampler.

The decoding loop (`hf_decode`) is our own over `model(...)` with its key-value cache, so that log-probabilities, stop
strings and random draws are exact. Every completion has its own random generator, seeded by (seed, problem id, index),
so it depends neither on the batch that it is in nor on what was sampled before it. Batches of another shape still round
differently: in float32 (the default on a CPU) that very rarely changes a draw, in bfloat16 it will now and then.

`Completion.logprob` is of the model's own distribution, at temperature 1 and without top_p and top_k, so that rescoring
the text gives the same number. It and `n_tokens` count every sampled token: the end token too, and all of the token
that completes a stop string.

Not handled: encoder-decoder and recurrent models, adapters (merge them first), several devices, truncation of prompts,
settings of a `generation_config.json` other than its end tokens (a repetition penalty, say).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnknownName
from harness.samplers import hf_model
from harness.types import Budget, Completion, Form, Key, Problem

if TYPE_CHECKING:
    from harness.samplers.hf_decode import Row

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class HFSampler:
    """What `hf` returns. The weights are loaded when the first completion is asked for."""

    folder: Path
    identity: str
    form: Form
    """How the completions are to be read: "message" when the chat template is applied."""
    config: Any
    tokenizer: Any
    dtype: str
    device: str
    batch_size: int
    system_instruction: str | None
    trust_remote_code: bool
    _identify: functools.partial[str]
    _loaded: list[Any] = field(default_factory=list)

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        """`budget.n`, or one, for every problem."""
        n = _check(budget)
        return {problem.id: n for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        """Every completion of `budget` but those in `done`; all input is checked before the first is sampled."""
        from harness.samplers.hf_decode import Row

        n, skip = _check(budget), frozenset(done)
        rows: list[Row] = []
        for problem in problems:
            missing = [index for index in range(n) if (problem.id, index) not in skip]
            if not missing or (wanted is not None and problem.id not in wanted):
                continue
            prompt_ids = self._prompt_ids(problem)
            room = min(budget.max_tokens, _room(self.config, problem, prompt_ids))
            rows += [
                Row(
                    problem_id=problem.id,
                    index=index,
                    prompt_ids=prompt_ids,
                    room=room,
                    stop=self._stop(problem, budget),
                )
                for index in missing
            ]
        return self._decode(rows, budget)

    def _decode(self, rows: Sequence[Row], budget: Budget) -> Iterator[Completion]:
        from harness.samplers.hf_decode import decode

        for start in range(0, len(rows), self.batch_size):
            for row in decode(self._model(), self.tokenizer, rows[start : start + self.batch_size], budget):
                yield Completion(
                    problem_id=row.problem_id,
                    index=row.index,
                    text=row.text,
                    form=self.form,
                    logprob=row.logprob,
                    n_tokens=len(row.ids),
                    stop_reason=row.stop_reason,
                )

    def _stop(self, problem: Problem, budget: Budget) -> tuple[str, ...]:
        stop = budget.stop or (problem.stop if self.form == "continuation" else ())
        if "" in stop:
            raise InputError(f"one of the stop strings of problem {problem.id!r} is empty: it would stop at once.")
        return stop

    def _prompt_ids(self, problem: Problem) -> list[int]:
        text = problem.context + problem.prompt
        if self.form == "message":
            # The template writes the special tokens itself: the tokenizer's own would be a second BOS.
            ids = self._tokenize(self._render(text), special=False)
        else:
            ids = self._tokenize(text, special=True)
            if ids and ids[-1] == self.tokenizer.eos_token_id and ids[-1:] != self._tokenize(text, special=False)[-1:]:
                ids.pop()  # some tokenizers close every text with EOS: nothing is left to continue after that
        if not ids:
            raise InputError(f"problem {problem.id!r} has an empty prompt: there is nothing to continue.")
        size = getattr(self.config.get_text_config(), "vocab_size", None)
        if size is not None and max(ids) >= size:
            raise InputError(
                f"problem {problem.id!r} has token {max(ids)} and the model in {self.folder} knows {size} tokens: "
                "the tokenizer belongs to another model."
            )
        return ids

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _render(self, text: str) -> str:
        from jinja2 import TemplateError

        messages = [{"role": "user", "content": text}]
        if self.system_instruction is not None:
            messages.insert(0, {"role": "system", "content": self.system_instruction})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            roles = " and ".join(message["role"] for message in messages)
            raise InputError(
                f"the chat template of {self.folder} refuses a {roles} message ({error}): "
                "leave out system_instruction, or set apply_chat_template to false."
            ) from error

    def _model(self) -> Any:
        if not self._loaded:
            if self._identify() != self.identity:
                raise InputError(f"{self.folder} was changed while it was in use: start again.")
            self._loaded.append(hf_model.load_model(self.folder, self.dtype, self.device, self.trust_remote_code))
        return self._loaded[0]


def hf(
    pretrained: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int = 8,
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    trust_remote_code: bool = False,
) -> HFSampler:
    """Completions sampled from a causal language model by transformers (pretrained=FOLDER or Hub name).

    - `dtype`: "auto" is float32 on a CPU and the checkpoint's own elsewhere.
    - `device`: a torch device; None is "cuda" where there is one, else "cpu".
    - `apply_chat_template`: None applies the tokenizer's template if it has one; the prompt is then one user message.
    - `trust_remote_code`: run the Python files that a checkpoint may bring along.
    """
    hf_model.packages()
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: it must be at least 1.")
    folder = hf_model.resolve(pretrained, revision)
    config, tokenizer = hf_model.load_texts(folder, trust_remote_code)
    device = hf_model.find_device(device)
    if dtype == "auto":
        own = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        dtype = "float32" if device == "cpu" else own
    template = _template(tokenizer, folder, apply_chat_template)
    if system_instruction is not None and template is None:
        raise InputError(
            "system_instruction needs a chat template: put the instruction into the task's prompt instead."
        )
    identify = functools.partial(hf_model.identity, folder, dtype, template, system_instruction)
    return HFSampler(
        folder=folder,
        identity=identify(),
        form="continuation" if template is None else "message",
        config=config,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        system_instruction=system_instruction,
        trust_remote_code=trust_remote_code,
        _identify=identify,
    )


def _template(tokenizer: Any, folder: Path, wanted: bool | None) -> str | None:
    """Text of the chat template to apply, or None."""
    if wanted is False or (wanted is None and not tokenizer.chat_template):
        return None
    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer of {folder} has no chat template: set apply_chat_template to false.")
    return str(tokenizer.get_chat_template())


def _check(budget: Budget) -> int:
    """Completions per problem, or the error that says what of the budget is wrong."""
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


def _room(config: Any, problem: Problem, prompt: Sequence[int]) -> int:
    """Tokens that fit after the prompt."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return sys.maxsize
    if len(prompt) >= context:
        raise InputError(
            f"problem {problem.id!r} has a prompt of {len(prompt)} tokens, which leaves no room in the model's "
            f"{context}: use fewer few-shot examples, or leave the problem out."
        )
    return int(context) - len(prompt)
