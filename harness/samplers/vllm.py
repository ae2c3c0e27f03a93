"""Samples a causal language model, from a folder or the Hub, with vLLM in this process: `vllm(...)` makes a sampler.

It does what the sampler `hf` does, by the same code where there can be one: prompts as token ids, chat templates, stop
strings, texts, errors, identity. The same prompts give the same greedy completions, but for rounding.

Every completion has its own seed, made of (seed, problem id, index), so it doesn't depend on what else is asked for or
on resuming. vLLM and `hf` draw differently, so sampled completions are others than those of `hf`. Batches of another
shape round differently: in float32 that very rarely changes a draw, in bfloat16 it will now and then (the environment
variable VLLM_BATCH_INVARIANT=1 makes vLLM slower and free of that on GPUs that it supports).

`Completion.logprob` is of the model's own distribution, at temperature 1 and without top_p and top_k, as with `hf`, so
vLLM's "raw_logprobs". Trainers that correct for the sampler want the distribution that was drawn from:
`logprobs="sampling"`, and the tokens of `VLLMSampler.rollouts`.

Not handled: adapters (merge them first), several machines, truncation of prompts, settings
of a `generation_config.json` other than its end tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, InputError, MissingDependency, UnknownName
from harness.samplers import hf_model, prompting
from harness.samplers.vllm_engine import MIN_TEMPERATURE, Sampled, close_engine, is_open, open_engine, stream
from harness.samplers.vllm_replicas import Replicas, open_replicas
from harness.samplers.vllm_weights import TOLERANCE, Scored, push
from harness.types import Budget, Completion, Form, Key, Problem

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(kw_only=True, eq=False)
class _Engine:
    """The one thing of a sampler that changes. Samplers that a push made share it; the last of them closes it."""

    llm: Any = None
    identity: str = ""
    """What it holds: a sampler of older weights must not use it."""
    asleep: bool = False
    replicas: Replicas | None = None


@dataclass(frozen=True, kw_only=True)
class VLLMSampler:
    """What `vllm` returns. The weights are loaded when the first completion is asked for."""

    folder: Path
    identity: str
    form: Form
    """How the completions are to be read: "message" when the chat template is applied."""
    config: Any
    tokenizer: Any
    template: str | None
    """The chat template that is applied."""
    eos: int | list[int] | None
    dtype: str
    max_model_len: int | None
    logprobs: Literal["model", "sampling"]
    enable_sleep: bool
    data_parallel_size: int
    system_instruction: str | None
    _identify: functools.partial[str]
    _open: functools.partial[Any]
    _engine: _Engine = field(default_factory=_Engine)
    _pushed: bool = False
    """The weights are not in `folder`."""

    @property
    def facts(self) -> dict[str, str]:
        """Engine, numerics and chat template, for the manifest."""
        found = {"engine": f"vllm {vllm_version()}", "dtype": self.dtype, "logprobs": self.logprobs}
        return {**found, **prompting.facts(self.template)}

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
        rollouts = self.rollouts(problems, budget, done, wanted)
        return (
            Completion(
                problem_id=sampled.problem_id,
                index=sampled.index,
                text=sampled.text,
                form=self.form,
                logprob=sum(sampled.logprobs),
                n_tokens=len(sampled.ids),
                stop_reason=sampled.stop_reason,
            )
            for sampled in rollouts
        )

    def rollouts(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Sampled]:
        """The same as `sample`, with token ids and a log-probability for each."""
        if 0 < budget.temperature < MIN_TEMPERATURE:
            raise InputError(
                f"temperature is {budget.temperature}: vLLM samples with 0 (greedy) or at least {MIN_TEMPERATURE}."
            )
        asked = prompting.requests(self, problems, budget=budget, done=done, wanted=wanted, context=self.max_model_len)
        return self._stream(asked, budget)

    def _stream(self, asked: Sequence[prompting.Request], budget: Budget) -> Iterator[Sampled]:
        if not asked:
            return
        if self.data_parallel_size > 1:
            yield from self._copies().stream(asked, budget=budget, eos=self.eos)
        else:
            yield from stream(self.engine(), self.tokenizer, asked, budget=budget, eos=self.eos)

    def engine(self) -> Any:
        """The `vllm.LLM`, loaded now if it isn't; loading it closes any other that this process has."""
        if self.data_parallel_size > 1:
            raise InputError("data_parallel_size above 1 is for sampling alone: leave it out to push weights or sleep.")
        if not is_open(self._engine.llm):
            self._load()
        if self._engine.identity != self.identity:
            raise HarnessError("other weights were pushed since this sampler was made: use the one that push returned.")
        if self._engine.asleep:
            raise HarnessError("the vLLM engine is asleep: call wake_up first.")
        return self._engine.llm

    def _copies(self) -> Replicas:
        found = self._engine.replicas
        if found is None:
            self._check_folder()
            found = self._engine.replicas = open_replicas(self.data_parallel_size, self.folder, **self._open.keywords)
            weakref.finalize(self._engine, found.close)
        return found

    def _check_folder(self) -> None:
        if self._identify() != self.identity:
            raise InputError(f"{self.folder} was changed while it was in use: start again.")

    def _load(self) -> None:
        if self._pushed:
            raise HarnessError("the engine that held the pushed weights is closed: save them, and sample from there.")
        self._check_folder()
        engine = self._engine
        engine.llm, engine.identity, engine.asleep = self._open(), self.identity, False
        weakref.finalize(engine, close_engine, engine.llm)

    def close(self) -> None:
        """Gives the memory back. Completions that are asked for later load the model again."""
        close_engine(self._engine.llm)
        if self._engine.replicas is not None:
            self._engine.replicas.close()
        self._engine.llm = self._engine.replicas = None

    def push(
        self, tensors: Iterable[tuple[str, Tensor]], *, identity: str, check: Scored, tolerance: float = TOLERANCE
    ) -> VLLMSampler:
        """A sampler of new weights in the same engine; this one can no longer be used. See `vllm_weights.push`.

        `identity` is what the new sampler says that it samples from: the hash of a checkpoint, say. A push that fails
        closes the engine.
        """
        push(self.engine(), tensors, check=check, tolerance=tolerance)
        self._engine.identity = identity
        return dataclasses.replace(self, identity=identity, _pushed=True)

    def sleep(self) -> None:
        """Moves the weights to main memory and drops the key-value cache (vLLM's level 1): a trainer can have the GPU.

        On a CPU the cache is forgotten, and no memory is given back.
        """
        if not self.enable_sleep:
            raise InputError("this sampler was not made for sleeping: give enable_sleep=true.")
        self.engine().sleep(level=1)
        self._engine.asleep = True

    def wake_up(self) -> None:
        """Undoes `sleep`."""
        if self._engine.asleep:
            self._engine.llm.wake_up()
            self._engine.asleep = False


def vllm(
    pretrained: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    batch_size: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    logprobs: Literal["model", "sampling"] = "model",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    enable_sleep: bool = False,
    enforce_eager: bool = False,
    trust_remote_code: bool = False,
) -> VLLMSampler:
    """Completions sampled from a causal language model by vLLM (pretrained=FOLDER or Hub name).

    - `dtype`: "auto" is float32 on a CPU and the checkpoint's own elsewhere.
    - `batch_size`: most completions in one batch; None is vLLM's own (256 or more).
    - `max_model_len`: tokens of prompt and completion together; None is what the model was made for.
    - `gpu_memory_utilization`: the part of memory that vLLM takes; None is vLLM's own on a GPU, 2 GiB for the key-value
      cache on a CPU.
    - `tensor_parallel_size`: GPUs that hold one copy of the model.
    - `data_parallel_size`: copies of the model, each in a process and on GPUs of its own.
    - `logprobs`: "model" counts log-probabilities at temperature 1, "sampling" under the distribution drawn from.
    - `apply_chat_template`: None applies the tokenizer's template if it has one; the prompt is then one user message.
    - `enable_sleep`: `sleep` may be called (vLLM then manages GPU memory in another way).
    - `enforce_eager`: no compilation: starts sooner, runs slower.
    - `trust_remote_code`: run the Python files that a checkpoint may bring along.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependency("vllm", "vllm", "the sampler vllm")
    _check_numbers(batch_size, max_model_len, gpu_memory_utilization, tensor_parallel_size, data_parallel_size)
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    folder = hf_model.resolve(pretrained, revision)
    config, tokenizer = hf_model.load_texts(folder, trust_remote_code)
    dtype = hf_model.find_dtype(config, dtype, hf_model.find_device(None))
    template = prompting.template(tokenizer, folder, wanted=apply_chat_template, system_instruction=system_instruction)
    identify = functools.partial(
        _identity, folder, dtype, template, system_instruction, max_model_len=max_model_len, logprobs=logprobs
    )
    return VLLMSampler(
        folder=folder,
        identity=identify(),
        form="continuation" if template is None else "message",
        config=config,
        tokenizer=tokenizer,
        template=template,
        eos=hf_model.load_eos(folder, config),
        dtype=dtype,
        max_model_len=max_model_len,
        logprobs=logprobs,
        enable_sleep=enable_sleep,
        data_parallel_size=data_parallel_size,
        system_instruction=system_instruction,
        _identify=identify,
        _open=functools.partial(
            open_engine,
            folder,
            dtype=dtype,
            logprobs=logprobs,
            tensor_parallel_size=tensor_parallel_size,
            max_num_seqs=batch_size,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            enable_sleep_mode=enable_sleep or None,
            enforce_eager=enforce_eager,
            trust_remote_code=trust_remote_code,
        ),
    )


def vllm_version() -> str:
    """Of the package vllm, or of its build for CPUs."""
    names = importlib.metadata.packages_distributions().get("vllm", ["vllm"])
    return " ".join(f"{importlib.metadata.version(name)}" for name in dict.fromkeys(names))


def _identity(
    folder: Path,
    dtype: str,
    template: str | None,
    system_instruction: str | None,
    *,
    max_model_len: int | None,
    logprobs: str,
) -> str:
    """That of the sampler `hf`, unless settings are used that it doesn't have."""
    found = hf_model.identity(folder, dtype, template, system_instruction)
    if max_model_len is None and logprobs == "model":
        return found
    return hashlib.sha256(f"{found} {max_model_len} {logprobs}".encode()).hexdigest()


def _check_numbers(
    batch_size: int | None, max_model_len: int | None, memory: float | None, tensor: int, data: int
) -> None:
    at_least_one = {"batch_size": batch_size, "max_model_len": max_model_len, "tensor_parallel_size": tensor}
    at_least_one["data_parallel_size"] = data
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: it must be at least 1.")
    if memory is not None and not 0 < memory <= 1:
        raise InputError(f"gpu_memory_utilization is {memory}: it must be above 0 and at most 1.")
