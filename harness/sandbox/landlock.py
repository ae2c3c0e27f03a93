"""What a confined process may open: the standard library, shared libraries, /dev/null; nothing else may be written.

Main function: `ruleset` builds the rules, a file descriptor that `lockdown.confine` applies; `wide_ruleset` those for
compilers and what they make. With a recent kernel they also forbid TCP, abstract sockets and signals to processes
outside. Installed packages (`site-packages`) and other
Pythons are left out, so programs see the standard library only. Not handled: a file's existence and size, which
Landlock does not hide; changing modes and owners, which the system-call filter forbids; who wipes a `writable` folder.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator

from harness.sandbox import syscalls

WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
REMOVE_FOLDER, REMOVE_FILE, MAKE_FOLDER, MAKE_FILE, MOVE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13
EXECUTE, MAKE_PIPE, MAKE_LINK = 1 << 0, 1 << 10, 1 << 12
KEEP_FILES = WRITE_FILE | READ_FILE | READ_DIR | TRUNCATE | REMOVE_FOLDER | REMOVE_FILE | MAKE_FOLDER | MAKE_FILE | MOVE
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
LIBRARY_FOLDERS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib")
SINGLE_PATHS = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")


def version() -> int:
    """The kernel's Landlock version; OSError where there is none."""
    return syscalls.call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))


def _readable() -> Iterator[str]:
    """Files and folders that may be read, with all they hold."""
    yield from SINGLE_PATHS
    for folder in dict.fromkeys(map(os.path.realpath, (*LIBRARY_FOLDERS, os.path.join(sys.base_prefix, "lib")))):
        for name in _names(folder):
            if not name.startswith(("python", "pypy")):
                yield os.path.join(folder, name)
    for folder in standard_library():
        for name in _names(folder):
            if name not in PACKAGE_FOLDERS:
                yield os.path.join(folder, name)


def standard_library() -> list[str]:
    """Folders that modules come from."""
    return [folder for folder in dict.fromkeys(map(os.path.realpath, sys.path)) if os.path.isdir(folder)]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= WRITE_FILE | READ_FILE | TRUNCATE | EXECUTE
    if rights:
        syscalls.call("landlock_add_rule", rules, 1, struct.pack("<Qi", rights, descriptor), 0)
    os.close(descriptor)


def _new_rules() -> tuple[int, int]:
    """Rules that allow nothing yet, and the rights that they decide about."""
    found = version()
    rights = FILE_RIGHTS[min(found, 5)]
    attributes = struct.pack("<QQQ", rights, 3, 3)[: 24 if found >= 6 else 16 if found >= 4 else 8]
    rules = syscalls.call("landlock_create_ruleset", attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    return rules, rights


def ruleset(writable: str | None = None) -> int:
    """The rules as a file descriptor. `sys.path` must hold the standard library only (`-I -S`)."""
    rules, rights = _new_rules()
    for path in _readable():
        _allow(rules, path, READ_FILE | READ_DIR)
    for folder in standard_library():
        _allow(rules, folder, READ_DIR)  # imports list the folder; its packages stay unreadable
    if writable is not None:
        _allow(rules, writable, KEEP_FILES & rights)
    _allow(rules, "/dev/null", (READ_FILE | WRITE_FILE | TRUNCATE) & rights)
    return rules


def wide_ruleset(folders: Iterable[str], *, devices: Iterable[str], writable: str) -> int:
    """Rules under which what is in `folders` may be read and executed, and `writable` used for any plain file."""
    rules, rights = _new_rules()
    for path in folders:
        _allow(rules, path, READ_FILE | READ_DIR | EXECUTE)
    for path in devices:
        _allow(rules, path, (READ_FILE | WRITE_FILE | TRUNCATE) & rights)
    _allow(rules, "/proc", READ_FILE | READ_DIR)
    _allow(rules, writable, (KEEP_FILES | EXECUTE | MAKE_PIPE | MAKE_LINK) & rights)
    return rules
