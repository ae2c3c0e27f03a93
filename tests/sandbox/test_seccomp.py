"""The system-call filter, run by a small interpreter of its machine code, for both machines that we know."""

import errno
import struct

import pytest

from harness.sandbox import seccomp, syscalls

FORBIDDEN = {"execve": 59, "fork": 57, "kill": 62, "ptrace": 101, "socket": 41, "chmod": 90, "io_uring_setup": 425}
FORBIDDEN_ARM = {"execve": 221, "kill": 129, "ptrace": 117, "socket": 198, "fchmodat": 53, "io_uring_setup": 425}


def decide(code: bytes, number: int, arguments: tuple[int, ...] = (), *, arch: int) -> str:
    """What the kernel would do with the call: "allow", "kill", or the name of the error."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        if operation == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == seccomp.RETURN:
            action = constant & 0xFFFF0000
            if action == seccomp.FAIL:
                return errno.errorcode[constant & 0xFFFF]
            return {seccomp.ALLOW: "allow", seccomp.KILL: "kill"}[action]
        else:
            holds = {
                seccomp.EQUAL: accumulator == constant,
                seccomp.AT_LEAST: accumulator >= constant,
                seccomp.ANY_BIT: bool(accumulator & constant),
            }[operation]
            at += if_true if holds else if_false


def decide_both(first: bytes, last: bytes, number: int, arguments: tuple[int, ...] = (), *, arch: int) -> str:
    """The stricter of two filters, as the kernel has it."""
    found = [decide(code, number, arguments, arch=arch) for code in (first, last)]
    return next((each for each in found if each != "allow"), "allow")


@pytest.mark.parametrize(("judge", "files"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_only_listed_calls_are_allowed(monkeypatch: pytest.MonkeyPatch, machine: str, judge: bool, files: bool) -> None:
    monkeypatch.setattr(syscalls, "machine", lambda: machine)
    arch = syscalls.AUDIT_ARCH[machine]
    code = seccomp.build("judge" if judge else "zygote", files=files)
    last = code if judge else seccomp.build_last()
    names = seccomp.PLAIN_CALLS.split() + (seccomp.JUDGE_CALLS if judge else [])
    names += seccomp.FILE_CALLS.split() if files else []
    allowed = {syscalls.number(name) for name in names} | {syscalls.number("openat")}
    special = {
        syscalls.number(name) for name in ("ioctl", "fcntl", "clone", "clone3", "prlimit64", "socketpair", "sendto")
    }
    for number in range(500):
        if number not in special:
            assert decide_both(code, last, number, arch=arch) == ("allow" if number in allowed else "EPERM"), number
    for forbidden in (FORBIDDEN if machine == "x86_64" else FORBIDDEN_ARM).values():
        assert decide_both(code, last, forbidden, arch=arch) == "EPERM"
    assert decide(code, 0, arch=1) == "kill"
    assert decide(code, 0x40000000, arch=arch) == "ENOSYS"


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x3D0F00,), "allow"),  # a thread
        ("clone", (0x11,), "EPERM"),  # a process
        ("clone3", (), "ENOSYS"),
        ("fcntl", (0, 3), "allow"),  # F_GETFL
        ("fcntl", (0, 1030), "allow"),  # F_DUPFD_CLOEXEC
        ("fcntl", (0, 8, 1), "EINVAL"),  # F_SETOWN
        ("fcntl", (0, 10, 9), "EINVAL"),  # F_SETSIG
        ("ioctl", (0, 0x5401), "allow"),  # TCGETS
        ("ioctl", (0, 0x5412), "ENOTTY"),  # TIOCSTI
        ("ioctl", (0, 0x8901), "ENOTTY"),  # FIOSETOWN
        ("prlimit64", (0, 7), "allow"),
        ("prlimit64", (1, 7), "EPERM"),
        ("socketpair", (1,), "allow"),
        ("socketpair", (2,), "EAFNOSUPPORT"),
        ("sendto", (3, 0, 0, 0, 0), "allow"),
        ("sendto", (3, 0, 0, 0, 1), "EPERM"),
        ("sendto", (3, 0, 0, 0, 1 << 32), "EPERM"),
        ("openat", (0, 0, 0o1000), "allow"),
    ],
)
def test_calls_whose_arguments_matter(
    monkeypatch: pytest.MonkeyPatch, machine: str, name: str, arguments: tuple[int, ...], expected: str
) -> None:
    monkeypatch.setattr(syscalls, "machine", lambda: machine)
    number, arch = syscalls.number(name), syscalls.AUDIT_ARCH[machine]
    assert number is not None
    found = decide_both(seccomp.build("zygote"), seccomp.build_last(), number, arguments, arch=arch)
    assert found == expected


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x1200011,), "allow"),  # what fork asks for
        ("clone", (0x10000011,), "EPERM"),  # a user namespace
        ("clone", (0x91,), "EPERM"),  # a time namespace
        ("prctl", (1, 9), "allow"),
        ("prctl", (38, 1), "EPERM"),
        ("prlimit64", (7, 0), "allow"),
        ("kill", (7, 9), "allow"),
        ("wait4", (7,), "allow"),
        ("seccomp", (1, 0, 0), "allow"),
    ],
)
def test_what_the_zygote_may_do_and_programs_not(
    monkeypatch: pytest.MonkeyPatch, machine: str, name: str, arguments: tuple[int, ...], expected: str
) -> None:
    monkeypatch.setattr(syscalls, "machine", lambda: machine)
    number, arch = syscalls.number(name), syscalls.AUDIT_ARCH[machine]
    assert number is not None
    assert decide(seccomp.build("zygote"), number, arguments, arch=arch) == expected
    assert decide(seccomp.build_last(), number, arguments, arch=arch) == "EPERM"


def test_old_landlock_leaves_truncation_to_the_filter() -> None:
    number, arch = syscalls.number("openat"), syscalls.AUDIT_ARCH[syscalls.machine()]
    assert number is not None
    code = seccomp.build("zygote", refuse_truncation=True)
    assert decide(code, number, (0, 0, 0o1000), arch=arch) == "EACCES"
    assert decide(code, number, (0, 0, 0), arch=arch) == "allow"


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_wide_filter_forbids_what_reaches_others_and_what_is_unknown(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(syscalls, "machine", lambda: machine)
    arch = syscalls.AUDIT_ARCH[machine]
    code = seccomp.build_wide()
    forbidden = {syscalls.number(name) for name in seccomp.FORBIDDEN_CALLS.split()} - {None}
    assert len(forbidden) > 60
    assert {syscalls.number(name) for name in ("ptrace", "mount", "bpf", "socket", "shmget", "keyctl")} < forbidden
    newer = {syscalls.number(name) for name in seccomp.NEWER_CALLS.split()}
    special = {syscalls.number(name) for name in ("clone", "prlimit64", "prctl", "fcntl", "ioctl", "socketpair")}
    for number in set(range(700)) - special:
        allowed = number in newer if number >= seccomp.NEWER else number not in forbidden
        expected = "allow" if allowed else "ENOSYS" if number >= seccomp.NEWER else "EPERM"
        assert decide(code, number, arch=arch) == expected, number
    for name, arguments, expected in [
        ("clone", (17,), "allow"),
        ("clone", (0x3D0F00,), "allow"),
        ("clone", (0x10000000 | 17,), "EPERM"),
        ("prlimit64", (0, 7), "allow"),
        ("prlimit64", (1, 7), "EPERM"),
        ("prctl", (15,), "allow"),
        ("prctl", (4, 0), "EPERM"),
        ("fcntl", (1, 4), "allow"),
        ("fcntl", (1, 8, 1), "EPERM"),
        ("ioctl", (0, 0x5401), "allow"),
        ("ioctl", (0, 0x5412), "EPERM"),
        ("socketpair", (1, 1), "allow"),
        ("socketpair", (2, 1), "EAFNOSUPPORT"),
    ]:
        number = syscalls.number(name)
        assert number is not None
        assert decide(code, number, arguments, arch=arch) == expected, (name, arguments)
    assert decide(code, 59, arch=arch ^ 1) == "kill"
    assert decide(code, 0x40000000 | 59, arch=arch) == "ENOSYS"
