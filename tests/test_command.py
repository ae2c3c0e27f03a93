"""Commands of the user's: what is filled in arrives as it is, and nothing of them outlives its limits or us."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import command
from harness.errors import InputError

VALUES = dict.fromkeys(command.PLACEHOLDERS, "") | {"out": "/tmp/a b/'c'", "budget": '{"seconds": 1}', "seed": "$HOME;"}
LONG = "import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("train --out {out}", None),
        ("{python} t.py --json '{{}}' --out={out} {base}{prev}{train}{val}{seed}{budget}", None),
        ("train --test {test} --out {out}", "asks for {test}: test problems are never given to a trainer"),
        ("train --base {bsae} --out {out}", "asks for {bsae}, which is none of {base}, {prev}"),
        ("train {out.name} {out}", "asks for {out.name}, which is none of"),
        ("train --out ${OUT} {out}", "asks for {OUT}, which is none of"),
        ("train", "never says {out}"),
        ("", "is empty"),
        ("train {out", "cannot be read"),
        ("train '{out}", "cannot be read"),
        ("train {out!r}", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(template: str, message: str | None) -> None:
    found = list(command.faults(template, shell=False))
    assert found == [] if message is None else message in found[0]


@pytest.mark.parametrize("shell", [False, True])
def test_values_arrive_as_they_are(shell: bool) -> None:
    template = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {{out}} x={{budget}} {{seed}}"
    words = command.words(template, VALUES, {"rate": 1e-6, "flag": True, "name": "a b"}, shell=shell)
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    options = ["--rate", "1e-06", "--flag", "true", "--name", "a b"]
    assert json.loads(printed) == [VALUES["out"], "x=" + VALUES["budget"], VALUES["seed"], *options]


def test_without_a_shell_nothing_is_expanded_and_a_program_must_be_there() -> None:
    assert command.words("echo $HOME | cat", VALUES, {}, shell=False) == ["echo", "$HOME", "|", "cat"]
    with pytest.raises(InputError, match="there is no program nowhere_to_be_found here"):
        command.words("nowhere_to_be_found {out}", VALUES, {}, shell=False)


def run(folder: Path, *words: str, **limits: object) -> str | None:
    (folder / "out").mkdir(exist_ok=True)
    settings = {"timeout_s": 30.0, "max_bytes": 1e6, **limits}
    return command.run(
        words,
        mark=str(folder),
        env=dict(os.environ),
        log=folder / "log.txt",
        folder=folder / "out",
        **settings,  # type: ignore[arg-type]
    )


def python(folder: Path, code: str, **limits: object) -> str | None:
    return run(folder, sys.executable, "-S", "-c", code, **limits)


def test_how_a_command_ends(tmp_path: Path) -> None:
    assert python(tmp_path, "print('fine')") is None
    assert (tmp_path / "log.txt").read_text() == "fine\n"
    assert python(tmp_path, "raise SystemExit(3)") == "failed with status 3"
    assert python(tmp_path, "import os; os.kill(os.getpid(), 9)") == "was killed by SIGKILL"
    assert python(tmp_path, "import sys; sys.exit(bool(sys.stdin.read()))") is None  # nobody types into it


def test_limits_on_time_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CHECK_S", 0.1)
    started = time.monotonic()
    assert python(tmp_path, LONG, timeout_s=0.2) == "was stopped after 0.2 s (external.timeout_s)"
    filling = f"open({str(tmp_path / 'out' / 'big')!r}, 'w').write('x' * 5000); {LONG}"
    assert python(tmp_path, filling, max_bytes=4000) == (
        "was stopped because its files outgrew 4e-06 GB (external.disk_gb)"
    )
    assert time.monotonic() - started < 10


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


CLINGING = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", {LONG!r}], start_new_session=True)  # as torchrun starts workers
if os.fork():
    open(sys.argv[1], "w").write(f"{{os.getpid()}} {{child.pid}}\\n")
else:
    os.setsid()
    open(sys.argv[1] + ".daemon", "w").write(f"{{os.getpid()}}\\n")
time.sleep(60)
"""


def pids(path: Path) -> list[int]:
    """Of the three processes of CLINGING, as soon as all have been written."""
    found: list[str] = []
    while len(found) < 3:
        time.sleep(0.02)
        files = (path, Path(f"{path}.daemon"))
        found = [
            word for each in files if each.is_file() and "\n" in each.read_text() for word in each.read_text().split()
        ]
    return [int(word) for word in found]


@pytest.mark.parametrize("interrupted", [False, True])
def test_no_process_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    """Neither one that ignores SIGTERM, nor one in another session, nor one whose parent is gone."""
    monkeypatch.setattr(command, "GRACE_S", 0.3)
    monkeypatch.setattr(command, "CHECK_S", 0.05)
    found: list[int] = []

    def check() -> None:
        found[:] = pids(tmp_path / "pids")
        if interrupted:
            raise KeyboardInterrupt

    words = [sys.executable, "-S", "-c", CLINGING, str(tmp_path / "pids")]
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *words, check=check)
    else:
        assert str(run(tmp_path, *words, check=check, timeout_s=0.1)).startswith("was stopped after")
    assert len(found) == 3
    assert not any(map(alive, found))


@pytest.mark.slow
def test_what_outlived_a_killed_harness_is_ended_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE_S", 0.3)
    code = f"""
import os
from pathlib import Path
from harness import command
folder = Path({str(tmp_path)!r})
words = [{sys.executable!r}, "-S", "-c", {CLINGING!r}, str(folder / "pids")]
command.run(words, mark=str(folder), env=dict(os.environ), log=folder / "log.txt",
    timeout_s=60, folder=folder, max_bytes=1e9)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as harness:
        found = pids(tmp_path / "pids")
        harness.send_signal(signal.SIGKILL)
    assert all(map(alive, found))
    with subprocess.Popen(
        [sys.executable, "-S", "-c", LONG], env={**os.environ, command.MARK: f"{tmp_path}x"}
    ) as other:
        command.end(str(tmp_path))
        assert not any(map(alive, found))
        assert other.poll() is None  # its mark is another
        other.kill()


def test_a_command_ends_with_the_harness(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from harness import command
folder = Path({str(tmp_path)!r})
pid = f"import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid()) + chr(10)); time.sleep(60)"
command.run([sys.executable, "-S", "-c", pid], mark=str(folder), env=dict(os.environ), log=folder / "log.txt",
    timeout_s=60, folder=folder, max_bytes=1e9)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as harness:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().endswith("\n"):
            time.sleep(0.02)
        harness.send_signal(signal.SIGKILL)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)
