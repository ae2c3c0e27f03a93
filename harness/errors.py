"""The exception tree. Each message is one sentence: what is wrong, where, and what to do.

HarnessError
├── InputError            a file, row, flag or argument of the user's
│   └── UnknownName       a task, sampler ... that nobody registered; names the nearest
├── MissingDependency     an optional package is not installed; names the extra that brings it
├── Interrupted           somebody stopped a training; its state is saved
├── RunMismatch           a run folder holds another experiment
└── SandboxUnavailable    this machine cannot isolate programs as asked
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of every error that we raise on purpose; the command line prints its message alone."""


class InputError(HarnessError):
    """A file, row, flag or argument that cannot be used as it is."""


class UnknownName(InputError):
    """A name that is not in a list of names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}."
        super().__init__(f"there is no {kind} {name!r}: {hint}")


class MissingDependency(HarnessError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the package {package}: pip install 'treatment-harness[{extra}]'.")


class Interrupted(HarnessError):
    """A training was told to stop, and can be gone on with."""


class RunMismatch(HarnessError):
    """A run folder that holds another experiment than the one asked for."""


class SandboxUnavailable(HarnessError):
    """Programs cannot be isolated here as asked."""
