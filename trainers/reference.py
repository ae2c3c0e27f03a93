"""What other models than the sampler say about completions: `frozen` opens the reference, `logprobs_of` asks a model.

Not handled: a reference that moves along with the policy; one that does not fit beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from harness.trainers.batches import TokenRow, micro_batches
from harness.trainers.lm import LM, autocast
from harness.trainers.logprobs import completion_logprobs
from harness.trainers.rollouts import Rollout

Opener = Callable[[], contextlib.AbstractContextManager[LM]]


def frozen(lm: LM, folder: Path, opened: Callable[[Path], LM]) -> Opener:
    """The model in `folder`, without gradients; where it is the one that `lm` adapts, `lm` without its adapter."""
    if lm.lora and folder.resolve() == lm.folder.resolve():

        @contextlib.contextmanager
        def unadapted() -> Iterator[LM]:
            with lm.model.disable_adapter():
                yield lm

        return unadapted
    other = opened(folder)
    other.model.requires_grad_(False).to(other.compute)
    return lambda: contextlib.nullcontext(other)


@torch.no_grad()
def logprobs_of(
    lm: LM,
    *,
    made: Sequence[Rollout],
    temperature: float,
    batch_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """The log-probability of every sampled token under `lm`, without dropout, completion by completion."""
    rows = [TokenRow(prompt_ids=one.prompt_ids, completion_ids=one.ids) for one in made]
    found: list[list[float]] = [[] for _ in rows]
    training = lm.model.training
    lm.model.eval()
    for batch in micro_batches(rows, token_budget=batch_tokens):
        check()
        with autocast(lm):
            scores = completion_logprobs(lm.model, batch.to(lm.device), temperature=temperature, head=lm.head)
        for place, logprobs in zip(batch.rows, scores.logprobs_BT.tolist(), strict=True):
            found[place] = logprobs[: len(made[place].ids)]
    lm.model.train(training)
    return found
