"""Walls around the zygote of one worker: namespaces of its own and a small read-only root with a private /tmp.

Main functions: `enter` once in the zygote, `wipe` after each program that has left files. Works for root and for any
user where the kernel lets users make user namespaces: nothing of the outer system's rights is used or kept. What wipes
is a process beside the zygote, which alone keeps the rights that it has inside.
The launcher of programs in other languages lives behind the same walls, with its toolchain's folders in a `Room` and
with one for what is built: `ask` has the other process swap, build or seal. Not handled: sharing the walls' cost
between workers, and cgroups.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from harness.sandbox import landlock, syscalls

QUOTA_BYTES = 16 << 20
"""What a program may leave in its /tmp, and the size of its largest file there."""
MAX_FILES = 1024
SCRATCH = "/var/tmp"
"""/tmp is a link to it, because Landlock's rule must be on a folder above the mount, which changes at each `wipe`."""
WRITABLE = "/var"
BUILD = "/var/build"
"""Where a program in another language is compiled to; after `SEAL` nothing there can be changed."""
CACHE = "/var/cache"
"""What its compiler has made for all programs, before the first of them; sealed too, and never swapped."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
INNER_ID = 65534
WIPE, OPEN, SEAL, DONE = b"wipe", b"open", b"seal", b"done"
"""Words to the process that wipes, and its answer. Afresh: /tmp; /tmp and BUILD. Read-only: BUILD and CACHE."""

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
READ_ONLY = struct.pack("<QQQQ", 1 | 2, 0, 0, 0)
"""Attributes to set (read-only, no set-user-id), to clear, propagation, user namespace."""

_libc = ctypes.CDLL(None, use_errno=True)


class Room(NamedTuple):
    """What there is behind the walls for a language other than Python."""

    folders: tuple[str, ...]
    """What may be read and executed; links among them stay links."""
    tmp_bytes: int
    build_bytes: int


def enter(room: Room | None = None) -> _socket.socket:
    """Moves this process behind the walls; its old self stays to wait for it, and to wipe when asked by `wipe`.

    OSError where the machine does not allow it. Everything that must be read from outside has to be loaded before.
    Started by root, the process goes on as nobody: the kernel counts no threads of root's.
    """
    user, group = os.getuid(), os.getgid()
    maps = [(INNER_ID, user)] if user else [(0, 0), (INNER_ID, INNER_ID)]
    scribe = _start_scribe(maps) if user == 0 else None
    flags = NEWUSER | NEWNS | NEWPID | NEWIPC | NEWUTS | NEWNET
    syscalls.checked(_libc.unshare(flags), "unshare")
    if scribe is None:
        _write_maps("self", maps, [(INNER_ID, group)])
    else:
        scribe()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    child = os.fork()
    if child:
        ours.close()
        os.dup2(theirs.detach(), 3)
        syscalls.closing_from(4)()
        _serve_wipes(_socket.socket(fileno=3), room)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
    theirs.close()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    _build_root(room)
    if user == 0:
        os.setresgid(INNER_ID, INNER_ID, INNER_ID)
        os.setresuid(INNER_ID, INNER_ID, INNER_ID)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user undoes it
    return ours


def wipe(helper: _socket.socket) -> None:
    """Throws away every file that a program has left, if there is one."""
    if os.listdir(SCRATCH):
        ask(helper, WIPE)
        os.chdir(SCRATCH)


def ask(helper: _socket.socket, word: bytes) -> None:
    """Has the process that wipes do what `word` says."""
    helper.send(word)
    if helper.recv(16) != DONE:
        raise OSError("the files of a program could not be thrown away")


def _serve_wipes(zygote: _socket.socket, room: Room | None) -> None:
    """Swaps the files' folders for fresh ones whenever asked, until the zygote has gone."""
    while word := zygote.recv(16):
        if word == SEAL:
            for folder in (BUILD, CACHE):
                _make_read_only(folder, recursive=False)
        else:
            _swap(SCRATCH, room.tmp_bytes if room else QUOTA_BYTES, MS_NOEXEC)
        if word == OPEN and room:
            _swap(BUILD, room.build_bytes, 0)
        zygote.send(DONE)


def _swap(folder: str, size: int, flags: int) -> None:
    syscalls.checked(_libc.umount2(folder.encode(), DETACH), "umount")
    _mount_files(folder, size, flags)


def _start_scribe(maps: list[tuple[int, int]]) -> Callable[[], None]:
    """Another process, which stays outside and has root's right to map two users; call the result after unshare."""
    reading, writing = os.pipe()
    target = os.getpid()
    scribe = os.fork()
    if scribe == 0:
        os.close(writing)
        try:
            os.read(reading, 1)
            _write_maps(str(target), maps, maps)
        except OSError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(reading)

    def finish() -> None:
        os.close(writing)
        if os.waitpid(scribe, 0)[1]:
            raise OSError("the users of the new namespace could not be mapped")

    return finish


def _write_maps(process: str, users: list[tuple[int, int]], groups: list[tuple[int, int]]) -> None:
    lines = [("setgroups", "deny")] if process == "self" else []
    for name, pairs in (("uid_map", users), ("gid_map", groups)):
        lines.append((name, "".join(f"{inner} {outer} 1\n" for inner, outer in pairs)))
    for name, text in lines:
        descriptor = os.open(f"/proc/{process}/{name}", os.O_WRONLY)
        os.write(descriptor, text.encode())  # it takes one write only
        os.close(descriptor)


def _mount_files(folder: str, size: int, flags: int) -> None:
    options = f"size={size},nr_inodes={size // (QUOTA_BYTES // MAX_FILES)},mode=700,uid={INNER_ID},gid={INNER_ID}"
    _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV | flags, options)


def _build_root(room: Room | None) -> None:
    """Makes the new root over a folder whose contents nobody needs any more, and moves into it."""
    place = "/proc"
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for source in _sources(room):
        if source.startswith(("/tmp/", "/proc/")):
            raise OSError(f"{source} is below a folder that each program has for itself: install it elsewhere")
        _show(source, place)
    for folder in (SCRATCH, BUILD, CACHE) if room else (SCRATCH,):
        os.makedirs(place + folder)
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
    _mount_files(SCRATCH, room.tmp_bytes if room else QUOTA_BYTES, MS_NOEXEC)
    if room:
        _mount_files(BUILD, room.build_bytes, 0)
        _mount_files(CACHE, room.build_bytes, 0)
    os.chdir(SCRATCH)


def _sources(room: Room | None) -> list[str]:
    """What programs may read, none inside another; and links that lead there."""
    if room is None:
        libraries = [*landlock.LIBRARY_FOLDERS, os.path.join(sys.base_prefix, "lib")]
        folders = [*libraries, *landlock.standard_library(), os.devnull]
    else:
        folders = [*room.folders, *DEVICES]
    links = [path for path in folders if os.path.islink(path)]
    real = {os.path.realpath(path) for path in (*folders, *landlock.SINGLE_PATHS)}
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
