"""A language model to train: opened from a folder, its texts as tokens, saved as a folder that samplers can read.

`open_model(folder)` gives an `LM`, `save_checkpoint(lm, folder)` writes what it has become. Prompts become tokens by
the samplers' own rule (`harness.samplers.prompting`), so that a model is trained on what it is asked later, and a
completion ends with the token that ends a sampled one.

Weights in training are float32, also on a GPU, where the passes through the model are in bfloat16 (`autocast`): an
update of 1e-5 would be lost in a weight of bfloat16. With LoRA (arXiv 2106.09685, through peft) the frozen weights are
kept as the passes need them, and only the adapter is float32. A checkpoint has the dtype of the folder that training
began with, so that both are evaluated alike.

Several devices: `together.opened` spreads the weights, and `forward` and `save_checkpoint` are for both.

Not handled: quantised weights, models that bring their own code, float16 (it needs scaled gradients).
How a training phase survives a kill is in `phase.py`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import InputError, MissingDependency, UnknownName
from harness.samplers import hf_model, prompting
from harness.trainers.logprobs import Head, find_head
from harness.trainers.phase import atomic_folder, require_space
from harness.trainers.sharding import Ranks, n_own, release, whole_state
from harness.types import Form, Problem

DTYPES = ("auto", "float32", "bfloat16")
KEPT_FILES = (*hf_model.TOKENIZER_FILES, "generation_config.json", "special_tokens_map.json", "chat_template*")
"""Of the folder that training began with: the trained model has these to the byte."""

CPU_TOKENS = 1024
"""More at once is slower on a CPU: a step of 32 rows with a model of 2.8 million weights took 2.2 s in passes of 1024
tokens, 2.3 s of 2048, 2.7 s of 4096 and 2.9 s of 8192, which also need more memory."""


@dataclass(frozen=True, kw_only=True)
class LM:
    """A model in training with all that belongs to it; also what `prompting` calls a reader."""

    folder: Path
    """Where the weights came from."""
    form: Form
    """"message" when the chat template is applied to prompts, else "continuation"."""
    config: Any
    tokenizer: Any
    system_instruction: str | None
    model: Any
    """Of transformers, or wrapped by peft; in training mode, gradients wanted for what is trained."""
    head: Head | None
    """For `logprobs.completion_logprobs`."""
    end_id: int
    """The token that ends a completion."""
    device: str
    compute: torch.dtype
    """Of passes through the model, see `autocast`."""
    saved: torch.dtype
    """Of checkpoints."""
    lora: bool
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train it together."""
    root: nn.Module | None = None
    """With several: what a pass must go through (`forward`)."""

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and completion together; None: the configuration has no limit."""
        size: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return size


def open_model(
    folder: Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    lora: Mapping[str, Any] | None = None,
) -> LM:
    """The model and tokenizer in `folder`, ready to train.

    Args:
        folder: a causal language model as transformers saves it.
        device: a torch device; None is "cuda" where there is one, else "cpu".
        dtype: of passes through the model; "auto" is float32 on a CPU and bfloat16 on a GPU.
        apply_chat_template: None applies the tokenizer's template if it has one, as the samplers do.
        system_instruction: a system message before every prompt; needs a chat template.
        lora: arguments of peft's `LoraConfig`; None: all weights are trained. A new adapter is drawn from torch's
            global generator: see `phase.isolated`.

    Raises:
        InputError: the folder, the device, the dtype or the adapter's arguments cannot be used.
        MissingDependency: `lora` without peft.
    """
    if dtype not in DTYPES:
        raise UnknownName("dtype for training", dtype, DTYPES)
    device = hf_model.find_device(device)
    name = dtype if dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
    config, tokenizer = hf_model.load_texts(folder, False)
    template = prompting.template(tokenizer, folder, wanted=apply_chat_template, system_instruction=system_instruction)
    model = hf_model.load_model(folder, "float32" if lora is None else name, device, False)
    if lora is not None:
        model = _with_adapter(model, lora)
    ends = prompting.end_ids(tokenizer, hf_model.load_eos(folder, config), ())
    return LM(
        folder=folder,
        form="continuation" if template is None else "message",
        config=config,
        tokenizer=tokenizer,
        system_instruction=system_instruction,
        model=model.train(),
        head=find_head(model),
        end_id=_end_id(tokenizer, ends, chat=template is not None, folder=folder),
        device=device,
        compute=getattr(torch, name),
        saved=getattr(torch, str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")),
        lora=lora is not None,
    )


def autocast(lm: LM) -> contextlib.AbstractContextManager[Any]:
    """Around passes through the model: they are computed in `lm.compute`, whatever the weights are."""
    if lm.compute == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(lm.device).type, dtype=lm.compute)


def forward(lm: LM, function: Callable[[Any], Tensor]) -> Tensor:
    """`function` of the model, which makes a pass through it, in `lm.compute`; also where its weights are spread."""
    with autocast(lm):
        if lm.root is None:
            return function(lm.model)
        result: Tensor = lm.root(function)
    if not torch.is_grad_enabled():
        release(lm.root)
    return result


# --- texts as tokens


def prompt_ids(lm: LM, prompt: str, problem_id: str) -> list[int]:
    """What the sampler would show the model: the chat template where there is one, else the text. Never empty."""
    return prompting.prompt_ids(lm, Problem(id=problem_id, task="", prompt=prompt))


def completion_ids(lm: LM, prompt: Sequence[int], completion: str, *, complete: bool = True) -> list[int]:
    """Tokens of a completion and, if it is `complete`, the end token.

    Tokenizers that put a space before every text would begin " 42" with two: where the tokens don't stand for the text
    after this prompt, they are taken from the prompt's last tokens and the completion read as one text.
    """
    ids = _plain_ids(lm.tokenizer, completion)
    if prompting.added_text(lm.tokenizer, prompt, ids) != completion:
        anchor = lm.tokenizer.decode(prompt[-prompting.ANCHOR_TOKENS :], clean_up_tokenization_spaces=False)
        before, whole = _plain_ids(lm.tokenizer, anchor), _plain_ids(lm.tokenizer, anchor + completion)
        added = whole[len(before) :]
        if whole[: len(before)] == before and prompting.added_text(lm.tokenizer, prompt, added) == completion:
            ids = added
    return [*ids, lm.end_id] if complete else ids


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _end_id(tokenizer: Any, ends: frozenset[int], *, chat: bool, folder: Path) -> int:
    """The end token that a chat template writes after a reply; else the tokenizer's EOS."""
    if not ends:
        raise InputError(f"{folder} has no end token: set eos_token in the tokenizer, so that completions can end.")
    if chat:
        mark = "reply"
        messages = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": mark}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        for token in _plain_ids(tokenizer, text.rpartition(mark)[2]):
            if token in ends:
                return token
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(ends)


# --- adapters


def _with_adapter(model: Any, lora: Mapping[str, Any]) -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependency("peft", "lora", "training with LoRA") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers, none of the user's business
            return peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **lora}))
    except (TypeError, ValueError) as error:
        raise InputError(f"the arguments of lora cannot be used ({str(error).splitlines()[0]}).") from error


def _merged(lm: LM, adapter: Path) -> Any:
    """The folder's model with the adapter added, in float32 on the CPU: weights in training are never touched.

    Merging in place and taking it back would change the frozen weights a little each time.
    """
    import peft

    base = hf_model.load_model(lm.folder, "float32", "cpu", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        return peft.PeftModel.from_pretrained(base, adapter).merge_and_unload()


# --- checkpoints


def checkpoint_bytes(lm: LM) -> int:
    """About the size of a checkpoint on disk."""
    plain = lm.model.get_base_model() if lm.lora else lm.model
    return int(sum(p.numel() for p in plain.parameters()) * lm.saved.itemsize) + (64 << 20)


def save_checkpoint(lm: LM, folder: Path) -> None:
    """Writes weights, configuration and tokenizer to `folder`, in one step: it is whole or not there.

    With LoRA the weights are the merged ones and the adapter itself is in `adapter/`. All processes that train together
    must call it; the first one writes.

    Raises:
        HarnessError: not enough room on the disk; nothing was written then.
    """
    state = lm.model.state_dict() if lm.root is None else whole_state(lm.model, trained_only=lm.lora)
    if not lm.ranks.leads:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, checkpoint_bytes(lm), what="a checkpoint")
    with atomic_folder(folder) as new, hf_model.quiet():
        model = lm.model
        if lm.lora:
            lm.model.save_pretrained(new / "adapter", save_embedding_layers=False, state_dict=state)
            model = _merged(lm, new / "adapter")
            state = model.state_dict()
        # Our own generation config is copied below; transformers refuses to write some that it has read.
        kept, model.generation_config = model.generation_config, type(model.generation_config)()
        try:
            model.save_pretrained(new, state_dict=_cast(state, lm.saved))
        finally:
            model.generation_config = kept
        _set_dtype(new / "config.json", lm.saved)
        (new / "generation_config.json").unlink(missing_ok=True)
        for path in {path for pattern in KEPT_FILES for path in lm.folder.glob(pattern) if path.is_file()}:
            shutil.copyfile(path, new / path.name)


def _cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating point tensors in `dtype`; what was one tensor under two names still is."""
    done: dict[int, Tensor] = {}
    for tensor in state.values():
        done.setdefault(tensor.data_ptr(), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return {name: done[tensor.data_ptr()] for name, tensor in state.items()}


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --- memory


def pass_tokens(lm: LM, budget: int) -> int:
    """Tokens to run together, of the most that the user allows: on a CPU never more than `CPU_TOKENS`."""
    return min(budget, CPU_TOKENS) if torch.device(lm.device).type == "cpu" else budget


def must_recompute(lm: LM, tokens: int) -> bool:
    """Whether a pass over so many tokens needs gradient checkpointing on this device: an estimate. Never on a CPU.

    Counted are gradients and AdamW's two moments (12 bytes per trained weight) and what each layer keeps for the
    backward pass, without the attention's own matrix, which fused attention does not keep.
    """
    if torch.device(lm.device).type != "cuda":
        return False
    text = lm.config.get_text_config()
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    # Per token and layer: some 10 states and 3 of the inner size in bfloat16, and 4 norms' inputs in float32.
    kept = text.num_hidden_layers * (2 * (10 * text.hidden_size + 3 * inner) + 4 * 4 * text.hidden_size)
    trained = sum(n_own(p) for p in lm.model.parameters() if p.requires_grad)
    free, _ = torch.cuda.mem_get_info(lm.device)
    return bool(12 * trained + tokens * kept > 0.8 * free)


def recompute(lm: LM) -> None:
    """Gradient checkpointing on: a third slower, and only one layer's states in memory."""
    plain = lm.model.get_base_model() if lm.lora else lm.model
    if hasattr(plain, "activation_checkpointing_enable"):  # its name from transformers 5.20 or so
        plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
