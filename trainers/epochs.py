"""Epochs over a fixed set of examples, what SFT and DPO share: `run` trains, and goes on after any interruption.

Each epoch goes through the examples in a new order, drawn from (seed, epoch); an optimiser step takes `batch_rows` of
them, the last of an epoch what is left. The losses of a step are functions, one for each micro-batch, whose results sum
to the loss of the step; each also gives statistics with their "tokens", or "pairs" and the tokens of a pair as
"length".

Several processes (`together.py`) take the same steps: each runs its share of the micro-batches, gradients and
statistics are summed, and whatever ends or skips a step does so in all of them.

With `until: validation` the weights after each epoch are saved and scored, and the best of them is the result: the
earliest, among equals. Training stops when `patience` scores in a row are below the best before them.

Deviation from transformers' Trainer: the warm-up is rounded down to whole steps. Its first step has a learning rate of
0, so that rounded up it would be one of three steps lost.

Not handled: validation within an epoch.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from harness.errors import HarnessError, InputError
from harness.progress import Progress
from harness.recipes import Improvement
from harness.trainers import phase
from harness.trainers.lm import LM, must_recompute, recompute, save_checkpoint
from harness.trainers.losses import Stats, summarise
from harness.trainers.optim import Optim, adamw, optimiser_step
from harness.trainers.sharding import Ranks
from harness.types import Trained

Example = TypeVar("Example")
MicroLoss: TypeAlias = Callable[[], tuple[Tensor, Stats]]
Losses: TypeAlias = Callable[[Sequence[Example]], Sequence[MicroLoss]]
"""Of a step's examples, by micro-batch."""


@dataclass
class Done:
    """How far training is: with the weights, the optimiser and the generators, all of its state."""

    step: int = 0
    """Steps behind us, skipped ones included."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    tokens: int = 0
    scores: list[float] = field(default_factory=list)
    """Of validation, one per epoch."""
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The epoch, from 1, with the best score."""
        return self.scores.index(max(self.scores)) + 1

    def gives_up(self, patience: int) -> bool:
        """Whether each of the last `patience` scores is below the best."""
        return len(self.scores) > patience and max(self.scores[-patience:]) < max(self.scores)


def run(
    lm: LM,
    examples: Sequence[Example],
    losses: Losses[Example],
    *,
    out: Path,
    improve: Improvement,
    seed: int,
    validate: Callable[[Path], float] | None,
    save_every_s: float,
    progress: Progress,
) -> Trained:
    """Trains `lm` on `examples` and leaves `out/checkpoint` and `out/trained.json`.

    Call it within `phase.hold(out, ...)` and `phase.isolated(seed, ...)`.

    Raises:
        HarnessError: three steps in a row, or all of them, had no finite gradient; or the disk is full.
        InputError: settings or a validation score that cannot be used.
        SystemExit: status 75, when a signal asked for an end and the state was saved.
    """
    if (validate is None) == (improve.until == "validation"):
        raise InputError(f"until is {improve.until!r} and validate is {validate}: give both or neither.")
    steps = plan(len(examples), improve, seed)
    config = _optim(improve, len(steps))
    optimiser = adamw(lm.model, config)
    done = _resume(lm, optimiser, out, progress)
    if lm.ranks.any(must_recompute(lm, improve.batch_tokens)):
        recompute(lm)
        progress.note("Activations don't fit in the GPU's memory: they are computed twice (gradient checkpointing).")
    session = _Session(
        lm=lm,
        optimiser=optimiser,
        config=config,
        steps=steps,
        done=done,
        seed=seed,
        clock=phase.Clock(done.seconds),
        out=out,
        progress=progress,
    )
    with phase.stop_signals() as asked:
        _train(session, examples, losses, improve.patience, validate, save_every_s, lambda: lm.ranks.any(asked()))
        return _finish(session, len(examples), validated=validate is not None)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What the steps of one call of `run` work on."""

    lm: LM
    optimiser: torch.optim.Optimizer
    config: Optim
    steps: Sequence[tuple[int, list[int]]]
    done: Done
    seed: int
    clock: phase.Clock
    out: Path
    progress: Progress


def _train(
    session: _Session,
    examples: Sequence[Example],
    losses: Losses[Example],
    patience: int,
    validate: Callable[[Path], float] | None,
    save_every_s: float,
    stopping: Callable[[], bool],
) -> None:
    """All steps that are left, with validation after each epoch."""
    done, device, ranks = session.done, session.lm.device, session.lm.ranks
    saved_at = time.monotonic()
    while True:
        rng = phase.rng_state(device)
        if validate is not None and _epochs_behind(session.steps, done.step) > len(done.scores):
            _save(session, rng)
            _validate(session, validate)
            phase.set_rng_state(rng, device)  # whatever validation drew
            _save(session, rng)
            if ranks.leads:
                _keep_only(session.out / "epochs", done.best)
        if done.step == len(session.steps) or done.gives_up(patience):
            return
        epoch, places = session.steps[done.step]
        with session.clock("train"):
            whole = _step(session, losses([examples[place] for place in places]), stopping)
        if not whole:
            _save(session, rng)  # of before this step: it has changed nothing but the generators
            raise SystemExit(phase.INTERRUPTED)
        done.history[-1]["epoch"] = float(epoch + 1)
        if ranks.any(time.monotonic() - saved_at >= save_every_s):
            _save(session, phase.rng_state(device))
            saved_at = time.monotonic()


def _save(session: _Session, rng: dict[str, Any]) -> None:
    with session.clock("save"):
        session.done.seconds = session.clock.seconds
        state = phase.model_state(session.lm.model, session.optimiser)
        accounts = {"done": asdict(session.done), "rng": rng, "threads": torch.get_num_threads()}
        if session.lm.ranks.leads:
            phase.save_state(session.out, {**state, **accounts})
        session.lm.ranks.wait()


def _finish(session: _Session, n_rows: int, *, validated: bool) -> Trained:
    done = session.done
    if done.skipped == done.step:
        raise HarnessError(_not_finite(done.skipped, done))
    leads = session.lm.ranks.leads
    with session.clock("save"):
        if not validated:
            save_checkpoint(session.lm, session.out / "checkpoint")
        elif leads:
            _promote(session.out, done.best)
    trained = Trained(
        checkpoint="checkpoint",
        steps=done.step - done.skipped,
        skipped_steps=done.skipped,
        rows=n_rows,
        trained_tokens=done.tokens,
        seconds=session.clock.seconds,
        peak_memory_bytes=phase.peak_memory_bytes(session.lm.device),
        history=tuple(done.history),
    )
    if leads:
        phase.finish(session.out, trained)
    session.lm.ranks.wait()
    return trained


def plan(n: int, improve: Improvement, seed: int) -> list[tuple[int, list[int]]]:
    """(epoch from 0, places of its examples) for every optimiser step; a fraction of an epoch takes its first part.

    Raises:
        InputError: no example is ever used, or `batch_rows` is below 1.
    """
    if improve.batch_rows < 1 or not improve.epochs > 0 or improve.patience < 1:
        raise InputError(
            f"epochs {improve.epochs} must be above 0, batch_rows {improve.batch_rows} and patience "
            f"{improve.patience} from 1."
        )
    left = round(improve.epochs * n)
    steps, epoch = [], 0
    while left > 0:
        order = list(range(n))
        random.Random(f"{seed} {epoch}").shuffle(order)
        order = order[:left]
        steps += [(epoch, order[i : i + improve.batch_rows]) for i in range(0, len(order), improve.batch_rows)]
        left, epoch = left - len(order), epoch + 1
    if not steps:
        raise InputError(f"{improve.epochs} epochs of {n} rows are no row at all: give more epochs.")
    return steps


def _optim(improve: Improvement, n_steps: int) -> Optim:
    return Optim(
        learning_rate=improve.learning_rate,
        schedule=improve.schedule,
        warmup_steps=int(improve.warmup * n_steps),
        weight_decay=improve.weight_decay,
        max_norm=improve.max_grad_norm,
    )


def _resume(lm: LM, optimiser: torch.optim.Optimizer, out: Path, progress: Progress) -> Done:
    """From the state in `out` if there is one, which also changes the model, the optimiser and the generators."""
    if torch.device(lm.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(lm.device)
    state = phase.load_state(out, mapped=lm.root is not None)
    if state is None:
        return Done()
    phase.restore_model(state, lm.model, optimiser)
    phase.set_rng_state(state["rng"], lm.device)
    done = Done(**state["done"])
    progress.note(f"Training goes on after step {done.step}.")
    if state["threads"] != torch.get_num_threads():
        progress.note(
            f"Training began with {state['threads']} threads and goes on with {torch.get_num_threads()}: "
            "the last digits of the weights may differ from those of a run without a break."
        )
    return done


def _step(session: _Session, losses: Sequence[MicroLoss], stopping: Callable[[], bool]) -> bool:
    """One optimiser step, noted in `done`; False if it was broken off, with the weights as they were."""
    done, ranks = session.done, session.lm.ranks
    if ranks.size > 1:  # then what a process draws must not depend on its past: another number of them may go on
        torch.manual_seed(random.Random(f"{session.seed} {done.step} {ranks.rank}").getrandbits(63))
    values: list[Tensor] = []
    stats: list[Stats] = []
    shared: Iterator[tuple[MicroLoss, bool]] = ranks.share(losses)
    for compute, counts in shared:
        loss, stat = compute()
        if not counts:
            loss, stat = loss * 0, {name: value * 0 for name, value in stat.items()}
        loss.backward()  # type: ignore[no-untyped-call]
        values.append(loss.detach())
        stats.append(stat)
        if stopping():
            session.optimiser.zero_grad(set_to_none=True)
            return False
    step = optimiser_step(session.optimiser, step=done.step, total_steps=len(session.steps), config=session.config)
    done.step += 1
    total, stats = _summed(ranks, values, stats)
    summary = summarise(stats)
    noted = {"loss": total, **summary, "grad_norm": step.grad_norm}
    noted = {name: value for name, value in noted.items() if math.isfinite(value)}  # JSON has no NaN
    done.history.append({**noted, "learning_rate": step.learning_rate})
    done.skipped += step.skipped
    done.skipped_in_a_row = done.skipped_in_a_row + 1 if step.skipped else 0
    if done.skipped_in_a_row >= phase.MAX_SKIPPED:
        raise HarnessError(_not_finite(done.skipped_in_a_row, done))
    if not step.skipped:
        done.tokens += round(summary["tokens"] if "tokens" in summary else summary["pairs"] * summary["length"])
    return True


def _summed(ranks: Ranks, losses: Sequence[Tensor], stats: list[Stats]) -> tuple[float, list[Stats]]:
    """The loss of the step, and statistics of which `summarise` makes those of the step, over all processes."""
    loss = torch.stack(list(losses)).sum()
    if ranks.size == 1:
        return float(loss), stats
    names = list(stats[0])
    own = torch.stack([loss.double(), *(torch.stack([each[name] for each in stats]).sum().double() for name in names)])
    total, *sums = ranks.total(own)
    return float(total), [dict(zip(names, sums, strict=True))]


def _not_finite(n: int, done: Done) -> str:
    return (
        f"the gradient was not finite in {n} step{'s' * (n > 1)} in a row, up to step {done.step}: lower the "
        "learning rate, or check the weights that training begins with."
    )


# --- validation


def _epochs_behind(steps: Sequence[tuple[int, list[int]]], step: int) -> int:
    return steps[step][0] if step < len(steps) else steps[-1][0] + 1


def _validate(session: _Session, validate: Callable[[Path], float]) -> None:
    """Scores the weights after an epoch; of several processes the first does, and the others wait."""
    done, ranks = session.done, session.lm.ranks
    epoch = len(done.scores) + 1
    checkpoint = session.out / "epochs" / str(epoch)
    if ranks.first(not checkpoint.is_dir()):  # else it was saved before a kill
        with session.clock("save"):
            save_checkpoint(session.lm, checkpoint)
    with session.clock("validate"):
        score = ranks.first(float(validate(checkpoint)) if ranks.leads else 0.0)
    if not math.isfinite(score):
        raise InputError(f"validation after epoch {epoch} gave {score}: it must be a number to choose a checkpoint by.")
    done.scores.append(score)
    done.history[-1]["validation"] = score
    session.progress.note(f"Epoch {epoch}: {score:.4g} on validation.")


def _keep_only(folder: Path, epoch: int) -> None:
    for path in folder.iterdir():
        if path.name != str(epoch):
            shutil.rmtree(path)


def _promote(out: Path, epoch: int) -> None:
    """The best epoch's checkpoint becomes the phase's; it may be so already, before a kill."""
    best = out / "epochs" / str(epoch)
    if best.is_dir():
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
        best.replace(out / "checkpoint")
    shutil.rmtree(out / "epochs", ignore_errors=True)
