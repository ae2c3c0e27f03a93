"""Processes that begin at once: forks of a process that has torch, transformers and the trainers imported.

Importing these takes three to four seconds of CPU time, and a sweep starts dozens of processes. `run` and `start` call
a function in a new one. The first call starts the server that forks; what is started from a fork comes from the same
server. A fork has its starter's environment and working folder, writes to a file, and gets SIGTERM when its starter is
gone, however that went. The server imports and forks and does nothing else: it has one thread and never touches a GPU,
since neither survives a fork. It has a session of its own, so that a Ctrl-C reaches only the command, which then tells
its children.

Not handled: other systems than Linux; what a function returns (it leaves files).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from harness.errors import HarnessError

PRELOADED = (
    *("harness.sweep", "harness.estimates", "harness.samplers.hf"),
    *("harness.trainers.sft", "harness.trainers.dpo", "harness.trainers.grpo"),
    # what transformers loads only when the first model is read
    *("transformers.modeling_utils", "transformers.models.auto.tokenization_auto"),
    *("transformers.tokenization_utils_tokenizers", "transformers.models.llama.modeling_llama"),
)
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy would start its threads when it is imported
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asks for GPUs without initialising them
}
"""Of the server alone: a fork has its starter's."""

LOST = 255
"""Status of a fork of which nobody will ever tell."""
MOST_SAID = 4000
"""Characters of an error; the output has all of it."""

_asking: socket.socket | None = None
"""The server's ear: None before it was needed."""
_starter: socket.socket | None = None
"""In a fork: whom `say` tells."""


class Child:
    """A running fork. `fileno()` becomes readable when there is something to `hear`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.status: int | None = None
        """Exit status, -9 if signal 9 ended it; None while it runs."""
        self.error: str | None = None
        """The message of the HarnessError that ended it."""
        begun = self.hear()
        self.pid: int | None = begun["pid"] if begun else None

    def fileno(self) -> int:
        """For `select`."""
        return self._connection.fileno()

    def hear(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next thing that the fork said, or None: nothing within `timeout` seconds, or it ended (`status`)."""
        if self.status is not None or not select.select([self._connection], [], [], timeout)[0]:
            return None
        message = self._receive()
        if "status" not in message:
            self.error = message.get("error")
            return message
        self.status = message["status"]
        self._connection.close()
        return None

    def wait(self) -> int:
        """The exit status, when it has ended; what it says is not heard."""
        while self.status is None:
            self.hear()
        return self.status

    def stop(self) -> None:
        """Tells it to save its state and end."""
        if self.status is None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._connection.recv(1 << 16)
        except ConnectionResetError:
            message = b""
        if not message:
            self._connection.close()
            self.status = LOST
            raise HarnessError("the process that starts all others was ended from outside: give the command again.")
        received: dict[str, Any] = json.loads(message)
        return received


def run(function: str, *arguments: Any, output: IO[bytes], environment: Mapping[str, str] | None = None) -> int:
    """Calls `function` in a new process and gives its exit status. If this one is interrupted, so is the other.

    Raises:
        HarnessError: what the function raised.
    """
    child = start(function, *arguments, output=output, environment=environment)
    try:
        status = child.wait()
    except BaseException:  # also SystemExit, by which a signal's handler may leave
        child.stop()
        child.wait()
        raise
    if child.error is not None:
        raise HarnessError(child.error)
    return status


def start(function: str, *arguments: Any, output: IO[bytes], environment: Mapping[str, str] | None = None) -> Child:
    """Calls `function` in a new process.

    Args:
        function: `module:name`; a HarnessError that it raises is one line of output, `Child.error` and status 1.
        arguments: for the function, as JSON has them.
        output: where standard output and error go.
        environment: variables beside those of this process.
    """
    job = {
        "function": function,
        "arguments": arguments,
        "environment": {**os.environ, **(environment or {})},
        "folder": os.getcwd(),
    }
    asking = _ear()
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its, os.fdopen(os.memfd_create("job"), "w+b") as file:  # of any size
        file.write(json.dumps(job).encode())
        file.flush()
        given = [file.fileno(), its.fileno(), output.fileno(), asking.fileno()]
        try:
            socket.send_fds(asking, [b"fork"], given)
        except BrokenPipeError as error:
            mine.close()
            raise HarnessError("the process that starts all others is gone: give the command again.") from error
    return Child(mine)


def say(**message: Any) -> None:
    """In a fork: tells who started it, who may not be listening."""
    if _starter is not None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            _starter.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


@contextlib.contextmanager
def server(
    environment: Mapping[str, str] | None = None,
    *,
    holding: Sequence[int] = (),
    preloaded: Sequence[str] = PRELOADED,
) -> Iterator[None]:
    """Processes that are started inside the block come from a server of its own, which ends with them.

    Args:
        environment: variables that count when packages are imported: OMP_NUM_THREADS.
        holding: open files that the server and its forks keep open, however this process ends: a lock.
        preloaded: modules to import; those that are not installed are left out.
    """
    global _asking
    before = _asking
    _asking, ear = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = f"from harness.processes import main; main({ear.fileno()}, {list(preloaded)})"
    with ear:
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            pass_fds=[ear.fileno(), *holding],
            start_new_session=True,
        )
    try:
        yield
    finally:
        _asking.close()
        _asking = before
        process.wait()


_lasting = contextlib.ExitStack()


def _ear() -> socket.socket:
    """The server's; one that nobody started is started now, and ends with this process."""
    if _asking is None:
        _lasting.enter_context(server())
        atexit.register(_lasting.close)
    assert _asking is not None
    return _asking


# --- the server and its forks


def main(ear: int, preloaded: Sequence[str]) -> None:
    """The server; each fork of it returns from `_serve`, too, and goes on as a process like any other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in preloaded:
        with contextlib.suppress(ImportError):  # whoever needs it is told
            importlib.import_module(name)
    gc.freeze()  # forks share the memory of what is imported for as long as nobody writes to it
    with socket.socket(fileno=ear) as asked:
        given = _serve(asked)
    if given:
        _work(*given)


def _serve(asked: socket.socket) -> list[int]:
    """In a fork the files that it was given; [] in the server when all who could ask have ended."""
    starters: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    with woken, wake, contextlib.ExitStack() as stack:
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the number is written to `wake`
        signal.set_wakeup_fd(wake.fileno())
        stack.callback(signal.set_wakeup_fd, -1)
        while True:
            ready, _, _ = select.select([asked, woken], [], [])
            if woken in ready:
                woken.recv(4096)
                _report_ended(starters)
            if asked not in ready:
                continue
            _, given, _, _ = socket.recv_fds(asked, 16, 8)
            if not given:
                return []
            pid = os.fork()
            if not pid:
                for each in starters.values():
                    each.close()
                return given
            job, starter, output, asking = given
            starters[pid] = socket.socket(fileno=starter)
            for file in (job, output, asking):
                os.close(file)


def _report_ended(starters: dict[int, socket.socket]) -> None:
    while starters:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with starters.pop(pid) as starter, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            starter.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())


def _work(job: int, starter: int, output: int, asking: int) -> None:
    """What a fork does: becomes a process of whoever asked for it, and calls the function."""
    global _asking, _starter
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    _asking, _starter = socket.socket(fileno=asking), socket.socket(fileno=starter)
    say(pid=os.getpid())
    threading.Thread(target=_end_with, args=[_starter], daemon=True).start()
    with os.fdopen(job, "rb") as file:
        file.seek(0)
        what = json.loads(file.read())
    os.environ.clear()
    os.environ.update(what["environment"])
    os.chdir(what["folder"])
    status = _call(what["function"], what["arguments"])
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to clear away all modules touches the memory that forks share, which takes half a second


def _call(function: str, arguments: Sequence[Any]) -> int:
    """The exit status that Python would end with."""
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except HarnessError as error:
        print(error, file=sys.stderr)
        say(error=str(error)[:MOST_SAID])
        return 1
    except BaseException:  # as Python does with what nobody caught
        traceback.print_exc()
        return 1
    return 0


def _end_with(starter: socket.socket) -> None:
    """Nothing ever comes from there but its end."""
    with contextlib.suppress(ConnectionResetError):
        starter.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)
