"""vLLM in this process: `open_engine` loads a model, `stream` samples from it, `score` gives log-probabilities.

A process has room for one engine: what vLLM shares out among GPUs is global to it. Opening one closes the one before.

The one place that imports vLLM. Token ids go in and come out: vLLM's own tokenizer is not loaded, its stop strings are
not used, and texts are made by `prompting.added_text`, so that they are to the letter those of the sampler `hf`.

Every completion is a request of its own, with a seed of its own. vLLM's `n` does the same inside (it makes n requests
with the seeds s, s+1, ...) but cannot leave out those that a resumed run has. Requests of one prompt share its prefill
by prefix caching, in whole blocks: 16 tokens on a GPU, 128 on a CPU.

Not handled: LoRA, images, speculative decoding, engines that more than one stream uses at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import HarnessError, InputError
from harness.samplers.prompting import Request, added_text, end_ids
from harness.types import Budget

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights can be pushed without a copy
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before vLLM is imported, unless the user has set them."""

MIN_TEMPERATURE = 0.01
"""vLLM takes lower ones (but 0) for this one."""

_opened: Any = None
"""The engine that this process has."""

CHECK_EVERY = 4
"""Tokens between two looks for stop strings: what was sampled past one is thrown away."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One finished completion as tokens: what trainers need."""

    problem_id: str
    index: int
    prompt_ids: list[int]
    ids: list[int]
    """Sampled tokens (T), the end token included."""
    logprobs: list[float]
    """Log-probabilities (T) in nats, see `open_engine`."""
    text: str
    stop_reason: Literal["stop", "length"]


@dataclass(kw_only=True, slots=True)
class _Live:
    """A completion while it is being sampled."""

    request: Request
    index: int
    ends: frozenset[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def open_engine(
    folder: Path, *, dtype: str, logprobs: Literal["model", "sampling"], tensor_parallel_size: int, **options: Any
) -> Any:
    """A `vllm.LLM` that holds the model of `folder`; `options` are further arguments of its, None: vLLM's own.

    `logprobs`: "model" is the distribution of the model itself, at temperature 1 and without top_k and top_p (vLLM's
    raw_logprobs), "sampling" the one that tokens are drawn from (processed_logprobs).
    """
    global _opened
    close_engine(_opened)
    arguments = {name: value for name, value in options.items() if value is not None}
    with _calm(hide_errors=tensor_parallel_size == 1), _same_random_state():
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import vllm
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            # vLLM would plan with nearly all memory of the machine, and refuse to start when some of it is in use.
            if "gpu_memory_utilization" not in arguments:
                arguments.setdefault("kv_cache_memory_bytes", 2 << 30)
            arguments.pop("enable_sleep_mode", None)  # weights are in main memory: there is nothing to move
            # After a part of a prompt vLLM sets a seeded generator back, which generators on a CPU cannot do: it fails.
            arguments["enable_chunked_prefill"] = False
        try:
            _opened = vllm.LLM(
                model=str(folder),
                dtype=dtype,
                skip_tokenizer_init=True,
                generation_config="vllm",
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                logprobs_mode="raw_logprobs" if logprobs == "model" else "processed_logprobs",
                tensor_parallel_size=tensor_parallel_size,
                **arguments,
            )
            return _opened
        except (ValueError, RuntimeError, OSError, AssertionError, KeyError, ImportError) as error:
            raise InputError(
                f"vLLM cannot load {folder} ({_reason(error)}): max_model_len and gpu_memory_utilization change what "
                "memory it needs, and the sampler hf takes more kinds of models."
            ) from error


def is_open(llm: Any) -> bool:
    """Whether `llm` is the engine of this process."""
    return llm is not None and llm is _opened


def close_engine(llm: Any) -> None:
    """Gives back what an engine holds; nothing happens when it is closed already."""
    global _opened
    if is_open(llm):
        _opened = None
        llm.llm_engine.engine_core.shutdown()


def stream(
    llm: Any, tokenizer: Any, asked: Sequence[Request], *, budget: Budget, eos: int | list[int] | None
) -> Generator[Sampled, None, None]:
    """Samples everything that is `asked`; yields each completion when it is finished.

    `eos` are the end tokens of the model's generation config. When the iterator is closed early, what is under way is
    dropped. Memory is bounded: the engine is given twice as many requests as it can run at once, and more when some of
    them are finished.
    """
    engine = llm.llm_engine
    if engine.has_unfinished_requests():
        raise HarnessError("this vLLM engine is still sampling for another stream: finish or close that one first.")
    ends = {request.stop: end_ids(tokenizer, eos, request.stop) for request in asked}
    waiting = ((request, index) for request in asked for index in request.indices)
    width = 2 * int(engine.vllm_config.scheduler_config.max_num_seqs)
    live: dict[str, _Live] = {}
    names = map(str, itertools.count())
    try:
        while True:
            for request, index in itertools.islice(waiting, width - len(live)):
                row = _Live(request=request, index=index, ends=ends[request.stop])
                name = next(names)
                _add(engine, name, row, budget)
                live[name] = row
            if not live:
                return
            for output in engine.step():
                row_or_none = live.get(output.request_id)
                if row_or_none is None:
                    continue  # it met a stop string in the step before
                finished = _take(row_or_none, output, tokenizer)
                if finished is None:
                    continue
                del live[output.request_id]
                if not output.finished:
                    engine.abort_request([output.request_id])
                yield finished
    finally:
        if live:
            engine.abort_request(list(live))


def seed_of(seed: int, problem_id: str, index: int) -> int:
    """The seed of one completion (63 bits), whatever else is sampled and in which order."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _add(engine: Any, name: str, row: _Live, budget: Budget) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    request = row.request
    parameters = SamplingParams(
        temperature=budget.temperature,
        top_p=budget.top_p,
        top_k=budget.top_k,
        seed=seed_of(budget.seed, request.problem_id, row.index),
        max_tokens=request.room,
        ignore_eos=True,  # all end tokens are in the next line
        stop_token_ids=sorted(row.ends),
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if request.stop else RequestOutputKind.FINAL_ONLY,
    )
    try:
        engine.add_request(name, {"prompt_token_ids": request.prompt_ids}, parameters)
    except ValueError as error:
        raise InputError(f"vLLM refuses problem {request.problem_id!r} ({_reason(error)}).") from error


def _take(row: _Live, output: Any, tokenizer: Any) -> Sampled | None:
    """Adds what `output` brings to `row`; the completion if that finishes it."""
    part = output.outputs[0]
    row.ids += part.token_ids
    row.logprobs += part.logprobs.logprobs
    if not all(map(math.isfinite, part.logprobs.logprobs)):
        raise InputError(
            f"the model's logits are not finite on problem {row.request.problem_id!r}: its weights are broken, or "
            "dtype is too narrow for it."
        )
    if output.finished:
        if part.finish_reason not in ("stop", "length"):
            raise HarnessError(
                f"vLLM gave up on problem {row.request.problem_id!r} with {part.finish_reason!r}: see its messages."
            )
        return _finish(row, tokenizer)
    if len(row.ids) % CHECK_EVERY == 0 and _may_stop(row, tokenizer):
        return _finish(row, tokenizer, only_if_stopped=True)
    return None


def _may_stop(row: _Live, tokenizer: Any) -> bool:
    """Whether a stop string is in the text of the last tokens: a cheap look, `_finish` is the exact one.

    A token is at least one byte, so a stop string of b bytes that was finished since the last look begins no more than
    b + CHECK_EVERY tokens ago; some more, because a letter of the first token may be cut.
    """
    size = max(len(stop.encode()) for stop in row.request.stop) + CHECK_EVERY + 8
    text = tokenizer.decode(row.ids[-size:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return any(stop in text for stop in row.request.stop)


def _finish(row: _Live, tokenizer: Any, *, only_if_stopped: bool = False) -> Sampled | None:
    """The completion up to the token that completes its first stop string, or up to its end."""
    request, ended = row.request, row.ids[-1] in row.ends

    def text_of(length: int) -> str:
        return added_text(tokenizer, request.prompt_ids, row.ids[:length])

    length = len(row.ids) - ended
    text = text_of(length)
    stopped = any(stop in text for stop in request.stop)
    if stopped:
        low = 1  # fewest tokens whose text has a stop string, by bisection
        while low < length:
            middle = (low + length) // 2
            held = any(stop in text_of(middle) for stop in request.stop)
            low, length = (low, middle) if held else (middle + 1, length)
        text = text_of(length)
        text = text[: min(place for place in map(text.find, request.stop) if place >= 0)]
        ended = False
    elif only_if_stopped:
        return None
    return Sampled(
        problem_id=request.problem_id,
        index=row.index,
        prompt_ids=request.prompt_ids,
        ids=row.ids[: length + ended],
        logprobs=row.logprobs[: length + ended],
        text=text,
        stop_reason="stop" if stopped or ended else "length",
    )


def score(llm: Any, prompt_ids: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Log-probability (T), in nats, of each of `ids` (T) after the prompt, under the model itself at temperature 1.

    The model must have room for one token more.
    """
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False, ignore_eos=True
    )
    prompt = {"prompt_token_ids": [*prompt_ids, *ids]}
    output = llm.generate([prompt], parameters, use_tqdm=False)[0]
    flat = output.prompt_logprobs  # the first token has none
    return [float(flat.logprobs[flat.start_indices[i]]) for i in range(len(prompt_ids), len(prompt_ids) + len(ids))]


def _reason(error: Exception) -> str:
    """What an error of vLLM's says, on one line of readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]  # pydantic: the cause is on the second line
    return " ".join(lines)[:300] or type(error).__name__


@contextlib.contextmanager
def _calm(*, hide_errors: bool) -> Iterator[None]:
    """What vLLM, torch and their C++ parts print goes to stderr; with `hide_errors` it is shown only after a failure.

    Worker processes of several GPUs inherit stderr: theirs must stay open, so nothing is hidden there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as printed, warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:
            if hide_errors:
                os.dup2(printed.fileno(), 2)
            os.dup2(2, 1)
            yield
        except BaseException:
            sys.stdout.flush()
            printed.seek(0)
            os.write(before[1], printed.read())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in enumerate(before, start=1):
                os.dup2(saved, number)
                os.close(saved)


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """vLLM seeds the generators of the whole process when it starts; a trainer in this process has its own plans."""
    import torch

    python, arrays = random.getstate(), np.random.get_state()
    # only GPUs that this process uses already: to look at another would start CUDA before vLLM does
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=used):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
