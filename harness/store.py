"""The run folder: a manifest, append-only JSONL, resumed by default and safe against a kill at any moment.

    runs/<name>/  manifest.json  completions.jsonl  executions.jsonl  verdicts.jsonl  limits.json
                  results.json  selftest.json

`open_run(path, manifest)` starts a folder or goes on with it. A line counts once it ends in a newline: a torn last
line is dropped with a notice. A completion's executions are written before its verdict, and the verdict commits them:
executions without a verdict are dropped too, and so is a verdict whose completion was lost. One process at a time may
write a folder. Not handled: a disk that loses what the operating system has accepted (files are flushed per record,
synced at the end).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from harness.errors import InputError, RunMismatch
from harness.types import Completion, Execution, Key, Manifest, Verdict

RESULTS_FORMAT = 1
"""Raised when what results.json holds changes its shape."""

RecordType = TypeVar("RecordType", Completion, Execution, Verdict)
_encode = msgspec.json.Encoder().encode


@dataclass(kw_only=True)
class Run:
    """An open run folder: what it holds already, and where to add to it."""

    path: Path
    manifest: Manifest
    completions: dict[Key, Completion]
    verdicts: dict[Key, Verdict]
    notices: list[str]
    cpu_limits: dict[str, float] = field(default_factory=dict)
    """CPU seconds by problem id, where they are not the manifest's."""
    _files: dict[str, BinaryIO] = field(default_factory=dict)
    _finished: bool = True

    def add_completion(self, completion: Completion) -> None:
        """Stores a completion as it was sampled (without what was extracted from it)."""
        self.completions[completion.problem_id, completion.index] = completion
        self._append("completions", completion)

    def add_verdict(self, executions: Sequence[Execution], verdict: Verdict) -> None:
        """Stores a completion's executions and then the verdict that commits them."""
        for execution in executions:
            self._append("executions", execution)
        self.verdicts[verdict.problem_id, verdict.index] = verdict
        self._append("verdicts", verdict)

    def write_cpu_limits(self, limits: dict[str, float]) -> None:
        """Stores the CPU limits of problems; whoever goes on with the run has the same."""
        self.cpu_limits = limits
        write_atomically(self.path / "limits.json", json.dumps(limits, indent=1, sort_keys=True) + "\n")

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces results.json in one step."""
        write_atomically(self.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    def copy_selftest(self) -> None:
        """Keeps what `harness selftest` found here of this run's sandbox, if it was run, for the leaderboard."""
        found = selftest_file(self.manifest.sandbox)
        if os.access(found, os.R_OK):
            write_atomically(self.path / "selftest.json", found.read_text(encoding="utf-8"))

    def _append(self, name: str, record: Completion | Execution | Verdict) -> None:
        if self._finished:
            (self.path / "results.json").unlink(missing_ok=True)  # it is no longer of all that the folder holds
            self._finished = False
        self._files[name].write(_encode(record) + b"\n")
        self._files[name].flush()


@contextlib.contextmanager
def open_run(path: Path, manifest: Manifest) -> Iterator[Run]:
    """Starts the run folder `path`, or resumes it if it holds the same experiment.

    Raises:
        RunMismatch: the folder belongs to another experiment (the differing field is named), or is being written now.
        InputError: the folder cannot be written, or a record in the middle of a file is damaged.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(path))
        manifest = _agree(path / "manifest.json", manifest)
        notices: list[str] = []
        completions = _repair(path / "completions.jsonl", Completion, notices)
        verdicts = _repair(path / "verdicts.jsonl", Verdict, notices, completions.__contains__)
        _repair(path / "executions.jsonl", Execution, notices, verdicts.__contains__)
        run = Run(
            path=path,
            manifest=manifest,
            completions=completions,
            verdicts=verdicts,
            notices=notices,
            cpu_limits=read_cpu_limits(path / "limits.json"),
            _files={
                name: stack.enter_context((path / f"{name}.jsonl").open("ab"))
                for name in ("completions", "executions", "verdicts")
            },
        )
        yield run
        for file in run._files.values():
            os.fsync(file.fileno())


def read_cpu_limits(path: Path) -> dict[str, float]:
    """CPU seconds by problem id, as limits.json of a run folder has them."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and the limits are measured again.") from error


@contextlib.contextmanager
def lock(path: Path, *, proof: str = "manifest.json") -> Iterator[None]:
    """Holds a folder, which is made if there is none, against other writers; `proof` marks ours."""
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path, proof)
            file = stack.enter_context((path / ".lock").open("w"))
        except OSError as error:
            raise InputError(
                f"the run folder {path} cannot be written ({error.strerror}): choose another --output_path."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunMismatch(f"{path} is being written by another process: wait for it, or stop it.") from error
        yield


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until no other process is at the folder, which is made if there is none, and holds it."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_foreign(path: Path, proof: str) -> None:
    """A folder that holds something, and no manifest of ours, is somebody's: not to be written into."""
    if not (path / proof).exists():
        for entry in path.iterdir():
            if not entry.name.startswith("."):
                raise RunMismatch(f"{path} holds {entry.name} and is not a run folder: choose another --output_path.")


def read_run(path: Path) -> tuple[Manifest, list[Completion], list[Verdict]]:
    """A run folder as it is, finished or not, without changing it: manifest, completions, verdicts."""
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path} is not a run folder: it has no manifest.json.")
    completions = [record for record, _ in _records(path / "completions.jsonl", Completion, [])]
    verdicts = [record for record, _ in _records(path / "verdicts.jsonl", Verdict, [])]
    return read_manifest(path / "manifest.json"), completions, verdicts


def read_executions(path: Path) -> dict[Key, tuple[Execution, ...]]:
    """The executions of a run folder by completion; those of a completion that was graded twice are the last ones."""
    found: dict[Key, dict[str, Execution]] = {}
    for record, _ in _records(path / "executions.jsonl", Execution, []):
        found.setdefault((record.problem_id, record.index), {})[record.test_id] = record
    return {key: tuple(by_test.values()) for key, by_test in found.items()}


def read_results(path: Path) -> tuple[Manifest, dict[str, Any]]:
    """Manifest and results of a finished run."""
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path} is not a run folder: it has no manifest.json.")
    if not (path / "results.json").is_file():
        raise InputError(f"{path} has no results.json yet: finish the run first, by the command that began it.")
    try:
        results: dict[str, Any] = json.loads((path / "results.json").read_text(encoding="utf-8"))
        version = results["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}/results.json is not of this version: write it anew with harness score {path}."
        ) from error
    if version != RESULTS_FORMAT:
        raise InputError(f"{path}/results.json is not of this version: write it anew with harness score {path}.")
    return read_manifest(path / "manifest.json"), results


def read_manifest(path: Path) -> Manifest:
    """The manifest of a run folder."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a manifest of ours ({error}): choose another folder.") from error


def selftest_file(sandbox: str) -> Path:
    """Where `harness selftest` leaves what it found of a sandbox of this version: in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "treatment-harness", f"selftest-{hashlib.sha256(sandbox.encode()).hexdigest()[:8]}.json")


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file in one step: readers see the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def identity(manifest: Manifest) -> dict[str, Any]:
    """The part of a manifest that makes a run another experiment.

    Not in it: which problems and how many completions of each, which may change later; and arguments (where a file
    lies, a batch size), whose effect is in a hash.
    """
    fields = msgspec.structs.asdict(manifest)
    for name in ("environment", "started", "model_args", "ks", "limit", "samples", "sampler"):
        del fields[name]
    fields["budget"] = {k: v for k, v in msgspec.structs.asdict(manifest.budget).items() if k != "n"}
    fields["limits"] = msgspec.structs.asdict(manifest.limits)
    fields["tasks"] = [
        {k: v for k, v in msgspec.structs.asdict(task).items() if k not in ("args", "spec")} for task in manifest.tasks
    ]
    return fields


def _agree(path: Path, manifest: Manifest) -> Manifest:
    """Writes a new manifest, or checks that the old one is of the same experiment; keeps the old start time."""
    if path.is_file():
        old = read_manifest(path)
        before, now = _flat(identity(old)), _flat(identity(manifest))
        differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if differing:
            raise RunMismatch(
                f"{path.parent} holds another experiment ({_difference(differing[0], before, now)}): "
                "choose another --output_path."
            )
        manifest = msgspec.structs.replace(manifest, started=old.started)
    write_atomically(path, json.dumps(msgspec.to_builtins(manifest), indent=1, ensure_ascii=False) + "\n")
    return manifest


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words where the values are hashes."""
    words = {
        "model_identity": "the weights, the file of completions or what the server says of its model have changed",
        "problems_sha": "the problems have changed",
        "prompts_sha": "the prompts have changed",
    }
    return words.get(name.rpartition(".")[2], f"{name} was {before.get(name)!r}, is now {now.get(name)!r}")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"budget.top_p": 0.9, ...}: one entry per leaf of nested dicts and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = {str(i): v for i, v in enumerate(value)}.items()
    else:
        return {name: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{name}.{key}" if name else str(key)).items()}


def _records(path: Path, kind: type[RecordType], notices: list[str]) -> Iterator[tuple[RecordType, bytes]]:
    """Every whole record of a file with its line; a torn last line ends it with a notice."""
    if not path.is_file():
        return
    decode = msgspec.json.Decoder(kind).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                notices.append(f"{path.name}: the last line was torn by an interruption and is dropped.")
                return
            try:
                yield decode(line), line
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}, line {number} is damaged ({error}): remove that line.") from error


def _repair(
    path: Path, kind: type[RecordType], notices: list[str], keep: Callable[[Key], bool] = lambda key: True
) -> dict[Key, RecordType]:
    """The records to keep by key; the file is left with these alone. (Of several executions of a key, the last.)"""
    kept: dict[Key, RecordType] = {}
    dropped, whole = 0, 0
    for record, line in _records(path, kind, notices):
        key = (record.problem_id, record.index)
        if keep(key):
            kept[key] = record
            whole += len(line)
        else:
            dropped += 1
    if dropped:
        notices.append(f"{path.name}: {dropped} records without what they belong to are dropped.")
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.writelines(
                line for record, line in _records(path, kind, []) if (record.problem_id, record.index) in kept
            )
        temporary.replace(path)
    elif path.is_file() and whole < path.stat().st_size:
        os.truncate(path, whole)
    return kept
