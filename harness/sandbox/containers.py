"""The tier "docker": a worker's fork server in a warm container of its own, where it speaks to the judge as elsewhere.

Main functions: `find_image` once, `start` for each worker. The container sees its image, read-only, and for a moment a
folder with our modules and a socket, over which it reaches us; the folder is gone before a program runs. It has no
network, no rights, no other user's processes, and bounds on memory and threads. It ends when its connection does, and
Docker then removes it. The one place that imports the package `docker`.
Not handled: daemons on other machines or in virtual ones (descriptors cannot travel there), and gVisor. Tried in runsc
20221219, with host sockets allowed: descriptors do travel, but there is no Landlock, /tmp can be written and outlives a
program, a bound on threads is not kept, CPU time is counted twice over, and a program takes ten times as long.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import MissingDependency, SandboxUnavailable
from harness.sandbox import lockdown

IMAGE = "treatment-harness-sandbox"
"""The image of our Dockerfile."""
LABEL = "treatment-harness"
"""Of every container of ours; its value is the process that started it, as `_owner` writes it."""
USER = "65534:65534"
ROOM_BYTES = 256 << 20
"""For the fork server and what the kernel keeps for a program, beyond the program's own memory."""
START_S = 60.0
LOOK_S = 0.25
SHARED = "/harness"
CONTACT = f"""
import _socket, os, sys
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
connection.connect("{SHARED}/socket")
os.dup2(connection.fileno(), 2)
os.dup2(connection.detach(), 3)
os.dup2(os.open(os.devnull, os.O_RDWR), 1)
if sys.version_info < (3, 11):
    sys.exit("its Python is %d.%d, and 3.11 or newer is needed" % sys.version_info[:2])
"""
"""What runs first in the container: errors come to us, and what is printed goes nowhere."""
CONTROL = 3
NEEDED = "an image needs Python 3.11 or newer with its whole standard library."


class Image(NamedTuple):
    """An image by the name that it was asked for, and by what it is."""

    name: str
    id: str


class Container:
    """A running container; waited for and killed like a `subprocess.Popen`."""

    stderr = None

    def __init__(self, name: str, pid: int, python: str) -> None:
        self.name = name
        self.pid = pid
        self.python = python
        """Version of the Python in it."""

    def poll(self) -> int | None:
        """None while it is there, 0 once Docker has removed it."""
        with _daemon() as client, contextlib.suppress(_not_found()):
            client.api.inspect_container(self.name)
            return None
        return 0

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended by itself and is removed; subprocess.TimeoutExpired if it is not."""
        with _daemon() as client, contextlib.suppress(_not_found()):
            try:
                client.api.wait(self.name, timeout=timeout, condition="removed")
            except OSError as error:
                if isinstance(error, _not_found()):
                    raise
                raise subprocess.TimeoutExpired(self.name, timeout or 0) from error
        return 0

    def kill(self) -> None:
        """Ends and removes it; harmless when repeated."""
        with _daemon() as client:
            _remove(client, self.name)

    def communicate(self) -> tuple[bytes, bytes]:
        """Ends it; what it had to say `start` has told already."""
        self.kill()
        return b"", b""


@contextlib.contextmanager
def _daemon() -> Iterator[Any]:
    """A client of the Docker daemon on this machine."""
    try:
        import docker
    except ImportError:
        raise SandboxUnavailable(str(MissingDependency("docker", "docker", "the sandbox tier docker"))) from None
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        raise SandboxUnavailable(f"DOCKER_HOST is {host!r}: the sandbox needs a Docker daemon on this machine.")
    address = host.removeprefix("unix://") or "/var/run/docker.sock"
    try:
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(address)  # the package would say it less clearly, and leave a socket open
        client = docker.from_env(timeout=START_S)
    except (OSError, docker.errors.DockerException) as error:
        raise SandboxUnavailable(
            f"no Docker daemon answers at {address} ({_short(error)}): start one, or become one of its users."
        ) from error
    with contextlib.closing(client):
        yield client


def _not_found() -> type[OSError]:
    import docker

    found: type[OSError] = docker.errors.NotFound
    return found


def _short(error: Exception) -> str:
    """The daemon's own words, in one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())[-300:].rstrip(".")


def find_image(name: str) -> Image:
    """The image of that name; removes what killed runs have left. SandboxUnavailable if a container cannot be had."""
    with _daemon() as client:
        info = client.info()
        kernel = os.uname().release
        if info["KernelVersion"] != kernel:
            raise SandboxUnavailable(
                f"the Docker daemon runs on another kernel ({info['KernelVersion']}, here {kernel}), so on another "
                "machine or in a virtual one: the sandbox needs one on this machine."
            )
        if "runsc" in info["DefaultRuntime"]:
            raise SandboxUnavailable(
                "the Docker daemon runs containers in gVisor (runsc), where the sandbox cannot keep its promises: "
                "make runc its default runtime."
            )
        _remove_leftovers(client)
        try:
            return Image(name, client.images.get(name).id)
        except _not_found():
            how = f"docker pull {name}"
            if name == IMAGE:
                how = f"docker build --tag {name} - < {Path(__file__).with_name('Dockerfile')}"
            raise SandboxUnavailable(f"there is no Docker image {name!r}: {how}.") from None


def start(image: Image, boot: str, options: dict[str, Any], *, memory_bytes: int) -> tuple[Container, socket.socket]:
    """A container with the fork server, ready and confined, and the judge's connection to it.

    `boot` is the code that finds and runs our modules; `options` are those of `zygote.main`, but the connection.
    """
    with ThreadPoolExecutor(1) as thread:  # out of reach of Ctrl-C, which would leave a container half made
        under_way = thread.submit(_start, image, boot, options, memory_bytes)
        try:
            return under_way.result()
        except KeyboardInterrupt:
            with contextlib.suppress(SandboxUnavailable):
                container, control = under_way.result()
                control.close()
                container.kill()
            raise


def _start(image: Image, boot: str, options: dict[str, Any], memory_bytes: int) -> tuple[Container, socket.socket]:
    name = f"{LABEL}-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=f"{LABEL}-{_owner()}-")))
        listener = undo.enter_context(_share_sources(folder / "shared"))
        client = undo.enter_context(_daemon())
        undo_start = undo.enter_context(contextlib.ExitStack())
        undo_start.callback(_remove, client, name)
        arguments = [SHARED, "harness.sandbox.zygote", json.dumps({**options, "control": CONTROL, "introduce": True})]
        try:
            container = client.containers.create(
                image.id, ["-s", "-S", "-c", CONTACT + boot, *arguments], name=name,
                **_settings(folder / "shared", memory_bytes),
            )  # fmt: skip
            container.start()
        except OSError as error:  # which those of the package are
            said = _short(error)
            if '"python3": executable file not found' in said:
                said = "there is no python3 in it"
            raise SandboxUnavailable(f"no container of the image {image.name!r} starts: {said}; {NEEDED}") from error
        control = _accept(listener, client, name, image)
        undo_start.callback(control.close)
        python = _introduction(control, image)
        pid = int.from_bytes(control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
        undo_start.pop_all()
    return Container(name, pid, python), control


def _settings(shared: Path, memory_bytes: int) -> dict[str, Any]:
    """All that the container is denied, and what it is given."""
    from docker.types import LogConfig, Mount

    cores = os.sched_getaffinity(0)
    ours_only = {"cpuset_cpus": ",".join(map(str, sorted(cores)))} if len(cores) < (os.cpu_count() or 0) else {}
    return ours_only | {
        "entrypoint": ["python3"],
        "user": USER,
        "working_dir": "/",
        "hostname": "sandbox",
        # set and empty is as unset: an image's own settings must not decide what a program sees
        "environment": {
            "PYTHONHASHSEED": "0",
            "LD_BIND_NOW": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": "",
            "PYTHONHOME": "",
            "LANG": "",
        },
        "mounts": [Mount(SHARED, str(shared), type="bind", read_only=True)],
        "read_only": True,
        "network_mode": "none",
        "ipc_mode": "none",  # which would bring a writable /dev/shm
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory_bytes + ROOM_BYTES,
        "memswap_limit": memory_bytes + ROOM_BYTES,
        "pids_limit": lockdown.MAX_THREADS,
        "healthcheck": {"test": ["NONE"]},  # no other process
        "log_config": LogConfig(type="none"),
        "auto_remove": True,
        "labels": {LABEL: _owner()},
    }


def _share_sources(folder: Path) -> socket.socket:
    """Puts our modules into `folder` and a socket beside them, which listens. Nobody else can reach the folder, for
    the one above it is closed; in the container, where another user runs, everything in it may be read."""
    source = Path(__file__).parent
    shutil.copytree(source, folder / "sandbox", ignore=lambda place, names: {n for n in names if not _is_code(n)})
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = os.open(folder, os.O_PATH)
    listener.bind(f"/proc/self/fd/{descriptor}/socket")  # the address of a socket is short, a folder's name may be long
    os.close(descriptor)
    listener.listen(1)
    for place, _, files in os.walk(folder):
        os.chmod(place, 0o755)
        for name in files:
            os.chmod(os.path.join(place, name), 0o666 if name == "socket" else 0o644)
    return listener


def _is_code(name: str) -> bool:
    return name == "__pycache__" or name.endswith((".py", ".pyc"))


def _accept(listener: socket.socket, client: Any, name: str, image: Image) -> socket.socket:
    """The connection from the container; SandboxUnavailable if it ends, or does nothing, instead."""
    limit = time.monotonic() + START_S
    listener.settimeout(LOOK_S)
    while True:
        with contextlib.suppress(TimeoutError):
            return listener.accept()[0]
        try:
            running = client.api.inspect_container(name)["State"]["Running"]
        except _not_found():
            running = False
        if not running or time.monotonic() > limit:
            raise SandboxUnavailable(
                f"python3 does not run in the image {image.name!r}, or cannot reach us from there: {NEEDED}"
            )


def _introduction(control: socket.socket, image: Image) -> str:
    """The version of the Python in the container; SandboxUnavailable with its last words if it fails."""
    control.settimeout(START_S)
    said = ""
    try:
        while piece := control.recv(1 << 16).decode(errors="replace"):
            if piece.startswith("python "):
                control.settimeout(None)
                return piece.removeprefix("python ")
            said += piece
    except OSError as error:
        said += f"\n{error}"
    last = (said.strip().splitlines() or ["it ended without a word"])[-1]
    raise SandboxUnavailable(f"the sandbox does not start in the image {image.name!r}: {last.rstrip('.')}; {NEEDED}")


def _remove(client: Any, name: str) -> None:
    """Ends the container and waits until there is nothing left of it."""
    import docker

    with contextlib.suppress(docker.errors.NotFound):
        try:
            client.api.remove_container(name, v=True, force=True)
        except docker.errors.APIError as error:
            if error.status_code != 409:  # it is being removed already
                raise
            client.api.wait(name, condition="removed")


def _owner() -> str:
    """This process, so that nobody takes another one for it later: boot, process namespace, number, start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}.{os.getpid()}.{_started(os.getpid())}"


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _is_gone(owner: str) -> bool:
    """Has the process ended? False where that cannot be known from here."""
    try:
        boot, space, pid, started = owner.split(".")
        here = _owner().split(".")
        return boot != here[0] or (space == here[1] and _started(int(pid)) != started)
    except ValueError:
        return False


def _remove_leftovers(client: Any) -> None:
    """Removes what processes that were killed while they started a container could not: nothing ends it by itself."""
    for found in client.api.containers(all=True, filters={"label": LABEL}):
        if _is_gone(found["Labels"][LABEL]):
            _remove(client, found["Id"])
    for folder in Path(tempfile.gettempdir()).glob(f"{LABEL}-*.*.*.*-*"):
        if _is_gone(folder.name.removeprefix(f"{LABEL}-").rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)
