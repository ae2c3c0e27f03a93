"""A linear probe: logistic regression on the hidden states of a frozen language model (Q-Probe, arXiv 2402.14688).

    P(right) = sigmoid( w . (h - mean) / deviation + b )

h is what one layer makes of the last token of a text, or the mean over all tokens. Which layer, which of the two, and
the strength of the penalty are chosen by the loss on validation problems, which is that of `verifier.py`: the mean over
problems of the mean over a problem's completions. `train` fits one, `load` opens it.

It is saved as plain arrays (probe.npz) beside the hash of the model, which is not copied: it must still be where it
was, or `base` in verifier.json must say where it is. Deviations from Q-Probe: scikit-learn's exact solver instead of
1000 epochs of AdamW; cross entropy only. Not handled: probes with hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import InputError, MissingDependency
from harness.samplers import hf_model
from harness.trainers import verifier_text
from harness.trainers.batches import micro_batches
from harness.trainers.lm import autocast, pass_tokens
from harness.trainers.verifier_model import BATCH_TOKENS, Network, open_network, rows_of
from harness.trainers.verifier_text import Labelled
from harness.types import Floats

POOLINGS = ("last", "mean")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""scikit-learn's C: the smaller, the stronger the penalty."""
SCALE = 100.0
"""C is of the mean loss over problems, as if there were so many of them."""
FILE = "probe.npz"

Features = dict[tuple[int, str], Floats]


def train(
    rows: Sequence[Labelled],
    validation: Sequence[Labelled],
    folder: Path,
    *,
    base: Path,
    max_tokens: int | None,
    device: str,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[float]]:
    """Fits and saves a probe: what was chosen, every candidate's validation loss, and the best one's logits there.

    Args:
        rows: completions to learn from.
        validation: completions of other problems, to choose by.
        folder: gets probe.npz.
        base: folder of a causal language model; best the one that wrote the completions.
        max_tokens: of a text; None: the model's context.
        device: a torch device.

    Raises:
        InputError: a folder without such a model.
        MissingDependency: scikit-learn is not installed.
    """
    logistic, scaler_of = _sklearn()
    network = _frozen(base, max_tokens, device)
    layers = _layers(network)
    known = _features(network, [row.text for row in rows], layers, POOLINGS)
    unseen = _features(network, [row.text for row in validation], layers, POOLINGS)
    label = np.array([row.passed for row in rows])
    weight = np.array(verifier_text.weights(rows)) * SCALE
    history: list[dict[str, Any]] = []
    best: tuple[float, dict[str, Any], dict[str, Floats], Floats] | None = None
    for (layer, pooling), features in known.items():
        scaler = scaler_of().fit(features)
        inside, outside = scaler.transform(features), scaler.transform(unseen[layer, pooling])
        for penalty in PENALTIES:
            fitted = logistic(C=penalty, max_iter=2000).fit(inside, label, sample_weight=weight)
            logits = fitted.decision_function(outside)
            loss = verifier_text.loss(validation, logits)
            chosen = {"layer": layer, "pooling": pooling, "C": penalty}
            history.append({**chosen, "validation": loss})
            if best is None or loss < best[0]:
                arrays = {
                    "mean": scaler.mean_,
                    "deviation": scaler.scale_,
                    "weight": fitted.coef_[0],
                    "bias": fitted.intercept_,
                }
                best = loss, chosen, arrays, logits
    assert best is not None
    np.savez(folder / FILE, allow_pickle=False, **best[2])
    return {**best[1], "max_tokens": network.max_tokens}, history, best[3].tolist()


def load(folder: Path, account: dict[str, Any], *, device: str) -> Callable[[Sequence[str]], list[float]]:
    """A function of texts that gives their logits.

    Raises:
        InputError: the base model is gone or another by now, or the arrays are damaged.
    """
    base = Path(account["base"])
    if not base.is_dir():
        raise InputError(f"the model of the probe {folder} is not in {base}: say in verifier.json where `base` is.")
    if hf_model.identity(base, "float32", None, None) != account["base_sha"]:
        raise InputError(f"the model in {base} is not the one that the probe {folder} was made for: train it again.")
    settings = account["settings"]
    layer, pooling = settings["layer"], settings["pooling"]
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            mean, deviation, weight, bias = (file[name] for name in ("mean", "deviation", "weight", "bias"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / FILE} is damaged ({error}): train the probe again.") from error
    network = _frozen(base, settings["max_tokens"], device)

    def logits(texts: Sequence[str]) -> list[float]:
        features = _features(network, texts, [layer], [pooling])[layer, pooling]
        found: list[float] = ((features - mean) / deviation @ weight + bias).tolist()
        return found

    return logits


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependency("scikit-learn", "verifiers", "training a probe") from error
    return LogisticRegression, StandardScaler


def _frozen(base: Path, max_tokens: int | None, device: str) -> Network:
    network = open_network(base, kind="lever", max_tokens=max_tokens, device=device)
    network.lm.model.requires_grad_(False).eval()
    return network


def _layers(network: Network) -> list[int]:
    """The last layer, the one before it, and that in the middle: hidden states are numbered from 0, the embeddings."""
    n = int(network.lm.config.get_text_config().num_hidden_layers)
    return sorted({n, n - 1, (n + 1) // 2} - {0}, reverse=True)


@torch.no_grad()
def _features(network: Network, texts: Sequence[str], layers: Sequence[int], poolings: Sequence[str]) -> Features:
    """Hidden states of each text by layer and pooling, (N, D)."""
    lm = network.lm
    rows = rows_of(network, texts)
    size = int(lm.config.get_text_config().hidden_size)
    found: Features = {(layer, pooling): np.zeros((len(rows), size)) for layer in layers for pooling in poolings}
    for each in micro_batches(rows, token_budget=pass_tokens(lm, BATCH_TOKENS)):
        batch = each.to(lm.device)
        with autocast(lm):
            states = lm.model.base_model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states
        for layer, pooling in found:
            hidden_BLD = states[layer].float()
            if pooling == "last":
                pooled_BD = hidden_BLD[torch.arange(len(each.rows)), batch.prompt_lengths_B]
            else:
                mask_BL1 = batch.attention_mask[..., None].float()
                pooled_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
            found[layer, pooling][list(each.rows)] = pooled_BD.double().cpu().numpy()
    return found
