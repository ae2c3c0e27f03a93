"""A tiny language model from scratch: the base models of the generated worlds, made in less than a minute on one core.

`pretrain(pairs, out, settings=...)` learns a vocabulary and then weights from pairs (prompt, completion), and leaves a
folder that transformers and vLLM read like any other. Objective: the mean over a batch's completion tokens, the end
token included, of -log p(token | what is before it).

- Vocabulary: byte-pair encoding over ASCII, words of a phrase together, every whole number from 0 to 99 one token.
- Model: a plain `LlamaForCausalLM`, 0.4 million weights by default, no chat template.
- Optimiser: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the hidden matrices, AdamW for the rest,
  in about half the steps of AdamW alone. torch's own Muon computes in bfloat16, which takes ten times as long as
  float32 on a CPU without instructions for it: 200 ms a step, four times the rest of the step.

The same pairs and settings give the same weights, to the bit, on CPUs of one kind with one version of torch: it takes
one thread, with which a model so small loses little. Not handled: texts beyond ASCII (such characters become `<unk>`),
GPUs, going on after an interruption.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.bases import Pretraining
from harness.errors import HarnessError, InputError
from harness.progress import Progress, silent
from harness.samplers import hf_model
from harness.trainers.phase import atomic_folder, isolated

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
ALPHABET = [*map(chr, range(32, 127)), "\n"]
PIECES = r" ?[^\s\d]+(?: [A-Za-z]+)*|\d{1,2}|\n *|\s"
"""What a token never reaches beyond: words of a phrase, a number, a newline with its indentation, signs."""
WHOLE_NUMBERS = 100
CONTEXT = 256
HEADS, KEY_HEADS = 4, 1
INIT_STD = 0.07
WARMUP, LAST = 0.05, 0.05
"""Share of the steps, and share of the learning rate that is left at the end of the cosine."""
ADAMW_SHARE = 0.3
"""AdamW's learning rate in that of Muon."""
MUON_MOMENTUM, MUON_DECAY = 0.95, 0.01
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
"""Jordan's coefficients."""
POOL = 16
"""Batches that are sorted by length together, so that little of them is padding."""
REPORT_EVERY = 100


def pretrain(
    pairs: Sequence[tuple[str, str]], out: Path, *, settings: Pretraining, progress: Progress = silent
) -> float:
    """Trains a model on `pairs` and saves it in the folder `out`; returns the mean loss of the last steps, in nats.

    Raises:
        InputError: no pairs, pairs that are too long, or a vocabulary that is too small.
        HarnessError: the loss is not finite, or the disk is full.
    """
    if not pairs:
        raise InputError("there are no demonstrations to learn from: give pretraining more problems.")
    tokenizer = learn_tokenizer([prompt + completion for prompt, completion in pairs], settings.vocabulary)
    rows = [(_ids(tokenizer, prompt), [*_ids(tokenizer, text), tokenizer.eos_token_id]) for prompt, text in pairs]
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    if longest > CONTEXT or not all(prompt for prompt, _ in rows):
        raise InputError(
            f"a demonstration has {longest} tokens or no prompt: prompts from 1, {CONTEXT} in all at most."
        )
    with isolated(settings.seed, "cpu"), _one_thread():
        model = _new_model(len(tokenizer), tokenizer, settings)
        loss = _train(model, rows, settings, progress)
        if not math.isfinite(loss):
            raise HarnessError("pretraining went wrong (its loss is not finite): lower learning_rate.")
        with atomic_folder(out) as folder, hf_model.quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return loss


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learn_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A tokenizer of transformers with so many tokens at most, learnt from `texts`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    raw.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, UNKNOWN, END], initial_alphabet=ALPHABET, show_progress=False
    )
    numbers = ",".join(map(str, range(WHOLE_NUMBERS)))
    raw.train_from_iterator([*texts, *[numbers] * len(texts)], trainer)  # so often that each becomes a token
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, model_max_length=CONTEXT
    )
    split = [number for number in map(str, range(WHOLE_NUMBERS)) if len(_ids(tokenizer, number)) != 1]
    if split:
        raise InputError(f"{split[0]} is not one token in a vocabulary of {vocabulary}: give pretraining a larger one.")
    return tokenizer


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _new_model(n_tokens: int, tokenizer: Any, settings: Pretraining) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=settings.width,
        intermediate_size=settings.width * 5 // 2,
        num_hidden_layers=settings.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # what adds to the residual stream begins small, as in GPT-2
        for layer in model.model.layers:
            for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                matrix.div_(math.sqrt(2 * settings.layers))
    return model


Rows = Sequence[tuple[list[int], list[int]]]


def _train(model: Any, rows: Rows, settings: Pretraining, progress: Progress) -> float:
    """All steps; the mean loss of the last `REPORT_EVERY`."""
    hidden = [p for layer in model.model.layers for p in layer.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is one for one in hidden)]
    momenta = [torch.zeros_like(p) for p in hidden]
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    batches = list(_batches([len(prompt) + len(completion) for prompt, completion in rows], settings))
    losses: list[float] = []
    for step, places in enumerate(batches):
        rate = settings.learning_rate * _factor(step, len(batches))
        for group in adamw.param_groups:
            group["lr"] = rate * ADAMW_SHARE
        loss = _loss(model, [rows[place] for place in places])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon_step(hidden, momenta, rate)
        adamw.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % REPORT_EVERY == 0:
            progress.note(f"step {step + 1} of {len(batches)}: loss {_mean(losses[-REPORT_EVERY:]):.3f}")
    return _mean(losses[-REPORT_EVERY:])


@torch.no_grad()
def muon_step(parameters: Sequence[Tensor], momenta: Sequence[Tensor], learning_rate: float) -> None:
    """Changes `parameters` (matrices, with gradients) and `momenta` in place: one step of Muon in float32."""
    for parameter, momentum in zip(parameters, momenta, strict=True):
        assert parameter.grad is not None
        momentum.lerp_(parameter.grad, 1 - MUON_MOMENTUM)
        update = orthogonal(parameter.grad.lerp(momentum, MUON_MOMENTUM))  # as Nesterov has it
        rows, columns = parameter.shape
        parameter.mul_(1 - learning_rate * MUON_DECAY)
        parameter.add_(update, alpha=-learning_rate * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the nearest orthogonal matrix: singular values become 0.7 to 1.2 (five steps of Newton-Schulz)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)  # ax + (bs + css)x
    return x.T if tall else x


def _loss(model: Any, rows: Rows) -> Tensor:
    """Mean negative log-likelihood of the completion tokens. Padding comes last, where a causal model is not misled."""
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    wanted = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, (prompt, completion) in enumerate(rows):
        whole = len(prompt) + len(completion)
        ids[place, :whole] = torch.tensor(prompt + completion)
        wanted[place, len(prompt) : whole] = True
    hidden_BTD = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits_NV = model.lm_head(hidden_BTD[:, :-1][wanted[:, 1:]])
    return torch.nn.functional.cross_entropy(logits_NV, ids[:, 1:][wanted[:, 1:]])


def _batches(lengths: Sequence[int], settings: Pretraining) -> Iterator[list[int]]:
    """Places of each step's rows: every epoch in a new order, rows of like length together."""
    rng = random.Random(settings.seed)
    left = max(1, round(settings.epochs * len(lengths) / settings.batch_rows))
    while left > 0:
        order = list(range(len(lengths)))
        rng.shuffle(order)
        size, batches = settings.batch_rows, []
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=lambda place: lengths[place])
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches[:left]
        left -= len(batches)


def _factor(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine down to `LAST`."""
    rise = min(1.0, (step + 1) / max(1.0, WARMUP * steps))
    return rise * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
