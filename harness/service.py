"""Scores completions for many threads at once: extracted, run in one sandbox, graded and rewarded as in a run of ours.

Main class: `Service`, made by `harness.scoring.serve`. Not handled: keeping what was scored.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from harness import gold, registry
from harness.errors import HarnessError, InputError
from harness.grading.thinking import TAGS, without_thinking
from harness.progress import Progress
from harness.recipes import Reward
from harness.rewards import Graded, Scored, score
from harness.types import HELD_OUT, Completion, Execution, Form, Job, Limits, Problem, Record, Sandbox, Task

MOST_COMPLETIONS = 1024
"""Of one request."""


Known = Mapping[str, tuple[Task, Problem]]
"""Problems by id, with their tasks."""


class Asked(Record, frozen=True):
    """A completion to be scored."""

    problem_id: str
    completion: str
    n_tokens: int | None = None


class Service:
    """Scores completions for many threads at once, with one sandbox. Made by `serve`."""

    def __init__(self, problems: Known, reward: Reward, *, form: Form, stop: Sequence[str]) -> None:
        self.url = ""
        self.calls = 0
        """Completions that were scored."""
        self.unscored = 0
        """Those of them whose reward could not be measured."""
        self.error: BaseException | None = None
        """What went wrong on our side, or in a reward term: see `check`."""
        self._problems, self._reward, self._form, self._stop = problems, reward, form, tuple(stop)
        terms = [registry.find("term", name) for name in reward.terms]
        self._in_groups = reward.shuffled or any(getattr(term, "needs_group", False) for term in terms)
        self._drawn: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._waiting: dict[int, Future[tuple[Execution, ...]]] = {}
        self._stopped = False

    def check(self) -> None:
        """Raises what went wrong."""
        if self.error is not None:
            raise self.error

    def fail(self, error: BaseException) -> None:
        """Remembers what `check` is to raise; what goes wrong because the service is being ended is no matter."""
        if not self._stopped:
            self.error = error

    def answers(self, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """An answer for each; waits for the sandbox. A completion's index is how many of its problem came before.

        Raises:
            InputError: an unknown problem, too many completions, or one alone where a term looks at several.
        """
        if len(asked) > MOST_COMPLETIONS:
            raise InputError(f"{len(asked)} completions in one request: send at most {MOST_COMPLETIONS}.")
        counts = Counter(one.problem_id for one in asked)
        for name, count in counts.items():
            if name not in self._problems:
                raise InputError(f"there is no training or validation problem {name!r}: no other can be scored.")
            if self._in_groups and count == 1:
                raise InputError(f"one completion of {name}, and its reward depends on others: send them together.")
        with self._lock:
            first = {name: self._drawn[name] for name in counts}
            self._drawn.update(counts)
        seen: Counter[str] = Counter()
        read = []
        for one in asked:
            read.append(self._read(one, first[one.problem_id] + seen[one.problem_id]))
            seen[one.problem_id] += 1
        scored = score([self._graded(*each) for each in read], self._reward)
        with self._lock:
            self.calls += len(scored)
            self.unscored += sum(one.reward is None for one in scored)
        return [_answer(one) for one in scored]

    def _read(self, one: Asked, index: int) -> tuple[Completion, Completion, Future[tuple[Execution, ...]] | None]:
        """The completion as it was written, as the task reads it, and its executions to come."""
        task, problem = self._problems[one.problem_id]
        stop = self._stop or (problem.stop if self._form == "continuation" else ())
        text = one.completion[: min((at for at in map(one.completion.find, stop) if at >= 0), default=None)]
        raw = Completion(problem_id=problem.id, index=index, text=text, form=self._form, n_tokens=one.n_tokens)
        completion = task.extract(problem, without_thinking(raw, TAGS))
        return raw, completion, self._submit(problem, completion) if problem.tests else None

    def _graded(self, raw: Completion, completion: Completion, coming: Future[tuple[Execution, ...]] | None) -> Graded:
        task, problem = self._problems[raw.problem_id]
        executions = coming.result() if coming is not None else ()
        verdict = task.grade(problem, completion, executions)
        return Graded(problem, msgspec.structs.replace(completion, text=raw.text), verdict, executions)

    def _submit(self, problem: Problem, completion: Completion) -> Future[tuple[Execution, ...]]:
        job, coming = Job(problem=problem, completion=completion), Future[tuple[Execution, ...]]()
        with self._lock:
            if self._stopped:
                raise self.error or HarnessError("the scoring service has ended.")
            self._waiting[id(job)] = coming
        self._jobs.put(job)
        return coming

    def run_programs(self, sandbox: Sandbox) -> None:
        """Runs what is submitted until `stop`: the body of a thread."""
        try:
            for job, executions in sandbox.run(self._coming()):
                with self._lock:
                    coming = self._waiting.pop(id(job))
                coming.set_result(executions)
                if self._stopped:
                    break
        except BaseException as error:  # all of them: it is raised again by `check`
            self.fail(error)
        finally:
            with self._lock:
                self._stopped = True
                waiting = list(self._waiting.values())
            for coming in waiting:
                coming.set_exception(HarnessError("the scoring service has ended."))

    def _coming(self) -> Iterator[Job | None]:
        """Jobs as they are submitted; None while programs are running and no other is there."""
        while not self._stopped:
            try:
                yield self._jobs.get(block=not self._waiting)
            except queue.Empty:
                yield None

    def stop(self) -> None:
        """Lets `run_programs` end with the next program that ends; what waits for others gets an error."""
        self._stopped = True
        self._jobs.put(None)  # wakes it up


def _answer(one: Scored) -> dict[str, Any]:
    return {
        "problem_id": one.graded.problem.id,
        "reward": one.reward,
        "terms": dict(one.terms),
        "passed": one.graded.verdict.passed,
    }


def known_problems(tasks: Sequence[Task]) -> dict[str, tuple[Task, Problem]]:
    """What can be scored. InputError for test problems, and where two problems have one id."""
    found: dict[str, tuple[Task, Problem]] = {}
    for task in tasks:
        for problem in task.problems:
            if problem.split in HELD_OUT:
                raise InputError(f"problem {problem.id} is of the test split: it cannot be scored for a trainer.")
            if found.setdefault(problem.id, (task, problem))[1] != problem:
                raise InputError(f"two different problems have the id {problem.id}: ids must be unique.")
    return found


def timed(problems: Known, sandbox: Sandbox, *, progress: Progress) -> dict[str, tuple[Task, Problem]]:
    """The problems with the CPU time that their gold solutions ask for, as evaluations have it."""
    tasks = list({id(task): task for task, _ in problems.values()}.values())
    limits = gold.measured(tasks, sandbox, limits=Limits(), known={}, wanted=problems, progress=progress)
    return {
        name: (task, msgspec.structs.replace(problem, cpu_s=limits.get(name, problem.cpu_s)))
        for name, (task, problem) in problems.items()
    }
