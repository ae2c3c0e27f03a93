"""Tiny random language models of several families, in float64: a difference is then a mistake, not rounding."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.trainers.batches import TokenRow
from tests.samplers.conftest import TEMPLATE, save

N_VOCAB = 48
COMMON = {
    "vocab_size": N_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # far from uniform, so that a wrong mask or position shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPE = {**COMMON, "num_key_value_heads": 2, "intermediate_size": 64}
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
ZOO: dict[str, dict[str, Any]] = {
    "Llama": SHAPE,
    "Qwen2": {**SHAPE, "tie_word_embeddings": True},
    "GPT2": {**COMMON, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},  # learned positions
    "OPT": {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 16, "dropout": 0.0},  # learned ones with an offset
    "Gemma2": {**SHAPE, "head_dim": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},  # capped logits
    "GPTNeoX": {**COMMON, "intermediate_size": 64, **NO_DROPOUT},
    "Cohere": {**SHAPE, "logit_scale": 0.3},
    "Granite": {**SHAPE, "logits_scaling": 5.0},
    "Bloom": {**COMMON, "n_layer": 2, "n_head": 4, **NO_DROPOUT},  # takes no positions
}


def _build(name: str, **settings: Any) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(
        {"GPTNeoX": "gpt_neox"}.get(name, name.lower()), **{**ZOO[name], **settings}
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return transformers.AutoModelForCausalLM.from_config(config).double().train()


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """`build("Gemma2", hidden_size=8)`: a model of that family, always with the same weights."""
    torch.set_num_threads(1)  # several threads on such small matrices cost far more than they save
    return _build


@pytest.fixture(scope="session")
def llama(build: Callable[..., Any]) -> Any:
    return build("Llama")


@pytest.fixture
def rows() -> list[TokenRow]:
    """Eight completions of unequal length; the third has no weight, the fourth is masked, the fifth in part."""
    draw = random.Random(9)
    made = []
    for place, (n_prompt, n_completion) in enumerate([(3, 7), (1, 1), (5, 4), (2, 9), (4, 6), (1, 12), (6, 2), (2, 5)]):
        masks = {3: [False] * n_completion, 4: [True, False, True, True, False, True]}
        made.append(
            TokenRow(
                prompt_ids=[draw.randrange(3, N_VOCAB) for _ in range(n_prompt)],
                completion_ids=[draw.randrange(3, N_VOCAB) for _ in range(n_completion)],
                weight=0.0 if place == 2 else draw.uniform(-1, 1),
                mask=masks.get(place),
            )
        )
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a base Llama without a chat template, in float32."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("tiny"), 1)


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same model with a chat template."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("chat"), 1, TEMPLATE)
