"""Drift against enumeration: every completion that a model with six tokens can write, and its probability."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.samplers.hf import hf
from harness.trainers.batches import collate
from harness.trainers.drift import drift
from harness.trainers.logprobs import completion_logprobs, find_head, log_distributions
from harness.types import Budget, Completion, Problem
from tests.samplers.conftest import llama, save

LETTERS = "abcde"
PROMPTS = {"p": "ab", "q": "eca"}
NOTHING = {"kl_to_base": None, "kl_per_token": None, "entropy": None, "tokens": None}


def letters() -> Any:
    """A tokenizer with one token per letter: whatever is written is read as the same tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"</s>": 0} | {letter: i for i, letter in enumerate(LETTERS, 1)}
    inner = Tokenizer(models.WordLevel(words, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and its base, some nats apart."""
    torch.set_num_threads(1)
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("policy", "base"))
    for seed, folder in enumerate(folders):
        letters().save_pretrained(folder)
        llama(1 + len(LETTERS), seed, eos_token_id=0, initializer_range=0.25).save_pretrained(folder)
    return folders[0], folders[1]


@functools.cache
def model(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).double()


def distribution(folder: Path, ids: list[int]) -> torch.Tensor:
    """(L, V) log-probabilities of what comes next."""
    with torch.no_grad():
        logits: torch.Tensor = model(folder)(torch.tensor([ids])).logits[0]
    return logits.log_softmax(-1)


def exact(folders: tuple[Path, Path], prompt: str, longest: int) -> tuple[float, float, float]:
    """KL by its definition, sum of p(y) log(p(y) / q(y)); entropy -sum p(y) log p(y); mean length. By enumeration."""
    before = letters()(prompt)["input_ids"]
    kl = entropy = length = total = 0.0
    for n in range(longest + 1):
        for drawn in itertools.product(range(1, 1 + len(LETTERS)), repeat=n):
            ids = [*drawn, 0] if n < longest else list(drawn)
            place = torch.arange(len(before) - 1, len(before) + len(ids) - 1)
            log_p, log_q = (
                float(distribution(folder, before + ids)[place, torch.tensor(ids)].sum()) if ids else 0.0
                for folder in folders
            )
            p = math.exp(log_p)
            kl, entropy = kl + p * (log_p - log_q), entropy - p * log_p
            length, total = length + p * len(ids), total + p
    assert total == pytest.approx(1)
    return kl, entropy, length


def sampled(folder: Path, n: int, max_tokens: int) -> list[Completion]:
    problems = [Problem(id=name, task="", prompt=prompt) for name, prompt in PROMPTS.items()]
    return list(hf(str(folder)).sample(problems, Budget(n=n, temperature=1.0, max_tokens=max_tokens, seed=2)))


def test_the_mean_over_draws_is_the_divergence_by_its_definition(pair: tuple[Path, Path]) -> None:
    drawn = sampled(pair[0], 1500, 2)
    found = drift(*pair, drawn, PROMPTS, most=len(drawn))
    kl, entropy, tokens = (
        sum(values) / 2 for values in zip(*(exact(pair, p, 2) for p in PROMPTS.values()), strict=True)
    )
    assert kl > 0.2
    assert found["tokens"] == pytest.approx(tokens, abs=0.03)
    # 3000 draws; positions are all that is drawn, so that the spread of a completion's sum is below half of the sum
    assert found["kl_to_base"] == pytest.approx(kl, abs=4 * 0.5 * kl / math.sqrt(len(drawn)))
    assert found["entropy"] * found["tokens"] == pytest.approx(entropy, rel=0.03)
    assert found["kl_per_token"] * found["tokens"] == pytest.approx(found["kl_to_base"])


def test_each_position_is_exact(pair: tuple[Path, Path]) -> None:
    """One completion: its positions one by one from the full forward pass of each model."""
    for text, reason, n in (("bad", "stop", 4), ("bad", "length", 3), ("", "stop", 1)):
        before, ids = (letters()(words)["input_ids"] for words in (PROMPTS["p"], text))
        log_p, log_q = (distribution(folder, before + ids)[len(before) - 1 :][:n] for folder in pair)
        one = Completion(problem_id="p", index=0, text=text, stop_reason=reason)  # type: ignore[arg-type]
        found = drift(*pair, [one], PROMPTS)
        assert found["tokens"] == n
        assert found["kl_to_base"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-4)
        assert found["entropy"] == pytest.approx(float(-(log_p.exp() * log_p).sum()) / n, rel=1e-4)


def test_whole_distributions_hold_what_each_token_has(build: Any, rows: Any) -> None:
    """By the head at once and in pieces, and by a model whose head is not known."""
    llama = build("Llama")
    head, batch = find_head(llama), collate(rows, range(8))
    exact = completion_logprobs(llama, batch, head=head, entropy=True)
    for settings in ({"head": head}, {"head": head, "logit_bytes": 1}, {"head": None}):
        pieces = list(log_distributions(llama, batch, **settings))
        assert len(pieces) == (35 if "logit_bytes" in settings else 1)
        log_p_NV = torch.cat(pieces)
        assert not log_p_NV.requires_grad
        tokens = batch.completion_ids_BT[batch.mask_BT]
        found = log_p_NV.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(found, exact.logprobs_BT[batch.mask_BT].detach(), rtol=1e-9, atol=1e-9)
        entropy = -(log_p_NV.exp() * log_p_NV).sum(-1)
        torch.testing.assert_close(entropy, exact.entropy_BT[batch.mask_BT].detach(), rtol=1e-9, atol=1e-9)


def test_a_model_has_not_gone_from_itself(pair: tuple[Path, Path], tmp_path: Path) -> None:
    drawn = sampled(pair[0], 20, 8)
    shutil.copytree(pair[0], tmp_path / "copy")
    found = [drift(pair[0], base, drawn, PROMPTS) for base in (pair[0], tmp_path / "copy")]
    assert found[0] == found[1]
    assert found[0]["kl_to_base"] == found[0]["kl_per_token"] == 0.0
    assert found[0]["entropy"] > 0.3


def test_which_completions_count_depends_on_their_names_alone(pair: tuple[Path, Path]) -> None:
    drawn = sampled(pair[0], 20, 8)
    found = drift(*pair, drawn, PROMPTS, most=10)
    assert found == drift(*pair, drawn[::-1], PROMPTS, most=10)
    assert found != drift(*pair, drawn, PROMPTS)
    assert drift(*pair, [], PROMPTS) == NOTHING
    cut = Completion(problem_id="p", index=0, text="", stop_reason="length")
    assert drift(*pair, [cut], PROMPTS) == NOTHING


def test_prompts_are_the_samplers_and_other_vocabularies_are_not_compared(
    tiny: Path, chat: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    one = [Completion(problem_id="p", index=0, text=" 42", stop_reason="stop")]
    plain, templated = (drift(folder, folder, one, {"p": "Answer:"}) for folder in (tiny, chat))
    assert plain["tokens"] == templated["tokens"]
    assert plain["entropy"] != templated["entropy"]  # the same weights after another prompt
    assert plain == drift(chat, chat, one, {"p": "Answer:"}, apply_chat_template=False)
    other = drift(tiny, pair[0], one, {"p": "Answer:"})
    assert (other["kl_to_base"], other["kl_per_token"]) == (None, None)
    assert other["entropy"] == plain["entropy"]


def test_completions_end_where_the_context_does(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, max_position_embeddings=8)
    long = [Completion(problem_id="p", index=0, text=" 42 apples or so, and more", stop_reason="length")]
    assert drift(folder, folder, long, {"p": "ab"})["tokens"] == 8 - 3  # <s> a b
