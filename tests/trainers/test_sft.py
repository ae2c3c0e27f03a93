"""SFT learns, and learns what a plain loop would; weights, order and batch sizes do what they say and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError, InputError, RunMismatch
from harness.progress import Progress
from harness.recipes import Improvement
from harness.samplers.hf import hf
from harness.trainers import epochs, sft, together
from harness.trainers.lm import completion_ids, open_model, prompt_ids
from harness.types import Budget, Problem, Row, Trained

ROWS = [
    Row(
        problem_id=f"p/{i}",
        prompt=f"Question: {i} plus {i}?\nAnswer:",
        completion=f" {2 * i} apples" + " or so" * (i % 3),
    )
    for i in range(8)
]
SHORT = Improvement(epochs=2, batch_rows=3, learning_rate=1e-3, warmup=0.2)
FAST = Improvement(epochs=50, batch_rows=8, learning_rate=1e-2)


def train(folder: Path, out: Path, rows: list[Row] = ROWS, improve: Improvement = SHORT, **options: Any) -> Trained:
    trained: Trained = sft.train(rows, init=folder, out=out, improve=improve, **{"seed": 3, **options})
    return trained


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The distance between all weights together: a single one whose gradient is 0 but for rounding is thrown about by
    Adam, which divides by its size."""
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5


def greedy(folder: Path, rows: list[Row] = ROWS) -> list[tuple[str, str | None]]:
    problems = [Problem(id=row.problem_id, task="", prompt=row.prompt) for row in rows]
    found = {c.problem_id: c for c in hf(str(folder)).sample(problems, Budget(max_tokens=40))}
    return [(found[row.problem_id].text, found[row.problem_id].stop_reason) for row in rows]


@pytest.mark.parametrize("kind", ["chat", pytest.param("tiny", marks=pytest.mark.slow)])
def test_what_was_memorised_is_sampled_to_its_end(tmp_path, request, kind):
    trained = train(request.getfixturevalue(kind), tmp_path, improve=FAST)
    assert greedy(tmp_path / trained.checkpoint) == [(row.completion, "stop") for row in ROWS]
    assert trained.steps == len(trained.history) == 50
    assert trained.history[0]["loss"] > 3
    assert trained.history[-1]["loss"] < 0.1
    assert trained.history[0]["tokens"] * 50 == trained.trained_tokens
    assert trained.rows == 8
    assert trained.seconds["train"] > 0
    assert trained.peak_memory_bytes is not None
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == [
        "checkpoint",
        "trained.json",
        "training.json",
    ]


def plain_loop(folder: Path, rows: list[Row], improve: Improvement, seed: int) -> dict[str, torch.Tensor]:
    """The same training with transformers and torch alone: one row at a time, labels of -100, CE sum / tokens."""
    lm = open_model(folder)
    encoded = []
    for row in sft.weighted(rows):
        prompt = prompt_ids(lm, row.prompt, "")
        encoded.append((prompt, completion_ids(lm, prompt, row.completion)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).train()
    plan = epochs.plan(len(rows), improve, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=improve.learning_rate, weight_decay=0.0)
    warmup = int(improve.warmup * len(plan))
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, warmup, len(plan))
    for _, places in plan:
        n = sum(len(encoded[place][1]) for place in places)
        for place in places:
            prompt, completion = encoded[place]
            labels = torch.tensor([[-100] * len(prompt) + completion])
            model(torch.tensor([prompt + completion]), labels=labels, num_items_in_batch=n).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), improve.max_grad_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_the_weights_are_those_of_a_plain_loop(tmp_path, tiny):
    trained = train(tiny, tmp_path)
    assert trained.steps == 6
    assert [step["learning_rate"] > 0 for step in trained.history] == [False] + [True] * 5
    wanted = plain_loop(tiny, ROWS, SHORT, 3)
    start = load_file(tiny / "model.safetensors")
    assert furthest(wanted, start) > 1e-3
    assert apart(weights(tmp_path), wanted) < 1e-3 * apart(wanted, start)


def test_neither_order_nor_micro_batches_nor_the_callers_generators_matter(tmp_path, tiny):
    train(tiny, tmp_path / "a")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(tiny, tmp_path / "b", ROWS[::-1])
    assert torch.equal(torch.get_rng_state(), before)
    assert furthest(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0
    start = load_file(tiny / "model.safetensors")
    for batch_tokens in (1, 70):
        out = tmp_path / str(batch_tokens)
        train(tiny, out, improve=msgspec.structs.replace(SHORT, batch_tokens=batch_tokens))
        assert apart(weights(tmp_path / "a"), weights(out)) < 1e-3 * apart(weights(out), start)
    train(tiny, tmp_path / "c", seed=4)
    assert apart(weights(tmp_path / "a"), weights(tmp_path / "c")) > 0.1 * apart(weights(tmp_path / "c"), start)


def test_a_weight_of_two_is_the_row_twice(tmp_path, tiny):
    improve = msgspec.structs.replace(SHORT, batch_rows=100)
    double = [msgspec.structs.replace(row, weight=1.0 + (i == 2)) for i, row in enumerate(ROWS)]
    train(tiny, tmp_path / "weight", double, improve)
    train(tiny, tmp_path / "twice", [*ROWS, ROWS[2]], improve)
    train(tiny, tmp_path / "once", ROWS, improve)
    weight, twice, once = (weights(tmp_path / name) for name in ("weight", "twice", "once"))
    assert apart(weight, twice) < 1e-3 * apart(weight, load_file(tiny / "model.safetensors"))
    assert apart(weight, once) > 100 * apart(weight, twice)


def test_a_fraction_of_an_epoch():
    improve = Improvement(epochs=1.5, batch_rows=4)
    plan = epochs.plan(10, improve, 1)
    assert [(epoch, len(places)) for epoch, places in plan] == [(0, 4), (0, 4), (0, 2), (1, 4), (1, 1)]
    assert sorted(place for epoch, places in plan if epoch == 0 for place in places) == list(range(10))
    assert plan == epochs.plan(10, improve, 1) != epochs.plan(10, improve, 2)
    with pytest.raises(InputError, match="no row at all"):
        epochs.plan(10, Improvement(epochs=0.01), 1)
    with pytest.raises(InputError, match="batch_rows 0"):
        epochs.plan(10, Improvement(batch_rows=0), 1)


def test_a_finished_phase_is_returned_and_another_one_refused(tmp_path, tiny, monkeypatch):
    first = train(tiny, tmp_path)
    monkeypatch.setattr(together, "open_model", None)  # not opened again
    assert train(tiny, tmp_path) == first
    assert train(tiny, tmp_path, improve=msgspec.structs.replace(SHORT, batch_tokens=99)) == first
    with pytest.raises(RunMismatch, match="another training"):
        train(tiny, tmp_path, seed=4)
    with pytest.raises(RunMismatch, match="another training"):
        train(tiny, tmp_path, ROWS[1:])


def test_rows_longer_than_the_context_are_left_out_and_told(tmp_path, tiny):
    long = Row(problem_id="long", prompt="x", completion=" apples and pears" * 30)
    notes: list[str] = []
    trained = train(tiny, tmp_path / "a", [*ROWS, long], progress=Progress(note=notes.append))
    assert notes == ["1 of 9 rows are longer than the model's 128 tokens and are left out."]
    assert trained.rows == 8
    with pytest.raises(InputError, match="all 1 rows are longer than the 128 tokens"):
        train(tiny, tmp_path / "b", [long])


def test_rows_that_cannot_be_used(tmp_path, tiny):
    with pytest.raises(InputError, match="`select` kept none"):
        train(tiny, tmp_path / "a", [])
    with pytest.raises(InputError, match="all 8 rows have weight 0"):
        train(tiny, tmp_path / "b", [msgspec.structs.replace(row, weight=0.0) for row in ROWS])
    for weight in (-1.0, math.nan):
        with pytest.raises(InputError, match="it must be from 0"):
            train(tiny, tmp_path / "c", [msgspec.structs.replace(ROWS[0], weight=weight)])
    with pytest.raises(InputError, match=r"dpo\.py"):
        train(tiny, tmp_path / "d", improve=Improvement(loss="dpo"))
    with pytest.raises(InputError, match="give both or neither"):
        train(tiny, tmp_path / "e", improve=Improvement(until="validation"))


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_weights_that_are_not_finite_end_the_training(tmp_path, tiny, n_epochs):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HarnessError, match=r"not finite in [23] steps in a row, up to step [23]"):
        train(broken, tmp_path / "out", improve=Improvement(epochs=n_epochs, batch_rows=4))
    assert not (tmp_path / "out" / "trained.json").exists()


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, tiny, monkeypatch):
    taken = iter(range(100))
    losses = sft.nll_loss

    def once_infinite(*args: Any, **options: Any) -> Any:
        loss, stats = losses(*args, **options)
        return (loss * math.inf if next(taken) == 2 else loss), stats

    monkeypatch.setattr(sft, "nll_loss", once_infinite)
    trained = train(tiny, tmp_path)
    assert (trained.steps, trained.skipped_steps) == (5, 1)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())
    assert "loss" not in trained.history[2]
    assert trained.trained_tokens == sum(s["tokens"] for i, s in enumerate(trained.history) if i != 2)
    assert json.loads((tmp_path / "trained.json").read_text())["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("scores", "patience", "seen", "best"),
    [
        ([1, 3, 2, 9], 1, 3, 2),
        pytest.param([1, 3, 2, 9], 2, 4, 4, marks=pytest.mark.slow),
        pytest.param([2, 2, 2, 2], 1, 4, 1, marks=pytest.mark.slow),
        pytest.param([5, 1, 2, 6], 2, 3, 1, marks=pytest.mark.slow),
    ],
)
def test_validation_keeps_the_best_and_stops_when_it_falls(tmp_path, tiny, scores, patience, seen, best):
    improve = msgspec.structs.replace(SHORT, epochs=4, until="validation", patience=patience)
    found: list[dict[str, torch.Tensor]] = []

    def validate(folder: Path) -> float:
        found.append(load_file(folder / "model.safetensors"))
        torch.rand(3)  # what it draws is its own affair
        return float(scores[len(found) - 1])

    trained = train(tiny, tmp_path / "a", improve=improve, validate=validate)
    assert len(found) == seen
    assert furthest(weights(tmp_path / "a"), found[best - 1]) == 0
    assert [s["validation"] for s in trained.history if "validation" in s] == scores[:seen]
    assert not (tmp_path / "a" / "epochs").exists()
    if seen == 4:
        train(tiny, tmp_path / "b", improve=msgspec.structs.replace(SHORT, epochs=4))
        assert furthest(weights(tmp_path / "b"), found[3]) == 0  # validation changes nothing in training


def test_validation_must_give_a_number(tmp_path, tiny):
    with pytest.raises(InputError, match="validation after epoch 1 gave nan"):
        train(tiny, tmp_path, improve=Improvement(until="validation"), validate=lambda folder: math.nan)


def test_an_adapter_learns_and_its_merged_checkpoint_samples_so(tmp_path, tiny):
    lora = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
    improve = msgspec.structs.replace(FAST, epochs=70, lora=lora)
    trained = train(tiny, tmp_path, improve=improve)
    assert trained.history[-1]["loss"] < 0.1
    assert greedy(tmp_path / "checkpoint") == [(row.completion, "stop") for row in ROWS]
    assert (tmp_path / "checkpoint" / "adapter" / "adapter_model.safetensors").is_file()
    first, last = load_file(tiny / "model.safetensors"), weights(tmp_path)
    assert torch.equal(first["model.embed_tokens.weight"], last["model.embed_tokens.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}])
def test_passes_in_bfloat16_train_weights_of_float32(tmp_path, tiny, lora):
    """What a GPU does, on a CPU."""
    trained = train(tiny, tmp_path, improve=msgspec.structs.replace(FAST, epochs=70, lora=lora), dtype="bfloat16")
    assert trained.history[-1]["loss"] < 0.2
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    assert (
        sum(text == (row.completion, "stop") for text, row in zip(greedy(tmp_path / "checkpoint"), ROWS, strict=True))
        > 5
    )
