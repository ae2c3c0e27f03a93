"""On-policy training goes on after any interruption and ends with the same weights to the bit, dropout included."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness import processes
from harness.progress import Progress
from harness.recipes import OnPolicy
from harness.trainers import grpo, ledger, phase, rollouts
from harness.types import Trained
from tests.samplers.conftest import save
from tests.trainers.test_grpo import by_index, letters, slow
from tests.trainers.test_grpo import train as train_letters

# several steps per round, so that a round can be interrupted between two of them; a reference, so that it is kept too
SETTINGS = OnPolicy(
    rounds=5,
    problems=3,
    updates=2,
    batch_rows=9,
    batch_tokens=60,
    learning_rate=1e-3,
    mask_truncated=False,
    save_every=2,
    loss={"beta": 0.01},
)  # 4 steps a round
PLAIN = OnPolicy(rounds=5, problems=3, learning_rate=1e-3, mask_truncated=False, save_every=2)
LORA = msgspec.structs.replace(SETTINGS, lora={"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"})


class Killed(Exception):
    """What stands for kill -9 within the test's own process."""


@pytest.fixture(scope="session")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama with dropout, which draws random numbers in every training pass."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("dropping"), 1, attention_dropout=0.1)


@pytest.fixture(scope="session")
def whole(dropping: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[OnPolicy], Path]:
    """Where a training of these settings ended that nothing interrupted."""
    done: dict[int, Path] = {}

    def get(settings: OnPolicy) -> Path:
        if id(settings) not in done:
            done[id(settings)] = tmp_path_factory.mktemp("whole")
            train(dropping, done[id(settings)], settings)
        return done[id(settings)]

    return get


def train(folder: Path, out: Path, settings: OnPolicy = SETTINGS, **options: Any) -> Trained:
    return train_letters(folder, out, settings, **options)


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


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "where", "name", "call"),
    [
        slow(SETTINGS, grpo, "optimiser_step", 1),
        (SETTINGS, grpo, "optimiser_step", 15),  # the third step of round 4
        slow(SETTINGS, grpo, "completion_logprobs", 14),  # within a step
        slow(SETTINGS, rollouts, "_rollout", 70),  # the round is graded and not kept
        slow(SETTINGS, rollouts, "write", 4),
        slow(SETTINGS, ledger, "forget", 1),  # the state is saved, the rounds before it still there
        slow(SETTINGS, phase, "_sync", 3),  # within the saving of a state
        slow(PLAIN, grpo, "save_checkpoint", 1),
        slow(PLAIN, rollouts, "decode", 4),
        slow(PLAIN, phase, "write_atomically", 2),  # the weights are there, the account is not
        slow(LORA, grpo, "optimiser_step", 15),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_killed_anywhere(tmp_path, dropping, whole, monkeypatch, settings, where, name, call):
    if settings.lora:
        pytest.importorskip("peft")
    with monkeypatch.context() as patch:
        breaking(patch, where, name, call, kill)
        with pytest.raises(Killed):
            train(dropping, tmp_path / "killed", settings)
    again = train(dropping, tmp_path / "killed", settings)
    assert account(again) == account(train(dropping, whole(settings), settings))
    assert same(tmp_path / "killed", whole(settings))
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert names == [".lock", "checkpoint", "trained.json", "training.json"]


@pytest.mark.slow
def test_a_kept_round_is_not_sampled_or_graded_again(tmp_path, dropping, whole, monkeypatch):
    with monkeypatch.context() as patch:
        breaking(patch, grpo, "optimiser_step", 3, kill)  # in the third round, the state has two
        with pytest.raises(Killed):
            train(dropping, tmp_path, PLAIN)
    assert [path.name for path in sorted((tmp_path / "state").iterdir())] == ["round-000002.msgpack", "state.pt"]
    sampled: list[int] = []
    inner = rollouts.roll_out
    monkeypatch.setattr(rollouts, "roll_out", lambda *args, **options: sampled.append(1) or inner(*args, **options))
    train(dropping, tmp_path, PLAIN)
    assert len(sampled) == 2
    assert same(tmp_path, whole(PLAIN))


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (grpo, "completion_logprobs", 30),  # the next micro-batch is not begun
        slow(grpo, "optimiser_step", 7),
        slow(rollouts, "decode", 3),
        slow(rollouts, "_completion", 50),  # in the main thread, while the model samples
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_a_signal_saves_and_exits_with_75(tmp_path, dropping, whole, monkeypatch, where, name, call):
    with monkeypatch.context() as patch:
        breaking(patch, where, name, call, interrupt)
        with pytest.raises(SystemExit) as stopped:
            train(dropping, tmp_path)
    assert stopped.value.code == 75
    assert (tmp_path / "state" / "state.pt").is_file()
    assert not (tmp_path / "checkpoint").exists()
    assert account(train(dropping, tmp_path)) == account(train(dropping, whole(SETTINGS)))
    assert same(tmp_path, whole(SETTINGS))


@pytest.mark.slow
def test_dropout_is_really_drawn(tmp_path, dropping):
    tiny = save(tmp_path / "tiny", 1)
    train(dropping, tmp_path / "a", PLAIN, task=letters(by_index))
    train(tiny, tmp_path / "b", PLAIN, task=letters(by_index))
    one, other = (tmp_path / name / "checkpoint" / "model.safetensors" for name in "ab")
    assert one.read_bytes() != other.read_bytes()


def train_long(folder: str, out: str) -> None:
    """In a process of its own: a dot for each completion."""
    torch.set_num_threads(1)
    progress = Progress(graded=lambda: print(".", end="", flush=True))
    train(Path(folder), Path(out), msgspec.structs.replace(SETTINGS, rounds=1000), progress=progress)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_asked_to_stop_exits_with_75(tmp_path, dropping, number):
    log = tmp_path / "log.txt"
    with log.open("ab") as output:
        child = processes.start(f"{__name__}:train_long", str(dropping), str(tmp_path / "out"), output=output)
    while log.stat().st_size < 100 and not select.select([child], [], [], 0.1)[0]:
        pass
    os.kill(child.pid, number)
    assert child.wait() == 75, log.read_text()
    assert (tmp_path / "out" / "state" / "state.pt").is_file()
