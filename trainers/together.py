"""The processes that train one model together: `together(job)` starts them, `follow` is what each of the others does.

The process that `train` of a trainer was called in is the first: it holds the phase's folder, writes every file,
validates and speaks to the user. It starts the others as forks (`harness.processes`), which do the same work on the
same rows (`sharding.Ranks` says who runs what) and keep nothing that would be missed. So an end is simple: if the first
is done, fails or is killed, the others end at once; if one of the others is lost, the first ends with a sentence that
says so, and the same call goes on from the last state, with any number of processes.

They meet in a file of the phase's folder and talk over the loopback interface, by NCCL between GPUs and by gloo else.

Not handled: other machines; a process that hangs without ending. NCCL has not been tried.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from harness import processes
from harness import progress as progress_
from harness.errors import HarnessError, InputError
from harness.recipes import Improvement
from harness.trainers import epochs, phase
from harness.trainers.lm import LM, open_model
from harness.trainers.sharding import Ranks, spread
from harness.types import Record, Row, Trained

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
MEETING = ".meeting-"
TIMEOUT = timedelta(days=7)
"""How long one waits for the others: the first may be validating."""
PATIENCE_S = 20.0
"""After another process is lost: how long the first has to notice it by itself. One that waits for a GPU never does."""
ORDERLY = (None, 0, 75)
"""Exit statuses of a process that is running, or ended as it was meant to."""


class Job(Record, frozen=True, omit_defaults=False):
    """What `train` of a trainer was asked for, checked: all that another process must know to take part."""

    trainer: str
    """Its module in `harness.trainers`, whose `prepare(lm, job, progress)` gives what `epochs.run` trains on."""
    rows: tuple[Row, ...]
    init: str
    out: str
    improve: Improvement
    seed: int
    device: str
    """Of the first process."""
    dtype: str
    apply_chat_template: bool | None
    system_instruction: str | None
    save_every_s: float


def run(job: Job, validate: Callable[[Path], float] | None, progress: progress_.Progress) -> Trained:
    """The account of the training, after as many processes as `job.improve.processes` have done it.

    Raises:
        InputError: more processes than GPUs, or a device that cannot be shared out.
        HarnessError: another process was lost; also whatever the trainer raises.
        SystemExit without a chance to catch it, status 1: another was lost, the sentence is printed, and this process
            was too busy for `PATIENCE_S` to notice (it waits for a GPU, or validates).
    """
    _check(job)
    with together(job) as ranks:
        return _work(job, ranks, validate, progress)


def _work(job: Job, ranks: Ranks, validate: Callable[[Path], float] | None, progress: progress_.Progress) -> Trained:
    """One process's part of the training, which is all of it where there is one."""
    trainer = importlib.import_module(f"harness.trainers.{job.trainer}")
    with phase.isolated(job.seed, device_of(job.device, ranks)):
        lm = opened(job, ranks)
        examples, losses = trainer.prepare(lm, job, progress)
        trained: Trained = epochs.run(
            lm,
            examples,
            losses,
            out=Path(job.out),
            improve=job.improve,
            seed=job.seed,
            validate=validate,
            save_every_s=job.save_every_s,
            progress=progress,
        )
        return trained


def opened(job: Job, ranks: Ranks) -> LM:
    """The model to train, as `lm.open_model` opens it; spread if there are several processes.

    These read it one after the other, so that the machine's memory holds one whole model beside the parts.
    """
    ask = functools.partial(
        open_model,
        Path(job.init),
        apply_chat_template=job.apply_chat_template,
        system_instruction=job.system_instruction,
        lora=job.improve.lora,
    )
    if ranks.size == 1:
        return ask(device=job.device, dtype=job.dtype)
    device = device_of(job.device, ranks)
    dtype = job.dtype if job.dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
    for turn in range(ranks.size):
        if turn == ranks.rank:
            lm = ask(device="cpu", dtype=dtype)
            lm = replace(lm, device=device, ranks=ranks, root=spread(lm.model, device, ranks.size))
        ranks.wait()
    return lm


def device_of(device: str, ranks: Ranks) -> str:
    """This process's own: with several, the GPU of its number."""
    return device if ranks.size == 1 or torch.device(device).type == "cpu" else f"cuda:{ranks.rank}"


def _check(job: Job) -> None:
    n, device = job.improve.processes, torch.device(job.device)
    if n == 1:
        return
    try:
        msgspec.json.decode(msgspec.json.encode(job), type=Job)  # as the others will
    except msgspec.ValidationError as error:
        raise InputError(f"the settings of training cannot be used ({error}).") from error
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise InputError(f"processes is {n} and torch {torch.__version__} cannot train so: install a later one.")
    if device.type not in ("cpu", "cuda") or device.index is not None:
        raise InputError(
            f"processes is {n} and the device is {job.device!r}: give cuda, which takes the first {n} GPUs, or cpu."
        )
    if device.type == "cuda" and n > torch.cuda.device_count():
        raise InputError(
            f"processes is {n} and the number of GPUs that can be seen is {torch.cuda.device_count()}: each process "
            "needs its own (and the trials of a sweep share them out, so a sweep needs a lower `parallel`)."
        )


# --- the first process


@contextlib.contextmanager
def together(job: Job) -> Iterator[Ranks]:
    """Within the block the other processes run; afterwards they have ended. Alone it does nothing."""
    n = job.improve.processes
    if n == 1:
        yield Ranks()
        return
    for left in Path(job.out).glob(f"{MEETING}*"):  # by a call that was killed
        left.unlink()
    data = {"job": msgspec.to_builtins(job), "threads": torch.get_num_threads()}
    others: list[processes.Child] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=[others, n, over], daemon=True)
    try:
        with os.fdopen(os.dup(2), "wb") as output:
            for rank in range(1, n):
                child = processes.start(
                    "harness.trainers.together:follow", data, rank, os.getpid(), output=output, environment=LOOPBACK
                )
                others.append(child)
        watch.start()
        with _joined(job, Ranks(0, n), os.getpid()) as ranks:
            yield ranks
        watch.join(PATIENCE_S)  # they are done, too
    except RuntimeError as error:  # what torch raises if another one doesn't answer
        watch.join(1.0)
        if lost := _lost(others, n):
            raise HarnessError(lost) from error
        raise
    finally:
        over.set()
        for child in others:
            if child.status is None and child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
        if watch.is_alive():
            watch.join()
        _meeting(job, os.getpid()).unlink(missing_ok=True)


def _watch(others: Sequence[processes.Child], n: int, over: threading.Event) -> None:
    """Hears how the others end. If one is lost and this process doesn't notice, it is ended, too."""
    running = list(others)
    while running:
        for child in select.select(running, [], [])[0]:
            with contextlib.suppress(HarnessError):  # their server is gone: the status says it
                child.hear()
        running = [child for child in running if child.status is None]
        if (lost := _lost(others, n)) and not over.wait(PATIENCE_S):
            print(lost, file=sys.stderr, flush=True)
            processes.say(error=lost)
            os._exit(1)


def _lost(others: Sequence[processes.Child], n: int) -> str | None:
    """What to tell of the first that ended as it should not."""
    for rank, child in enumerate(others, 1):
        if child.status not in ORDERLY:
            how = f"was ended by signal {-child.status}" if child.status < 0 else f"failed with status {child.status}"
            return child.error or (
                f"process {rank + 1} of the {n} that train together {how}: what it said is in the training's log, and "
                "the same command goes on from the last state."
            )
    return None


# --- the others


def follow(data: dict[str, Any], rank: int, leader: int) -> None:
    """One of the others: does its part, and ends with the first process, whose id is `leader`."""
    threading.Thread(target=_end_with, args=[os.pidfd_open(leader)], daemon=True).start()
    job = msgspec.convert(data["job"], type=Job)
    torch.set_num_threads(data["threads"])
    validate = _never if job.improve.until == "validation" else None
    with _joined(job, Ranks(rank, job.improve.processes), leader) as ranks:
        _work(job, ranks, validate, progress_.silent)


def _never(checkpoint: Path) -> float:
    raise AssertionError(f"{checkpoint} is for the first process to validate")


def _end_with(process: int) -> None:
    """A SIGTERM would only ask for an end, and whoever waits for a GPU doesn't hear it."""
    select.select([process], [], [])
    os._exit(1)


@contextlib.contextmanager
def _joined(job: Job, ranks: Ranks, leader: int) -> Iterator[Ranks]:
    """torch's process group, for all that is in the block."""
    device = torch.device(device_of(job.device, ranks))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.FileStore(str(_meeting(job, leader)), ranks.size)  # type: ignore[attr-defined]  # documented
    with _environment(LOOPBACK):
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=store,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=TIMEOUT,
        )
        try:
            yield ranks
        except BaseException:
            if (group := dist.group.WORLD) is not None:
                group.abort()  # nothing is waited for: the others may be gone
            raise
        finally:
            dist.destroy_process_group()


def _meeting(job: Job, leader: int) -> Path:
    """Named after the first process: those that a killed one left behind for a moment don't come to the next."""
    return Path(job.out) / f"{MEETING}{leader}"


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
