"""DPO learns which of two completions is right, as a plain loop would, and goes on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional

from harness.errors import InputError
from harness.progress import Progress
from harness.recipes import Improvement
from harness.samplers.hf import hf
from harness.trainers import dpo, epochs
from harness.trainers.lm import completion_ids, open_model, prompt_ids
from harness.types import Budget, Problem, Row, Trained
from tests.samplers.conftest import save
from tests.trainers.test_sft import apart

ROWS = [
    Row(problem_id=f"p/{i}", prompt=f"{i} plus {i}?", completion=f" {2 * i} apples", rejected=f" {i} pears" + " x" * i)
    for i in range(6)
]
IMPROVE = Improvement(loss="dpo", epochs=2, batch_rows=4, batch_tokens=90, learning_rate=1e-3, beta=0.2, warmup=0.0)


def train(folder: Path, out: Path, rows: list[Row] = ROWS, improve: Improvement = IMPROVE, **options: Any) -> Trained:
    trained: Trained = dpo.train(rows, init=folder, out=out, improve=improve, **{"seed": 3, **options})
    return trained


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_weights_are_those_of_a_plain_loop(tmp_path, tiny):
    improve = msgspec.structs.replace(IMPROVE, learning_rate=1e-4)  # Adam makes much of rounded gradients near 0
    trained = train(tiny, tmp_path, improve=improve)
    lm = open_model(tiny)
    model, reference = (transformers.AutoModelForCausalLM.from_pretrained(tiny) for _ in range(2))

    def logprob(of: Any, prompt: str, text: str) -> torch.Tensor:
        before = prompt_ids(lm, prompt, "")
        ids = torch.tensor(before + completion_ids(lm, before, text))
        scores = of(ids[None]).logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None])
        return scores[len(before) - 1 :].sum()

    optimiser = torch.optim.AdamW(model.parameters(), lr=improve.learning_rate, weight_decay=0.0)
    plan = epochs.plan(len(ROWS), IMPROVE, 3)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, 0, len(plan))
    rows = sorted(ROWS, key=msgspec.json.encode)
    losses = []
    for _, places in plan:
        losses.append(0.0)
        for row in (rows[place] for place in places):
            chosen, rejected = (
                logprob(model, row.prompt, text) - logprob(reference, row.prompt, text).detach()
                for text in (row.completion, str(row.rejected))
            )
            loss = -functional.logsigmoid(IMPROVE.beta * (chosen - rejected)) / len(places)
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    assert trained.steps == 4
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)  # the model is the reference
    assert losses[3] < 0.6
    assert [step["loss"] for step in trained.history] == pytest.approx(losses, abs=1e-5)
    wanted = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert apart(weights(tmp_path), wanted) < 1e-2 * apart(wanted, load_file(tiny / "model.safetensors"))


def test_the_right_one_is_preferred_in_the_end(tmp_path, tiny):
    notes: list[str] = []
    improve = msgspec.structs.replace(IMPROVE, epochs=15, learning_rate=3e-3)
    rows = [*ROWS, msgspec.structs.replace(ROWS[0], rejected=" pears" * 99)]
    trained = train(tiny, tmp_path, rows, improve, progress=Progress(note=notes.append))
    assert notes == ["1 of 7 pairs are longer than the model's 128 tokens and are left out."]
    assert trained.history[-1]["preferred"] == 1.0
    assert trained.history[-1]["loss"] < 0.2
    per_epoch = trained.history[0]["pairs"] * trained.history[0]["length"] + 2 * trained.history[1]["length"]
    assert trained.trained_tokens == pytest.approx(15 * per_epoch)
    problem = Problem(id="a", task="", prompt=ROWS[1].prompt)
    assert len(list(hf(str(tmp_path / "checkpoint")).sample([problem], Budget(max_tokens=3)))) == 1


def test_it_goes_on_after_a_kill(tmp_path, monkeypatch):
    folder = save(tmp_path / "model", 1, attention_dropout=0.1)
    train(folder, tmp_path / "whole")
    step, calls = epochs.optimiser_step, iter(range(100))

    def killed(*args: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise KeyError
        return step(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "optimiser_step", killed)
        with pytest.raises(KeyError):
            train(folder, tmp_path / "killed", save_every_s=0)
    train(folder, tmp_path / "killed")
    assert furthest(weights(tmp_path / "killed"), weights(tmp_path / "whole")) == 0


def test_rows_that_are_no_pairs(tmp_path, tiny):
    with pytest.raises(InputError, match="no pairs to train on"):
        train(tiny, tmp_path, [])
    with pytest.raises(InputError, match="has no `rejected`"):
        train(tiny, tmp_path, [msgspec.structs.replace(ROWS[0], rejected=None)])
    with pytest.raises(InputError, match="DPO has no weights"):
        train(tiny, tmp_path, [msgspec.structs.replace(ROWS[0], weight=2.0)])
    with pytest.raises(InputError, match=r"sft\.py"):
        train(tiny, tmp_path, improve=Improvement())
    with pytest.raises(InputError, match=r"beta is 0\.0"):
        train(tiny, tmp_path, improve=msgspec.structs.replace(IMPROVE, beta=0.0))
