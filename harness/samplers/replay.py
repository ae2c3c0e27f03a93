"""Completions that exist already, from anybody's sample files: `replay(path)` is a sampler that reads instead.

A file is read twice: once to check and count it before any work is done (ids only are kept, and where the file numbers
its completions a hash of each text), once to stream it. Formats: `harness.samplers.formats`. Not handled: several files
at once, files that change while they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from harness.errors import InputError
from harness.samplers import formats
from harness.samplers.formats.found import Found, Notes, encodable, form_of
from harness.samplers.matching import match, register
from harness.types import Budget, Completion, Form, Key, Problem


def replay(path: str, *, format: str = "auto", system: str | None = None, form: str | None = None) -> Replay:
    """Completions that exist already, read from a sample file of any known format (path=FILE).

    Args:
        path: a sample file, plain or gzipped, a folder of EvalPlus, or a run folder of ours.
        format: name of the file's format; "auto" recognises it.
        system: whose solutions to take from a file that has those of several systems.
        form: how the texts are to be read (continuation, message, program), where the format's own is not right.
    """
    file = formats.locate(Path(path).expanduser())
    if format == "auto":
        format = formats.detect(file)
    formats.check_name(format)
    if system is not None and format != "gsm8k_solutions":
        raise InputError(f"{file} is in the format {format}, which has no systems: leave out system={system}.")
    return Replay(path=file, format=format, system=system, form=None if form is None else form_of(form, "replay"))


@dataclass
class _Census:
    """What the first pass over a file found."""

    problems: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    text_hashes: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """By problem and index, where the file numbers its completions."""
    repeated: int = 0


@dataclass
class Replay:
    """The sampler that `replay` makes."""

    replays: ClassVar[bool] = True
    """Sampling parameters are the file's past, not ours to record."""
    path: Path
    format: str
    system: str | None = None
    form: Form | None = None
    notices: list[str] = field(default_factory=list)
    """Sentences on what was skipped, merged or altered in reading; complete after `counts`."""
    _census: _Census | None = None

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the content and of the options that change what is read."""
        digest = hashlib.sha256()
        options = {"format": self.format, "system": self.system, "form": self.form}
        digest.update(json.dumps(options, sort_keys=True).encode())
        files = sorted(path for path in self.path.rglob("*") if path.is_file()) if self.path.is_dir() else [self.path]
        for path in files:
            name = path.relative_to(self.path).as_posix() if self.path.is_dir() else ""
            with path.open("rb") as file:
                digest.update(f"\n{name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        return digest.hexdigest()

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        """Completions that each problem will have, 0 where the file has none; the whole file is checked."""
        census = self._count(problems)
        return {problem.id: _at_most(census.counts[problem.id], budget.n) for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        """The completions in the order of the file: all, or the first `budget.n` of each problem."""
        census = self._count(problems)
        # a numbered file may hold its completions in any order: the first n are those with the smallest numbers
        first_n: dict[str, Collection[int]] = {
            name: texts if budget.n is None else set(sorted(texts)[: budget.n])
            for name, texts in census.text_hashes.items()
        }
        seen: set[Key] = set()
        places: Counter[str] = Counter()
        for name, found in self._matched(problems, Notes()):
            if found.index is None:
                index = places[name]
                places[name] += 1
                beyond = budget.n is not None and index >= budget.n
            else:
                index = found.index
                beyond = index not in first_n[name] or (name, index) in seen
                if census.repeated:
                    seen.add((name, index))
            if not beyond and (name, index) not in done and (wanted is None or name in wanted):
                yield _completion(name, index, found)

    def _count(self, problems: Sequence[Problem]) -> _Census:
        names = tuple(problem.id for problem in problems)
        if self._census is not None and self._census.problems == names:
            return self._census
        census, notes = _Census(names), Notes()
        for name, found in self._matched(problems, notes):
            if found.index is not None:
                self._count_numbered(census, name, found, problems)
            elif name in census.text_hashes:
                raise InputError(f"{found.place} has no index where others of {name!r:.80} have: number all or none.")
            else:
                census.counts[name] += 1
        if not census.counts:
            raise InputError(f"{self.path} holds no completions.")
        if census.repeated:
            notes["completion", "repeated word for word under the same index and counted once"] += census.repeated
        self.notices[:] = [_sentence(n, *what) for what, n in notes.items()]
        self._census = census
        return census

    def _count_numbered(self, census: _Census, name: str, found: Found, problems: Sequence[Problem]) -> None:
        assert found.index is not None
        if census.counts[name] and name not in census.text_hashes:
            raise InputError(f"{found.place} has an index where others of {name!r:.80} have none: number all or none.")
        texts = census.text_hashes[name]
        text_hash = hash(found.text)
        if found.index not in texts:
            texts[found.index] = text_hash
            census.counts[name] += 1
        elif texts[found.index] == text_hash:
            census.repeated += 1
        else:
            earlier = next(other.place for other_name, other in self._matched(problems, Notes())
                           if other_name == name and other.index == found.index)  # fmt: skip
            raise InputError(
                f"{earlier} and {found.place.removeprefix(f'{self.path}, ')} both claim index {found.index} "
                f"of {name!r:.80} with different texts: remove one."
            )

    def _matched(self, problems: Sequence[Problem], notes: Notes) -> Iterator[tuple[str, Found]]:
        known = register(problems)
        for found in formats.read(self.path, self.format, system=self.system, notes=notes):
            name = match(known, found)
            text = encodable(found.text)
            if text is not found.text:
                notes["completion", "with lone surrogates, replaced by U+FFFD"] += 1
            if text is not found.text or self.form is not None:
                found = replace(found, text=text, form=self.form or found.form)
            yield name, found


def _completion(name: str, index: int, found: Found) -> Completion:
    return Completion(
        problem_id=name,
        index=index,
        text=found.text,
        form=found.form,
        logprob=found.logprob,
        n_tokens=found.n_tokens,
        stop_reason=found.stop_reason,
        parent=found.parent,
        cost=found.cost,
        scores=found.scores,
    )


def _at_most(n: int, limit: int | None) -> int:
    return n if limit is None else min(n, limit)


def _sentence(n: int, noun: str, rest: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'} {rest}."
