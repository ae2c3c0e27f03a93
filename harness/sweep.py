"""Runs a sweep: `run` evaluates the base models, then treats them, arms x seeds, several trials side by side.

Each trial has a process of its own (`harness.processes`): one that fails or is killed leaves `failed.json` in its
folder, and the others go on. What is finished is not done again, so the same call goes on wherever another one was
stopped, tries again what failed, and runs what was added to the sweep. `work` is what such a process does. Not handled:
the report (`leaderboards/experiment.py`), other machines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import msgspec

from harness import processes
from harness.bases import base
from harness.errors import HarnessError, Interrupted
from harness.progress import Progress
from harness.store import lock, write_atomically
from harness.sweeps import Sweep, base_trial, trial_of
from harness.sweeps.folder import Job, left_out, merged, missing
from harness.training import INTERRUPTED
from harness.treat import evaluate_base, treat

SHOWN_EVERY_S = 1.0
TOLD_EVERY_S = 0.5


@dataclass
class Line:
    """How a job is getting on."""

    job: Job
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    started: float = 0.0
    """`time.monotonic()`, and so is the next."""
    ended: float = 0.0
    said: str = ""
    """The last sentence from it."""
    completions: int = 0
    """Graded in this phase, of so many."""
    of: int = 0
    error: str = ""
    """Why it failed."""
    base: str = ""
    """Where the base model is; of the jobs that look for one."""


Show = Callable[[Sequence[Line]], None]
"""Called with all jobs whenever something has happened, and every second."""


def run(
    sweep: Sweep,
    out: Path,
    *,
    parallel: int | None = None,
    workers: int | None = None,
    tier: str = "auto",
    show: Show = lambda lines: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> list[Line]:
    """Runs what is missing of a sweep, and says how each job ended.

    Args:
        sweep: what to run.
        out: folder; one that the same sweep began is gone on with.
        parallel: trials side by side; None: as the sweep says, or else as many as there are GPUs or cores.
        workers: programs graded side by side by each trial; None: its share of the cores.
        tier: how programs are isolated.
        show: told how the jobs are getting on.
        note: told what the user should know.

    Raises:
        RunMismatch: the folder holds another sweep, or is in use.
        KeyboardInterrupt: Ctrl-C or SIGTERM came, and all trials have stopped; the same call goes on.
    """
    with lock(out, proof="sweep.json"), _sigterm_as_ctrl_c():
        everything = merged(sweep, out)
        for what in left_out(sweep, out):
            note(f"{what} is no longer in the file: nothing more is run of it, and the report keeps what was.")
        write_atomically(out / "sweep.json", json.dumps(msgspec.to_builtins(everything), indent=1) + "\n")
        lines = [Line(job) for job in missing(sweep, out)]
        gpus = find_gpus()
        places = side_by_side(sweep, len(lines), parallel=parallel, gpus=len(gpus))
        share = max(1, len(os.sched_getaffinity(0)) // places)
        common = {"sweep": msgspec.to_builtins(sweep), "out": str(out), "workers": workers or share, "tier": tier}
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share))}
        if lines:
            note("loading torch and transformers, once for all trials.")
            with _after_earlier(out, note) as held, processes.server(threads, holding=[held]):
                dealt = shares(gpus, places)

                def begin(line: Line, place: int) -> processes.Child:
                    return _begin(line, lines, out, common, dealt[place])

                _work_through(lines, begin, out, places=places, show=show)
    return lines


def side_by_side(sweep: Sweep, jobs: int, *, parallel: int | None, gpus: int) -> int:
    """How many trials run at the same time: as many as are asked for, or GPUs, or else cores."""
    return max(1, min(parallel or sweep.parallel or gpus or len(os.sched_getaffinity(0)), jobs))


def shares(gpus: Sequence[str], places: int) -> list[dict[str, str]]:
    """Environment of each place: which GPUs are its own, where there are several to deal out."""
    if len(gpus) < 2:
        return [{} for _ in range(places)]
    dealt = [gpus[place::places] or [gpus[place % len(gpus)]] for place in range(places)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(each)} for each in dealt]


def find_gpus() -> list[str]:
    """What may stand in CUDA_VISIBLE_DEVICES, one by one; nothing is initialised."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []  # no such GPUs, or no driver
    return found.stdout.split()


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Whoever ends this process by SIGTERM wants it to stop in order, too."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where signals cannot be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _after_earlier(out: Path, note: Callable[[str], None]) -> Iterator[int]:
    """An open file that is locked as long as one of our processes lives: those of a sweep that was killed may still be
    saving what they have."""
    with (out / ".processes").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(f"processes of an earlier sweep in {out} are still ending: waiting for them.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _work_through(
    lines: Sequence[Line], begin: Callable[[Line, int], processes.Child], out: Path, *, places: int, show: Show
) -> None:
    """Runs all jobs; when it is interrupted, no process is left."""
    running: dict[int, tuple[processes.Child, Line]] = {}
    try:
        while True:
            free = (place for place in range(places) if place not in running)
            for place, line in zip(list(free), _ready(lines), strict=False):
                running[place] = begin(line, place), line
            show(lines)
            if not running:
                return
            news = select.select([child for child, _ in running.values()], [], [], SHOWN_EVERY_S)[0]
            for place, (child, line) in list(running.items()):
                if child in news:
                    _hear(child, line)
                if child.status is not None:
                    del running[place]
                    _end(child, line, lines, out)
    finally:
        for child, _ in running.values():
            child.stop()
        for child, _ in running.values():
            child.wait()


def _ready(lines: Sequence[Line]) -> list[Line]:
    """What can begin: base models, and trials whose base model is evaluated."""
    bases = {line.job.setting for line in lines if line.job.arm is None and line.status == "done"}
    return [line for line in lines if line.status == "waiting" and (line.job.arm is None or line.job.setting in bases)]


def _begin(
    line: Line, lines: Sequence[Line], out: Path, common: dict[str, Any], gpus: Mapping[str, str]
) -> processes.Child:
    """Starts a job's process."""
    job = line.job
    (job.folder(out) / "failed.json").unlink(missing_ok=True)
    job.log(out).parent.mkdir(parents=True, exist_ok=True)
    found = [each.base for each in lines if each.job == Job(job.setting)]
    line.status, line.started = "running", time.monotonic()
    with job.log(out).open("ab") as output:
        what = {**common, "setting": job.setting, "arm": job.arm, "seed": job.seed, "base": found[0]}
        return processes.start("harness.sweep:work", what, output=output, environment=gpus)


def _hear(child: processes.Child, line: Line) -> None:
    message = child.hear(0) or {}
    line.said, line.base = message.get("said", line.said), message.get("base", line.base)
    line.completions, line.of = message.get("completions", 0), message.get("of", 0)


def _end(child: processes.Child, line: Line, lines: Sequence[Line], out: Path) -> None:
    line.ended = time.monotonic()
    if child.status == 0:
        line.status = "done"
        return
    _fail(line, child.error or _why(child.status or 0, line.job, out), out)
    if line.job.arm is None:
        for other in lines:
            if other.job.setting == line.job.setting and other.job.arm is not None:
                _fail(other, f"the base model could not be evaluated: {line.error}", out)


def _fail(line: Line, error: str, out: Path) -> None:
    line.status, line.error = "failed", error
    folder = line.job.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "failed.json", json.dumps({"error": error}) + "\n")


def _why(status: int, job: Job, out: Path) -> str:
    """In words, where the process could not say it itself."""
    if status == INTERRUPTED:
        return "its process was told to stop by somebody else: the same command goes on."
    log = job.log(out)
    place = log.relative_to(out)  # a report reads the same wherever its folder is
    if status < 0:
        reason = " (was there enough memory?)" if -status == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-status).name}{reason}: {place} has what it said."
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return f"its process ended with status {status} ({last[0]}): {place} has it all."


# --- in the process of a job


def work(what: dict[str, Any]) -> None:
    """Evaluates a base model, or runs a trial; says how it is getting on, and in a sentence why it failed."""
    signal.signal(signal.SIGTERM, _leave)
    sweep, out = msgspec.convert(what["sweep"], type=Sweep), Path(what["out"])
    job = Job(what["setting"], what["arm"], what["seed"])
    try:
        _do(sweep, job, out, what["base"], workers=what["workers"], tier=what["tier"], progress=_telling())
    except Interrupted:
        sys.exit(INTERRUPTED)
    except OSError as error:
        raise HarnessError(f"{error.filename or 'the system'}: {error.strerror or error}.") from error


def _do(sweep: Sweep, job: Job, out: Path, found: str, **grading: Any) -> None:
    of_base = Job(job.setting).folder(out)
    if job.arm is None:
        found = _place(sweep.settings[job.setting].base, grading["progress"])
        processes.say(base=found)
        evaluate_base(base_trial(sweep, job.setting, base=found), of_base, **grading)
        return
    source, teachers = sweep.arms[job.arm].treatment.source, sweep.settings[job.setting].teachers
    there = {name: _place(spec, grading["progress"]) for name, spec in teachers.items() if name == source}
    trial = trial_of(sweep, job.setting, job.arm, seed=job.seed, base=found, teachers=there)
    own_problems = bool(sweep.arms[job.arm].train)  # which the base model was not evaluated on
    treat(trial, job.folder(out), shared=None if own_problems else of_base, **grading)


def _place(spec: str | dict[str, Any], progress: Progress) -> str:
    """Where a model is: a folder, or a name on the Hub."""
    folder = base(spec, progress=progress)
    return str(folder.resolve() if folder.exists() else folder)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """What is open is closed on the way out."""
    raise SystemExit(INTERRUPTED)


def _telling() -> Progress:
    """Notes go to the log, and to the sweep; so do counts, now and then."""
    state: dict[str, Any] = {"completions": 0, "of": 0}
    told = 0.0

    def tell() -> None:
        nonlocal told
        told = time.monotonic()
        processes.say(**state)

    def note(sentence: str) -> None:
        print(sentence, flush=True)
        if not sentence.startswith("run folder"):
            state.update(said=sentence, completions=0, of=0)
            tell()

    def start(total: int, sampled: int, graded: int) -> None:
        state.update(completions=graded, of=total)
        tell()

    def graded() -> None:
        state["completions"] += 1
        if time.monotonic() > told + TOLD_EVERY_S:
            tell()

    return Progress(start=start, graded=graded, note=note)
