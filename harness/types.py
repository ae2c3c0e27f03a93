"""Every type that crosses a file boundary, and no logic: read this file first.

The words are the project's vocabulary: a *task* is a benchmark, a *problem* one item of it, a *completion* one model
output for a problem (n are drawn, c are correct, k are reported on), a *program* or *answer* what is extracted from it,
an *execution* one program run on one test, a *verdict* the outcome for one completion.

Axis suffixes of array names: P problems, G completions of a problem, C tests, T tokens, K ks (`passed_PG`).
`None` always means "not measured", never 0. Units are in names (`wall_s`, `max_rss_bytes`). Records are immutable
`msgspec.Struct`s with a JSON round trip; an unknown field in a file is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:  # numpy takes longer to import than all of ours, and `harness --help` does not need it
    import numpy as np
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float64]"
Key = tuple[str, int]
"""What names a completion inside a run: (problem id, index among that problem's completions)."""
HELD_OUT = ("test", "transfer")
"""Splits that are evaluated and never trained or selected on."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the records below have in common: frozen, keyword-only, strict about unknown fields."""


class Status(StrEnum):
    """What one program did on one test. Only `passed` is correct; the last is our failure, not the program's."""

    passed = "passed"
    wrong = "wrong"
    compile_error = "compile_error"
    runtime_error = "runtime_error"
    timeout = "timeout"
    memory = "memory"
    output_limit = "output_limit"
    tampered = "tampered"
    """The program broke the protocol between itself and the judge (forged or garbled messages)."""
    sandbox_error = "sandbox_error"
    """The sandbox or the judge failed: the completion stays ungraded, and the run says so."""


class Test(Record, frozen=True):
    """One test of a problem. Expected values and scripts are seen by the judge only, never by the program's process.

    - `call`: `input` is the list of positional arguments of the problem's `entry_point`, `expected` its value.
    - `stdio`: `input` is the text on standard input, `expected` the text on standard output.
    - `script`: `input` is Python source that raises if the program is wrong. It sees the program's functions as
      proxies: by the name `candidate`, by the entry point's name, and by any other name that it uses and never defines.
      `setup` is run before it by the judge (helper functions that the test calls); `expected` is unused.
    """

    __test__: ClassVar[bool] = False  # pytest would take it for a test of its own
    id: str
    kind: Literal["call", "stdio", "script"]
    input: Any
    expected: Any = None
    setup: str = ""
    source: str = "gold"
    """Where the test comes from: "gold", "public" or "generated:<by>"."""


class Problem(Record, frozen=True):
    """One item of a task. The model sees `context + prompt`; a code problem has `tests`, a maths one an `answer`."""

    id: str
    task: str
    prompt: str
    split: str = "test"
    context: str = ""
    """Text before the prompt: instructions and few-shot examples."""
    language: str = "python"
    entry_point: str | None = None
    answer: str | None = None
    """The reference: a canonical program for code, the final answer for maths."""
    tests: tuple[Test, ...] = ()
    stop: tuple[str, ...] = ()
    """Where a model that continues the prompt is to stop, unless the budget says; not used for chat replies."""
    level: str | None = None
    cpu_s: float | None = None
    """CPU seconds for a program on one test, where the dataset says; None: from the gold solution, or the limits'."""
    meta: dict[str, Any] = {}


class Budget(Record, frozen=True, omit_defaults=False):
    """How completions are sampled, and how many. `None` = the sampler's or the file's own."""

    n: int | None = None
    """Completions per problem; None: one when sampling, all there are when replaying."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 = no limit."""
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int = 0


Form = Literal["continuation", "message", "program"]
"""How a completion's text is to be read: it goes on where the prompt stops (base models, HumanEval files), it is a chat
reply with code in fences, or it is a whole program."""


class Completion(Record, frozen=True):
    """One model output. `program` and `answer` are filled by the task's `extract` and never stored: the text is."""

    problem_id: str
    index: int
    text: str
    form: Form = "continuation"
    program: str | None = None
    answer: str | None = None
    logprob: float | None = None
    """Sum of the log-probabilities of the sampled tokens, in nats."""
    n_tokens: int | None = None
    stop_reason: Literal["stop", "length"] | None = None
    parent: int | None = None
    """Index of the completion that this one repairs or continues."""
    cost: float | None = None
    scores: dict[str, float] = {}
    """Numbers that came along, by name: a reward model's score in a replayed file."""


class Limits(Record, frozen=True, omit_defaults=False):
    """What one program may use on one test; a script test counts as one."""

    cpu_s: float = 3.0
    gold_factor: float = 20.0
    """Where there is a gold solution, a program has so many times its CPU time (`harness.gold`), within `min_cpu_s` and
    `cpu_s`. 0: every program has `cpu_s`."""
    min_cpu_s: float = 0.5
    wall_s: float = 10.0
    """Only a backstop: a program that ran out of wall clock alone is run again, by itself, before that counts."""
    memory_bytes: int = 2 << 30
    output_bytes: int = 16 << 20


class Execution(Record, frozen=True):
    """One program on one test."""

    problem_id: str
    index: int
    test_id: str
    status: Status
    detail: str = ""
    """One line for people: the exception, the failed assertion, what differed. Never evidence for a pass."""
    stdout: str | None = None
    value_digest: str | None = None
    value: str | None = None
    """What a call returned, as text, shortened; only where it was asked for."""
    cpu_s: float | None = None
    wall_s: float | None = None
    max_rss_bytes: int | None = None
    lines: tuple[int, ...] | None = None
    """Lines of the program that ran, from 1, by its own word; only where they were asked for."""


class Verdict(Record, frozen=True):
    """The outcome for one completion. `passed` is None when it could not be graded: that is never a wrong answer."""

    problem_id: str
    index: int
    passed: bool | None
    status: Status
    answer: str | None = None
    """The canonical form of the answer, for votes."""
    detail: str = ""


class Estimate(Record, frozen=True):
    """One reported number. A fraction, never a percentage; `value` is None when it could not be estimated."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    se: float | None
    n_problems: int
    n_samples: tuple[int, int]
    """Fewest and most graded completions of a problem."""
    method: str
    se_rerun: float | None = None
    """Standard error if these very problems were sampled again; `se` is for new problems like these."""
    level: float = 0.95
    note: str = ""


class Checkpoint(Record, frozen=True):
    """Weights with a hash and a history."""

    path: str
    sha: str
    parent_sha: str | None = None
    base_sha: str | None = None
    treatment: str | None = None
    iteration: int = 0


class TaskRecord(Record, frozen=True, omit_defaults=False):
    """What a manifest says of one task."""

    name: str
    spec: str
    """How the user named it: a registered name or `file.py:function`."""
    args: dict[str, Any]
    revision: str
    n_problems: int
    problems_sha: str
    """Hash of ids, tests and answers."""
    prompts_sha: str
    """Hash of what the model sees: context and prompt of every problem."""


class Row(Record, frozen=True):
    """One training example."""

    problem_id: str
    prompt: str
    """`context + prompt` of the problem; the trainer applies the chat template, as the sampler does."""
    completion: str
    """The target: what a model writes after the prompt, to its end."""
    weight: float = 1.0
    complete: bool = True
    """False: it was cut off at `max_tokens`, so that no end is learnt from it."""
    rejected: str | None = None
    """The worse of a pair (DPO)."""
    source: str = "sampled"
    """Who wrote it: "sampled" or "human"."""
    index: int | None = None
    """Of the completion that it was made of."""
    iteration: int = 0
    reward: float | None = None


class Trained(Record, frozen=True, omit_defaults=False):
    """What a training phase leaves behind: the account of a checkpoint."""

    checkpoint: str
    """Folder of the weights, relative to the phase's."""
    steps: int | None
    """Optimiser steps that were taken. None, here and below: an external trainer did not say."""
    skipped_steps: int = 0
    """Steps that were not taken because the gradient was not finite."""
    rows: int = 0
    trained_tokens: int | None = 0
    """Completion tokens that gave a gradient, every pass counted."""
    sampled_tokens: int | None = 0
    reward_calls: int = 0
    seconds: dict[str, float] = {}
    """Wall clock by part: sample, reward, train, save."""
    peak_memory_bytes: int | None = None
    history: tuple[dict[str, float], ...] = ()
    """Per step: loss, learning rate, gradient norm, and what else the trainer notes (KL, entropy, reward, length)."""


class Manifest(Record, frozen=True, omit_defaults=False):
    """What produced a run. `store.identity` says which of it must agree for a folder to be gone on with."""

    tasks: tuple[TaskRecord, ...]
    model: str
    model_args: dict[str, Any]
    model_identity: str
    """Hash of the weights and tokenizer, or of the replayed file: never only a path."""
    budget: Budget
    limits: Limits
    grader: str
    """Version of the grader: a change of it can change verdicts."""
    sandbox: str
    environment: dict[str, str]
    started: str
    replays: bool = False
    """The completions were read, not sampled: the budget says nothing but n."""
    ks: tuple[int, ...] = ()
    limit: float | None = None
    samples: tuple[str, ...] = ()
    think_tags: tuple[str, ...] = ("think",)
    """Of the blocks in chat replies that are not read for an answer."""
    sampler: dict[str, str] = {}
    """What the sampler says of itself: engine, numerics, chat template. Its identity is in `model_identity`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark: its problems and how a completion is read and graded. A task file's function returns one."""

    name: str
    problems: tuple[Problem, ...]
    extract: Callable[[Problem, Completion], Completion]
    """Fills `program` or `answer` from the text; leaves both None where there is nothing to extract."""
    grade: Callable[[Problem, Completion, Sequence[Execution]], Verdict]
    gold: Callable[[Problem], Completion | None]
    """A completion that must pass, or None where the dataset has none."""
    revision: str = "unversioned"
    stop: tuple[str, ...] = ()
    """Stop strings for all problems that have none of their own."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What a run's programs did on the tests of a suite, aligned with `Results.problems_P` and its completions."""

    tests_PC: tuple[tuple[Test, ...], ...]
    """A problem that the suite has no tests of has none."""
    passed_PGC: tuple[npt.NDArray[np.bool_], ...]
    """(P)(G, C)."""
    output_PGC: tuple[npt.NDArray[np.int64], ...]
    """(P)(G, C): equal numbers for equal values of a test; -1 where there is none (an error, a timeout)."""
    value_PGC: tuple[tuple[tuple[str | None, ...], ...], ...]
    """The values as text, shortened."""
    cpu_s_PG: tuple[Floats, ...]
    """CPU seconds of each program on the whole suite; NaN where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A finished run as aligned arrays, one entry per problem that has completions: what every metric is a function of.

    The inner axis G may differ between problems, so each `_PG` is a tuple (P) of sequences (G).
    """

    problems_P: tuple[Problem, ...]
    completions_PG: tuple[tuple[Completion, ...], ...]
    verdicts_PG: tuple[tuple[Verdict, ...], ...]
    passed_PG: tuple[Floats, ...]
    """1 passed, 0 not, NaN ungraded."""
    answer_PG: tuple[tuple[str | None, ...], ...]
    scores: Mapping[str, tuple[Floats, ...]]
    """Named columns, each (P)(G), NaN where a completion has none; `logprob` among them when sampled."""
    suites: Mapping[str, Outcomes] = field(default_factory=dict)
    """By name of the suite, where the run's programs were run on tests beside the task's own."""
    estimates: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """By task (or task/split), then by metric."""
    expected_problems: Mapping[str, int] = field(default_factory=dict)
    """Problems of each task before completions were looked for: more than have completions means PARTIAL."""


class Job(Record, frozen=True):
    """One program to run on all tests of its problem."""

    problem: Problem
    completion: Completion


class Sampler(Protocol):
    """Where completions come from. Arguments of the function that makes it are the user's `--model_args`.

    A sampler may have `notices`, sentences for the user; `facts`, a mapping of strings for the manifest (engine,
    numerics, chat template); and `replays = True` if it reads instead of sampling. It is drawn from in a thread.
    """

    @property
    def identity(self) -> str:
        """Hash of what is sampled from: weights and tokenizer, or the content of a file."""

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        """How many completions each problem will have: known before any work is done."""

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        """Every completion of `budget` but those in `done`, one by one, as they are finished.

        `problems` is the whole task, `wanted` the ids to sample for (None: all); rows of a file that are for none of
        `problems` are an error, rows for problems that are not wanted are not.
        """


class Sandbox(Protocol):
    """Runs untrusted programs. Statuses are decided outside the program's process."""

    @property
    def version(self) -> str:
        """Tier, Python and packages that programs see: what may change a verdict."""

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, tuple[Execution, ...]]]:
        """Streams jobs through the workers; yields each with its executions as it is finished, in any order.

        None among the jobs says that none is ready yet: the source is asked again a little later.
        """

    def close(self) -> None:
        """Ends every process that it started."""
