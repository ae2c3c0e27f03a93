"""The system-call filter: an allow-list as a BPF program, everything else fails with EPERM.

Main functions: `build` for the judge or the zygote, `build_last` for a program, then `Filter.install`. A program's
process inherits the zygote's list, which costs nothing, and adds a short filter that takes away what only the zygote
needs (forking, killing, waiting): the kernel obeys the stricter of the two. A call whose arguments matter has a rule of
its own; the others are found by bisection, because the kernel walks a filter once per call number at each install.
Compilers and programs in other languages than Python need too much for a list of what is allowed: for them
`build_wide` forbids what reaches beyond their own processes and files, and every call that is newer than we know.
Not handled: filtering by path (Landlock's part) and 32-bit calls (refused).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from typing import Literal

from harness.sandbox import syscalls

Role = Literal["judge", "zygote"]
Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
CLONE_THREAD = 0x10000
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)  # duplicate, flags, pipe size; no owner and no signal to be sent
FCNTL_LOCKS = (5, 6, 7, 36, 37, 38)
IOCTL_COMMANDS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, window size, FIONREAD/FIONBIO, close-on-exec

PLAIN_CALLS = """
    read write close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
    pread64 pwrite64 readv writev access pipe select sched_yield mremap mincore madvise dup dup2 pause nanosleep
    getitimer alarm setitimer getpid recvfrom exit uname ftruncate getcwd chdir fchdir readlink umask gettimeofday
    getrlimit getrusage sysinfo times getuid getgid geteuid getegid getppid rt_sigpending rt_sigtimedwait
    rt_sigsuspend sigaltstack arch_prctl gettid time futex sched_getaffinity getdents64 set_tid_address
    restart_syscall fadvise64 clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl newfstatat
    readlinkat faccessat pselect6 ppoll set_robust_list get_robust_list epoll_pwait eventfd2 epoll_create1 dup3
    pipe2 preadv pwritev getcpu getrandom membarrier statx rseq close_range faccessat2 epoll_pwait2
"""
JUDGE_CALLS = ["sendmsg", "recvmsg", "memfd_create", "fchmod"]
ZYGOTE_CALLS = ["sendmsg", "recvmsg", "wait4", "kill", "seccomp"]
"""What a program must not have; `build_last` takes it away, with the other uses of clone, prctl and prlimit64."""
NEW_NAMESPACES = 0x7E020080
SET_PDEATHSIG = 1
FILE_CALLS = """
    fsync fdatasync truncate rename mkdir rmdir unlink mkdirat unlinkat renameat renameat2
"""

NEWER = 424
"""From this number on, calls are the same on all machines; those not in the next list do not exist for programs."""
NEWER_CALLS = "pidfd_send_signal pidfd_open close_range openat2 faccessat2 epoll_pwait2 futex_waitv fchmodat2"
FORBIDDEN_CALLS = """
    ptrace process_vm_readv process_vm_writev kcmp perf_event_open bpf userfaultfd seccomp personality
    unshare setns mount umount2 pivot_root chroot name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    keyctl add_key request_key kexec_load kexec_file_load reboot init_module finit_module delete_module
    swapon swapoff acct quotactl nfsservctl lookup_dcookie syslog vhangup iopl ioperm modify_ldt uselib
    ustat sysfs _sysctl settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname
    move_pages migrate_pages mbind set_mempolicy sched_setaffinity sched_setscheduler sched_setparam sched_setattr
    setpriority ioprio_set io_setup memfd_create
    shmget shmctl shmat shmdt semget semctl semop semtimedop msgget msgctl msgrcv msgsnd
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    socket bind connect listen accept accept4
"""
"""What reaches other processes or the machine, outlives a process, or hides memory from who watches it."""
SET_DUMPABLE = 4
FCNTL_OWNERS = (8, 10, 15)  # set owner, signal, owner of any kind
IOCTL_TERMINALS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX


def _returns(value: int) -> list[Instruction]:
    return [(RETURN, 0, 0, value)]


def _argument(index: int, *, high: bool = False) -> Instruction:
    return (LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


def _one_of(index: int, values: Iterable[int], otherwise: int) -> list[Instruction]:
    """Allows the call if its argument is among `values`, else fails with the error `otherwise`."""
    wanted = list(values)
    tests = [(EQUAL, len(wanted) - position, 0, value) for position, value in enumerate(wanted)]
    return [_argument(index), *tests, *_returns(FAIL | otherwise), *_returns(ALLOW)]


def _none_of(index: int, values: Iterable[int]) -> list[Instruction]:
    """Fails the call with EPERM if its argument is among `values`, else allows it."""
    wanted = list(values)
    tests = [(EQUAL, len(wanted) - position, 0, value) for position, value in enumerate(wanted)]
    return [_argument(index), *tests, *_returns(ALLOW), *_returns(FAIL | errno.EPERM)]


THREADS_ONLY = [_argument(0), (ANY_BIT, 1, 0, CLONE_THREAD), *_returns(FAIL | errno.EPERM), *_returns(ALLOW)]
PROCESSES = [_argument(0), (ANY_BIT, 0, 1, NEW_NAMESPACES), *_returns(FAIL | errno.EPERM), *_returns(ALLOW)]
ITSELF_ONLY = _one_of(0, (0,), errno.EPERM)


def _special(role: Role, *, files: bool, refuse_truncation: bool) -> dict[str, list[Instruction]]:
    """What decides about the calls whose arguments matter."""
    to_nobody = [  # an address would reach another socket
        _argument(4), (EQUAL, 1, 0, 0), *_returns(FAIL | errno.EPERM),
        _argument(4, high=True), (EQUAL, 1, 0, 0), *_returns(FAIL | errno.EPERM), *_returns(ALLOW),
    ]  # fmt: skip
    not_truncating = [_argument(2), (ANY_BIT, 0, 1, os.O_TRUNC), *_returns(FAIL | errno.EACCES), *_returns(ALLOW)]
    commands = FCNTL_COMMANDS + ((1033,) if role == "judge" else ()) + (FCNTL_LOCKS if files else ())
    zygote = {"clone": PROCESSES, "prlimit64": _returns(ALLOW), "prctl": _one_of(0, (SET_PDEATHSIG,), errno.EPERM)}
    return {
        "openat": not_truncating if refuse_truncation else _returns(ALLOW),
        "ioctl": _one_of(1, IOCTL_COMMANDS, errno.ENOTTY),
        "fcntl": _one_of(1, commands, errno.EINVAL),
        "clone": THREADS_ONLY,
        "clone3": _returns(FAIL | errno.ENOSYS),  # its flags are out of reach; the C library then uses clone
        "prlimit64": ITSELF_ONLY,
        "socketpair": _one_of(0, (1,), errno.EAFNOSUPPORT),
        "sendto": to_nobody,
    } | (zygote if role == "zygote" else {})


def _bisect(ranges: list[tuple[int, int]]) -> list[Instruction]:
    """Allows the numbers in the sorted `ranges` (first, last), fails for the others."""
    if len(ranges) == 1:
        first, last = ranges[0]
        inside = [(AT_LEAST, 0, 2, first), (AT_LEAST, 1, 0, last + 1)]
        return [*inside, *_returns(ALLOW), *_returns(FAIL | errno.EPERM)]
    middle = len(ranges) // 2
    low, high = _bisect(ranges[:middle]), _bisect(ranges[middle:])
    if len(low) > 255:
        raise ValueError("the list of calls is too long for a BPF jump")
    return [(AT_LEAST, len(low), 0, ranges[middle][0]), *low, *high]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for value in sorted(set(numbers)):
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def build(role: Role, *, files: bool = False, refuse_truncation: bool = False) -> bytes:
    """The filter's machine code. `files` for who may keep some; `refuse_truncation` for a Landlock too old for it."""
    program = _start(_special(role, files=files, refuse_truncation=refuse_truncation))
    names = PLAIN_CALLS.split() + (JUDGE_CALLS if role == "judge" else ZYGOTE_CALLS)
    names += FILE_CALLS.split() if files else []
    program += _bisect(_ranges(found for name in names if (found := syscalls.number(name)) is not None))
    return _code(program)


def _start(special: dict[str, list[Instruction]]) -> list[Instruction]:
    """Refuses other ways of calling than this machine's own, then applies the rules for single calls."""
    program: list[Instruction] = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, syscalls.AUDIT_ARCH[syscalls.machine()])]
    program += [*_returns(KILL), (LOAD, 0, 0, 0)]
    program += [(AT_LEAST, 0, 1, 0x40000000), *_returns(FAIL | errno.ENOSYS)]  # x86-64's third way of calling
    for name, body in special.items():
        found = syscalls.number(name)
        if found is not None:
            program += [(EQUAL, 0, len(body), found), *body]
    return program


def build_wide() -> bytes:
    """The filter for what is not Python: everything but what is forbidden and what we do not know."""
    special = {
        "clone": PROCESSES,
        "clone3": _returns(FAIL | errno.ENOSYS),
        "prlimit64": ITSELF_ONLY,
        "prctl": _none_of(0, (SET_DUMPABLE,)),  # it would hide from who watches its memory
        "fcntl": _none_of(1, FCNTL_OWNERS),
        "ioctl": _none_of(1, IOCTL_TERMINALS),
        "socketpair": _one_of(0, (1,), errno.EAFNOSUPPORT),
    }
    program = _start(special | dict.fromkeys(FORBIDDEN_CALLS.split(), _returns(FAIL | errno.EPERM)))
    newer = [syscalls.number(name) for name in NEWER_CALLS.split()]
    program += [(AT_LEAST, 1, 0, NEWER), *_returns(ALLOW)]
    for number in newer:
        assert number is not None
        program += [(EQUAL, 0, 1, number), *_returns(ALLOW)]
    return _code([*program, *_returns(FAIL | errno.ENOSYS)])


def build_last() -> bytes:
    """What a program's process adds to the zygote's filter."""
    program: list[Instruction] = [(LOAD, 0, 0, 0)]
    bodies = dict.fromkeys([*ZYGOTE_CALLS, "prctl"], _returns(FAIL | errno.EPERM))
    for name, body in (bodies | {"clone": THREADS_ONLY, "prlimit64": ITSELF_ONLY}).items():
        found = syscalls.number(name)
        assert found is not None
        program += [(EQUAL, 0, len(body), found), *body]
    return _code([*program, *_returns(ALLOW)])


def _code(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


class Filter:
    """A built filter in memory that the kernel can read, so that a fresh fork only has to install it."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        self._program = ctypes.create_string_buffer(header, len(header))
        self._install = syscalls.prepared("seccomp", 1, 0, ctypes.addressof(self._program))

    def install(self) -> None:
        """Confines this process for good; it needs `no_new_privs`."""
        self._install()
