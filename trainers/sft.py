"""Supervised fine-tuning on weighted rows: the improve step of RFT, ReST-EM, STaR, RAFT, RWR and distillation.

With w_i the weight of row i and l_it the log-probability of its token t, an optimiser step minimises

    loss = -(1 / sum_i w_i |y_i|) sum_i w_i sum_t l_it

over its rows: the next-token loss on completions alone, the end token included (ReST-EM, arXiv 2312.06585, section
3). The normaliser is of the whole step, so a row of weight 2 is the same as the row twice, and neither the order of the
rows nor the size of micro-batches matters. Tokens, not rows, are averaged over, as in transformers and TRL: a long
completion counts for more than a short one.

`train(rows, init=..., out=..., ...)` is the function. Defaults (`harness.recipes.Improvement`) are those usual in
published RFT runs: 3 epochs, cosine to 0, 3 % warm-up, no weight decay; the learning rate of 1e-5 is for all weights
(1e-4 and above with LoRA). ReST-EM's paper doesn't give its own.

Not handled: packing, loss on prompts, conversations of several turns. Pairs are for `dpo.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from torch import Tensor

from harness import progress as progress_
from harness.errors import InputError
from harness.recipes import Improvement
from harness.samplers import hf_model
from harness.trainers import epochs, phase, together
from harness.trainers.batches import Batch, TokenRow, micro_batches
from harness.trainers.lm import LM, completion_ids, forward, pass_tokens, prompt_ids
from harness.trainers.logprobs import completion_logprobs
from harness.trainers.losses import Stats, nll_loss
from harness.types import Row, Trained


def train(
    rows: Sequence[Row],
    *,
    init: Path,
    out: Path,
    improve: Improvement,
    seed: int,
    device: str | None = None,
    dtype: str = "auto",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    validate: Callable[[Path], float] | None = None,
    save_every_s: float = 600,
    progress: progress_.Progress = progress_.silent,
) -> Trained:
    """Trains the model in `init` on `rows` and leaves `out/checkpoint`; goes on where an earlier call was stopped.

    Args:
        rows: prompts and completions with weights; their order does not matter. Those without weight are left out, and
            so are those longer than the model's context, with a notice.
        init: folder of the first weights.
        out: the phase's folder (`trainers/phase.py`). If training is done there, its account is returned at once.
        improve: epochs, batch sizes, optimiser, LoRA.
        seed: for the order of rows, dropout and a new adapter.
        device: as for `lm.open_model`, and so are the next three.
        dtype: of passes through the model.
        apply_chat_template: None: where the tokenizer has one.
        system_instruction: before every prompt.
        validate: the score of a checkpoint's folder, higher is better; for `until: validation`. It is called after each
            epoch, and again for the same weights if it was interrupted.
        save_every_s: seconds between two states to go on from.
        progress: its notes are for the user.

    Raises:
        InputError: no rows, or rows, settings or a model that cannot be used.
        RunMismatch: `out` is of another training, or in use.
        HarnessError: the gradients are not finite, or the disk is full.
        SystemExit: status 75 after SIGTERM or SIGINT, with the state saved: the same call goes on.
    """
    if improve.loss != "nll":
        raise InputError(f"the loss {improve.loss!r} is not for sft: pairs are trained by trainers/dpo.py.")
    kept = weighted(rows)
    with phase.hold(out, identity(rows, init, improve, seed, (dtype, apply_chat_template, system_instruction))):
        before: Trained | None = phase.finished(out)
        if before is not None:
            return before
        job = together.Job(
            trainer="sft",
            rows=tuple(kept),
            init=str(init),
            out=str(out),
            improve=improve,
            seed=seed,
            device=hf_model.find_device(device),
            dtype=dtype,
            apply_chat_template=apply_chat_template,
            system_instruction=system_instruction,
            save_every_s=save_every_s,
        )
        trained: Trained = together.run(job, validate, progress)
        return trained


def prepare(lm: LM, job: together.Job, progress: progress_.Progress) -> tuple[list[TokenRow], epochs.Losses[TokenRow]]:
    """The rows as tokens, and the losses of those of a step."""
    return tokenize(lm, job.rows, progress), lambda step: _losses(lm, step, job.improve.batch_tokens)


def weighted(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a weight, in an order that depends on their content alone.

    Raises:
        InputError: there is none, or a weight is negative or not a number.
    """
    for row in rows:
        if not (math.isfinite(row.weight) and row.weight >= 0):
            raise InputError(f"a row of problem {row.problem_id!r} has the weight {row.weight}: it must be from 0.")
    kept = sorted((row for row in rows if row.weight > 0), key=msgspec.json.encode)
    if not kept:
        why = f"all {len(rows)} rows have weight 0" if rows else "the treatment's `select` kept none of the completions"
        raise InputError(
            f"there are no rows to train on ({why}): lower its threshold, draw more completions per problem, or begin "
            "with problems that the model solves now and then."
        )
    return kept


def tokenize(lm: LM, rows: Sequence[Row], progress: progress_.Progress) -> list[TokenRow]:
    """The rows that fit the model's context, as tokens. InputError if none does."""
    kept = []
    for row in rows:
        prompt = prompt_ids(lm, row.prompt, row.problem_id)
        completion = completion_ids(lm, prompt, row.completion, complete=row.complete)
        if lm.context is None or len(prompt) + len(completion) <= lm.context:
            kept.append(TokenRow(prompt_ids=prompt, completion_ids=completion, weight=row.weight))
    if not kept:
        raise InputError(
            f"all {len(rows)} rows are longer than the {lm.context} tokens of the model in {lm.folder}: "
            "use fewer few-shot examples or a lower max_tokens."
        )
    if left_out := len(rows) - len(kept):
        progress.note(
            f"{left_out} of {len(rows)} rows are longer than the model's {lm.context} tokens and are left out."
        )
    return kept


def identity(
    rows: Sequence[Row], init: Path, improve: Improvement, seed: int, prompts: tuple[str, bool | None, str | None]
) -> str:
    """A hash of all that decides what is learnt: not of `batch_tokens` and `processes`, which may change on the way."""
    dtype, chat, system = prompts
    parts = {
        "rows": sorted(map(msgspec.json.encode, rows)),
        "init": hf_model.identity(init, dtype, str(chat), system),
        "improve": msgspec.structs.replace(improve, batch_tokens=0, processes=1),
        "seed": seed,
    }
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _losses(lm: LM, rows: Sequence[TokenRow], batch_tokens: int) -> list[epochs.MicroLoss]:
    normaliser = math.fsum(row.weight * row.n_tokens for row in rows)
    batches = micro_batches(rows, token_budget=pass_tokens(lm, batch_tokens))
    return [partial(_loss, lm, batch, normaliser) for batch in batches]


def _loss(lm: LM, batch: Batch, normaliser: float) -> tuple[Tensor, Stats]:
    here = batch.to(lm.device)
    logprobs_BT = forward(lm, lambda model: completion_logprobs(model, here, head=lm.head).logprobs_BT)
    result: tuple[Tensor, Stats] = nll_loss(logprobs_BT, here.mask_BT, normaliser=normaliser, weights=here.weights_B)
    return result
