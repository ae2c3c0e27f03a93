"""Log-probabilities of completion tokens under a causal language model, without ever holding all logits.

    l_t = log softmax(logits / temperature)[token t],  logits in float32

`completion_logprobs(model, batch)` runs the model's body once, picks the N hidden states that predict a completion
token that counts, and only then applies the output layer, on chunks of them: (N, V) in pieces, never (B, L, V). Where
the logits of a pass would not fit `logit_bytes`, they are computed again in the backward pass instead of being kept.

`find_head(model)` finds the output layer and what the model does with its result: Gemma caps its logits, Cohere and
Granite scale them. It does not trust the configuration: it runs the model on a few tokens and compares. If it cannot
reproduce the model's logits, it returns None and `completion_logprobs` asks the model for them: right, but (B, L', V).

The output layer is computed in float32 whatever the weights are: rounded logits are what makes the ratios of
policy-gradient methods noisy (MiniMax-M1, arXiv 2506.13585). On a GPU, `torch.set_float32_matmul_precision("high")`
makes that fast; products of bfloat16 numbers stay exact.

A model whose weights are spread over processes must be called within its `sharding.Root` (`lm.forward`): FSDP does not
see that its body is called alone.

Not handled: encoder-decoder models, auxiliary losses of mixtures of experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.errors import InputError
from harness.trainers.batches import Batch

LOGIT_BYTES = 1 << 30
"""How much memory the logits of one pass may take before they are computed twice instead."""
CHUNK = 1024
"""Hidden states per chunk: 0.6 GB of logits for a vocabulary of 152 000."""


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: scale x layer(hidden), then cap x tanh(logits / cap)."""

    layer: nn.Module
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden_ND: Tensor, weight: Tensor | None) -> Tensor:
        """(N, D) -> (N, V) float32. `weight`: the layer's in float32, if it is a plain matrix."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            if weight is None:
                logits_NV = _exact(self.layer(hidden_ND))
            else:
                bias = self.layer.bias
                logits_NV = functional.linear(
                    _exact(hidden_ND), weight, _exact(bias) if isinstance(bias, Tensor) else None
                )
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return logits_NV if self.cap is None else self.cap * torch.tanh(logits_NV / self.cap)

    def weight(self) -> Tensor | None:
        """The matrix in float32; None where the layer is more than a matrix (an adapter on it, say)."""
        return _exact(self.layer.weight) if isinstance(self.layer, nn.Linear) else None


@dataclass(frozen=True)
class Scores:
    """What a model says about the completions of a batch; 0 where the batch's mask is False."""

    logprobs_BT: Tensor
    entropy_BT: Tensor | None
    """In nats, at the same temperature; None unless asked for."""


def completion_logprobs(
    model: nn.Module,
    batch: Batch,
    *,
    temperature: float = 1.0,
    head: Head | None = None,
    chunk: int = CHUNK,
    logit_bytes: int = LOGIT_BYTES,
    entropy: bool = False,
) -> Scores:
    """The log-probability of every completion token of `batch` that counts.

    Args:
        model: a causal language model of transformers, or one wrapped by peft. Its mode (train or eval) is left alone.
        batch: on the model's device.
        temperature: what the completions were sampled with.
        head: from `find_head(model)`: find it once. None: let the model compute the logits.
        chunk: hidden states per chunk, where `logit_bytes` does not hold the logits of all.
        logit_bytes: memory for logits.
        entropy: also the entropy of each distribution, which takes as much memory again.

    Returns:
        (B, T) tensors in float32; gradients reach the model.

    Raises:
        InputError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"temperature {temperature}: log-probabilities need one above 0; greedy completions have 1.")
    row_N, step_N = batch.mask_BT.nonzero(as_tuple=True)
    place_N = batch.prompt_lengths_B[row_N] + step_N - 1  # the hidden state that predicts token `step`
    token_N = batch.completion_ids_BT[row_N, step_N]
    if head is None:
        logits_NV = _model_logits(model, batch, row_N, place_N)
        logprob_N, entropy_N = _score_logits(logits_NV / temperature, token_N, entropy)
    else:
        hidden_ND = _hidden(model, batch)[row_N, place_N]
        logprob_N, entropy_N = _score(hidden_ND, token_N, head, temperature, chunk, logit_bytes, entropy)
    zero_BT = torch.zeros(batch.mask_BT.shape, dtype=logprob_N.dtype, device=token_N.device)
    return Scores(
        logprobs_BT=zero_BT.index_put((row_N, step_N), logprob_N),
        entropy_BT=None if entropy_N is None else zero_BT.index_put((row_N, step_N), entropy_N),
    )


@torch.no_grad()
def log_distributions(
    model: nn.Module, batch: Batch, *, head: Head | None = None, logit_bytes: int = LOGIT_BYTES
) -> Iterator[Tensor]:
    """The whole log-distribution, at temperature 1, at each place of `batch` that counts: (n, V) float32 at a time.

    Places are in the order of `batch.mask_BT.nonzero()`. The model is run before this returns. -inf is the least number
    that float32 has, so that 0 times it is 0.
    """
    row_N, step_N = batch.mask_BT.nonzero(as_tuple=True)
    place_N = batch.prompt_lengths_B[row_N] + step_N - 1
    # logits (N, V), or what the head makes them of (N, D)
    states_NX = _hidden(model, batch)[row_N, place_N] if head else _model_logits(model, batch, row_N, place_N)
    weight = head.weight() if head else None
    n_vocab = int(_unwrapped(model).config.get_text_config().vocab_size)
    size = max(1, logit_bytes // (4 * 4 * n_vocab))

    @torch.no_grad()
    def log_softmax(states: Tensor) -> Tensor:
        logits = head.logits(states, weight) if head else states
        return logits.log_softmax(-1).clamp(min=torch.finfo(logits.dtype).min)

    return (log_softmax(states) for states in torch.split(states_NX, size))


@torch.no_grad()
def find_head(model: nn.Module) -> Head | None:
    """The model's output layer, checked against its logits on a few tokens; None if they are not reproduced.

    Scale and cap are looked up in the configuration under the names that transformers uses.
    """
    plain = _unwrapped(model)
    layer = plain.get_output_embeddings()
    if layer is None or plain.base_model is plain:
        return None
    config = plain.config.get_text_config()
    n_vocab = int(config.vocab_size)
    device = plain.get_input_embeddings().weight.device
    ids = torch.arange(1, 9, device=device)[None] * 7 % n_vocab  # (1, 8)
    with _evaluating(plain):
        hidden_TD = plain.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        wanted_TV = plain(input_ids=ids, use_cache=False).logits[0]
    # twice the rounding of bfloat16; a wrong scale or cap is off by more on any trained model
    tolerance = 1e-2 if wanted_TV.element_size() < 4 else 1e-3
    for head in _candidates(layer, config):
        found_TV = head.logits(hidden_TD, head.weight())
        if found_TV.shape == wanted_TV.shape:
            error = (found_TV - wanted_TV).abs().max()
            if error <= tolerance * wanted_TV.abs().max().clamp(min=1e-3):
                return head
    return None


def _candidates(layer: nn.Module, config: Any) -> Iterator[Head]:
    cap = getattr(config, "final_logit_softcapping", None)
    yield Head(layer, cap=cap)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"):
        value = getattr(config, name, None)
        if value:
            yield Head(layer, scale=float(value), cap=cap)
            yield Head(layer, scale=1 / float(value), cap=cap)


def _hidden(model: nn.Module, batch: Batch) -> Tensor:
    body = _unwrapped(model).base_model
    output = body(input_ids=batch.input_ids, use_cache=False, **_masks(body, batch))
    hidden_BLD: Tensor = output.last_hidden_state
    return hidden_BLD


def _model_logits(model: nn.Module, batch: Batch, row_N: Tensor, place_N: Tensor) -> Tensor:
    """Logits from the model itself, of the positions from the first that is needed: (N, V) float32."""
    first = int(place_N.min()) if len(place_N) else batch.input_ids.shape[1] - 1
    arguments: dict[str, Any] = _masks(model, batch)
    if "logits_to_keep" in inspect.signature(_unwrapped(model).forward).parameters:
        arguments["logits_to_keep"] = batch.input_ids.shape[1] - first
    else:
        first = 0
    logits_BKV: Tensor = model(input_ids=batch.input_ids, use_cache=False, **arguments).logits
    return _exact(logits_BKV[row_N, place_N - first])


def _masks(module: nn.Module, batch: Batch) -> dict[str, Any]:
    """Positions are passed where the model takes them (BLOOM and MPT, with linear biases, do not)."""
    masks = {"attention_mask": batch.attention_mask}
    if "position_ids" in inspect.signature(_unwrapped(module).forward).parameters:
        masks["position_ids"] = batch.position_ids
    return masks


def _score(
    hidden_ND: Tensor,
    token_N: Tensor,
    head: Head,
    temperature: float,
    chunk: int,
    logit_bytes: int,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    weight = head.weight()  # one float32 copy for all chunks

    def score(hidden: Tensor, token: Tensor) -> tuple[Tensor, Tensor | None]:
        return _score_logits(head.logits(hidden, weight) / temperature, token, entropy)

    n_vocab = int(getattr(head.layer, "out_features", 0)) or int(head.logits(hidden_ND[:1], weight).shape[-1])
    # logits, their softmax and its gradient are alive at a time
    if (6 if entropy else 3) * 4 * len(token_N) * n_vocab <= logit_bytes or len(token_N) <= 1:
        return score(hidden_ND, token_N)
    pieces = []
    for hidden, token in zip(torch.split(hidden_ND, chunk), torch.split(token_N, chunk), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(score, hidden, token, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(score(hidden, token))
    logprob_N = torch.cat([piece[0] for piece in pieces])
    return logprob_N, torch.cat([piece[1] for piece in pieces]) if entropy else None


def _score_logits(logits_NV: Tensor, token_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    logprob_N = -functional.cross_entropy(logits_NV, token_N, reduction="none")
    if not entropy:
        return logprob_N, None
    log_p_NV = logits_NV.log_softmax(-1)
    # a token with probability 0 adds 0, where 0 x -inf would be NaN
    entropy_N = -(log_p_NV.exp() * log_p_NV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
    return logprob_N, entropy_N


def _exact(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _unwrapped(model: Any) -> Any:
    """What peft wraps; its layers are already inside."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
