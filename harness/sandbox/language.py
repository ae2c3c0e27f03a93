"""Programming languages as data: `languages/*.yaml` say how a program is compiled and run, here they are read.

Main functions: `find` a language by any of its names or by the path of a YAML file of your own, `toolchain` what this
machine has for it. The keys are those of `Language` and `Needs`; nothing else knows one language from another.

| words in commands | stand for                                                              |
|-------------------|------------------------------------------------------------------------|
| `{build}`         | the folder where a program is compiled; it cannot be changed afterwards |
| `{cache}`       | a folder that `prepare` fills once per worker                          |
| `{memory_mb}`     | the memory limit                                                       |
| `{stack_kb}`      | the largest stack                                                      |

Commands are split as a shell would, and run without one: programs are compiled in `{build}` and run in a private folder
that is thrown away after each test. Not handled: more than one source file, packages, and tests that are not standard
input and output.
"""

from __future__ import annotations

import functools
import glob
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.errors import InputError, SandboxUnavailable, UnknownName
from harness.types import Limits

FOLDER = Path(__file__).parent / "languages"
PYTHON = "python"
EVERYWHERE = (
    *("/bin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
    *("/usr/include", "/etc/alternatives"),
)
"""Folders of every toolchain, where they are there."""
HIDDEN = ("/tmp/", "/var/", "/proc/")
PARTS = ("bin", "include", "lib", "lib32", "lib64", "libexec", "share")
"""Of a folder that holds more than one toolchain, such as /usr/local, if a command is in its bin."""
STARTUP_WALL = 4.0
"""Wall clock for each second of CPU time that starting takes."""
VERSION_S = 60.0
TIER = "namespaces"
"""The one that is able to run what is not Python."""


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What compiling and running take beyond, or instead of, a run's limits."""

    compile_cpu_s: float = 10.0
    compile_wall_s: float = 60.0
    compile_memory_mb: int = 2048
    startup_s: float = 0.0
    """CPU time that the shortest program takes; it is given on top of a test's limit."""
    extra_memory_mb: int = 0
    """Memory that the language itself takes, on top of a test's limit."""
    processes: int = 128
    """Processes and threads at a time, when running."""
    stack_mb: int = 256
    """Largest stack; with little memory it is an eighth of that."""
    tmp_mb: int = 64
    """Files of a run."""
    build_mb: int = 512
    """Files of a compilation."""


class Language(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One language, as in its YAML file."""

    names: tuple[str, ...]
    """The first is what reports say."""
    source: str
    """Name of the file that holds the program."""
    run: str
    prepare: str = ""
    """A command that has the compiler make, in `{cache}`, what it would otherwise make anew for each program."""
    compile: str = ""
    """A command that fails with words on stderr or stdout if the program is none. Empty: nothing to do beforehand."""
    hello: str = ""
    """A program that prints `hello`: what cannot run it here is not used."""
    environment: dict[str, str] = {}
    needs: tuple[str, ...] = ()
    """Commands that `compile` and `run` start in turn."""
    search: tuple[str, ...] = ()
    """Folders where commands are looked for before PATH; `*` and `~` may stand in them."""
    folders: tuple[str, ...] = ()
    """What the toolchain reads outside of the usual folders; `*` and `~` may stand in them."""
    version: str = ""
    """A command whose first line of output says which toolchain it is."""
    memory_words: tuple[str, ...] = ()
    """Words on stderr of a failed program that say it was for want of memory."""
    limits: Needs = Needs()
    built_in: bool = False
    """Python: programs are forked from a warm interpreter, and none of the above is used."""


class Toolchain(NamedTuple):
    """A language as it can be had on this machine."""

    name: str
    version: str
    plan: dict[str, Any]
    """What the worker's processes need to know of it, ready for JSON."""
    hello: str

    def build_limits(self) -> dict[str, float]:
        """What a compiler may use, as the judge takes it."""
        limits = self.plan["limits"]
        return {
            "cpu_s": limits["compile_cpu_s"],
            "wall_s": limits["compile_wall_s"],
            "memory_bytes": limits["compile_memory_mb"] << 20,
        }

    def widened(self, limits: Limits) -> Limits:
        """The limits of a test with what the language itself takes."""
        needs = self.plan["limits"]
        return msgspec.structs.replace(
            limits,
            cpu_s=limits.cpu_s + needs["startup_s"],
            wall_s=limits.wall_s + needs["startup_s"] * STARTUP_WALL,
            memory_bytes=limits.memory_bytes + (needs["extra_memory_mb"] << 20),
        )


@functools.cache
def names() -> dict[str, Path]:
    """The file of every name of a language that comes with the harness."""
    return {name: path for path in sorted(FOLDER.glob("*.yaml")) for name in _read(path).names}


def find(name: str) -> Language:
    """The language of that name, or of that YAML file. UnknownName, or InputError for a file that says nonsense."""
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    known = names()
    if name.lower() not in known:
        raise UnknownName("language", name, known)
    return _read(known[name.lower()])


@functools.cache
def _read(path: Path) -> Language:
    import yaml

    try:
        language = msgspec.convert(yaml.safe_load(path.read_text()), Language)
    except OSError as error:
        raise InputError(f"the language file {path} cannot be read ({error}).") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise InputError(f"{path} describes no language ({' '.join(str(error).split())}).") from error
    if not language.names or not language.run or os.path.basename(language.source) != language.source:
        raise InputError(f"{path} describes no language: it needs names, a source file's plain name, and run.")
    return language


def is_python(name: str) -> bool:
    """Are programs of this language forked by the zygote?"""
    return name == PYTHON or find(name).built_in


@functools.cache
def toolchain(name: str) -> Toolchain:
    """What this machine has for a language that is not Python. SandboxUnavailable where something is missing."""
    language = find(name)
    commands = {command: _locate(command, language) for command in _commands(language)}
    plan = {
        "name": language.names[0],
        "source": language.source,
        "prepare": _resolved(language.prepare, commands),
        "compile": _resolved(language.compile, commands),
        "run": _resolved(language.run, commands),
        "commands": sorted(set(commands.values())),
        "environment": _environment(commands) | language.environment,
        "folders": _folders(language, commands),
        "memory_words": list(language.memory_words),
        "limits": msgspec.to_builtins(language.limits),
    }
    return Toolchain(language.names[0], _version(language, commands), plan, language.hello)


def _commands(language: Language) -> list[str]:
    lines = (language.prepare, language.compile, language.run, language.version)
    words = [shlex.split(line)[0] for line in lines if line]
    return [word for word in dict.fromkeys([*words, *language.needs]) if "{" not in word]


def _locate(command: str, language: Language) -> str:
    folders = [found for pattern in language.search for found in sorted(_expand(pattern), reverse=True)]
    for path in (os.pathsep.join(folders), os.environ.get("PATH", os.defpath)):
        found = shutil.which(command, path=path) if path else None
        if found is not None:
            return os.path.realpath(found)
    raise SandboxUnavailable(
        f"programs in {language.names[0]} cannot be run: {command} is not installed here, or not on PATH."
    )


def _expand(pattern: str) -> list[str]:
    return glob.glob(os.path.expanduser(pattern))


def _resolved(command: str, commands: dict[str, str]) -> list[str]:
    """The file to execute, then the words: some programs go by the name that they were called by."""
    words = shlex.split(command)
    return [commands.get(words[0], words[0]), *words] if words else []


def _environment(commands: dict[str, str]) -> dict[str, str]:
    folders = dict.fromkeys([*(os.path.dirname(path) for path in commands.values()), "/usr/bin", "/bin"])
    return {"PATH": ":".join(folders), "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}


def _folders(language: Language, commands: dict[str, str]) -> list[str]:
    """What compilers and programs may read and execute."""
    wanted = [os.path.realpath(found) for pattern in language.folders for found in sorted(_expand(pattern))]
    for path in commands.values():
        wanted += _home_of(path)
    for folder in wanted:
        if folder.startswith(HIDDEN):
            raise SandboxUnavailable(
                f"programs in {language.names[0]} cannot be run: {folder} is in a folder that programs see their own "
                "files in, so put the toolchain elsewhere."
            )
    return [folder for folder in dict.fromkeys([*EVERYWHERE, *wanted]) if os.path.exists(folder)]


def _home_of(command: str) -> list[str]:
    """The folders of the toolchain that a command is part of. Never a user's home, nor the folder that we run in: it
    may hold the answers."""
    prefix = os.path.dirname(os.path.dirname(command))
    if prefix in ("/", "/usr"):
        return []
    home = os.path.realpath(os.path.expanduser("~"))
    if prefix in ("/usr/local", "/opt", os.path.join(home, ".local")):
        return [os.path.join(prefix, part) for part in PARTS if part != "share" or not prefix.startswith(home)]
    holds_others = any((place + "/").startswith(prefix + "/") for place in (home, os.getcwd()))
    return [command] if holds_others else [prefix]


def _version(language: Language, commands: dict[str, str]) -> str:
    if not language.version:
        return ""
    words = shlex.split(language.version)
    try:
        done = subprocess.run(
            words,
            executable=commands[words[0]],
            env=_environment(commands),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(
            f"programs in {language.names[0]} cannot be run: {words[0]} fails ({error})."
        ) from error
    lines = (done.stdout or done.stderr).decode(errors="replace").split("\n")
    return " ".join(lines[0].split())[:100]


def check_tier(name: str, tier: str) -> None:
    """SandboxUnavailable if programs of a language that is not Python cannot be isolated by that tier."""
    if tier != TIER:
        raise SandboxUnavailable(
            f"programs in {name} need the sandbox tier {TIER}, and this one is {tier}: harness doctor says what "
            f"stands in the way of {TIER} here."
        )


@functools.cache
def wanted(name: str) -> Toolchain | None:
    """The toolchain for a problem's language, None for Python."""
    return None if is_python(name) else toolchain(name)


def versions(languages: set[str], tier: str) -> str:
    """`, c: gcc 12.2.0` and so on for the toolchains of these languages, to be added to the version of a sandbox.

    Empty for Python alone. Raises as `toolchain` and `check_tier` do.
    """
    found = {}
    for name in languages:
        if not is_python(name):
            check_tier(name, tier)
            found[toolchain(name).name] = toolchain(name).version
    return "".join(f", {name}: {version}" for name, version in sorted(found.items()))


def here() -> dict[str, str]:
    """Every language that comes with the harness: its toolchain's version, or in one sentence what is missing."""
    found = {}
    for name in dict.fromkeys(find(each).names[0] for each in names()):
        try:
            found[name] = "as the harness itself" if is_python(name) else toolchain(name).version
        except SandboxUnavailable as error:
            found[name] = str(error)
    return found
