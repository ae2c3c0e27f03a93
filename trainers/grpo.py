"""Policy gradients on policy, in small rounds: GRPO and its variants, RLOO, REINFORCE and max@k as one trainer.

Papers: GRPO, Shao et al. 2024, arXiv 2402.03300; DAPO, Yu et al. 2025, arXiv 2503.14476; Dr. GRPO, arXiv 2503.20783;
GSPO, arXiv 2507.18071; CISPO, arXiv 2506.13585; RLOO, arXiv 2402.14740; max@k, arXiv 2505.15201.

Objective: the expected reward of completions y of problems x (or the expected best of k),

    max_theta  E_x E_{y ~ pi_theta(.|x)} [ r(x, y) ] - beta KL(pi_theta || pi_ref)

A round: `problems` problems get `sample.n` completions each by the model as it is now, these are graded and rewarded
(`rollouts.py`), rewards become advantages (`advantages.py`), and `updates` passes over them minimise the loss of
`losses.py`, one optimiser step for every `batch_rows` completions. With `kl_in_reward` the divergence is taken off the
rewards, as in RLOO's paper, else it is a term of the loss. `train` is the whole of it; `on_policy.py` has what
follows from the settings, `ledger.py` the account, `reference.py` what other models say.

Defaults, and why: the mean over all tokens (dapo), since the mean in each completion favours short right answers and
long wrong ones; advantages not divided by the group's deviation, which favours problems that are nearly always or
nearly never solved; no KL; clipping 0.2 / 0.28; one update, where neither the ratio nor the clip does anything;
truncated completions do not train, but their rewards count in their group's mean; learning rate 1e-6 for all weights.

Deviations from TRL 1.16, none of which changes the gradient: the sampler's log-probabilities are those of the policy,
so no second pass makes them; completions whose advantage is 0 are not run at all, and still count in the normaliser; a
round in which no completion has an advantage takes no step, not even by momentum. Where the sampler computes in less
than float32, its log-probabilities differ from the trainer's: weights correct for it (`mismatch.py`), and with several
steps per round the old log-probabilities are the trainer's, at the price of one pass. "entropy" in the history is
-mean log p of the sampled tokens, which is the entropy on average and free.

Resumes: the state (weights, optimiser, place) is saved every `save_every` rounds, and each round's completions as soon
as they are rewarded, so that after a kill at any moment the same call ends with the same weights, to the bit on a CPU.

Not handled: a critic (PPO), dynamic sampling, other samplers than transformers', several devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from harness.progress import Progress, silent
from harness.recipes import OnPolicy, Reward
from harness.samplers import hf_model
from harness.trainers import phase, rollouts
from harness.trainers.batches import TokenRow, count, micro_batches
from harness.trainers.ledger import Ledger, account, close_round, count_step, restored, rewards_of, save
from harness.trainers.lm import LM, autocast, must_recompute, open_model, pass_tokens, recompute, save_checkpoint
from harness.trainers.logprobs import completion_logprobs
from harness.trainers.losses import PolicyLoss, Stats, normaliser, policy_loss, summarise
from harness.trainers.mismatch import correction, summarise_mismatch
from harness.trainers.on_policy import (
    advantages_of,
    checked,
    identity,
    optim,
    penalised,
    steps_of,
    steps_per_round,
    token_row,
)
from harness.trainers.optim import adamw, optimiser_step
from harness.trainers.reference import Opener, frozen, logprobs_of
from harness.trainers.rollouts import Rollout, Round
from harness.types import Budget, Limits, Problem, Sandbox, Task, Trained


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training is made of."""

    task: Task
    out: Path
    lm: LM
    reference: Opener | None
    """Opens the model to stay close to, frozen; None where the loss has no beta."""
    optimiser: torch.optim.Optimizer
    settings: OnPolicy
    loss: PolicyLoss
    sample: Budget
    reward: Reward
    seed: int
    sandbox: Sandbox | None
    limits: Limits
    ledger: Ledger
    clock: phase.Clock
    check: Callable[[], None]
    """Raises SystemExit when the process was asked to stop; called before every token and every micro-batch."""
    progress: Progress


def train(
    task: Task,
    *,
    init: Path,
    out: Path,
    on_policy: OnPolicy,
    sample: Budget,
    reward: Reward,
    seed: int,
    sandbox: Sandbox | None = None,
    limits: Limits = Limits(),
    reference: Path | None = None,
    device: str | None = None,
    dtype: str = "auto",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    progress: Progress = silent,
) -> Trained:
    """Trains the model in `init` on its own completions, and leaves `out/checkpoint`; goes on where it was stopped.

    Args:
        task: training problems, and how completions are read and graded.
        init: folder of the first weights.
        out: the phase's folder (`trainers/phase.py`). If training is done there, its account is returned at once.
        on_policy: the method.
        sample: how completions are drawn; `n` of each problem per round.
        reward: terms and weights.
        seed: for the order of problems and rows, the draws, dropout and a new adapter.
        sandbox: runs programs; None where no problem has tests.
        limits: what the sandbox allows a program; a problem with a gold solution has less (`harness.gold`).
        reference: folder of the model to stay close to, where the loss has beta; None: `init`.
        device: as for `lm.open_model`, and so are the next three.
        dtype: of passes through the model.
        apply_chat_template: None: where the tokenizer has one.
        system_instruction: before every prompt.
        progress: told of completions, and of what the user should know.

    Raises:
        InputError: settings that don't go together, or a model that cannot be used.
        RunMismatch: `out` is of another training, or in use.
        HarnessError: the gradients are not finite, or the disk is full.
        SystemExit: status 75 after SIGTERM or SIGINT, with the state saved: the same call goes on.
    """
    loss = checked(task, on_policy, sample)
    what = identity(
        task,
        init=init,
        reference=(reference or init) if loss.beta else None,
        on_policy=on_policy,
        sample=sample,
        reward=reward,
        seed=seed,
        prompts=(dtype, apply_chat_template, system_instruction),
    )
    with phase.hold(out, what):
        before: Trained | None = phase.finished(out)
        if before is not None:
            return before
        device = hf_model.find_device(device)

        opened = functools.partial(
            open_model,
            device=device,
            dtype=dtype,
            apply_chat_template=apply_chat_template,
            system_instruction=system_instruction,
        )
        with phase.isolated(seed, device), phase.stop_signals() as stopping:

            def check() -> None:
                if stopping():
                    raise SystemExit(phase.INTERRUPTED)

            lm = opened(init, lora=on_policy.lora)
            if must_recompute(lm, on_policy.batch_tokens):
                recompute(lm)
            optimiser = adamw(lm.model, optim(on_policy, sample))
            ledger = restored(out, lm, optimiser)
            run = Run(
                task=task,
                out=out,
                lm=lm,
                reference=frozen(lm, reference or init, opened) if loss.beta else None,
                optimiser=optimiser,
                settings=on_policy,
                loss=loss,
                sample=sample,
                reward=reward,
                seed=seed,
                sandbox=sandbox,
                limits=limits,
                ledger=ledger,
                clock=phase.Clock(ledger.seconds),
                check=check,
                progress=progress,
            )
            rounds(run)
            with run.clock("save"):
                save_checkpoint(lm, out / "checkpoint")
            done: Trained = phase.finish(out, account(ledger, run.clock.seconds, device))
            return done


def rounds(run: Run) -> None:
    """Every round that is left."""
    ledger, settings = run.ledger, run.settings
    a_round = settings.problems * (run.sample.n or 1)
    run.progress.start(settings.rounds * a_round, ledger.round * a_round, ledger.round * a_round)
    order = rollouts.rounds_of(len(run.task.problems), settings.problems, run.seed)
    try:
        for places in islice(order, ledger.round, settings.rounds):
            made = completions(run, [run.task.problems[place] for place in places])
            with run.clock("train"):
                learn(run, made.rollouts)
            for part, seconds in made.seconds.items():
                run.clock.seconds[part] = run.clock.seconds.get(part, 0.0) + seconds
            for notice in close_round(ledger, made, run.sample.n or 1):
                run.progress.note(notice)
            if ledger.round % settings.save_every == 0 and ledger.round < settings.rounds:
                save(ledger, out=run.out, lm=run.lm, optimiser=run.optimiser, clock=run.clock)
    except SystemExit:
        save(ledger, out=run.out, lm=run.lm, optimiser=run.optimiser, clock=run.clock)
        raise


def completions(run: Run, problems: Sequence[Problem]) -> Round:
    """Those of this round, with all that the loss needs: kept from before a kill, or else made and kept."""
    ledger, path = run.ledger, rollouts.file_of(run.out / "state", run.ledger.round)
    made: Round | None = rollouts.read(path)
    if made is None:
        made = rollouts.roll_out(
            run.lm,
            run.task,
            rollouts.timed(problems, run.task, run.sandbox, limits=run.limits, out=run.out, progress=run.progress),
            budget=rollouts.budget_of(run.sample, run.seed, ledger.round),
            reward=run.reward,
            sandbox=run.sandbox,
            slots=ledger.slots,
            check=run.check,
            progress=run.progress,
        )
        ask = functools.partial(
            logprobs_of,
            made=made.rollouts,
            temperature=run.sample.temperature,
            batch_tokens=pass_tokens(run.lm, run.settings.batch_tokens),
            check=run.check,
        )
        columns: dict[str, list[list[float]]] = {}
        with run.clock("train"):
            if not exact(run.lm) and steps_per_round(run.settings, run.sample) > 1:
                columns["old_logprobs"] = ask(run.lm)
            if run.reference is not None:
                with run.reference() as reference:
                    columns["reference_logprobs"] = ask(reference)
        made = rollouts.with_columns(made, columns)
        rollouts.write(path, made)
    ledger.slots = made.slots
    return made


def learn(run: Run, made: Sequence[Rollout]) -> None:
    """The optimiser steps of this round that are not done yet."""
    settings = run.settings
    reward_PG = penalised(rewards_of(made, run.sample.n or 1), made, run.loss)
    advantages = advantages_of(reward_PG, settings).ravel().tolist()
    several = steps_per_round(settings, run.sample) > 1
    rows = [
        token_row(one, advantage, masked=settings.mask_truncated and one.truncated, old=several)
        for one, advantage in zip(made, advantages, strict=True)
    ]
    for places in steps_of(len(rows), settings, run.seed, run.ledger.round)[run.ledger.step :]:
        step(run, [rows[place] for place in places])


def step(run: Run, rows: Sequence[TokenRow]) -> None:
    """One optimiser step on these rows. Those without a gradient are left out, and counted in the normaliser."""
    ledger, lm, temperature = run.ledger, run.lm, run.sample.temperature
    n_tokens, n_rows = count(rows)
    batches = micro_batches(
        [row for row in rows if row.n_tokens],
        token_budget=pass_tokens(run.lm, run.settings.batch_tokens),
        skip_weightless=run.loss.may_skip,
    )
    if not batches:
        count_step(ledger, None, 0, {})
        return
    z = normaliser(
        run.loss,
        n_tokens=n_tokens,
        n_rows=n_rows,
        max_completion_tokens=run.sample.max_tokens,
        n_micro_batches=len(batches),
    )
    per_round = steps_per_round(run.settings, run.sample)
    place = ledger.round * per_round + ledger.step
    torch.manual_seed(rollouts.seed_of(run.seed, "dropout", place))  # a step that is done again is the same
    losses: list[Tensor] = []
    stats: list[Stats] = []
    mismatch: list[Stats] = []
    for each in batches:
        run.check()
        batch = each.to(lm.device)
        with autocast(lm):
            scores = completion_logprobs(
                lm.model, batch, temperature=temperature, head=lm.head, entropy=run.loss.entropy != 0
            )
        drew_BT = scores.logprobs_BT.detach()
        weights = correction(drew_BT, batch, mismatch, first=ledger.step == 0, exact=exact(lm))
        loss, sums = policy_loss(
            scores.logprobs_BT,
            batch.mask_BT,
            advantages=batch.weights_B,
            normaliser=z,
            config=run.loss,
            old_logprobs_BT=batch.old_logprobs_BT,
            reference_logprobs_BT=batch.reference_logprobs_BT,
            weights=weights,
            entropy_BT=scores.entropy_BT,
        )
        loss.backward()
        losses.append(loss.detach())
        stats.append(sums)
    done = optimiser_step(
        run.optimiser,
        step=place,
        total_steps=run.settings.rounds * per_round,
        config=optim(run.settings, run.sample),
    )
    measured = summarise_mismatch(mismatch)  # of the weights only where there are any
    figures = {
        "loss": float(torch.stack(losses).sum()),
        "grad_norm": done.grad_norm,
        "learning_rate": done.learning_rate,
        **{f"mismatch_{name}": value for name, value in measured.items() if not exact(lm) or "difference" in name},
        **summarise(stats),
    }
    count_step(ledger, done, sum(len(batch.rows) for batch in batches), figures)


def exact(lm: LM) -> bool:
    """Whether the sampler's log-probabilities are the trainer's, but for rounding in float32."""
    return bool(lm.compute == torch.float32)
