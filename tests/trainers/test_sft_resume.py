"""SFT goes on after any interruption and ends with the same weights to the bit: dropout, moments and order included."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from harness.progress import Progress
from harness.recipes import Improvement
from harness.trainers import epochs, lm, phase, sft
from harness.types import Row, Trained
from tests.samplers.conftest import save

ROWS = [
    Row(problem_id=f"p/{i}", prompt=f"{i} plus {i}?", completion=f" {2 * i} apples" + " or so" * (i % 3))
    for i in range(7)
]
IMPROVE = Improvement(epochs=3, batch_rows=4, batch_tokens=60, learning_rate=1e-3)  # 6 steps
VALIDATED = msgspec.structs.replace(IMPROVE, until="validation", patience=3)
LORA = msgspec.structs.replace(IMPROVE, lora={"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"})


class Killed(Exception):
    """What stands for kill -9 within the test's own process."""


@pytest.fixture(scope="session")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama with dropout, which draws random numbers in every pass."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("dropping"), 1, attention_dropout=0.1)


@pytest.fixture(scope="session")
def whole(dropping: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Improvement], Path]:
    """Where a training of these settings ended that nothing interrupted."""
    done: dict[int, Path] = {}

    def get(improve: Improvement) -> Path:
        if id(improve) not in done:
            done[id(improve)] = tmp_path_factory.mktemp("whole")
            train(dropping, done[id(improve)], improve, save_every_s=600)
        return done[id(improve)]

    return get


def validate(folder: Path) -> float:
    """Highest after the second epoch, and it draws."""
    torch.rand(2)
    return {"1": 0.2, "2": 0.6, "3": 0.6}[folder.name]


def train(folder: Path, out: Path, improve: Improvement = IMPROVE, **options: Any) -> Trained:
    scored = validate if improve.until == "validation" else None
    options = {"init": folder, "improve": improve, "seed": 3, "save_every_s": 0, "validate": scored, **options}
    trained: Trained = sft.train(ROWS, out=out, **options)
    return trained


def account(trained: Trained) -> Any:
    return msgspec.structs.replace(trained, seconds={}, peak_memory_bytes=None)


def same(one: Path, other: Path) -> bool:
    names = [Path("model.safetensors"), Path("config.json")]
    return all((one / "checkpoint" / n).read_bytes() == (other / "checkpoint" / n).read_bytes() for n in names)


def breaking(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int, act: Callable[[], None]) -> None:
    """The call number `call` of that function does `act` first."""
    before, calls = getattr(where, name), iter(range(1, 10**6))

    def broken(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            act()
        return before(*args, **options)

    monkeypatch.setattr(where, name, broken)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("improve", "where", "name", "call"),
    [
        slow(IMPROVE, epochs, "optimiser_step", 1),
        (IMPROVE, epochs, "optimiser_step", 6),
        (IMPROVE, sft, "completion_logprobs", 8),  # within a step
        slow(IMPROVE, phase, "_sync", 5),  # within the saving of a state
        (IMPROVE, epochs, "save_checkpoint", 1),
        (IMPROVE, lm, "_set_dtype", 1),  # within the saving of the weights
        (IMPROVE, phase, "write_atomically", 2),  # the weights are there, the account is not
        slow(LORA, epochs, "optimiser_step", 5),
        slow(VALIDATED, epochs, "_validate", 2),
        slow(VALIDATED, epochs, "_keep_only", 2),
        (VALIDATED, epochs, "_promote", 1),
        slow(VALIDATED, phase, "finish", 1),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_killed_anywhere(tmp_path, dropping, whole, monkeypatch, improve, where, name, call):
    with monkeypatch.context() as patch:
        breaking(patch, where, name, call, kill)
        with pytest.raises(Killed):
            train(dropping, tmp_path / "killed", improve)
    assert account(train(dropping, tmp_path / "killed", improve)) == account(train(dropping, whole(improve), improve))
    assert same(tmp_path / "killed", whole(improve))
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert names == [".lock", "checkpoint", "trained.json", "training.json"]


@pytest.mark.slow
def test_dropout_and_order_are_really_drawn(tmp_path, dropping):
    train(dropping, tmp_path / "a")
    train(dropping, tmp_path / "b", seed=4)
    one, other = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab")
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("improve", "call"), [slow(IMPROVE, 1), (IMPROVE, 5), slow(VALIDATED, 8)])
def test_a_signal_saves_at_the_next_micro_step(tmp_path, dropping, whole, monkeypatch, improve, call):
    with monkeypatch.context() as patch:
        breaking(patch, sft, "completion_logprobs", call, interrupt)
        with pytest.raises(SystemExit) as stopped:
            train(dropping, tmp_path / "stopped", improve, save_every_s=600)
    assert stopped.value.code == 75
    assert (tmp_path / "stopped" / "state" / "state.pt").is_file()
    notes: list[str] = []
    again = train(dropping, tmp_path / "stopped", improve, progress=Progress(note=notes.append))
    assert notes[0].startswith("Training goes on after step ")
    assert account(again) == account(train(dropping, whole(improve), improve))
    assert same(tmp_path / "stopped", whole(improve))


@pytest.mark.slow
def test_another_number_of_threads_is_told(tmp_path, dropping, monkeypatch):
    with monkeypatch.context() as patch:
        breaking(patch, epochs, "optimiser_step", 3, kill)
        with pytest.raises(Killed):
            train(dropping, tmp_path)
    notes: list[str] = []
    torch.set_num_threads(2)
    try:
        train(dropping, tmp_path, progress=Progress(note=notes.append))
    finally:
        torch.set_num_threads(1)
    assert "began with 1 threads and goes on with 2" in notes[1]
