"""Tiny random language models, made on the spot. torch is imported when one is asked for, and runs on one thread."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CORPUS = ["def add(a, b):\n    return a + b\n", "Question: how many apples are left?\nAnswer: 42 apples\n"] * 4
SPECIAL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,  # far from uniform, so that a wrong mask or position shows
    "max_position_embeddings": 128,
    "eos_token_id": None,
    "bos_token_id": None,
}
WIDER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}


def tokenizer(template: str | None = None) -> Any:
    """Byte-level BPE of ASCII that puts <s> before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL[2:]
    )
    fast.chat_template = template
    return fast


def llama(vocab_size: int, seed: int, **settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return build(LlamaForCausalLM, LlamaConfig(vocab_size=vocab_size, **{**SHAPE, **settings}), seed)


def build(kind: type[Any], config: Any, seed: int) -> Any:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


def save(folder: Path, seed: int, template: str | None = None, **settings: Any) -> Path:
    """A Llama and its tokenizer; </s> ends."""
    words = tokenizer(template)
    words.save_pretrained(folder)
    llama(len(words), seed, eos_token_id=1, bos_token_id=0, **settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def zoo() -> SimpleNamespace:
    """Makers of tiny models and tokenizers."""
    import torch

    # Several threads on such small matrices cost far more than they save, most of all on a busy machine.
    torch.set_num_threads(1)
    return SimpleNamespace(SHAPE=SHAPE, TEMPLATE=TEMPLATE, tokenizer=tokenizer, llama=llama, build=build, save=save)


@pytest.fixture(scope="session")
def tiny(zoo: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a base model without a chat template."""
    return save(tmp_path_factory.mktemp("tiny"), 1)


@pytest.fixture(scope="session")
def chat(zoo: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same model with a chat template."""
    return save(tmp_path_factory.mktemp("chat"), 1, TEMPLATE)


@pytest.fixture(scope="session")
def small(zoo: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with heads of 32: vLLM has no smaller ones on a CPU."""
    return save(tmp_path_factory.mktemp("small"), 1, **WIDER)


@pytest.fixture(scope="session")
def small_chat(zoo: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same model with a chat template."""
    return save(tmp_path_factory.mktemp("small_chat"), 1, TEMPLATE, **WIDER)


@pytest.fixture(scope="session")
def wider() -> dict[str, int]:
    """Settings of the model in `small`."""
    return WIDER
