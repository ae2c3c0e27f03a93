"""Forks of a warm process: they are processes like any other, and none outlives who started it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from harness import processes
from harness.errors import HarnessError


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with processes.server({"HARNESS_SERVER": "here"}, preloaded=["harness.config", "no.such.module"]):
        yield


@pytest.fixture
def output(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "output").open("w+b") as file:
        yield file


def said(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()


def script(folder: Path, text: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(text)
    return ["runpy:run_path", str(path)]


def is_gone(pid: int) -> bool:
    """Within a few seconds."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_function_is_called_and_its_status_told(output: IO[bytes]) -> None:
    assert processes.run("builtins:print", "hello", output=output) == 0
    assert said(output) == "hello\n"
    assert processes.run("sys:exit", 75, output=output) == 75
    assert processes.run("sys:exit", "a sentence", output=output) == 1
    assert processes.run("builtins:int", "x", output=output) == 1
    assert "a sentence\nTraceback" in said(output)
    assert processes.run("os:abort", output=output) == -signal.SIGABRT


def test_an_error_of_ours_is_told_as_it_is(output: IO[bytes]) -> None:
    with pytest.raises(HarnessError, match=r"^--k 'x' is not a list of whole numbers: write --k 1,10,100\.$"):
        processes.run("harness.config:parse_ks", "x", output=output)


def test_a_fork_has_its_starters_environment_and_folder(
    tmp_path: Path, output: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.chdir(tmp_path)
    text = "import os, threading\nprint(*map(os.environ.get, ('HERE', 'MORE', 'HARNESS_SERVER')), os.getcwd())\n"
    processes.run(*script(tmp_path, text), output=output, environment={"MORE": "more"})
    assert said(output) == f"yes more None {tmp_path}\n"


def test_atexit_and_a_large_argument(tmp_path: Path, output: IO[bytes]) -> None:
    processes.run("builtins:print", "x" * 500_000, output=output)
    assert len(said(output)) == 500_001
    text = "import atexit\natexit.register(lambda: open('left', 'w').close())\n"
    processes.run(*script(tmp_path, f"import os\nos.chdir({str(tmp_path)!r})\n{text}"), output=output)
    assert (tmp_path / "left").exists()


def test_a_fork_says_how_it_is_getting_on(tmp_path: Path, output: IO[bytes]) -> None:
    text = "from harness import processes\nprocesses.say(done=1)\nprocesses.say(done=2)\n"
    child = processes.start(*script(tmp_path, text), output=output)
    assert [child.hear(5), child.hear(5), child.hear(5)] == [{"done": 1}, {"done": 2}, None]
    assert child.status == 0


def test_forks_of_forks_come_from_the_same_server_and_end_with_their_starter(tmp_path: Path, output: IO[bytes]) -> None:
    text = (
        "import os, sys\nfrom harness import processes\n"
        "child = processes.start('time:sleep', 60, output=sys.stdout.buffer)\n"
        "processes.say(child=child.pid, server=os.getppid())\nchild.wait()\n"
    )
    child = processes.start(*script(tmp_path, text), output=output)
    begun = child.hear(10)
    assert begun is not None
    assert Path(f"/proc/{begun['child']}/stat").read_text().split()[3] == str(begun["server"])
    assert os.listdir(f"/proc/{begun['server']}/task") == [str(begun["server"])]  # with several threads it may not fork
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert is_gone(begun["child"])


@pytest.fixture
def attentive() -> Iterator[None]:
    """This process minds SIGINT, which one that was started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("attentive")
def test_whoever_is_interrupted_stops_what_it_waits_for(output: IO[bytes]) -> None:
    began = time.monotonic()
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        processes.run("time:sleep", 60, output=output)
    assert time.monotonic() - began < 30


def test_a_server_that_is_gone_is_told_in_a_sentence(tmp_path: Path, output: IO[bytes]) -> None:
    with processes.server(preloaded=[]):
        text = "import os, time\nfrom harness import processes\nprocesses.say(server=os.getppid())\ntime.sleep(60)\n"
        child = processes.start(*script(tmp_path, text), output=output)
        begun = child.hear(10)
        assert begun is not None
        os.kill(begun["server"], signal.SIGKILL)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(HarnessError, match="was ended from outside: give the command again"):
            child.wait()
        with pytest.raises(HarnessError, match=r"(is gone|was ended from outside): give"):
            processes.start("builtins:print", output=output)
