"""Several processes train what one would: losses, weights, states, and every way in which they may end (gloo, CPU)."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import processes
from harness.errors import HarnessError, InputError
from harness.progress import Progress
from harness.recipes import Improvement, recipe
from harness.trainers import dpo, epochs, sft, together
from harness.trainers.lm import open_model
from harness.trainers.sharding import n_own
from harness.types import Row, Trained
from tests.kill_trials import METHODS, _parent, killed
from tests.samplers.conftest import save

ROOT = str(Path(__file__).resolve().parents[2])
ROWS = [
    Row(
        problem_id=f"p/{i}",
        prompt=f"Question: {i} plus {i}?\nAnswer:",
        completion=f" {2 * i} apples" + " or so" * (i % 4),
        weight=1.0 + i / 3,
    )
    for i in range(8)
]
PAIRS = [
    Row(problem_id=f"p/{i}", prompt=f"{i} plus {i}?", completion=f" {2 * i} apples", rejected=f" {i} pears" + " x" * i)
    for i in range(7)
]
IMPROVE = Improvement(epochs=2, batch_rows=3, batch_tokens=30, learning_rate=1e-3, warmup=0.2)  # 6 steps
LORA = msgspec.structs.replace(IMPROVE, lora={"r": 4, "target_modules": "all-linear"})
DPO = Improvement(loss="dpo", epochs=2, batch_rows=4, batch_tokens=90, learning_rate=1e-3, warmup=0.0)  # 4 steps
TIED = {"tie_word_embeddings": True}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    loaded = [name for name in processes.PRELOADED if name not in ("harness.sweep", "harness.estimates")]
    with processes.server({"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}, preloaded=loaded):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a Llama with these settings."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def get(**settings: Any) -> Path:
        key = str(settings)
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp("model"), 1, **settings)
        return made[key]

    return get


@pytest.fixture(scope="module")
def whole(model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Trained]]:
    """Where a training by so many processes ended that nothing interrupted, and its account."""
    done: dict[tuple[str, int], tuple[Path, Trained]] = {}

    def get(improve: Improvement, n: int, **settings: Any) -> tuple[Path, Trained]:
        key = f"{improve} {settings}", n
        if key not in done:
            out = tmp_path_factory.mktemp("whole")
            done[key] = out, train(model(**settings), out, n, improve)
        return done[key]

    return get


def train(folder: Path, out: Path, n: int, improve: Improvement = IMPROVE, **options: Any) -> Trained:
    trainer, rows = (dpo, PAIRS) if improve.loss == "dpo" else (sft, ROWS)
    improve = msgspec.structs.replace(improve, processes=n)
    options = {"seed": 3, "save_every_s": 0, **options}
    trained: Trained = trainer.train(rows, init=folder, out=out, improve=improve, **options)
    return trained


def apart(one: Path, other: Path) -> float:
    """The largest difference between two weights of the same name."""
    first, second = (load_file(out / "checkpoint" / "model.safetensors") for out in (one, other))
    assert first.keys() == second.keys()
    assert [tensor.dtype for tensor in first.values()] == [tensor.dtype for tensor in second.values()]
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def same_account(one: Trained, other: Trained) -> None:
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    kept = [msgspec.structs.replace(each, history=(), seconds={}, peak_memory_bytes=None) for each in (one, other)]
    assert kept[0] == kept[1]


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[processes.Child]:
    """The processes that a training in this one starts, in the order of their ranks."""
    started: list[processes.Child] = []
    start = processes.start

    def noted(*args: Any, **options: Any) -> processes.Child:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(processes, "start", noted)
    return started


def at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int, act: Callable[[], None]) -> None:
    """The call number `call` of that function, in this process, does `act` first."""
    before, calls = getattr(where, name), iter(range(1, 10**6))

    def broken(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            act()
        return before(*args, **options)

    monkeypatch.setattr(where, name, broken)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# --- the same as one process


@pytest.mark.slow
def test_steps_have_more_and_fewer_micro_batches_than_processes(model):
    """What the next tests rest on."""
    lm = open_model(model())
    rows = sft.tokenize(lm, sft.weighted(ROWS), Progress())
    counts = {len(sft._losses(lm, [rows[p] for p in places], 30)) for _, places in epochs.plan(8, IMPROVE, 3)}
    assert len({len(row.completion_ids) for row in rows}) > 4
    assert 3 in counts
    assert len(sft._losses(lm, rows[:1], 30)) == 1


@pytest.mark.parametrize(
    ("improve", "settings"),
    [
        (IMPROVE, {}),
        (DPO, TIED),
        slow(IMPROVE, TIED),
        slow(LORA, {}),
        slow(DPO, {}),
        slow(msgspec.structs.replace(IMPROVE, batch_rows=1), {}),  # one micro-batch per step
        slow(msgspec.structs.replace(IMPROVE, max_grad_norm=0.01, weight_decay=0.1), {}),
        slow(LORA, TIED),
        slow(msgspec.structs.replace(DPO, lora=LORA.lora), {}),
    ],
)
def test_two_processes_learn_what_one_does(model, whole, improve, settings):
    (one, first), (two, second) = (whole(improve, n, **settings) for n in (1, 2))
    same_account(second, first)
    assert apart(two, one) < 1e-5
    name = "model.layers.1.mlp.down_proj.weight"
    start, end = (load_file(path / "model.safetensors")[name] for path in (model(**settings), two / "checkpoint"))
    assert float((start - end).abs().max()) > 1e-4
    assert sorted(path.name for path in two.iterdir()) == [".lock", "checkpoint", "trained.json", "training.json"]
    files = [sorted(p.relative_to(out).as_posix() for p in (out / "checkpoint").rglob("*")) for out in (one, two)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_activations_that_are_computed_twice(tmp_path, model, monkeypatch, whole):
    twice, recompute = [], epochs.recompute

    def told(lm):
        recompute(lm)
        twice.append(sum(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules()))

    monkeypatch.setattr(epochs, "must_recompute", lambda lm, tokens: True)  # in the first process
    monkeypatch.setattr(epochs, "recompute", told)
    train(model(), tmp_path, 2)
    assert len(twice) == 1
    assert twice[0] >= 1  # layers that are computed twice
    assert apart(tmp_path, whole(IMPROVE, 1)[0]) < 1e-5


@pytest.mark.slow
def test_three_processes_and_passes_in_bfloat16(tmp_path, model):
    """Frozen weights of bfloat16 beside an adapter of float32, as on a GPU."""
    trained = [train(model(), tmp_path / str(n), n, LORA, dtype="bfloat16") for n in (1, 3)]
    same_account(trained[1], trained[0])
    assert apart(tmp_path / "1", tmp_path / "3") < 1e-5


@pytest.mark.parametrize("improve", [IMPROVE, slow(LORA)])
def test_each_process_keeps_its_part_alone(tmp_path, model, monkeypatch, improve):
    """Weights and moments in the first process: a half of them, but for what is rounded up."""
    kept: list[int] = []
    step = epochs.optimiser_step

    def counted(optimiser: torch.optim.Optimizer, **options: Any) -> Any:
        done = step(optimiser, **options)
        held = [p for group in optimiser.param_groups for p in group["params"]]
        held += [value for of in optimiser.state.values() for value in of.values()]
        kept.append(sum(map(n_own, held)))
        return done

    monkeypatch.setattr(epochs, "optimiser_step", counted)
    for n in (1, 2):
        train(model(), tmp_path / str(n), n, improve)
    assert 0.5 * kept[0] <= kept[-1] < 0.51 * kept[0]
    assert len(kept) == 12


# --- ends of all kinds


@pytest.mark.parametrize(("improve", "n_after"), [(IMPROVE, 1), slow(IMPROVE, 2), slow(DPO, 1), slow(LORA, 2)])
def test_one_is_killed_and_any_number_goes_on(tmp_path, model, whole, monkeypatch, others, improve, n_after):
    with monkeypatch.context() as patch:
        at(patch, epochs, "optimiser_step", 3, lambda: os.kill(others[-1].pid, signal.SIGKILL))
        with pytest.raises(HarnessError, match="process 2 of the 2 that train together was ended by signal 9"):
            train(model(), tmp_path, 2, improve)
    assert not torch.distributed.is_initialized()
    notes: list[str] = []
    trained = train(model(), tmp_path, n_after, improve, progress=Progress(note=notes.append))
    assert notes[0] == "Training goes on after step 2."
    out, account = whole(improve, 1)
    same_account(trained, account)
    assert apart(tmp_path, out) < 1e-5


@pytest.mark.parametrize(
    ("first", "second", "n_after"), [(False, True, 2), slow(True, False, 1), slow(True, True, 1), slow(False, True, 1)]
)
def test_a_signal_to_any_of_them_stops_all_at_the_same_step(
    tmp_path, model, whole, monkeypatch, others, first, second, n_after
):
    def interrupt() -> None:
        for pid, wanted in ((os.getpid(), first), (others[-1].pid, second)):
            if wanted:
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)  # so that it is there before the micro-batch ends

    with monkeypatch.context() as patch:
        at(patch, sft, "completion_logprobs", 5, interrupt)
        with pytest.raises(SystemExit) as stopped:
            train(model(), tmp_path, 2, save_every_s=600)
    assert stopped.value.code == 75
    assert [child.status in (75, -9) for child in others] == [True]  # it ended by itself, or was ended
    assert (tmp_path / "state" / "state.pt").is_file()
    trained = train(model(), tmp_path, n_after)
    out, account = whole(IMPROVE, 1)
    same_account(trained, account)
    assert apart(tmp_path, out) < 1e-5


@pytest.mark.slow
def test_dropout_is_drawn_anew_after_a_kill(tmp_path, model, whole, monkeypatch, others):
    out, _ = whole(IMPROVE, 2, attention_dropout=0.1)
    with monkeypatch.context() as patch:
        at(patch, epochs, "optimiser_step", 4, lambda: os.kill(others[-1].pid, signal.SIGKILL))
        with pytest.raises(HarnessError, match="signal 9"):
            train(model(attention_dropout=0.1), tmp_path, 2)
    train(model(attention_dropout=0.1), tmp_path, 2)
    assert apart(tmp_path, out) == 0
    assert apart(whole(IMPROVE, 1, attention_dropout=0.1)[0], out) > 1e-4  # its numbers are others


@pytest.mark.slow
def test_a_trial_that_is_killed_at_random_moments(tmp_path, monkeypatch):
    """All of its processes at once; it ends with the same files, to the bit."""
    improve = {**METHODS["rest_em"]["improve"], "processes": 2}
    monkeypatch.setitem(METHODS, "two", {**METHODS["rest_em"], "improve": improve})
    assert killed("two", save(tmp_path / "base", 1, attention_dropout=0.1), tmp_path, points=3, seed=1).total() == 3


# --- validation


def scored(folder: Path) -> float:
    return {"1": 0.3, "2": 0.7, "3": 0.1, "4": 0.9}[folder.name]


VALIDATED = msgspec.structs.replace(IMPROVE, epochs=4, until="validation")


def lead(folder: str, out: str) -> None:
    """A training that gets as far as its second validation, in a process of its own."""

    def stuck(checkpoint: Path) -> float:
        if checkpoint.name == "2":
            (Path(out) / "stuck").touch()
            time.sleep(60)
        return scored(checkpoint)

    train(Path(folder), Path(out), 2, VALIDATED, validate=stuck)


@pytest.mark.slow
def test_the_first_validates_and_none_outlives_it(tmp_path, model):
    """It is killed while the others wait for its score; then the training goes on to the same end."""
    (tmp_path / "out").mkdir()
    with (tmp_path / "log.txt").open("w+b") as log:
        child = processes.start("tests.trainers.test_sharding:lead", str(model()), str(tmp_path / "out"), output=log)
        assert child.pid is not None
        parent = _parent(child.pid)
        assert parent is not None
        wait_for((tmp_path / "out" / "stuck").exists)
        assert len(children(parent)) == 2
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -9
    wait_for(lambda: not children(parent))
    (tmp_path / "out" / "stuck").unlink()
    trained = {
        n: train(model(), tmp_path / name, n, VALIDATED, validate=scored) for n, name in ((2, "out"), (1, "one"))
    }
    same_account(trained[2], trained[1])
    assert [step["validation"] for step in trained[2].history if "validation" in step] == [0.3, 0.7, 0.1]
    assert apart(tmp_path / "out", tmp_path / "one") < 1e-5


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 seconds")


def test_an_error_of_the_first_ends_all_with_its_sentence(tmp_path, model, others):
    with pytest.raises(InputError, match="validation after epoch 1 gave nan"):
        train(model(), tmp_path, 2, VALIDATED, validate=lambda checkpoint: math.nan)
    assert all(child.status is not None for child in others)
    assert len(others) == 1


# --- what cannot be


def test_settings_that_cannot_be(tmp_path, model):
    with pytest.raises(InputError, match="the device is 'cpu:0': give cuda, which takes the first 2 GPUs, or cpu"):
        train(model(), tmp_path / "a", 2, device="cpu:0")
    with pytest.raises(InputError, match=r"cannot be used \(Expected `int` >= 1 - at `\$.improve.processes`\)"):
        train(model(), tmp_path / "b", 0)
    with pytest.raises(InputError, match=r"cannot be used \(Expected `float` > 0.0 - at `\$.improve.epochs`\)"):
        train(model(), tmp_path / "c", 2, Improvement(epochs=0.0))
    job = together.Job(
        **{"trainer": "sft", "rows": (), "init": "", "out": "", "seed": 0, "device": "cuda", "dtype": "auto"},
        **{"apply_chat_template": None, "system_instruction": None, "save_every_s": 0.0},
        improve=Improvement(processes=1000),
    )
    with pytest.raises(InputError, match=r"processes is 1000 and the number of GPUs that can be seen is [0-9]+: each"):
        together.run(job, None, Progress())
    with pytest.raises(InputError, match=r"processes is 2 and policy gradients train on one device: leave it out\.$"):
        recipe({"recipe": "grpo", "improve": {"processes": 2}})
    with pytest.raises(InputError, match="processes"):
        recipe({"recipe": "rft", "improve": {"processes": 0}})


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_by_all(tmp_path, model, monkeypatch):
    """A loss that one process finds infinite; and weights with which none is finite."""
    taken, losses = iter(range(100)), sft.nll_loss

    def once_infinite(*args: Any, **options: Any) -> Any:
        loss, stats = losses(*args, **options)
        return (loss * math.inf if next(taken) == 3 else loss), stats

    with monkeypatch.context() as patch:
        patch.setattr(sft, "nll_loss", once_infinite)  # in the first process alone
        trained = train(model(), tmp_path / "once", 2)
    assert (trained.steps, trained.skipped_steps) == (5, 1)
    broken = save(tmp_path / "broken", 1)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HarnessError, match="not finite in 3 steps in a row, up to step 3"):
        train(broken, tmp_path / "always", 2)
