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
import importlib.metadata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import InputError, UnknownName
from harness.samplers import hf_model, prompting
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
    template: str | None
    """The chat template that is applied."""
    dtype: str
    device: str
    batch_size: int | None
    """Completions decoded together; None: as many as fit."""
    system_instruction: str | None
    trust_remote_code: bool
    _identify: functools.partial[str]
    _loaded: list[Any] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, str]:
        """Engine, numerics and chat template, for the manifest."""
        versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
        return {"engine": versions, "dtype": self.dtype, "device": self.device, **prompting.facts(self.template)}

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        """`budget.n`, or one, for every problem."""
        n = prompting.completions_per_problem(budget)
        return {problem.id: n for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        """Every completion of `budget` but those in `done`; all input is checked before the first is sampled."""
        requests = prompting.requests(self, problems, budget=budget, done=done, wanted=wanted)
        return self._decode(requests, budget)

    def _decode(self, requests: Sequence[prompting.Request], budget: Budget) -> Iterator[Completion]:
        from harness.samplers.hf_decode import decode

        if not requests:
            return
        longest = max(len(request.prompt_ids) + request.room for request in requests)
        slots = self.batch_size or hf_model.rows_that_fit(self.config, longest, self.dtype, self.device)
        slots = min(slots, sum(len(request.indices) for request in requests))
        for row in decode(self._model(), self.tokenizer, _rows(requests), budget, slots=slots):
            yield Completion(
                problem_id=row.problem_id,
                index=row.index,
                text=row.text,
                form=self.form,
                logprob=row.logprob,
                n_tokens=len(row.ids),
                stop_reason=row.stop_reason,
            )

    def _prompt_ids(self, problem: Problem) -> list[int]:
        return prompting.prompt_ids(self, problem)

    def _model(self) -> Any:
        if not self._loaded:
            if self._identify() != self.identity:
                raise InputError(f"{self.folder} was changed while it was in use: start again.")
            self._loaded.append(hf_model.load_model(self.folder, self.dtype, self.device, self.trust_remote_code))
        return self._loaded[0]


def _rows(requests: Sequence[prompting.Request]) -> Iterator[Row]:
    """Those of short prompts first: prompts of like length share a pass through the model with little padding."""
    from harness.samplers.hf_decode import Row

    for request in sorted(requests, key=lambda request: len(request.prompt_ids)):
        for index in request.indices:
            yield Row(
                problem_id=request.problem_id,
                index=index,
                prompt_ids=request.prompt_ids,
                room=request.room,
                stop=request.stop,
            )


def hf(
    pretrained: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    trust_remote_code: bool = False,
) -> HFSampler:
    """Completions sampled from a causal language model by transformers (pretrained=FOLDER or Hub name).

    - `dtype`: "auto" is float32 on a CPU and the checkpoint's own elsewhere.
    - `device`: a torch device; None is "cuda" where there is one, else "cpu".
    - `batch_size`: completions that are decoded together; "auto": as many as fit in memory, at most 512. It changes the
      speed only.
    - `apply_chat_template`: None applies the tokenizer's template if it has one; the prompt is then one user message.
    - `trust_remote_code`: run the Python files that a checkpoint may bring along.
    """
    hf_model.packages()
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size is {batch_size}: it must be a whole number from 1, or auto.")
    folder = hf_model.resolve(pretrained, revision)
    config, tokenizer = hf_model.load_texts(folder, trust_remote_code)
    device = hf_model.find_device(device)
    dtype = hf_model.find_dtype(config, dtype, device)
    template = prompting.template(tokenizer, folder, wanted=apply_chat_template, system_instruction=system_instruction)
    identify = functools.partial(hf_model.identity, folder, dtype, template, system_instruction)
    return HFSampler(
        folder=folder,
        identity=identify(),
        form="continuation" if template is None else "message",
        config=config,
        tokenizer=tokenizer,
        template=template,
        dtype=dtype,
        device=device,
        batch_size=None if batch_size == "auto" else batch_size,
        system_instruction=system_instruction,
        trust_remote_code=trust_remote_code,
        _identify=identify,
    )
