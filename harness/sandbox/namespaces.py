"""Walls around the zygote of one worker: namespaces of its own and a small read-only root with a private /tmp.

Main functions: `enter` once in the zygote, `wipe` after each program that has left files. Works for root and for any
user where the kernel lets users make user namespaces: nothing of the outer system's rights is used or kept. The zygote
keeps the rights that it has inside, for `wipe`; a program's process drops them. Not handled: sharing the walls' cost
between workers, and cgroups.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from harness.sandbox import landlock, syscalls

QUOTA_BYTES = 16 << 20
"""What a program may leave in its /tmp, and the size of its largest file there."""
MAX_FILES = 1024
SCRATCH = "/var/tmp"
"""/tmp is a link to it, because Landlock's rule must be on a folder above the mount, which changes at each `wipe`."""
WRITABLE = "/var"
INNER_ID = 65534

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
READ_ONLY = struct.pack("<QQQQ", 1 | 2, 0, 0, 0)
"""Attributes to set (read-only, no set-user-id), to clear, propagation, user namespace."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Moves this process behind the walls; it comes back as the first process of its own, its old self only waits.

    OSError where the machine does not allow it. Everything that must be read from outside has to be loaded before.
    """
    user, group = os.getuid(), os.getgid()
    flags = NEWUSER | NEWNS | NEWPID | NEWIPC | NEWUTS | NEWNET
    syscalls.checked(_libc.unshare(flags), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {user} 1"),
        ("gid_map", f"{INNER_ID} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    child = os.fork()
    if child:
        os.closerange(3, 1 << 10)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    _build_root("/proc")


def wipe() -> None:
    """Throws away every file that a program has left."""
    if os.listdir(SCRATCH):
        os.chdir("/")
        syscalls.checked(_libc.umount2(SCRATCH.encode(), DETACH), "umount")
        _mount_scratch()


def _mount_scratch() -> None:
    options = f"size={QUOTA_BYTES},nr_inodes={MAX_FILES},mode=700"
    _mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir(SCRATCH)


def _build_root(place: str) -> None:
    """Makes the new root at `place`, a folder whose contents nobody needs any more, and moves into it."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for source in _sources():
        _show(source, place)
    os.makedirs(place + SCRATCH)
    os.symlink(SCRATCH, place + "/tmp")
    os.mkdir(place + "/proc")
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount("proc", place + "/proc", "proc", flags, "subset=pid,hidepid=ptraceable")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, f"{place}/dev/{name}")
    os.mkdir(place + "/.old")
    os.chdir(place)
    syscalls.call("pivot_root", b".", b".old")
    os.chdir("/")
    syscalls.checked(_libc.umount2(b"/.old", DETACH), "umount")
    os.rmdir("/.old")
    _make_read_only("/", recursive=False)
    _mount_scratch()


def _sources() -> list[str]:
    """What programs may read, none inside another; and links that lead there."""
    folders = [*landlock.LIBRARY_FOLDERS, os.path.join(sys.base_prefix, "lib"), *landlock.standard_library()]
    links = [path for path in folders if os.path.islink(path)]
    real = {os.path.realpath(path) for path in (*folders, *landlock.SINGLE_PATHS, os.devnull)}
    outer = [path for path in real if not any(path.startswith(other + "/") for other in real)]
    return links + sorted(path for path in outer if os.path.exists(path))


def _show(source: str, place: str) -> None:
    """Makes a file or folder appear in the new root, read-only."""
    target = place + source
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.path.realpath(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT))
    _mount(source, target, None, MS_BIND | MS_REC)
    _make_read_only(target, recursive=True)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    source_b, kind_b, options_b = (text.encode() if text else None for text in (source, kind, options))
    result = _libc.mount(source_b, os.fsencode(target), kind_b, ctypes.c_ulong(flags), options_b)
    syscalls.checked(result, f"mount {target}")


def _make_read_only(path: str, *, recursive: bool) -> None:
    flags = ctypes.c_uint(AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(len(READ_ONLY))
    syscalls.call("mount_setattr", ctypes.c_int(AT_FDCWD), os.fsencode(path), flags, READ_ONLY, size)
