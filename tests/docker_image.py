"""Makes the sandbox's image out of the Python that runs this, where no image registry can be reached: `docker import`.

Usage: python tests/docker_image.py [NAME]. An image of that name which is already there is left alone. It holds the
interpreter, the standard library and the shared libraries that these load: about 60 MB, at the paths of this machine.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import docker

from harness.sandbox.containers import IMAGE

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip"}
ZONES = Path("/usr/share/zoneinfo")
LOADED_LATE = "libgcc_s.so.1"
"""The C library loads it when a thread ends, and no file says so."""


def standard_library() -> Iterator[Path]:
    """Every file that a program may need: the modules and the time zones."""
    yield from (path for path in ZONES.rglob("*") if path.is_file())
    for folder in dict.fromkeys(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")):
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
            yield from (Path(place, name) for name in files if not name.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")))


def shared_libraries(files: Iterable[Path]) -> Iterator[Path]:
    """What the loader finds for `files`, by the names under which it looks for them."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)}
    yield from found
    yield from (path for folder in {each.parent for each in found} if (path := folder / LOADED_LATE).exists())


def write_image(target: io.BufferedIOBase) -> None:
    """A tar archive of the whole root; everybody may read everything in it."""
    python = Path(os.path.realpath(sys._base_executable))
    files = dict.fromkeys([python, *standard_library()])
    files |= dict.fromkeys(shared_libraries(path for path in files if path == python or ".so" in path.suffixes))
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in files:
            entry = archive.gettarinfo(os.path.realpath(path), arcname=str(path))
            entry.mode, entry.uid, entry.gid = 0o755 if os.access(path, os.X_OK) else 0o644, 0, 0
            entry.type, entry.linkname = tarfile.REGTYPE, ""
            with path.open("rb") as source:
                archive.addfile(entry, source)
        link = tarfile.TarInfo("usr/local/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        archive.addfile(link)


def main(name: str) -> None:
    """Imports the image, unless there is one of that name."""
    with contextlib.closing(docker.from_env(timeout=600)) as client, tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with contextlib.suppress(docker.errors.ImageNotFound):
            print(f"{name} is there: {client.images.get(name).short_id}")
            return
        write_image(file)
        file.flush()
        client.api.import_image_from_file(file.name, *reversed(name.rpartition(":")[::2]) if ":" in name else (name,))
        print(f"made {name}: {client.images.get(name).short_id}, {os.path.getsize(file.name) >> 20} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:] or [IMAGE])
