"""Models to train: tokens as the sampler has them, checkpoints that are whole, phases that give back what they took."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from harness.errors import HarnessError, InputError, MissingDependency, RunMismatch, UnknownName
from harness.samplers.hf import hf
from harness.trainers import phase
from harness.trainers.batches import TokenRow, micro_batches
from harness.trainers.lm import (
    checkpoint_bytes,
    completion_ids,
    must_recompute,
    open_model,
    prompt_ids,
    recompute,
    save_checkpoint,
)
from harness.trainers.logprobs import completion_logprobs
from harness.types import Problem
from tests.samplers.conftest import TEMPLATE, save

IDS = torch.arange(3, 15)[None]
LORA = {"r": 4, "target_modules": "all-linear"}


def change(folder: Path, name: str, **settings: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def stir(model: Any) -> None:
    """Other weights, as after training."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)


# --- tokens


@pytest.mark.parametrize(("kind", "system"), [("tiny", None), ("chat", None), ("chat", "be brief")])
def test_prompts_are_the_samplers(request, kind, system):
    folder = request.getfixturevalue(kind)
    lm = open_model(folder, system_instruction=system)
    sampler = hf(str(folder), system_instruction=system)
    wanted = sampler._prompt_ids(Problem(id="a", task="", prompt="Question: how many?\n"))
    assert prompt_ids(lm, "Question: how many?\n", "a") == wanted
    assert lm.form == sampler.form


def test_a_completion_ends_with_the_end_token(tiny):
    lm = open_model(tiny)
    ids = completion_ids(lm, prompt_ids(lm, "Answer:", "a"), " 42 apples\n")
    assert ids[-1] == lm.tokenizer.eos_token_id == 1
    assert lm.tokenizer.decode(ids[:-1]) == " 42 apples\n"


def test_the_end_token_is_the_one_that_the_template_writes(tmp_path):
    save(tmp_path, 1, TEMPLATE.replace("{{ eos_token }}", "<|end|>\n"))
    assert open_model(tmp_path).end_id == 1  # nothing says that <|end|> ends a sampled completion
    change(tmp_path, "generation_config.json", eos_token_id=[1, 5])
    assert open_model(tmp_path).end_id == 5
    assert open_model(tmp_path, apply_chat_template=False).end_id == 1


def test_a_tokenizer_that_puts_a_space_before_every_text(tiny):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE({c: i for i, c in enumerate("</s>▁:12AB")} | {"</s>": 10}, [], byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    lm = type("Texts", (), {"tokenizer": tokenizer, "end_id": 10})
    prompt = tokenizer("A B:")["input_ids"]
    for text in ("12", " 12", "  1 2"):
        *ids, end = completion_ids(lm, prompt, text)  # type: ignore[arg-type]
        assert tokenizer.decode([*prompt, *ids]) == "A B:" + text
        assert end == 10
    assert len(completion_ids(lm, prompt, " 12")) == 4  # type: ignore[arg-type]


def test_a_model_without_an_end_token_is_refused(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "generation_config.json").unlink()
    change(tmp_path, "config.json", eos_token_id=None)
    change(tmp_path, "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="no end token"):
        open_model(tmp_path)


def test_arguments_that_cannot_be_used(tiny, monkeypatch):
    with pytest.raises(UnknownName, match="bfloat16"):
        open_model(tiny, dtype="bfloat")
    with pytest.raises(UnknownName, match="float16"):
        open_model(tiny, dtype="float16")
    for lora in ({"rank": 4}, {"r": 4, "target_modules": ["nowhere"]}):
        with pytest.raises(InputError, match="lora"):
            open_model(tiny, lora=lora)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"treatment-harness\[lora\]"):
        open_model(tiny, lora=LORA)


# --- checkpoints


def test_a_checkpoint_is_what_transformers_and_the_sampler_load(tmp_path, chat):
    lm = open_model(chat)
    stir(lm.model)
    save_checkpoint(lm, tmp_path / "checkpoint")
    wanted = lm.model(IDS).logits
    assert torch.equal(load(tmp_path / "checkpoint")(IDS).logits, wanted)
    assert torch.equal(open_model(tmp_path / "checkpoint").model(IDS).logits, wanted)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "checkpoint" / name).read_bytes() == (chat / name).read_bytes()
    assert sum(p.stat().st_size for p in (tmp_path / "checkpoint").iterdir()) < checkpoint_bytes(lm)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_training_are_float32_and_checkpoints_as_the_folder_was(tmp_path, tied):
    save(tmp_path / "first", 1, tie_word_embeddings=tied)
    load(tmp_path / "first").bfloat16().save_pretrained(tmp_path / "first")
    lm = open_model(tmp_path / "first")
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    stir(lm.model)
    save_checkpoint(lm, tmp_path / "second")
    size = (tmp_path / "first" / "model.safetensors").stat().st_size
    assert (tmp_path / "second" / "model.safetensors").stat().st_size == pytest.approx(size, rel=0.05)
    second = load(tmp_path / "second")
    assert second.dtype == torch.bfloat16
    wanted = dict(lm.model.named_parameters())
    assert all(torch.equal(p, wanted[name].bfloat16()) for name, p in second.named_parameters())


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed:FutureWarning")  # between peft and transformers
def test_a_merged_adapter_gives_what_the_adapter_gave_and_changes_nothing(tmp_path, tiny):
    import peft

    lm = open_model(tiny, lora=LORA)
    stir(lm.model)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    save_checkpoint(lm, tmp_path / "checkpoint")
    assert all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())
    # in float64, so that what differs is the rounding of the merged weights alone: 2e-6 of logits up to 9
    wanted = lm.model.double()(IDS).logits
    assert (wanted - load(tiny).double()(IDS).logits).abs().max() > 0.1
    torch.testing.assert_close(load(tmp_path / "checkpoint").double()(IDS).logits, wanted, atol=5e-5, rtol=0)
    again = peft.PeftModel.from_pretrained(load(tiny), tmp_path / "checkpoint" / "adapter")
    torch.testing.assert_close(again.double()(IDS).logits, wanted, atol=1e-12, rtol=1e-12)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, tiny, monkeypatch):
    lm = open_model(tiny)
    free = namedtuple("Usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(HarnessError, match="make room"):
        save_checkpoint(lm, tmp_path / "checkpoint")
    (tmp_path / "state").mkdir()
    with pytest.raises(HarnessError, match="make room"):
        phase.save_state(tmp_path, {"weights": torch.zeros(10)})
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["state"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    def fill(text: str, *, fails: bool = False) -> None:
        with phase.atomic_folder(tmp_path / "folder") as new:
            (new / "a").write_text(text)
            if fails:
                raise KeyError

    fill("old")
    with pytest.raises(KeyError):
        fill("broken", fails=True)
    assert (tmp_path / "folder" / "a").read_text() == "old"
    fill("new")
    assert (tmp_path / "folder" / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("lora", [None, LORA], ids=["all", "lora"])
def test_recomputed_activations_give_the_same_gradient(tiny, lora):
    batch = micro_batches([TokenRow(prompt_ids=[0, 9, 8], completion_ids=[7, 6, 5, 1])], token_budget=99)[0]
    gradients = []
    for again in (False, True):
        with phase.isolated(1, "cpu"):  # an adapter is drawn
            lm = open_model(tiny, lora=lora)
        stir(lm.model)
        assert not must_recompute(lm, 10**9)  # never on a CPU
        if again:
            recompute(lm)
        completion_logprobs(lm.model, batch, head=lm.head).logprobs_BT.sum().backward()
        gradients.append([p.grad for p in lm.model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(a.abs().sum() > 0 for a in gradients[0] if a.dim() == 2)


# --- phases


def test_a_state_comes_back_to_the_bit(tmp_path):
    random.seed(1)
    state = {"weights": {"a": torch.randn(3)}, "rng": phase.rng_state("cpu"), "done": {"history": [{"loss": 0.1}]}}
    phase.save_state(tmp_path, state)
    drawn = [random.random(), np.random.random(), float(torch.rand(()))]
    found = phase.load_state(tmp_path)
    assert found is not None
    assert torch.equal(found["weights"]["a"], state["weights"]["a"])  # type: ignore[index]
    assert found["done"] == state["done"]
    phase.set_rng_state(found["rng"], "cpu")
    assert [random.random(), np.random.random(), float(torch.rand(()))] == drawn
    assert phase.load_state(tmp_path / "elsewhere") is None


def test_generators_are_the_callers_again():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = phase.rng_state("cpu")
    draws = []
    for _ in range(2):
        with phase.isolated(3, "cpu"):
            draws.append([float(torch.rand(())), random.random(), np.random.random()])
            assert torch.are_deterministic_algorithms_enabled()
    after = phase.rng_state("cpu")
    assert draws[0] == draws[1]
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_first_signal_asks_and_the_second_interrupt_stops():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with phase.stop_signals() as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_a_phase_is_held_by_one_and_belongs_to_one_training(tmp_path):
    with (
        phase.hold(tmp_path / "out", "a"),
        pytest.raises(RunMismatch, match="another process"),
        phase.hold(tmp_path / "out", "a"),
    ):
        pass
    with phase.hold(tmp_path / "out", "b"):  # nothing had come of a
        phase.save_state(tmp_path / "out", {})
    with pytest.raises(RunMismatch, match="another training"), phase.hold(tmp_path / "out", "a"):
        pass
    with phase.hold(tmp_path / "out", "b"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), phase.hold(tmp_path / "file", "a"):
        pass


def test_no_end_is_learnt_from_what_was_cut_off(tiny: Path) -> None:
    lm = open_model(tiny, device="cpu")
    prompt = prompt_ids(lm, "a", "p")
    whole = completion_ids(lm, prompt, " 42")
    assert completion_ids(lm, prompt, " 42", complete=False) == whole[:-1]
    assert whole[-1] == lm.end_id
