"""Tests that a model wrote, as data: sampled or read from a file, parsed safely, each different one once.

Main functions: `generated` makes a suite of texts, `texts_of` reads texts from a file or a folder, `write_tests` has a
model write them. The prompt, its stop strings and the rule to take five asserts of each text are CodeT's (Chen et al.
2022, arXiv 2207.10397): texts go on after `assert `. Chat replies have their asserts in code fences. Nothing of a text
is run (`literals.py`); asserts that don't say arguments and value in literals, which CodeT runs, are dropped and
counted. Two tests of the same arguments with different values both stay: which one is right nobody knows yet.

Not handled: tests in files of their own, languages other than Python.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness import registry
from harness.config import parse_arguments
from harness.dataset import read_rows
from harness.errors import InputError, RunMismatch
from harness.grading.thinking import after_thinking
from harness.progress import Progress, silent
from harness.store import lock, write_atomically
from harness.suites import Suite, tests_of
from harness.suites.literals import Call, parameters_of, read_asserts
from harness.types import Budget, Completion, Form, Key, Problem, Sampler, Test

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a model that writes on after `assert ` stops."""
PER_TEXT = 5
"""Asserts of one text, at most."""
BUDGET = Budget(n=100, temperature=0.8, top_p=0.95, max_tokens=300)
"""CodeT's."""
INSTRUCTION = """\
Write tests for the Python function below. Reply with one code block that holds ten asserts, one on a line, each of the
form `assert {name}(arguments) == value` with literal arguments and a literal value. Don't write the function itself.

```python
{code}```
"""
"""What a chat model is told."""


class Text(NamedTuple):
    """One piece of text with asserts in it."""

    text: str
    form: Form = "continuation"
    """"continuation": it goes on after `assert `; else a reply, with asserts in code fences or bare."""


def generated(
    problems: Iterable[Problem],
    texts: Mapping[str, Sequence[Text]],
    *,
    by: str,
    per_text: int = PER_TEXT,
    name: str = "generated",
) -> Suite:
    """A suite of the different tests in the texts of each problem, with how often each was written.

    Args:
        problems: those to make tests for; texts of others are left out.
        texts: by problem id.
        by: who wrote them; part of each test's source.
        per_text: asserts of one text that are looked at, at most, as in CodeT.
        name: of the suite.
    """
    tests: dict[str, tuple[Test, ...]] = {}
    counts: dict[str, tuple[int, ...]] = {}
    notes: Counter[str] = Counter()
    for problem in problems:
        if problem.entry_point is None or problem.id not in texts:
            continue
        parameters = parameters_of(problem.prompt, problem.entry_point)
        calls: list[Call] = []
        for text in texts[problem.id]:
            found = read_asserts(_code(text), problem.entry_point, parameters=parameters, most=per_text)
            calls += found.calls
            notes += found.dropped
            notes["texts"] += 1
        tests[problem.id], counts[problem.id] = tests_of(calls, source=f"generated:{by}")
        notes["asserts taken"] += len(calls)
    source = f"Tests written by {by}, {per_text} asserts of each text at most."
    return Suite(
        name=name, source=source, tests={p: each for p, each in tests.items() if each}, counts=counts, notes=notes
    )


def _code(text: Text) -> str:
    """The Python in a text, as far as anybody can tell."""
    if text.form == "continuation":
        return f"assert {text.text}"
    reply = after_thinking(text.text)
    pieces = reply.split("```")
    blocks = [piece.partition("\n")[2] for piece in pieces[1::2]]  # without the language's name
    return "\n".join(blocks) if blocks else reply


def texts_of(path: Path) -> dict[str, list[Text]]:
    """The texts of each problem in a file or in a folder of `write_tests`.

    Rows are {task_id, samples} with a list of texts that go on after `assert ` (CodeT's files), or {task_id or
    problem_id, completion or text} with one; those of our folders also say their form. .jsonl, also gzipped.
    """
    found: dict[str, list[Text]] = defaultdict(list)
    file = path / "completions.jsonl" if path.is_dir() else path
    for number, row in read_rows(file):
        problem = row.get("task_id", row.get("problem_id"))
        written = row.get("samples", [row.get("completion", row.get("text"))])
        form = row.get("form", "continuation")
        if (
            not isinstance(problem, str)
            or not isinstance(written, list)
            or not all(isinstance(t, str) for t in written)
        ):
            raise InputError(
                f"{file}, line {number} has no task_id with samples (texts) or a completion (a text): is it a file of "
                "generated tests?"
            )
        if form not in ("continuation", "message", "program"):
            raise InputError(
                f"{file}, line {number} has the form {form!r:.80}: it is continuation, message or program."
            )
        found[problem] += [Text(text, form) for text in written]
    return dict(found)


def writing_prompts(problems: Iterable[Problem], *, chat: bool = False) -> list[Problem]:
    """Problems to be sampled for tests: CodeT's prompt, or with `chat` an instruction. Without an entry point: none."""
    return [
        _to_write(problem, chat=chat) for problem in problems if problem.entry_point and problem.language == "python"
    ]


def _to_write(problem: Problem, *, chat: bool) -> Problem:
    code = problem.prompt if problem.prompt.endswith("\n") else f"{problem.prompt}\n"
    if chat:
        prompt = INSTRUCTION.format(name=problem.entry_point, code=f"{code}    ...\n")
    else:
        prompt = f"{code}    pass\n\n# check the correctness of {problem.entry_point}\nassert "
    return msgspec.structs.replace(problem, context="", prompt=prompt, stop=() if chat else STOP, tests=(), answer=None)


def write_tests(
    problems: Iterable[Problem],
    model: str = "hf",
    *,
    out: Path,
    model_args: str | Sequence[str] | Mapping[str, Any] | None = None,
    budget: Budget = BUDGET,
    chat: bool = False,
    progress: Progress = silent,
) -> dict[str, list[Text]]:
    """Has a model write tests; stored in the folder `out` one by one, so that the same call goes on with it.

    Args:
        problems: those to write tests for.
        model: a sampler by its registered name.
        out: a folder of its own, which `texts_of` reads.
        model_args: arguments of the model, `"pretrained=DIR"` or a mapping.
        budget: how texts are sampled, and how many of each problem.
        chat: the model follows instructions.
        progress: told of every text.

    Raises:
        RunMismatch: the folder has texts of another model, other prompts or another budget.
    """
    wanted = writing_prompts(problems, chat=chat)
    if not wanted:
        raise InputError("none of these problems has a Python function to test: choose another task.")
    sampler: Sampler = registry.build("sampler", model, parse_arguments(model_args, "--model_args"))
    identity = {
        "model": sampler.identity,
        "prompts": hashlib.sha256("".join(f"{p.id}\n{p.prompt}\n" for p in wanted).encode()).hexdigest()[:16],
        "budget": {name: value for name, value in json.loads(msgspec.json.encode(budget)).items() if name != "n"},
    }
    with lock(out, proof="written.json"):
        _agree(out / "written.json", identity)
        done = _stored(out / "completions.jsonl")
        total = sum(sampler.counts(wanted, budget).values())
        progress.start(total, len(done), len(done))
        with (out / "completions.jsonl").open("ab") as file:
            for completion in sampler.sample(wanted, budget, frozenset(done)):
                file.write(msgspec.json.encode(completion) + b"\n")
                file.flush()
                progress.sampled()
                progress.graded()
    return texts_of(out)


def _agree(path: Path, identity: dict[str, Any]) -> None:
    """Writes what makes these texts what they are, or checks that it is the same."""
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        differing = next((name for name in identity if old.get(name) != identity[name]), None)
        if differing:
            raise RunMismatch(f"{path.parent} holds texts of another {differing.rstrip('s')}: choose another folder.")
    else:
        write_atomically(path, json.dumps(identity, indent=1) + "\n")


def _stored(path: Path) -> set[Key]:
    """The texts that are there; a torn last line is cut off."""
    if not path.is_file():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        records = [msgspec.json.decode(line, type=Completion) for line in whole.splitlines()]
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged ({error}): remove the line.") from error
    return {(record.problem_id, record.index) for record in records}
