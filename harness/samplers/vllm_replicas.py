"""Copies of a model: a process for each, with a vLLM engine and GPUs of its own. `Replicas.stream` shares work out.

A completion's seed does not depend on the process that samples it, so neither does the completion. Not handled: pushing
weights and sleeping (they are for one engine in the trainer's process), several machines.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, InputError
from harness.samplers.prompting import Request
from harness.samplers.vllm_engine import Sampled, open_engine, stream
from harness.types import Budget

PROMPTS_EACH = 8
"""With at least so many prompts for each process, all completions of one go to the same: its prefill is shared."""

GRACE_S = 20.0
"""How long a process may take to end by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Replicas:
    """What `open_replicas` returns."""

    processes: tuple[subprocess.Popen[bytes], ...]
    connections: tuple[Connection[Any, Any], ...]

    def stream(self, asked: Sequence[Request], *, budget: Budget, eos: int | list[int] | None) -> Iterator[Sampled]:
        """Samples everything that is asked; yields each completion when it is finished, see `vllm_engine.stream`."""
        busy = list(self.connections)
        for connection, share in zip(busy, shares(asked, len(busy)), strict=True):
            connection.send((share, budget, eos))
        try:
            while busy:
                for ready in wait(busy):
                    assert isinstance(ready, Connection)
                    try:
                        answer = self._receive(ready)
                    except HarnessError:
                        busy.remove(ready)  # it says nothing more
                        raise
                    if answer is None:
                        busy.remove(ready)
                    else:
                        yield answer
        finally:
            for connection in busy:  # abandoned: what is under way is dropped
                with contextlib.suppress(OSError):
                    connection.send(None)
            for connection in busy:
                with contextlib.suppress(HarnessError, OSError):
                    while self._receive(connection) is not None:
                        pass

    def _receive(self, connection: Connection[Any, Any]) -> Any:
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            place = self.connections.index(connection)
            raise HarnessError(
                f"vLLM process {place + 1} of {len(self.processes)} ended with code "
                f"{self.processes[place].wait(GRACE_S)}: see its messages."
            ) from error
        if isinstance(answer, HarnessError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the processes."""
        for connection in self.connections:
            connection.close()  # they end when nobody can ask them any more
        for process in self.processes:
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def shares(asked: Sequence[Request], number: int) -> list[list[Request]]:
    """What each of `number` processes samples."""
    if len(asked) >= PROMPTS_EACH * number:
        return [list(asked[i::number]) for i in range(number)]
    parts: list[list[Request]] = [[] for _ in range(number)]
    for shift, request in enumerate(asked):
        for i in range(number):
            indices = request.indices[(i + shift) % number :: number]
            if indices:
                parts[i].append(replace(request, indices=indices))
    return parts


def open_replicas(number: int, folder: Path, *, trust_remote_code: bool, **options: Any) -> Replicas:
    """Starts `number` processes; `options` are those of `vllm_engine.open_engine`. All must load, or none stays."""
    processes, connections = [], []
    for i in range(number):
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "harness.samplers.vllm_replicas", str(theirs.fileno())]
            environment = os.environ | visible_gpus(i, number, options["tensor_parallel_size"])
            # stdout is for results: whatever is printed there goes where errors go
            started = subprocess.Popen(command, stdout=2, pass_fds=[theirs.fileno()], env=environment)
        processes.append(started)
        connections.append(ours)
        ours.send((folder, trust_remote_code, options | {"trust_remote_code": trust_remote_code}))
    replicas = Replicas(processes=tuple(processes), connections=tuple(connections))
    try:
        for connection in connections:
            replicas._receive(connection)
    except BaseException:
        replicas.close()
        raise
    return replicas


def visible_gpus(place: int, number: int, each: int) -> dict[str, str]:
    """The environment variable that gives process `place` of `number` its GPUs; nothing where there are none."""
    import torch

    found = torch.cuda.device_count()
    if not found:
        return {}
    if found < number * each:
        raise InputError(
            f"data_parallel_size {number} and tensor_parallel_size {each} need {number * each} GPUs and there are "
            f"{found}."
        )
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(found)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[place * each : (place + 1) * each])}


def _serve(connection: Connection[Any, Any]) -> None:
    """What a process does: load, then sample what comes, until nobody is there."""
    from harness.samplers import hf_model

    folder, trust_remote_code, options = connection.recv()
    try:
        _, tokenizer = hf_model.load_texts(folder, trust_remote_code)
        llm = open_engine(folder, **options)
    except HarnessError as error:
        connection.send(error)
        return
    connection.send("ready")
    while True:
        message = connection.recv()
        if message is None:
            continue  # the word to stop came after the last completion
        asked, budget, eos = message
        try:
            with contextlib.closing(stream(llm, tokenizer, asked, budget=budget, eos=eos)) as completions:
                for completion in completions:
                    connection.send(completion)
                    if connection.poll():
                        connection.recv()
                        break
        except HarnessError as error:
            connection.send(error)
        else:
            connection.send(None)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        _serve(Connection(int(sys.argv[1])))
