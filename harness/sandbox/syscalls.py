"""Linux system calls that Python has no function for, and the numbers of those that a filter speaks of.

Main functions: `prctl`, `drop_capabilities`, `closing_from`, `call`. Numbers are given for x86-64 and aarch64; any
other machine is refused by `machine`. Not handled: 32-bit programs (their calls are refused by the filter).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38

MACHINES = ("x86_64", "aarch64")
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86-64, aarch64); None where the machine has no such call
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "ioctl": (16, 29),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "mincore": (27, 232),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172), "sendto": (44, 206),
    "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "socketpair": (53, 199), "clone": (56, 220),
    "exit": (60, 93), "uname": (63, 160), "fcntl": (72, 25), "ftruncate": (77, 46), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None), "umask": (95, 166), "gettimeofday": (96, 169),
    "getrlimit": (97, None), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "capset": (126, 91),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "arch_prctl": (158, None), "gettid": (186, 178), "time": (201, None), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "epoll_wait": (232, None), "epoll_ctl": (233, 21),
    "openat": (257, 56), "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59),
    "preadv": (295, 69), "pwritev": (296, 70), "prlimit64": (302, 261), "getcpu": (309, 168), "seccomp": (317, 277),
    "getrandom": (318, 278), "memfd_create": (319, 279), "membarrier": (324, 283), "statx": (332, 291),
    "rseq": (334, 293), "clone3": (435, 435), "close_range": (436, 436), "faccessat2": (439, 439),
    "epoll_pwait2": (441, 441), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "unlink": (87, None), "mkdirat": (258, 34),
    "unlinkat": (263, 35), "renameat": (264, 38), "renameat2": (316, 276), "pivot_root": (155, 41),
    "mount_setattr": (442, 442), "wait4": (61, 260), "kill": (62, 129), "prctl": (157, 167),
    "fchmod": (91, 52), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "openat2": (437, 437),
    "futex_waitv": (449, 449), "fchmodat2": (452, 452),
    # what no program may do, in whatever language
    "ptrace": (101, 117), "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "userfaultfd": (323, 282), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116),
    "personality": (135, 92), "move_pages": (279, 239), "migrate_pages": (256, 238), "mbind": (237, 235),
    "set_mempolicy": (238, 237), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
    "_sysctl": (156, None), "shmget": (29, 194), "shmctl": (31, 195), "shmat": (30, 196), "shmdt": (67, 197),
    "semget": (64, 190), "semctl": (66, 191), "semop": (65, 193), "semtimedop": (220, 192), "msgget": (68, 186),
    "msgctl": (71, 187), "msgrcv": (70, 188), "msgsnd": (69, 189), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    "socket": (41, 198), "bind": (49, 200), "connect": (42, 203), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "io_setup": (206, 0),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_prctl = _libc.prctl
# built once, because their first use in a fresh fork would cost page faults
_no_capabilities = ctypes.create_string_buffer(24)
_capability_header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))


def machine() -> str:
    """This machine's name, one of `MACHINES`; OSError for any other and for anything but Linux."""
    system = os.uname()
    if system.sysname != "Linux" or system.machine not in MACHINES or struct.calcsize("P") != 8:
        raise OSError(f"programs can be isolated on 64-bit Linux on {' and '.join(MACHINES)}, not on {system.machine}")
    return system.machine


def number(name: str) -> int | None:
    """The call's number on this machine, None if it has no such call."""
    return NUMBERS[name][MACHINES.index(machine())]


def checked(result: int, what: str) -> int:
    """`result`, or the OSError that it stands for."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def call(name: str, *arguments: object) -> int:
    """Makes the system call `name`; OSError if it fails."""
    found = number(name)
    if found is None:
        raise OSError(f"{name} does not exist on this machine")
    return checked(_syscall(found, *arguments), name)


def prepared(name: str, first: int, second: int, third: int) -> Callable[[], None]:
    """The call of `name` with all done beforehand that would cost a fresh fork page faults."""
    found = number(name)
    if found is None:
        raise OSError(f"{name} does not exist on this machine")
    arguments = [ctypes.c_long(value) for value in (found, first, second, third)]

    def make() -> None:
        if _syscall(*arguments) < 0:
            checked(-1, name)

    return make


def prctl(option: int, value: int) -> None:
    """Sets one attribute of this process."""
    checked(_prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def drop_capabilities() -> None:
    """Gives up everything that root may do beyond what its user id owns."""
    call("capset", _capability_header, _no_capabilities)


def closing_from(first: int) -> Callable[[], None]:
    """What closes every file descriptor from `first` on."""
    return prepared("close_range", first, 0xFFFFFFFF, 0)
