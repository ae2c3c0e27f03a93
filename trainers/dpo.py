"""DPO on pairs of a right and a wrong completion of the same problem: Rafailov et al. 2023, arXiv 2305.18290.

With pi_ref the model that training begins with, an optimiser step minimises over its pairs (x, chosen, rejected)

    loss = -mean log sigmoid( beta ( log pi(chosen|x) / pi_ref(chosen|x) - log pi(rejected|x) / pi_ref(rejected|x) ) )

Which completion is right is not a matter of taste here: tests or answers say so (`select.pairs` of a recipe). What
pi_ref says of the pairs is computed once, before the first step, so that no second model is in memory.

`train(rows, init=..., out=..., ...)` is the function; its rows have `rejected`. Defaults: beta 0.1, as in the paper,
whose learning rates for all weights are about 1e-6, far below those of SFT. Deviations: none; a pair of which one side
doesn't fit the model's context is left out, with a notice.

Not handled: weights of pairs, label smoothing, other losses on pairs (IPO, KTO), a reference that moves along, and
completions that were cut at max_tokens: an end token is put after them as after the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from harness import progress as progress_
from harness.errors import InputError
from harness.recipes import Improvement
from harness.samplers import hf_model
from harness.trainers import epochs, phase, together
from harness.trainers.batches import TokenRow, collate
from harness.trainers.lm import LM, completion_ids, forward, pass_tokens, prompt_ids
from harness.trainers.logprobs import completion_logprobs
from harness.trainers.losses import Stats, dpo_loss, sequence_logprobs
from harness.trainers.sft import identity
from harness.types import Row, Trained


@dataclass(frozen=True)
class Pair:
    """One comparison, as tokens, and the two log-probabilities under the reference, in nats."""

    chosen: TokenRow
    rejected: TokenRow
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def longest(self) -> int:
        """Tokens of the longer side, prompt included."""
        return max(len(row.prompt_ids) + len(row.completion_ids) for row in (self.chosen, self.rejected))


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
    """Trains the model in `init` to prefer `completion` to `rejected`; arguments and errors are as for `sft.train`."""
    if improve.loss != "dpo":
        raise InputError(f"the loss {improve.loss!r} is not for dpo: rows to imitate are trained by trainers/sft.py.")
    if not improve.beta > 0:
        raise InputError(f"beta is {improve.beta}: it must be above 0, say 0.1.")
    kept = _checked(rows)
    with phase.hold(out, identity(rows, init, improve, seed, (dtype, apply_chat_template, system_instruction))):
        before: Trained | None = phase.finished(out)
        if before is not None:
            return before
        job = together.Job(
            trainer="dpo",
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


def prepare(lm: LM, job: together.Job, progress: progress_.Progress) -> tuple[list[Pair], epochs.Losses[Pair]]:
    """The pairs as tokens with what the model says of them before it is trained, and the losses of those of a step."""
    pairs = refer(lm, tokenize(lm, job.rows, progress), job.improve.batch_tokens)
    return pairs, lambda step: _losses(lm, step, job.improve)


def tokenize(lm: LM, rows: Sequence[Row], progress: progress_.Progress) -> list[Pair]:
    """The pairs that fit the model's context, as tokens. InputError if none does."""
    pairs = []
    for row in rows:
        prompt = prompt_ids(lm, row.prompt, row.problem_id)
        sides = [
            TokenRow(prompt_ids=prompt, completion_ids=completion_ids(lm, prompt, text))
            for text in (row.completion, str(row.rejected))
        ]
        pair = Pair(*sides)
        if lm.context is None or pair.longest <= lm.context:
            pairs.append(pair)
    if not pairs:
        raise InputError(f"all {len(rows)} pairs are longer than the {lm.context} tokens of the model in {lm.folder}.")
    if left_out := len(rows) - len(pairs):
        progress.note(
            f"{left_out} of {len(rows)} pairs are longer than the model's {lm.context} tokens and are left out."
        )
    return pairs


@torch.no_grad()
def refer(lm: LM, pairs: Sequence[Pair], batch_tokens: int) -> list[Pair]:
    """The pairs with what `lm` says of them, without dropout, before it is trained."""
    found_P2 = torch.zeros(len(pairs), 2, dtype=torch.float64)
    lm.model.eval()
    for places, counts in lm.ranks.share(_groups(pairs, pass_tokens(lm, batch_tokens))):
        sums, _ = _sums(lm, [pairs[place] for place in places])
        if counts:
            found_P2[places] = torch.stack(sums, dim=-1).double().cpu()
    lm.model.train()
    reference_P2 = lm.ranks.total(found_P2).tolist()  # each pair is one process's
    return [replace(pair, reference=(each[0], each[1])) for pair, each in zip(pairs, reference_P2, strict=True)]


def _checked(rows: Sequence[Row]) -> list[Row]:
    """The rows in an order that depends on their content alone."""
    if not rows:
        raise InputError(
            "there are no pairs to train on (the treatment's `select` found no problem with a right and a wrong "
            "completion): draw more completions per problem, or take harder or easier problems."
        )
    for row in rows:
        if row.rejected is None:
            raise InputError(f"a row of problem {row.problem_id!r} has no `rejected`: DPO needs `select.pairs`.")
        if row.weight != 1:
            raise InputError(f"a pair of problem {row.problem_id!r} has the weight {row.weight}: DPO has no weights.")
    return sorted(rows, key=msgspec.json.encode)


def _losses(lm: LM, pairs: Sequence[Pair], improve: Improvement) -> list[epochs.MicroLoss]:
    groups = _groups(pairs, pass_tokens(lm, improve.batch_tokens))
    return [partial(_loss, lm, [pairs[place] for place in places], len(pairs), improve.beta) for places in groups]


def _loss(lm: LM, group: Sequence[Pair], normaliser: float, beta: float) -> tuple[Tensor, Stats]:
    (chosen_B, rejected_B), n_tokens = _sums(lm, group)
    reference_B2 = torch.tensor([pair.reference for pair in group], device=chosen_B.device)
    loss, stats = dpo_loss(
        chosen_B,
        rejected_B,
        reference_chosen_B=reference_B2[:, 0],
        reference_rejected_B=reference_B2[:, 1],
        normaliser=normaliser,
        beta=beta,
    )
    return loss, {**stats, "length": n_tokens}


def _groups(pairs: Sequence[Pair], token_budget: int) -> list[list[int]]:
    """Places of the pairs of each pass, the longest first, both sides of a pair together."""
    groups: list[list[int]] = []
    for place in sorted(range(len(pairs)), key=lambda place: (-pairs[place].longest, place)):
        if groups and 2 * (len(groups[-1]) + 1) * pairs[groups[-1][0]].longest <= token_budget:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _sums(lm: LM, pairs: Sequence[Pair]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Log-probabilities of the chosen and of the rejected completions, (B,) each, and how many tokens they have."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    batch = collate(rows, range(len(rows))).to(lm.device)
    logprobs_BT = forward(lm, lambda model: completion_logprobs(model, batch, head=lm.head).logprobs_BT)
    chosen_B, rejected_B = sequence_logprobs(logprobs_BT, batch.mask_BT).chunk(2)
    return (chosen_B, rejected_B), batch.mask_BT.sum()
