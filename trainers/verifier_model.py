"""A network that says how likely a text is right: one number per text, the logit of P(right).

Two kinds, from the same folder of a causal language model:

- `lever`: the model as it is; after the text, logit of a token that says yes - logit of one that says no (for a T5 of
  LEVER those are "yes" and "no"; arXiv 2302.08468). Which tokens is decided once, by `answer_tokens`.
- `lever_classifier`: the same body with a new, random output layer of two classes (transformers' sequence classifier).

Texts are cut on the left to `max_tokens`, since what was executed stands last. `open_network` opens one, `logits` runs
texts through it. Not handled: encoder-decoders; encoders such as RoBERTa, for want of a causal head to check.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import InputError
from harness.samplers import hf_model
from harness.trainers.batches import Batch, TokenRow, micro_batches
from harness.trainers.lm import LM, autocast, open_model, pass_tokens, save_checkpoint

KINDS = ("lever", "lever_classifier")
ANSWERS = ((" yes", " no"), ("yes", "no"), ("Yes", "No"), ("y", "n"), ("1", "0"))
"""What is looked for in a vocabulary, in this order."""
BATCH_TOKENS = 8192
"""Of a pass through the network; on a CPU fewer (`lm.pass_tokens`)."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model with what it takes to read texts."""

    lm: LM
    answers: tuple[int, int] | None
    """Tokens for right and wrong; None: a classifier, whose class 1 is right."""
    max_tokens: int

    def ids(self, text: str) -> list[int]:
        """The last `max_tokens` tokens of a text, after what the tokenizer puts before every text."""
        ids = list(self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        before = _before(self.lm.tokenizer)
        return before + ids[-(self.max_tokens - len(before)) :]


def open_network(
    folder: Path,
    *,
    kind: str,
    answers: tuple[int, int] | None = None,
    max_tokens: int | None = None,
    device: str | None = None,
) -> Network:
    """The network in `folder`, in training mode: a base to begin with, or one that was trained.

    Args:
        folder: a causal language model, or for "lever_classifier" also a classifier that was made of one.
        kind: of `KINDS`.
        answers: the tokens of a trained "lever"; None: they are looked for.
        max_tokens: of a text; None: the model's context.
        device: a torch device; None is "cuda" where there is one.

    Raises:
        InputError: a folder without such a model, or a length that it has not.
    """
    lm = _open_classifier(folder, device) if kind == "lever_classifier" else open_model(folder, device=device)
    context = lm.context or max_tokens or 2048
    length = context if max_tokens is None else max_tokens
    if not 8 <= length <= context:
        raise InputError(f"max_tokens {length} must be from 8 to the {context} tokens of the model in {folder}.")
    if kind == "lever" and answers is None:
        answers = answer_tokens(lm.tokenizer, folder)
    return Network(lm=lm, answers=answers, max_tokens=length)


def answer_tokens(tokenizer: Any, folder: Path) -> tuple[int, int]:
    """Two different tokens to read the answer from: the first of " yes" and " no", or of the next pair that differs."""
    for yes, no in ANSWERS:
        pair = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:1] for text in (yes, no)]
        if all(pair) and pair[0] != pair[1] and tokenizer.unk_token_id not in (pair[0][0], pair[1][0]):
            return pair[0][0], pair[1][0]
    plain = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    if len(plain) < 2:
        raise InputError(f"the tokenizer of {folder} has fewer than two plain tokens to answer with.")
    return plain[0], plain[1]


def rows_of(network: Network, texts: Sequence[str]) -> list[TokenRow]:
    """Texts as rows for `micro_batches`: the answer is read at the place of the last token."""
    rows = []
    for text in texts:
        ids = network.ids(text)
        rows.append(TokenRow(prompt_ids=ids[:-1] or ids, completion_ids=ids[-1:]))
    return rows


def last_logits(network: Network, batch: Batch) -> Tensor:
    """The logit of P(right) after the last token of each row of a batch, (B,) float32, with gradients."""
    lm = network.lm
    here = batch.to(lm.device)
    arguments = {"input_ids": here.input_ids, "attention_mask": here.attention_mask, "use_cache": False}
    last_B = here.prompt_lengths_B  # the completion is the text's last token
    row_B = torch.arange(len(last_B), device=last_B.device)
    yes, no = network.answers or (1, 0)
    with autocast(lm):
        if network.answers is None:
            logits_BV = lm.model.score(lm.model.base_model(**arguments).last_hidden_state[row_B, last_B])
        elif lm.head is not None:
            hidden_BD = lm.model.base_model(**arguments).last_hidden_state[row_B, last_B]
            logits_BV = lm.head.logits(hidden_BD, lm.head.weight())
        else:
            logits_BV = lm.model(**arguments).logits[row_B, last_B]
    found_B: Tensor = logits_BV[:, yes].float() - logits_BV[:, no].float()
    return found_B


@torch.no_grad()
def logits(network: Network, rows: Sequence[TokenRow]) -> list[float]:
    """The logit of P(right) of each row, in their order; without dropout.

    Padding comes after a text, where it changes nothing: a row's number depends on the others by rounding alone.
    """
    found = [0.0] * len(rows)
    network.lm.model.eval()
    for batch in micro_batches(rows, token_budget=pass_tokens(network.lm, BATCH_TOKENS)):
        for place, value in zip(batch.rows, last_logits(network, batch).tolist(), strict=True):
            found[place] = value
    return found


def _before(tokenizer: Any) -> list[int]:
    """Special tokens that begin every text (BOS)."""
    empty = list(tokenizer("", verbose=False)["input_ids"])
    return empty[:1] if empty and empty[0] == tokenizer.bos_token_id else []


def _open_classifier(folder: Path, device: str | None) -> LM:
    """As `lm.open_model`, with transformers' sequence classifier over the model's body."""
    torch_, transformers = hf_model.packages()
    device = hf_model.find_device(device)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: it has no config.json.")
    try:
        with hf_model.quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            fresh = not any("SequenceClassification" in name for name in config.architectures or ())
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if config.pad_token_id is None:  # the classifier of transformers asks for one
                pad = tokenizer.pad_token_id
                config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
            config.num_labels = 2
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, dtype=torch_.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} cannot be opened as a classifier ({str(error).splitlines()[0]}): use the kind lever."
        ) from error
    if not hasattr(model, "score"):
        raise InputError(f"{folder} makes a {type(model).__name__}, whose output layer is unknown: use the kind lever.")
    missing = [name for name in report["missing_keys"] if not (fresh and name.startswith("score."))]
    if missing:
        raise InputError(f"the weights in {folder} are not whole: {len(missing)} tensors, {missing[0]} among them.")
    return LM(
        folder=folder,
        form="continuation",
        config=config,
        tokenizer=tokenizer,
        system_instruction=None,
        model=model.to(device).train(),
        head=None,
        end_id=tokenizer.eos_token_id or 0,
        device=device,
        compute=torch.float32 if device == "cpu" else torch.bfloat16,
        saved=torch.float32,
        lora=False,
    )


def save(network: Network, folder: Path) -> None:
    """Writes weights, in float32 whatever the base's dtype, configuration and tokenizer: `open_network` reads them."""
    lm = replace(network.lm, saved=torch.float32)
    if network.answers is not None:
        save_checkpoint(lm, folder)
        return
    folder.mkdir()
    with hf_model.quiet():
        lm.model.save_pretrained(folder)
    for path in {path for pattern in hf_model.TOKENIZER_FILES for path in lm.folder.glob(pattern) if path.is_file()}:
        shutil.copyfile(path, folder / path.name)
