"""The account of an on-policy training: how far it is, what each round was like, and what the user should be told.

`Ledger` is saved with the state; `count_step` and `close_round` add to it. A figure that was not measured is absent,
never 0. "entropy" is -mean log p of the sampled tokens: the entropy at the temperature of sampling, on average over
draws, without a pass of its own. "kl" is the k3 estimate of the divergence from the reference, per token, when the
completions were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from harness.errors import HarnessError
from harness.trainers import phase
from harness.trainers.advantages import no_variance
from harness.trainers.lm import LM
from harness.trainers.losses import kl_terms
from harness.trainers.mismatch import ALARM_NATS
from harness.trainers.optim import Step
from harness.trainers.rollouts import Rollout, Round, forget
from harness.types import Floats, Trained

COLLAPSED = 0.1
"""A mean entropy below this share of the first round's is told to the user."""


class Ledger(msgspec.Struct):
    """How far a training is, and its account."""

    round: int = 0
    step: int = 0
    """Optimiser steps of this round that are done."""
    slots: int | None = None
    """Rows that are decoded together."""
    steps: int = 0
    """Taken so far, of all rounds."""
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    rows: int = 0
    trained_tokens: int = 0
    sampled_tokens: int = 0
    reward_calls: int = 0
    seconds: dict[str, float] = {}
    figures: list[dict[str, float]] = []
    """Of the steps of this round."""
    history: list[dict[str, float]] = []
    """Of the rounds before."""


def count_step(ledger: Ledger, step: Step | None, n_rows: int, figures: Mapping[str, float | None]) -> None:
    """Adds an optimiser step; None: nothing had a gradient, and none was taken.

    Raises:
        HarnessError: several steps in a row had no finite gradient.
    """
    ledger.step += 1
    ledger.figures.append({name: x for name, x in figures.items() if x is not None and math.isfinite(x)})
    if step is None:
        return
    ledger.rows += n_rows
    ledger.trained_tokens += int(figures.get("tokens") or 0)
    ledger.steps += not step.skipped
    ledger.skipped_steps += step.skipped
    ledger.skipped_in_a_row = ledger.skipped_in_a_row + 1 if step.skipped else 0
    if ledger.skipped_in_a_row >= phase.MAX_SKIPPED:
        raise HarnessError(
            f"{phase.MAX_SKIPPED} steps in a row had no finite gradient, the last in round {ledger.round + 1}: "
            "lower the learning rate, or look for rewards that are far too large."
        )


def close_round(ledger: Ledger, made: Round, n: int) -> list[str]:
    """Adds a round to the history; gives what the user should be told about it."""
    sampled = sum(len(one.ids) for one in made.rollouts)
    ledger.sampled_tokens += sampled
    ledger.reward_calls += len(made.rollouts)
    figures = {"round": ledger.round + 1, "sampled_tokens": sampled, **describe(made.rollouts, n)}
    ledger.history.append({name: float(value) for name, value in {**figures, **_merged(ledger.figures)}.items()})
    ledger.round, ledger.step, ledger.figures = ledger.round + 1, 0, []
    return notices(ledger.history)


def account(ledger: Ledger, seconds: Mapping[str, float], device: str) -> Trained:
    """What is kept of a training that is done."""
    return Trained(
        checkpoint="checkpoint",
        steps=ledger.steps,
        skipped_steps=ledger.skipped_steps,
        rows=ledger.rows,
        trained_tokens=ledger.trained_tokens,
        sampled_tokens=ledger.sampled_tokens,
        reward_calls=ledger.reward_calls,
        seconds=dict(seconds),
        peak_memory_bytes=phase.peak_memory_bytes(device),
        history=tuple(ledger.history),
    )


def save(ledger: Ledger, *, out: Path, lm: LM, optimiser: torch.optim.Optimizer, clock: phase.Clock) -> None:
    """All that the same call needs to go on; weights are those after the last whole step."""
    with clock("save"):
        ledger.seconds = clock.seconds
        phase.save_state(out, {"ledger": msgspec.to_builtins(ledger), **phase.model_state(lm.model, optimiser)})
        forget(out / "state", before=ledger.round)


def restored(out: Path, lm: LM, optimiser: torch.optim.Optimizer) -> Ledger:
    """Puts weights and optimiser back to where the state was saved; a new ledger if there is none.

    No generator has a state: draws, orders and dropout are seeded by the round or step that they belong to.
    """
    state = phase.load_state(out)
    if state is None:
        return Ledger()
    phase.restore_model(state, lm.model, optimiser)
    return msgspec.convert(state["ledger"], Ledger)


def rewards_of(made: Sequence[Rollout], n: int) -> Floats:
    """(P, n) rewards, NaN = not scored."""
    return np.array([math.nan if one.reward is None else one.reward for one in made]).reshape(-1, n)


def describe(made: Sequence[Rollout], n: int) -> dict[str, float]:
    """What the completions of a round were like, n of each problem. Shares are in [0, 1], entropy and KL in nats."""
    reward_PG = rewards_of(made, n)
    logprobs = np.concatenate([one.logprobs for one in made])
    figures = {
        "reward": _mean(one.reward for one in made),
        "unscored": float(np.isnan(reward_PG).mean()),
        "pass_rate": _mean(one.passed for one in made),
        "ungraded": _mean(one.passed is None for one in made),
        "no_variance": float(no_variance(reward_PG).mean()),
        "distinct_correct": _mean(
            len({one.solution for one in made[start : start + n] if one.passed}) for start in range(0, len(made), n)
        ),
        "length": _mean(len(one.ids) for one in made),
        "truncated": _mean(one.truncated for one in made),
        "entropy": float(-np.nanmean(logprobs)),
    }
    for name in sorted({name for one in made for name in one.terms}):
        figures[f"reward/{name}"] = _mean(one.terms.get(name) for one in made)
    if all(one.reference_logprobs is not None for one in made):
        reference = np.concatenate([one.reference_logprobs or [] for one in made])
        figures["kl"] = float(kl_terms(torch.from_numpy(logprobs - reference), "k3").mean())
    return {name: value for name, value in figures.items() if value is not None}


def notices(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Sentences about the last round: collapse, and numbers that don't agree. Told when it begins, not every round."""
    before = _alarms(history[-2], history[0]) if len(history) > 1 else {}
    return [text for name, text in _alarms(history[-1], history[0]).items() if name not in before]


def _alarms(now: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    found, where = {}, f"round {now['round']:.0f}"
    if now["entropy"] < COLLAPSED * first["entropy"]:
        found["entropy"] = (
            f"{where}: the entropy is {now['entropy']:.3f} nats a token and was {first['entropy']:.3f} in the first "
            "round: the model has all but stopped to try anything new (lower the learning rate, or set beta)."
        )
    if now["truncated"] > 0.5:
        found["truncated"] = (
            f"{where}: {now['truncated']:.0%} of the completions ran into max_tokens: raise it, or reward short ones."
        )
    if now.get("mismatch_difference", 0.0) > ALARM_NATS:
        found["mismatch"] = (
            f"{where}: sampler and trainer differ by {now['mismatch_difference']:.2f} nats a token, which is no "
            "rounding: they compute in different precision, or hold different weights."
        )
    return found


def _merged(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of a round's steps as one: the largest of a maximum, the sum of tokens, else the mean."""
    found = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in steps if name in step]
        if name == "tokens":
            found["trained_tokens"] = math.fsum(values)
        elif name != "kl":  # that of the draw is reported
            found[name] = max(values) if name.endswith("_max") else math.fsum(values) / len(values)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    having = [float(value) for value in values if value is not None]
    return math.fsum(having) / len(having) if having else None
