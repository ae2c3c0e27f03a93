"""The run folder: a manifest, append-only JSONL, resumed by default and safe against a kill at any moment.

    runs/<name>/  manifest.json  completions.jsonl  executions.jsonl  verdicts.jsonl  results.json

`open_run(path, manifest)` starts a folder or goes on with it. A line counts once it ends in a newline: a torn last
line is dropped with a notice. A completion's executions are written before its verdict, and the verdict commits them:
executions without a verdict can only be the last ones, and are dropped too. One process at a time may write a folder.
Not handled: a disk that loses what the operating system has accepted (files are flushed per record, synced at the
end).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
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
    _files: dict[str, BinaryIO] = field(default_factory=dict)

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

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces results.json in one step."""
        write_atomically(self.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    def _append(self, name: str, record: Completion | Execution | Verdict) -> None:
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
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((path / ".lock").open("w"))
        except OSError as error:
            raise InputError(
                f"the run folder {path} cannot be written ({error.strerror}): choose another --output_path."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunMismatch(f"{path} is being written by another process: wait for it, or stop it.") from error
        manifest = _agree(path / "manifest.json", manifest)
        notices: list[str] = []
        completions = _read(path / "completions.jsonl", Completion, notices)
        verdicts = _read(path / "verdicts.jsonl", Verdict, notices)
        _drop_uncommitted(path / "executions.jsonl", {(v.problem_id, v.index) for v in verdicts}, notices)
        run = Run(
            path=path,
            manifest=manifest,
            completions={(c.problem_id, c.index): c for c in completions},
            verdicts={(v.problem_id, v.index): v for v in verdicts},
            notices=notices,
            _files={
                name: stack.enter_context((path / f"{name}.jsonl").open("ab"))
                for name in ("completions", "executions", "verdicts")
            },
        )
        yield run
        for file in run._files.values():
            os.fsync(file.fileno())


def read_run(path: Path) -> tuple[Manifest, list[Completion], list[Verdict]]:
    """A run folder as it is, finished or not, without changing it: manifest, completions, verdicts."""
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path} is not a run folder: it has no manifest.json.")
    completions = _read(path / "completions.jsonl", Completion, [], repair=False)
    verdicts = _read(path / "verdicts.jsonl", Verdict, [], repair=False)
    return read_manifest(path / "manifest.json"), completions, verdicts


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
        raise InputError(f"{path}/results.json is not one of ours: write it anew with harness score {path}.") from error
    if version != RESULTS_FORMAT:
        raise InputError(f"{path}/results.json is of another version: write it anew with harness score {path}.")
    return read_manifest(path / "manifest.json"), results


def read_manifest(path: Path) -> Manifest:
    """The manifest of a run folder."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a manifest of ours ({error}): choose another folder.") from error


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

    Not in it: n, which may be raised later, and arguments (where a file lies, a batch size) whose effect is in a hash.
    """
    fields = msgspec.structs.asdict(manifest)
    for name in ("environment", "started", "model_args"):
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
            name = differing[0]
            raise RunMismatch(
                f"{path.parent} holds another experiment ({name} was {before.get(name)!r}, is now {now.get(name)!r}): "
                "choose another --output_path."
            )
        manifest = msgspec.structs.replace(manifest, started=old.started)
    write_atomically(path, json.dumps(msgspec.to_builtins(manifest), indent=1, ensure_ascii=False) + "\n")
    return manifest


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"budget.top_p": 0.9, ...}: one entry per leaf of nested dicts and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = {str(i): v for i, v in enumerate(value)}.items()
    else:
        return {name: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{name}.{key}" if name else str(key)).items()}


def _read(path: Path, kind: type[RecordType], notices: list[str], *, repair: bool = True) -> list[RecordType]:
    """All records of a file; a torn last line is dropped (from the file too, if `repair`)."""
    if not path.is_file():
        return []
    decode = msgspec.json.Decoder(kind).decode
    records: list[RecordType] = []
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                notices.append(f"{path.name}: the last line was torn by an interruption and is dropped.")
                break
            try:
                records.append(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}, line {number} is damaged ({error}): remove that line.") from error
            whole += len(line)
    if repair and whole < path.stat().st_size:
        os.truncate(path, whole)
    return records


def _drop_uncommitted(path: Path, committed: set[Key], notices: list[str]) -> None:
    """Cuts the executions at the end of the file whose verdict was never written."""
    executions = _read(path, Execution, notices)
    keep = len(executions)
    while keep and (executions[keep - 1].problem_id, executions[keep - 1].index) not in committed:
        keep -= 1
    if keep < len(executions):
        notices.append(f"{path.name}: {len(executions) - keep} executions of an unfinished verdict are dropped.")
        with path.open("rb") as file:
            size = sum(len(line) for line, _ in zip(file, range(keep), strict=False))
        os.truncate(path, size)
