"""What a training phase needs to survive: state files, random generators, signals, disk space, accounts.

A phase has a folder `out`:

    checkpoint/   the weights, when training is done          trained.json   written last: the phase is done
    state/        weights, optimiser, generators, cursor      training.json  a hash of what is being trained

`hold(out, identity)` takes it; `save_state` and `load_state` keep one file in `out/state`, always whole. A phase that
is killed and started again goes on where the last state was saved and ends with the same weights to the bit, on a CPU
of the same kind with the same number of threads (`torch.set_num_threads`) and the same versions of packages.

Processes that train together (`together.py`) share one folder: the first of them holds it and writes, and the state is
whole, so that any number of them can go on.

Not handled: a disk that loses what the operating system has accepted and synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import HarnessError, InputError, RunMismatch
from harness.store import write_atomically
from harness.trainers.sharding import own_part, whole
from harness.types import Trained

INTERRUPTED = 75
"""Exit status of a phase that saved its state and stopped because it was asked to (EX_TEMPFAIL)."""
MAX_SKIPPED = 3
"""Steps in a row without a finite gradient after which a phase gives up."""
RESERVE_BYTES = 64 << 20


# --- the folder


@contextlib.contextmanager
def hold(out: Path, identity: str) -> Iterator[None]:
    """Holds the phase's folder, which is made if there is none, against other processes.

    Raises:
        RunMismatch: another process has it, or what it holds was trained from something else (`identity` differs).
        InputError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((out / ".lock").open("w"))
        except OSError as error:
            raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunMismatch(f"{out} is being trained in by another process: wait for it, or stop it.") from error
        path = out / "training.json"
        before = json.loads(path.read_text(encoding="utf-8"))["identity"] if path.is_file() else None
        if before not in (None, identity) and (any(out.glob("state/*")) or (out / "trained.json").exists()):
            raise RunMismatch(
                f"{out} holds another training (rows, settings, seed or first weights differ): choose another folder."
            )
        if before != identity:  # or nothing was kept of what was tried before
            write_atomically(path, json.dumps({"identity": identity}) + "\n")
        yield


def finished(out: Path) -> Trained | None:
    """The account of a phase that is done, else None. A state that a kill left behind is removed then."""
    path = out / "trained.json"
    if not path.is_file():
        return None
    shutil.rmtree(out / "state", ignore_errors=True)
    return msgspec.json.decode(path.read_bytes(), type=Trained)


def finish(out: Path, trained: Trained) -> Trained:
    """Writes the account, which makes the phase done, and removes the state."""
    write_atomically(out / "trained.json", json.dumps(msgspec.to_builtins(trained), indent=1) + "\n")
    shutil.rmtree(out / "state", ignore_errors=True)
    return trained


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that gets its name, in place of an older one, when the block ends without an error."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    for path in new.rglob("*"):
        if path.is_file():
            _sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    _sync(folder.parent)


def require_space(folder: Path, n_bytes: int, *, what: str) -> None:
    """HarnessError if the disk of `folder` has no room for so much, before anything is written."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + RESERVE_BYTES:
        raise HarnessError(
            f"{what} needs {n_bytes / 1e9:.2f} GB and the disk of {folder} has {free / 1e9:.2f} GB free: "
            "make room and give the same command again, which goes on from the last state."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the state


def save_state(out: Path, state: Mapping[str, Any]) -> None:
    """Replaces the state in `out/state` in one step. Values: tensors, numbers, strings, and dicts, lists and tuples.

    Raises:
        HarnessError: not enough room on the disk; the older state is as it was.
    """
    folder = out / "state"
    folder.mkdir(exist_ok=True)
    new = folder / ".state.pt"
    new.unlink(missing_ok=True)
    require_space(folder, _tensor_bytes(state), what="the state of training")
    torch.save(dict(state), new)
    _sync(new)
    new.replace(folder / "state.pt")
    _sync(folder)


def load_state(out: Path, *, mapped: bool = False) -> dict[str, Any] | None:
    """What `save_state` wrote last, on the CPU; None if there is nothing. `mapped`: read from the file when used."""
    path = out / "state" / "state.pt"
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return state


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def model_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Trained weights and the optimiser's moments: what an optimiser step changes. Not copied, unless the model is
    spread: then they are whole in the first process, and all must call this."""
    weights = {name: whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
    state = optimiser.state_dict()
    moments = {place: {name: whole(value) for name, value in of.items()} for place, of in state["state"].items()}
    return {"weights": weights, "optimiser": {**state, "state": moments}}


@torch.no_grad()
def restore_model(state: Mapping[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Puts what `model_state` took back into the model and the optimiser, or each process's part of it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(own_part(state["weights"][name], parameter))
    moments = dict(state["optimiser"]["state"])
    for place, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
        if place in moments:
            moments[place] = {name: own_part(value, parameter) for name, value in moments[place].items()}
    optimiser.load_state_dict({**state["optimiser"], "state": moments})


# --- random generators


def rng_state(device: str) -> dict[str, Any]:
    """The global generators of torch, numpy and Python."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: str) -> None:
    """Puts back what `rng_state` took."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def isolated(seed: int, device: str) -> Iterator[None]:
    """Global generators seeded with `seed`, and deterministic algorithms on a CPU; afterwards all is as it was."""
    before = rng_state(device)
    chosen, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)
    if torch.device(device).type == "cpu":
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False  # a help in finding mistakes that takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen, warn_only=warn_only)
        settings.fill_uninitialized_memory = filled
        set_rng_state(before, device)


# --- signals


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT only make the function that this gives return True; a SIGINT after that stops at once.

    Between two micro-steps: `if stopping(): save; raise SystemExit(INTERRUPTED)`. In a thread, where signals cannot be
    caught, it always returns False.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- accounts


class Clock:
    """Wall-clock seconds by part: `with clock("train"): ...`; `clock.seconds` is what `Trained` holds."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def peak_memory_bytes(device: str) -> int:
    """Of a GPU: most that torch had allocated on it. Of a CPU: most that this process has held in memory.

    Of several processes each has its own; the account of a training has the first one's.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
