"""What is true of the tier "docker" alone: what it is refused, and that no container, file or process stays behind.

A few programs and all promises are tried here; every other test of the sandbox runs in this tier too, as a slow one.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SandboxUnavailable, UnknownName
from harness.sandbox import containers, lockdown, open_sandbox, worker
from harness.sandbox.containers import IMAGE, LABEL, Image
from harness.sandbox.pool import Pool
from harness.sandbox.tiers import choose
from harness.types import Limits, Status
from harness.types import Test as Case

MEMORY_BYTES = 1 << 30

PARENT = """
import sys
from harness.sandbox import open_sandbox
from harness.types import Completion, Job, Problem, Test as Case
test = Case(id="0", kind="stdio", input="", expected="")
jobs = [Job(problem=Problem(id="p", task="t", prompt="", tests=(test,)),
            completion=Completion(problem_id="p", index=i, text="", program=p))
        for i, p in enumerate(["while True: pass", "import time; time.sleep(60)"])]
print("open", flush=True)
with open_sandbox(workers=2, tier="docker") as box:
    print("running", flush=True)
    list(box.run(jobs))
"""


@pytest.fixture(scope="module")
def daemon(docker_here: None) -> Iterator[Any]:
    with containers._daemon() as client:
        yield client


@pytest.fixture(scope="module")
def docker_box(docker_here: None) -> Iterator[Pool]:
    with open_sandbox(workers=1, limits=Limits(cpu_s=1, wall_s=3, memory_bytes=MEMORY_BYTES), tier="docker") as pool:
        yield pool


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, so that those of a test can be told from others."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def ours(client: Any, pid: int) -> list[str]:
    """Containers that the process `pid` started, in any state."""
    found = client.api.containers(all=True, filters={"label": LABEL})
    return [each["Id"] for each in found if each["Labels"][LABEL].split(".")[2] == str(pid)]


def wait_until(condition: Any, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


TAKES_ALL_THREADS = (
    "import _thread, threading, time\nthreading.stack_size(1 << 16)\nfor _ in range(999):\n"
    "    try: _thread.start_new_thread(time.sleep, (60,))\n    except RuntimeError: break\n"
)
PROGRAMS = {
    "print(sum(map(int, input().split())))": Status.passed,
    "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))": Status.passed,
    "import os\nos.write(1, b'%d' % sum(map(int, os.read(0, 99).split())))": Status.passed,
    "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, open(0).read().split()))))\nt.start()": (
        Status.passed
    ),
    "import uuid, dataclasses, decimal, asyncio\nprint(eval(input().replace(' ', '+')))": Status.passed,
    "print(6)": Status.wrong,
    "import sys\nsys.exit(0)": Status.wrong,
    "def": Status.compile_error,
    "import os\nos.abort()": Status.runtime_error,
    "x = bytearray(2 << 30)": Status.memory,
    TAKES_ALL_THREADS + "import os\nos._exit(0)": Status.wrong,
    "print(8 - 1)": Status.passed,
}


def test_programs_get_their_verdicts(docker_box: Pool, make_job: Any) -> None:
    test = Case(id="0", kind="stdio", input="3 4", expected="7")
    jobs = [make_job(program, test, index=index) for index, program in enumerate(PROGRAMS)]
    found = {job.completion.program: execution.status for job, (execution,) in docker_box.run(jobs)}
    assert found == PROGRAMS


def test_functions_get_their_verdicts(docker_box: Pool, make_job: Any) -> None:
    tests = (
        Case(id="0", kind="call", input=[3], expected=9),
        Case(id="1", kind="script", input="assert candidate(2) == 4"),
    )
    for program, status in (("def f(x): return x * x", Status.passed), ("def f(x): return 9", Status.wrong)):
        ((_, executions),) = list(docker_box.run([make_job(program, *tests)]))
        assert [one.status for one in executions] == [Status.passed, status]


def test_no_file_of_the_machine_is_there(docker_box: Pool, make_job: Any, tmp_path: Path) -> None:
    here = tmp_path / "secret"
    here.write_text("0451")
    paths = [str(here), __file__, containers.__file__, "/harness/socket", "/harness/sandbox"]
    source = f"import os\nprint([os.path.lexists(path) for path in {paths!r}], os.listdir('/proc/self/fd'))"
    test = Case(id="0", kind="stdio", input="", expected=f"{[False] * len(paths)} ['0', '1', '2', '3', '4']")
    ((_, (execution,)),) = list(docker_box.run([make_job(source, test)]))
    assert execution.status in (Status.passed, Status.runtime_error), execution
    source = source.replace(", os.listdir('/proc/self/fd')", "")
    test = Case(id="0", kind="stdio", input="", expected=str([False] * len(paths)))
    ((_, (execution,)),) = list(docker_box.run([make_job(source, test)]))
    assert execution.status == Status.passed, execution


def test_container_is_bounded_and_labelled(docker_box: Pool, daemon: Any) -> None:
    (each,) = docker_box._workers
    assert each is not None
    assert isinstance(each.zygote, containers.Container)
    assert daemon.containers.get(each.zygote.name).id in ours(daemon, os.getpid())
    settings = daemon.api.inspect_container(each.zygote.name)["HostConfig"]
    assert settings["Memory"] == MEMORY_BYTES + containers.ROOM_BYTES
    assert settings["PidsLimit"] == lockdown.MAX_THREADS
    assert settings["NetworkMode"] == "none"
    assert settings["CapAdd"] is None
    assert not settings["Privileged"]
    (mount,) = settings["Mounts"]
    assert mount["ReadOnly"]
    assert not os.path.exists(mount["Source"])


def test_version_names_the_image_and_its_python(docker_box: Pool, daemon: Any) -> None:
    digest = daemon.images.get(IMAGE).id.removeprefix("sha256:")[:12]
    code = "import sys; print(*sys.version_info[:3], sep='.')"
    done = daemon.containers.run(IMAGE, ["-c", code], entrypoint="python3", remove=True, network_mode="none")
    assert docker_box.version.startswith("docker, protocol ")
    assert f", python {done.decode().strip()} {os.uname().machine}, image {digest}, stdlib" in docker_box.version


LATER = [pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, *LATER])
def test_nothing_outlives_the_parent(signal_number: int, daemon: Any, scratch: Path) -> None:
    networks = {each.id for each in daemon.networks.list()}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        try:
            assert parent.stdout is not None
            assert (parent.stdout.readline(), parent.stdout.readline()) == (b"open\n", b"running\n")
            time.sleep(0.1)
            assert len(ours(daemon, parent.pid)) == 2
            pids = {daemon.api.inspect_container(each)["State"]["Pid"] for each in ours(daemon, parent.pid)}
        finally:
            parent.send_signal(signal_number)
    assert wait_until(lambda: not ours(daemon, parent.pid), 10)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert list(scratch.iterdir()) == []
    assert networks == {each.id for each in daemon.networks.list()}


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_what_a_start_cut_short_leaves_is_removed_by_the_next_run(
    signal_number: int, daemon: Any, scratch: Path
) -> None:
    left = 0
    for step in range(12):
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        with parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"open\n"
            time.sleep(0.15 + step * 0.03)
            parent.send_signal(signal_number)
        time.sleep(1)  # the daemon may be at it still
        left += len(ours(daemon, parent.pid)) + len(list(scratch.iterdir()))
        states = [daemon.api.inspect_container(each)["State"]["Status"] for each in ours(daemon, parent.pid)]
        assert "running" not in states
        containers.find_image(IMAGE)
        assert ours(daemon, parent.pid) == []
        assert list(scratch.iterdir()) == []
    assert left == 0 or signal_number == signal.SIGKILL


def test_leftovers_are_removed_and_those_of_others_are_not(daemon: Any, scratch: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    boot, space, _, started = containers._owner().split(".")
    owners = {
        "dead": f"{boot}.{space}.{gone.pid}.1",
        "live": containers._owner(),
        "elsewhere": f"{boot}.1.{gone.pid}.1",
    }
    owners["old boot"] = f"00000000.{space}.{os.getpid()}.{started}"
    made = {name: daemon.containers.create(IMAGE, "true", labels={LABEL: owner}) for name, owner in owners.items()}
    folders = {name: Path(tempfile.mkdtemp(prefix=f"{LABEL}-{owner}-")) for name, owner in owners.items()}
    try:
        containers.find_image(IMAGE)
        there = {each.id for each in daemon.containers.list(all=True)}
        assert {name for name, each in made.items() if each.id in there} == {"live", "elsewhere"}
        assert {name for name, folder in folders.items() if folder.exists()} == {"live", "elsewhere"}
    finally:
        for each in made.values():
            containers._remove(daemon, each.id)


def test_a_dead_container_costs_no_verdict(docker_box: Pool, make_job: Any) -> None:
    test = Case(id="0", kind="stdio", input="", expected="1")
    first = docker_box._workers[0]
    assert first is not None
    first.zygote.kill()
    first.zygote.kill()
    assert first.zygote.poll() == 0
    ((_, (execution,)),) = list(docker_box.run([make_job("print(1)", test)]))
    assert execution.status == Status.passed
    assert docker_box._workers[0] is not first


@pytest.mark.slow
def test_an_image_cannot_change_what_a_program_sees(daemon: Any, make_job: Any) -> None:
    changes = [
        'ENTRYPOINT ["false"]', "HEALTHCHECK --interval=1s CMD python3 -c 1", "VOLUME /data", "USER 0", "WORKDIR /data",
        "ENV PYTHONPATH=/usr", "ENV PYTHONHASHSEED=7", "ENV SECRET=0451", "ENV LANG=xx_XX.ISO-8859-1",
    ]  # fmt: skip
    made = daemon.containers.create(IMAGE, ["true"])
    image = made.commit("treatment-harness-test", changes="\n".join(changes))
    made.remove()
    source = (
        "import os, sys, locale, time\ntime.sleep(1.5)\n"
        "print(os.getcwd(), os.getuid(), len(os.environ), '/usr' in sys.path, hash('a'), sys.getfilesystemencoding())"
    )
    test = Case(id="0", kind="stdio", input="", expected="")
    try:
        outputs = []
        volumes = len(daemon.volumes.list())
        for tier in ("docker", "docker:treatment-harness-test"):
            with open_sandbox(workers=1, tier=tier) as box:
                outputs += [execution.stdout for _, (execution,) in box.run([make_job(source, test)])]
        assert outputs[0].startswith("/ 65534 0 False")
        assert outputs[0].endswith(" utf-8\n")
        assert outputs[0] == outputs[1]
        assert len(daemon.volumes.list()) == volumes
    finally:
        daemon.images.remove(image.id, force=True)


@pytest.mark.slow
def test_images_that_are_of_no_use_are_refused_with_the_reason(daemon: Any) -> None:
    breaks = {
        "there is no python3 in it; an image needs": "os.remove('/usr/local/bin/python3')",
        "_ctypes'; an image needs Python 3.11": "import _ctypes; os.remove(_ctypes.__file__)",
        "json": "import json.decoder; os.remove(json.decoder.__cached__); os.remove(json.decoder.__file__)",
    }
    before = ours(daemon, os.getpid())
    for reason, code in breaks.items():
        made = daemon.containers.create(
            IMAGE, ["-c", "import os; " + code], entrypoint="python3", user="0", network_mode="none"
        )
        made.start()
        assert made.wait()["StatusCode"] == 0
        image = made.commit("treatment-harness-test")
        made.remove()
        try:
            with pytest.raises(SandboxUnavailable, match=reason.replace("(", ".")):
                open_sandbox(workers=1, tier="docker:treatment-harness-test")
        finally:
            daemon.images.remove(image.id, force=True)
    assert ours(daemon, os.getpid()) == before


def test_what_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "docker", None)
        with pytest.raises(SandboxUnavailable, match=r"pip install 'treatment-harness\[docker\]'"):
            choose("docker")
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
        with pytest.raises(SandboxUnavailable, match="on this machine"):
            choose("docker")
        patch.setenv("DOCKER_HOST", "unix:///nowhere")
        with pytest.raises(SandboxUnavailable, match="no Docker daemon answers"):
            choose("docker")
    with pytest.raises(UnknownName, match="landlock:x"):
        choose("landlock:x")
    assert "docker" not in {tier.name for tier in choose("auto")}
    request.getfixturevalue("docker_here")
    with pytest.raises(SandboxUnavailable, match="'nobodys/image:7': docker pull nobodys/image:7"):
        choose("docker:nobodys/image:7")
    monkeypatch.setattr(containers, "IMAGE", "nobodys/image")
    with pytest.raises(SandboxUnavailable, match=r"docker build --tag nobodys/image - < .*harness/sandbox/Dockerfile"):
        choose("docker")


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [("KernelVersion", "5.0-other", "virtual"), ("DefaultRuntime", "runsc", "gVisor")],
)
def test_daemons_that_will_not_do_are_refused(
    setting: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        def info(self) -> dict[str, str]:
            return {"KernelVersion": os.uname().release, "DefaultRuntime": "runc"} | {setting: value}

    monkeypatch.setattr(containers, "_daemon", lambda: contextlib.nullcontext(Client()))
    with pytest.raises(SandboxUnavailable, match=reason):
        choose("docker")


def test_an_old_python_is_told(tmp_path: Path) -> None:
    listener = containers._share_sources(tmp_path / "shared")
    contact = containers.CONTACT.replace(containers.SHARED, str(tmp_path / "shared"))
    with listener:
        code = "import sys; sys.version_info = (3, 10, 2)\n" + contact
        with subprocess.Popen([sys.executable, "-S", "-c", code]):
            connection, _ = listener.accept()
            with connection, pytest.raises(SandboxUnavailable, match=r"'i': its Python is 3\.10, and 3\.11 or newer"):
                containers._introduction(connection, Image("i", "sha256:0"))


def test_a_container_that_fails_late_is_removed(daemon: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BOOT", "raise OSError('no luck')")
    before = ours(daemon, os.getpid())
    with pytest.raises(SandboxUnavailable, match="OSError: no luck"):
        open_sandbox(workers=1, tier="docker")
    assert ours(daemon, os.getpid()) == before
    assert list(scratch.iterdir()) == []
