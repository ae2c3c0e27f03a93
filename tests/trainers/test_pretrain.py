"""A tiny model from scratch: its tokenizer, that it learns, ends where it should, and is the same every time."""

from pathlib import Path

import msgspec
import pytest
import torch

from harness.bases import Pretraining
from harness.errors import InputError
from harness.samplers.hf import hf
from harness.tasks.list_programs import list_programs
from harness.trainers.pretrain import learn_tokenizer, muon_step, pretrain
from harness.types import Budget, Problem

PAIRS = [(f"Q: {a} and {b}?\nA:", f" {a}+{b}={a + b}\n#### {a + b}") for a in range(3) for b in range(3)]
SMALL = Pretraining(pretrain="none", epochs=10, batch_rows=9, width=32, layers=1, vocabulary=260)


def test_every_number_is_a_token_and_texts_come_back() -> None:
    problems = list_programs("train", 40).problems
    texts = [problem.prompt + problem.meta["demonstration"] for problem in problems]
    tokenizer = learn_tokenizer(texts, 384)
    assert len(tokenizer) == 384
    assert all(len(tokenizer(str(number))["input_ids"]) == 1 for number in range(100))
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts
    assert tokenizer.decode(tokenizer("naïve 1234")["input_ids"]) == "na<unk>ve 1234"
    with pytest.raises(InputError, match="is not one token in a vocabulary of 150"):
        learn_tokenizer(texts, 150)


def test_a_model_learns_its_demonstrations_and_ends_like_them(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SMALL, epochs=60, learning_rate=2e-2)
    pretrain(PAIRS[4:7] * 3, tmp_path / "base", settings=settings)
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    problem = Problem(id="1", task="t", prompt=PAIRS[4][0])
    (completion,) = hf(str(tmp_path / "base")).sample([problem], Budget(max_tokens=40))
    assert (completion.text, completion.stop_reason) == (PAIRS[4][1], "stop")
    assert completion.form == "continuation"


def test_a_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    for place, seed in enumerate((0, 0, 1)):
        settings = msgspec.structs.replace(SMALL, seed=seed)
        pretrain(PAIRS, tmp_path / str(place), settings=settings)
    once, again, other = ((tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(3))
    assert once == again
    assert once != other


def test_muon_is_torch_s_but_for_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in ((32, 32), (80, 32), (32, 80), (8, 32))]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    momenta = [torch.zeros_like(one) for one in ours]
    muon = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.01, momentum=0.95)
    for _ in range(3):
        before = [one.detach().clone() for one in ours]
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
            other.data.copy_(one.data)
        muon_step(ours, momenta, 1e-2)
        muon.step()
        for one, other, old in zip(ours, theirs, before, strict=True):
            assert (one - other).norm() < 0.03 * (one - old).norm()


def test_what_cannot_be_learnt_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no demonstrations"):
        pretrain([], tmp_path / "base", settings=SMALL)
    with pytest.raises(InputError, match="has 302 tokens or no prompt: prompts from 1, 256 in all"):
        pretrain([*PAIRS, ("Q:", " 7" * 150)], tmp_path / "base", settings=SMALL)
    assert not any(tmp_path.iterdir())
