"""New weights for a vLLM engine that goes on living: `push` loads them, drops what was cached, and checks the result.

An engine that samples from old or garbled weights looks healthy: its completions are fluent and its rewards plausible.
So a push is given a completion that was scored by the model whose weights are pushed, and vLLM must give it the same
log-probabilities. Not handled: adapters (merge them into a copy first), engines on other machines, sleep level 2.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, InputError
from harness.samplers.vllm_engine import close_engine, score

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.05
"""Largest mean difference, in nats per token, between trainer and vLLM. Rounding in bfloat16 is about 0.01; weights
that were not pushed gave 0.8 in the one published report (TRL issue 5312)."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A completion with the log-probabilities (T), in nats, that the model to be pushed gives its tokens (T)."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]


def push(llm: Any, tensors: Iterable[tuple[str, Tensor]], *, check: Scored, tolerance: float = TOLERANCE) -> float:
    """Loads weights into a running `vllm.LLM`; returns the mean absolute difference, in nats per token, on `check`.

    `tensors` are all weights by the names that the checkpoint's files have (`model.state_dict().items()` of a
    transformers model), on any device. Nothing may be under way in the engine.

    Raises HarnessError when vLLM cannot take the weights, or scores `check` otherwise: the engine then holds neither
    the old weights nor the new ones, and is closed.
    """
    if not check.ids or len(check.ids) != len(check.logprobs):
        raise InputError(
            f"the completion to check a push by has {len(check.ids)} tokens and {len(check.logprobs)} "
            "log-probabilities: give one log-probability for each of at least one token."
        )
    if llm.llm_engine.has_unfinished_requests():
        raise HarnessError("weights cannot be pushed while a stream of completions is open: finish or close it first.")
    try:
        return _load_and_check(llm, tensors, check, tolerance)
    except BaseException:
        close_engine(llm)
        raise


def _load_and_check(llm: Any, tensors: Iterable[tuple[str, Tensor]], check: Scored, tolerance: float) -> float:
    try:
        _load(llm, tensors)
    except (AssertionError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise HarnessError(
            f"vLLM cannot take the pushed weights ({reason}): names and shapes must be those of the checkpoint."
        ) from error
    if llm.reset_prefix_cache() is False:
        raise HarnessError("vLLM could not drop what it had cached of the old weights: load the model anew.")
    found = score(llm, check.prompt_ids, check.ids)
    difference = sum(abs(a - b) for a, b in zip(found, check.logprobs, strict=True)) / len(found)
    if not difference <= tolerance or math.isnan(difference):
        raise HarnessError(
            f"after the push, vLLM's log-probabilities differ from the trainer's by {difference:.3g} nats per token, "
            f"more than {tolerance:g}: the weights did not arrive whole, or the numerics of the two are too far apart."
        )
    return difference


def _load(llm: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    parallel = llm.llm_engine.vllm_config.parallel_config
    executor = getattr(llm.llm_engine, "model_executor", None)
    if parallel.world_size > 1 or executor is None:
        _load_by_file(llm, tensors)  # tensors cannot be handed to other processes by reference
        return
    runner = executor.driver_worker.model_runner
    if "weights_iterator" in inspect.signature(runner.reload_weights).parameters:
        # The only way that is right where vLLM keeps weights in another layout than the checkpoint (CPU, quantised).
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _detached(tensors)})
    else:
        runner.model.load_weights(_detached(tensors))


def _detached(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor.detach()) for name, tensor in tensors)


def _load_by_file(llm: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    from safetensors.torch import save_file

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        # clones: the file format refuses tensors that share memory (tied embeddings)
        save_file({n: t.cpu().clone().contiguous() for n, t in _detached(tensors)}, Path(folder, "model.safetensors"))
        llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
