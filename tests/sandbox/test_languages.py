"""Programs in languages other than Python: every status, what they cannot do, and what follows them.

Programs are in programs.yaml. C starts in milliseconds and is always tested, with bash here and there; the
others are in the slow part. A language that is not installed is skipped. What C can try, the others can too: rarer
attacks are in C.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import doctor, evaluate
from harness.errors import InputError, SandboxUnavailable, UnknownName
from harness.sandbox import language, open_sandbox
from harness.sandbox.pool import Pool
from harness.tasks.jsonl import jsonl
from harness.types import Completion, Execution, Job, Limits, Problem, Status
from harness.types import Test as Case

PROGRAMS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("programs.yaml").read_text())
QUICK = ("c", "bash")
EACH = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in PROGRAMS]
LIMITS = Limits(cpu_s=1, wall_s=3, memory_bytes=128 << 20, output_bytes=1 << 20)
FAILURES = {
    "wrong": Status.wrong,
    "broken": Status.compile_error,
    "fails": Status.runtime_error,
    "loop": Status.timeout,
    "memory": Status.memory,
    "flood": Status.output_limit,
}
Run = Callable[..., list[Execution]]


def need(name: str) -> None:
    """Skips the test where the language is not installed."""
    try:
        language.wanted(name)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def box(namespaces_here: None) -> Iterator[Pool]:
    """A sandbox of one worker in the tier that other languages need."""
    with open_sandbox(workers=1, limits=LIMITS, tier="namespaces") as pool:
        yield pool


@pytest.fixture(scope="module")
def run(box: Pool) -> Run:
    """run(language, program, (input, expected), ...): the executions."""

    def run(name: str, program: str, *tests: tuple[str, str], cpu_s: float = 0.9) -> list[Execution]:
        need(name)
        cases = tuple(Case(id=str(n), kind="stdio", input=i, expected=o) for n, (i, o) in enumerate(tests))
        problem = Problem(id="p", task="t", prompt="", language=name, tests=cases, cpu_s=cpu_s)
        completion = Completion(problem_id="p", index=0, text="", program=program)
        ((_, executions),) = list(box.run([Job(problem=problem, completion=completion)]))
        return list(executions)

    return run


def check_the_next(run: Run, name: str) -> None:
    """Whatever came before: a right program passes all of its tests, a wrong one does not."""
    right = run(name, PROGRAMS[name]["sum"], ("1 2 3", "6"), ("-5\n5\n", "0"))
    assert [(one.status, one.detail) for one in right] == [(Status.passed, "")] * 2
    (wrong,) = run(name, PROGRAMS[name]["wrong"], ("1 2 3", "6"))
    assert wrong.status == Status.wrong


def processes(box: Pool) -> int:
    """How many there are behind the worker's walls, zombies too: one, the launcher, where nothing has survived."""
    worker = box._workers[0]
    assert worker is not None
    return len(below(worker.zygote.pid))


def below(ancestor: int) -> set[int]:
    """Every process that comes from `ancestor`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    level, found = {ancestor}, set()
    while level:
        level = {process for process, parent in parents.items() if parent in level}
        found |= level
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("name", EACH)
def test_right_programs_pass(run: Run, box: Pool, name: str) -> None:
    numbers = [" ".join(map(str, range(n))) for n in range(10)]
    found = run(name, PROGRAMS[name]["sum"], *((text, str(sum(map(int, text.split())))) for text in numbers))
    assert [(one.status, one.detail) for one in found] == [(Status.passed, "")] * 10
    assert all(one.cpu_s and one.wall_s and one.max_rss_bytes and one.value_digest for one in found)
    (threaded,) = run(name, PROGRAMS[name]["threads"], ("", "999000"))
    assert (threaded.status, threaded.detail) == (Status.passed, "")
    assert processes(box) == 1


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize(
    "name", ["c", *(pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS if name != "c")]
)
def test_failures_have_their_status(run: Run, name: str, kind: str) -> None:
    (found,) = run(name, PROGRAMS[name][kind], ("1 2 3", "6"), cpu_s=0.2 if kind == "loop" else 0.9)
    expected = Status.runtime_error if (name, kind) == ("bash", "broken") else FAILURES[kind]
    assert found.status == expected, found
    if kind == "fails":
        assert "no way" in found.detail or "signal" in found.detail
    if kind == "broken":
        assert any(word in found.detail for word in ("error", "main.", "yntax")), found.detail


@pytest.mark.parametrize("name", EACH)
def test_programs_are_contained(run: Run, box: Pool, name: str) -> None:
    for program in PROGRAMS[name]["contained"].values():
        (found,) = run(name, program, ("", "safe"))
        assert (found.status, found.stdout and found.stdout.strip()) == (Status.passed, "safe"), (program, found)
    (bomb,) = run(name, PROGRAMS[name]["forks"], ("", "6"), cpu_s=0.2)
    assert bomb.status not in (Status.passed, Status.sandbox_error)
    assert processes(box) == 1
    check_the_next(run, name)


@pytest.mark.parametrize("name", EACH)
def test_no_state_goes_from_test_to_test(run: Run, name: str) -> None:
    for _ in range(2):
        found = run(name, PROGRAMS[name]["count"], *[("", "0")] * 3)
        assert [(one.status, one.detail) for one in found] == [(Status.passed, "")] * 3


C_START = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
static struct rlimit few = {1, 1};
static void busy(void) { for (volatile long n = 0;; n++); }
static int deep(int n) { volatile char room[1 << 16]; room[0] = n; return deep(n + 1) + room[0]; }
static void *greedy(void *x) { sleep(0); for (;;) memset(malloc(1 << 20), 1, 1 << 20); return x; }
"""
MUST_FAIL = [
    "mount(0, \"/\", 0, MS_REMOUNT | MS_BIND, 0)",
    "unshare(CLONE_NEWUSER)",
    "syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)",
    "syscall(435, 0, 0)",  # clone3
    "ptrace(PTRACE_ATTACH, 1, 0, 0)",
    "shmget(1, 4096, IPC_CREAT | 0600)",
    "syscall(SYS_add_key, \"user\", \"x\", \"x\", 1, -3)",
    "memfd_create(\"x\", 0)",
    "syscall(425, 1, 0)",  # io_uring_setup
    "prctl(PR_SET_DUMPABLE, 0)",
    "prlimit(1, RLIMIT_NPROC, &few, 0)",
    "setpriority(PRIO_PROCESS, 1, 19)",
    "chmod(\"/var/build\", 0777)",
    "chmod(\"/var/build/main\", 0700)",
    "setxattr(\"/var/build/main\", \"user.x\", \"x\", 1, 0)",
    "utimensat(AT_FDCWD, \"/var/build/main\", 0, 0)",
    "unlink(\"/var/build/main\")",
    "mkdir(\"/var/x\", 0700)",
    "link(\"/var/build/main\", \"/tmp/main\")",
    "open(\"/proc/1/environ\", O_RDONLY)",
    "access(\"/root\", F_OK)",
    "fcntl(3, F_GETFD)",  # nothing is open but 0, 1 and 2
    "fcntl(1, F_SETOWN, 1)",
    "system(\"cp /usr/bin/true /tmp/true && /tmp/true\") ? -1 : 0",
    "mknod(\"/tmp/disk\", S_IFBLK | 0600, 0x800)",
    "setuid(0)",
]  # fmt: skip


@pytest.mark.parametrize("name", ["c"])
def test_calls_that_must_fail(run: Run, name: str) -> None:
    lines = [f"if (({call}) >= 0) puts({json_text(call)});" for call in MUST_FAIL]
    (found,) = run(name, C_START + "int main(void) {" + "\n".join(lines) + "}", ("", ""))
    assert (found.status, found.stdout) == (Status.passed, ""), found


def json_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


ENDINGS = {
    # what it does, and how it must end
    "kill(1, SIGKILL); kill(1, SIGINT); kill(-1, SIGKILL); busy();": Status.timeout,
    "signal(SIGXCPU, SIG_IGN); signal(SIGTERM, SIG_IGN); busy();": Status.timeout,
    "signal(SIGCHLD, SIG_IGN); for (int n = 0; n < 4; n++) if (!fork()) busy(); sleep(60);": Status.timeout,
    "for (int n = 0; n < 8; n++) if (!fork()) { memset(malloc(30 << 20), 1, 30 << 20); sleep(60); } sleep(60);":
        Status.memory,
    "pthread_t t; pthread_create(&t, 0, greedy, 0); pthread_exit(0);": Status.memory,
    "memset(mmap(0, 150 << 20, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 150 << 20); sleep(60);": Status.memory,
    "return deep(1) & 1;": Status.runtime_error,
    "if (!fork()) { setsid(); if (!fork()) { sleep(1); puts(\"7\"); } exit(0); } wait(0); puts(\"6\");": Status.passed,
    "puts(\"6\"); fflush(stdout); if (!fork()) { for (;;) write(2, \"error\\n\", 6); }": Status.passed,
    "puts(\"6\"); fflush(stdout); kill(getpid(), SIGKILL);": Status.runtime_error,
    "abort();": Status.runtime_error,
}  # fmt: skip


@pytest.mark.parametrize("body", ENDINGS)
def test_endings_in_c(run: Run, box: Pool, body: str) -> None:
    cpu_s = 0.2 if ENDINGS[body] == Status.timeout else 0.9
    (found,) = run("c", C_START + "int main(void) {" + body + "}", ("", "6"), cpu_s=cpu_s)
    assert found.status == ENDINGS[body], found
    assert processes(box) == 1


BUILDS = [
    '#include "/etc/passwd"\nint main(void) { return 0; }',
    "int main[-1u] = {1};",
    "char x[1ull << 40] = {1}; int main(void) { return 0; }",
    "",
    "\ud800",
]


@pytest.mark.parametrize("source", BUILDS)
def test_what_is_no_program_is_a_compile_error(run: Run, box: Pool, source: str) -> None:
    found = run("c", source, ("", ""), ("", ""))
    assert [one.status for one in found] == [Status.compile_error]
    assert processes(box) == 1


@pytest.mark.slow
def test_compilers_have_limits_of_their_own(run: Run, box: Pool) -> None:
    endless = "template<int n> struct T { typedef T<n + 1> next; typename next::next x; };\n" * 2 + "int main() {}"
    nested = "template<int n, int m> struct F { static const long v = F<n - 1, m>::v + F<n - 1, m + (1 << n)>::v; };\n"
    nested += "template<int m> struct F<0, m> { static const long v = m; };\nint main() { return F<24, 0>::v & 1; }"
    for source in (endless, nested, '#include "/dev/zero"'):
        (found,) = run("c++", source, ("", ""))
        assert found.status == Status.compile_error
        assert processes(box) == 1
    check_the_next(run, "c++")


@pytest.mark.usefixtures("box")
def test_every_test_gets_the_status_of_a_failed_compilation() -> None:
    need("perl")
    cases = tuple(Case(id=str(n), kind="stdio", input="", expected="") for n in range(3))
    problem = Problem(id="p", task="t", prompt="", language="perl", tests=cases)
    job = Job(problem=problem, completion=Completion(problem_id="p", index=0, text="", program="print ("))
    with open_sandbox(workers=1, tier="namespaces", all_tests=True, lines=True) as box:
        ((_, found),) = list(box.run([job]))
    assert [(one.test_id, one.status) for one in found] == [(str(n), Status.compile_error) for n in range(3)]
    assert all(one.lines is None for one in found)


PARENT = """
from harness.sandbox import open_sandbox
from harness.types import Completion, Job, Problem, Test as Case
test = Case(id="0", kind="stdio", input="", expected="")
job = Job(problem=Problem(id="p", task="t", prompt="", language="bash", tests=(test,)),
          completion=Completion(problem_id="p", index=0, text="", program="(setsid sleep 60 &); sleep 60 & sleep 60"))
with open_sandbox(workers=1, tier="namespaces") as box:
    list(box.run([job]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("box")
def test_nothing_outlives_the_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stderr=subprocess.DEVNULL)
    try:
        # the judge, the launcher with its helper, bash and three sleepers
        assert wait_until(lambda: len(below(parent.pid)) == 7, 10), below(parent.pid)
        started = below(parent.pid)
        parent.kill()
        parent.wait(10)
        assert wait_until(lambda: not any(Path(f"/proc/{each}").exists() for each in started), 3)
    finally:
        parent.kill()
        parent.wait()


def test_workers_change_their_language(run: Run) -> None:
    for name in ("bash", "python", "perl", "python", "bash"):
        program = "print(sum(map(int, input().split())))" if name == "python" else PROGRAMS[name]["sum"]
        (found,) = run(name, program, ("1 2 3", "6"))
        assert found.status == Status.passed


def test_languages_are_found_by_all_their_names() -> None:
    assert language.find("C++") is language.find("cpp")
    assert language.wanted("python") is language.wanted("py") is None
    with pytest.raises(UnknownName, match="did you mean 'perl'"):
        language.find("perk")
    for name in language.names():
        assert language.find(name).hello or language.is_python(name)


def test_a_language_of_ones_own(run: Run, tmp_path: Path) -> None:
    awk = tmp_path / "awk.yaml"
    awk.write_text('names: [awk]\nsource: main.awk\nrun: awk -f {build}/main.awk\nhello: BEGIN { print "hello" }\n')
    (found,) = run(str(awk), "{ for (i = 1; i <= NF; i++) s += $i } END { print s }", ("1 2\n3", "6"))
    assert found.status == Status.passed
    for text, why in [
        ("names: [x]\nsource: m", "run"),
        ("names: [x]\nsource: m\nrun: x\nruns: x", "runs"),
        ("[", "YAML|parsing"),
    ]:
        awk.write_text(text)
        language._read.cache_clear()
        with pytest.raises(InputError, match=why):
            language.find(str(awk))


def test_a_toolchain_shows_nothing_but_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert language._home_of("/usr/bin/gcc") == language._home_of("/bin/sh") == []
    assert language._home_of("/usr/local/bin/node")[0] == "/usr/local/bin"
    assert language._home_of("/usr/local/go/bin/go") == ["/usr/local/go"]
    assert language._home_of(f"{home}/.rustup/toolchains/stable/bin/rustc") == [f"{home}/.rustup/toolchains/stable"]
    for command in (f"{home}/bin/lua", f"{tmp_path}/bin/lua", f"{tmp_path.parent}/bin/lua"):
        assert language._home_of(command) == [command]
    assert f"{home}/.local/lib" in language._home_of(f"{home}/.local/bin/lua")
    assert f"{home}/.local/share" not in language._home_of(f"{home}/.local/bin/lua")


def test_a_missing_toolchain_is_no_verdict(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    missing.write_text("names: [missing]\nsource: main\nrun: no-such-command\n")
    with pytest.raises(SandboxUnavailable, match="no-such-command is not installed here"):
        language.wanted(str(missing))
    lame = tmp_path / "lame.yaml"
    lame.write_text("names: [lame]\nsource: main\nrun: bash {build}/main\nhello: exit 1\n")
    with pytest.raises(SandboxUnavailable, match="programs in lame cannot be run here"):
        run(str(lame), "echo 6", ("", "6"))


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    language.toolchain.cache_clear()
    try:
        said = doctor.languages().splitlines()
    finally:
        language.toolchain.cache_clear()
    assert "perl        programs in perl cannot be run: perl is not installed here, or not on PATH." in said
    assert "python      as the harness itself" in said
    assert {line.split()[0] for line in said[:-1]} == set(PROGRAMS) | {"python"}


def test_what_other_languages_need_is_said(make_job: Any, box: Pool) -> None:
    case = Case(id="0", kind="script", input="assert candidate(1) == 1")
    problem = Problem(id="p", task="t", prompt="", language="bash", entry_point="f", tests=(case,))
    job = Job(problem=problem, completion=Completion(problem_id="p", index=0, text="", program="echo"))
    with pytest.raises(InputError, match="programs in bash have stdio tests only"):
        list(box.run([job]))
    with pytest.raises(SandboxUnavailable, match="need the sandbox tier namespaces"):
        language.versions({"python", "bash"}, "landlock")
    assert language.versions({"python"}, "landlock") == ""
    assert box.version_for([problem]).startswith(f"{box.version}, bash: GNU bash")


@pytest.mark.usefixtures("box")
def test_own_problems_in_other_languages(tmp_path: Path) -> None:
    need("c")
    problems, completions = tmp_path / "problems.jsonl", tmp_path / "completions.jsonl"
    tests = [{"kind": "stdio", "input": "1 2 3", "expected": "6"}]
    named = {"sum/c": "c", "sum/bash": "bash", "sum/sh": "sh"}
    rows = [{"id": key, "prompt": "Add.", "language": name, "tests": tests} for key, name in named.items()]
    problems.write_text("\n".join(map(json.dumps, rows)))
    texts = {"sum/c": "c", "sum/bash": "bash", "sum/sh": "c"}
    lines = [{"task_id": key, "completion": f"```\n{PROGRAMS[name]['sum']}```"} for key, name in texts.items()]
    completions.write_text("\n".join(map(json.dumps, lines)))
    results = evaluate(
        "jsonl",
        model="replay",
        model_args={"path": str(completions)},
        task_args={"path": str(problems)},
        k="1",
        workers=1,
        output_path=tmp_path / "run",
    )
    assert [float(passed[0]) for passed in results.passed_PG] == [1, 1, 0]
    said = json.loads((tmp_path / "run" / "manifest.json").read_text())["sandbox"]
    assert all(f", {name}: " in said for name in QUICK)

    script = {"id": "x", "prompt": "", "language": "c", "tests": [{"kind": "script", "input": "assert True"}]}
    for row, why in [
        (script, "give programs in c tests of the kind stdio"),
        (rows[0] | {"language": "cobol"}, "there is no language 'cobol'"),
        (rows[0] | {"language": "./mine.yaml"}, "there is no language"),  # a file of data must not name what is run
    ]:
        problems.write_text(json.dumps(row))
        with pytest.raises(InputError, match=why):
            jsonl(path=str(problems))
