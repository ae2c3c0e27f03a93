"""Trains a verifier's network: the loop behind `verifier.py`, which has the objective. `fit` is the function.

An optimiser step has the completions of `batch_problems` problems, each problem's as a mean. After each epoch the loss
on the validation problems is taken; the weights of the best epoch are saved. Not handled: what `verifier.py` says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from harness import progress as progress_
from harness.errors import HarnessError, InputError
from harness.trainers import verifier_model, verifier_text
from harness.trainers.batches import TokenRow, micro_batches
from harness.trainers.lm import pass_tokens
from harness.trainers.optim import Optim, adamw, optimiser_step
from harness.trainers.phase import MAX_SKIPPED
from harness.trainers.verifier_model import BATCH_TOKENS, Network, open_network
from harness.trainers.verifier_text import Labelled

WARMUP = 0.05
"""Share of the steps."""
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained; a probe has none of it but `max_tokens`."""

    epochs: int = 4
    """At most."""
    patience: int = 2
    """Epochs without a better validation loss after which training stops."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    max_norm: float = 1.0
    batch_problems: int = 8
    per_problem: int = 16
    """Completions of a problem in an epoch."""
    max_tokens: int | None = None
    """Of a text; None: the model's context."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch_problems, self.per_problem) < 1 or not self.learning_rate > 0:
            raise InputError(
                "epochs, patience, batch_problems and per_problem must be from 1, and learning_rate above 0."
            )


DEFAULTS = Settings()


def fit(
    train: Sequence[Labelled],
    validation: Sequence[Labelled],
    folder: Path,
    *,
    base: Path,
    kind: str,
    seed: int,
    settings: Settings,
    device: str,
    progress: progress_.Progress,
) -> tuple[dict[str, Any], list[dict[str, float]], list[float]]:
    """Trains a network and saves the weights of the best epoch in `folder`/checkpoint.

    Call it within `phase.isolated(seed, device)`.

    Args:
        train: completions to learn from.
        validation: completions of other problems, to stop by.
        folder: exists.
        base: folder of the first weights.
        kind: of `verifier_model.KINDS`.
        seed: of the order and of the draws.
        settings: of the training.
        device: a torch device.
        progress: its notes are for the user.

    Returns:
        What was found out about the settings, an entry per epoch, and the best epoch's logits on `validation`.

    Raises:
        HarnessError: the loss or the gradients are not finite, or the disk is full.
    """
    network = open_network(base, kind=kind, max_tokens=settings.max_tokens, device=device)
    model = network.lm.model
    groups = [
        list(zip(rows, verifier_model.rows_of(network, [row.text for row in rows]), strict=True))
        for rows in verifier_text.by_problem(train).values()
    ]
    unseen = verifier_model.rows_of(network, [row.text for row in validation])
    n_steps = settings.epochs * math.ceil(len(groups) / settings.batch_problems)
    config = Optim(
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warmup_steps=int(WARMUP * n_steps),
        weight_decay=settings.weight_decay,
        max_norm=settings.max_norm,
    )
    optimiser = adamw(model, config)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    kept: list[float] = []
    done, skipped = 0, 0
    for epoch in range(settings.epochs):
        draw = random.Random(f"{seed} {epoch}")
        order = draw.sample(range(len(groups)), len(groups))
        model.train()
        losses = []
        for begin in range(0, len(order), settings.batch_problems):
            places = order[begin : begin + settings.batch_problems]
            chosen = [draw.sample(groups[p], min(settings.per_problem, len(groups[p]))) for p in places]
            losses.append(_backward(network, chosen) * len(places))
            step = optimiser_step(optimiser, step=done, total_steps=n_steps, config=config)
            done += 1
            skipped = skipped + 1 if step.skipped else 0
            if skipped >= MAX_SKIPPED:
                raise HarnessError(
                    f"the verifier's gradient was not finite in {skipped} steps in a row: lower learning_rate."
                )
        found = verifier_model.logits(network, unseen)
        now = verifier_text.loss(validation, found)
        if not math.isfinite(now):
            raise HarnessError(f"the verifier's validation loss is {now} after epoch {epoch + 1}: lower learning_rate.")
        if not history or now < min(row["validation"] for row in history):
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            kept = found
        history.append({"epoch": epoch + 1, "loss": math.fsum(losses) / len(groups), "validation": now})
        progress.note(f"Epoch {epoch + 1}: loss {history[-1]['loss']:.4f}, {now:.4f} on validation problems.")
        if len(history) - _best(history) > settings.patience:
            break
    model.load_state_dict(best)
    verifier_model.save(network, folder / CHECKPOINT)
    own = {"max_tokens": network.max_tokens, "answers": network.answers, "best_epoch": _best(history)}
    return own, history, kept


def _best(history: Sequence[dict[str, float]]) -> int:
    """The epoch, from 1, of the lowest validation loss; the first of equals."""
    values = [row["validation"] for row in history]
    return values.index(min(values)) + 1


def _backward(network: Network, chosen: Sequence[Sequence[tuple[Labelled, TokenRow]]]) -> float:
    """Adds the gradient of the mean loss over these problems; gives that loss."""
    flat = [(one, row, 1 / (len(chosen) * len(group))) for group in chosen for one, row in group]
    total = 0.0
    for batch in micro_batches([row for _, row, _ in flat], token_budget=pass_tokens(network.lm, BATCH_TOKENS)):
        logits_B = verifier_model.last_logits(network, batch)
        right_B = torch.tensor([float(flat[p][0].passed) for p in batch.rows], device=logits_B.device)
        weight_B = torch.tensor([flat[p][2] for p in batch.rows], device=logits_B.device)
        loss = functional.binary_cross_entropy_with_logits(logits_B, right_B, weight=weight_B, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total
