"""What a sweep is going to do, before it does: what runs, what each comparison can detect, how long, how much disk.

`describe` is what `harness sweep --dry_run` prints; `seconds_left` is the estimate that a running sweep shows. Work is
counted in completions: those that a trial samples to train and to evaluate. How long one takes is measured in finished
trials of the setting, or in the evaluation of its base model, or else assumed, and it is said which. Not handled: what
an external trainer does, a machine that is busy with something else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from harness.appraisal import uses
from harness.metrics.power import mde
from harness.power import BETWEEN_SD, WITHIN, within_of
from harness.sweep import Line, find_gpus, side_by_side
from harness.sweeps import Sweep, base_trial, trial_of
from harness.sweeps.display import duration
from harness.sweeps.folder import Job, left_out, missing, trials
from harness.training import problems_of
from harness.trials import Evaluated, TaskUse, Trial

TOKENS_PER_S = {"scratch": 10_000.0, "given": 1000.0}
"""Of one process, assumed before anything has run: a model that is made from scratch is tiny, and one that is given may
have half a billion weights, on a small GPU."""
LENGTH = 1 / 3
"""Of a completion, as a share of the most tokens that it may have; assumed."""
TRAINING = 1.5
"""How much longer a completion takes in a trial, which trains, than in the evaluation of the base model; assumed."""
BYTES_PER_COMPLETION = 1500
"""With its verdict and executions; assumed."""

Source: TypeAlias = Literal["trials", "base", "assumed"]
"""What the seconds of a completion come from."""


# --- work


def completions(sweep: Sweep, job: Job) -> int:
    """How many a job samples, to train and to evaluate."""
    if job.arm is None:
        return _evaluated(base_trial(sweep, job.setting, base=""))
    trial = trial_of(sweep, job.setting, job.arm, seed=job.seed, base="")
    rounds = trial.treatment.iterations
    own_base = bool(sweep.arms[job.arm].train)
    return rounds * _sampled(trial) + (rounds + own_base) * _evaluated(trial)


def _evaluated(trial: Trial) -> int:
    """Completions of one evaluation on every split."""
    return (trial.evaluation.budget.n or 1) * sum(map(_problems, uses(trial).values()))


def _sampled(trial: Trial) -> int:
    """Completions that one iteration trains on."""
    treatment = trial.treatment
    n = treatment.sample.n or 1
    if treatment.on_policy is not None:
        return n * treatment.on_policy.rounds * treatment.on_policy.problems
    return n * _problems(trial.train) if treatment.uses_rows and treatment.source != "none" else 0


def _problems(use: TaskUse) -> int:
    return _count(msgspec.json.encode(use))


@functools.cache
def _count(use: bytes) -> int:
    return len(problems_of(msgspec.json.decode(use, type=TaskUse)).problems)


# --- time


def seconds_per_completion(sweep: Sweep, out: Path, setting: str) -> tuple[float, Source]:
    """Wall clock that a trial of this setting takes for each of its completions, training included."""
    done = [job for job in trials(sweep) if job.setting == setting and job.is_done(out)]
    if done:
        spent = sum(sum(each.seconds.values()) for job in done for each in _accounts(job, out) if each.iteration)
        return spent / sum(completions(sweep, job) for job in done), "trials"
    base = Job(setting)
    if base.is_done(out):
        account = msgspec.json.decode((base.folder(out) / "evaluated.json").read_bytes(), type=Evaluated)
        return TRAINING * sum(account.seconds.values()) / completions(sweep, base), "base"
    return LENGTH * sweep.settings[setting].evaluation.budget.max_tokens / _rate(sweep, setting), "assumed"


def _rate(sweep: Sweep, setting: str) -> float:
    return TOKENS_PER_S["given" if isinstance(sweep.settings[setting].base, str) else "scratch"]


def _accounts(job: Job, out: Path) -> list[Evaluated]:
    return msgspec.json.decode((job.folder(out) / "trial_results.json").read_bytes(), type=list[Evaluated])


def estimator(sweep: Sweep, out: Path, *, parallel: int | None) -> Callable[[Sequence[Line], float], float | None]:
    """A function that says from all jobs, and the time now, how many seconds are left; None where nothing is measured.

    It looks at the folder again whenever another job is done.
    """
    known: dict[str, tuple[float, Source]] = {}
    done, gpus = -1, len(find_gpus())

    def left(lines: Sequence[Line], now: float) -> float | None:
        nonlocal done
        if done != (done := sum(line.status == "done" for line in lines)):
            known.update({name: seconds_per_completion(sweep, out, name) for name in sweep.settings})
        waiting = [line for line in lines if line.status in ("running", "waiting")]
        if any(known[line.job.setting][1] == "assumed" for line in waiting):
            return None
        each = [
            max(0.0, known[line.job.setting][0] * completions(sweep, line.job) - (now - (line.started or now)))
            for line in waiting
        ]
        places = side_by_side(sweep, len(lines), parallel=parallel, gpus=gpus)
        return max(sum(each) / places, max(each, default=0.0))

    return left


# --- the page


def describe(sweep: Sweep, out: Path, *, parallel: int | None = None) -> str:
    """Everything about a sweep that can be known before it runs, for a terminal."""
    left = missing(sweep, out)
    parts = [
        f"{sweep.name}: {_counted(len(sweep.settings), 'setting')}, {_counted(len(sweep.arms), 'arm')}, "
        f"{_counted(len(sweep.seeds), 'seed')}; the folder is {out}.",
        _what_runs(sweep, out),
        *(_what_is_detectable(sweep, out, setting) for setting in sweep.settings),
        _how_long(sweep, out, left, parallel),
        _how_large(sweep, out, left),
    ]
    parts += [f"In the folder and no longer in the file: {what}." for what in left_out(sweep, out)]
    return "\n\n".join(parts)


def _what_runs(sweep: Sweep, out: Path) -> str:
    from tabulate import tabulate

    rows = []
    for setting in sweep.settings:
        for name in sweep.arms_of(setting):
            arm, jobs = sweep.arms[name], [Job(setting, name, seed) for seed in sweep.seeds]
            done = sum(job.is_done(out) for job in jobs)
            trial = trial_of(sweep, setting, name, seed=jobs[0].seed, base="")
            made = f"{arm.control} of {arm.of}" if arm.control else arm.treatment.name
            work = completions(sweep, jobs[0])
            rows.append(
                [setting, name, made, trial.treatment.iterations, _problems(trial.train), work, len(jobs) - done, done]
            )
    headings = ["setting", "arm", "treatment", "iterations", "problems", "completions per seed", "to run", "done"]
    return tabulate(rows, headers=headings, intfmt=",")


def _what_is_detectable(sweep: Sweep, out: Path, setting: str) -> str:
    """For each comparison of the report the smallest difference that it finds in 80 of 100 cases."""
    from tabulate import tabulate

    plan = sweep.settings[setting].evaluation
    test = "test" if "test" in plan.on else next(iter(plan.on))
    problems, n = _problems(plan.on[test]), plan.budget.n or 1
    run = Job(setting).folder(out) / f"evaluation_{test}"
    measured = n > 1 and (run / "results.json").is_file()
    within = within_of(run, problems_of(plan.on[test]).name) if measured else WITHIN
    here = sweep.arms_of(setting)
    compared = [(arm, None) for arm in here] + [(arm, other) for arm in here for other in sweep.placebos(setting, arm)]
    rows = []
    for arm, other in compared if problems > 1 else ():
        of_other = within / n / (len(sweep.seeds) if other else 1)
        noise = within / n / len(sweep.seeds) + of_other
        found = [mde(problems, 1, within=noise, between=sd**2, level=1 - 0.05 / len(compared)) for sd in BETWEEN_SD]
        rows.append([arm, other or "base model", *(f"{100 * each:.1f}" for each in found)])
    source = "measured in its base model" if measured else "assumed"
    sentence = (
        f"{setting}: what can be detected on {test} pass@1 ({_counted(problems, 'problem')} x {n} completions x "
        f"{_counted(len(sweep.seeds), 'seed')}; paired, two-sided 5% over all {len(compared)} comparisons, 80% power, "
        f"a variance within problems of {within:.3f} ({source})):"
    )
    headings = ["arm", "against", *(f"points, if effects vary by {100 * sd:.0f}" for sd in BETWEEN_SD)]
    seeds = "These checkpoints on new problems: that another training run comes out otherwise is not in it."
    return f"{sentence}\n{tabulate(rows, headers=headings, disable_numparse=True)}\n{seeds}"


def _how_long(sweep: Sweep, out: Path, left: Sequence[Job], parallel: int | None) -> str:
    if not left:
        return "Time: nothing is left to run."
    rates = {setting: seconds_per_completion(sweep, out, setting) for setting in sweep.settings}
    each = [rates[job.setting][0] * completions(sweep, job) for job in left]
    places = side_by_side(sweep, len(left), parallel=parallel, gpus=len(find_gpus()))
    unknown = {_rate(sweep, job.setting) for job in left if rates[job.setting][1] == "assumed"}
    tokens = " or ".join(f"{rate:,.0f}" for rate in sorted(unknown))
    said = {
        "trials": "measured in the trials that are finished",
        "base": f"from the evaluation of the base model, and {TRAINING:g} times that because trials train",
        "assumed": f"assumed: {tokens} tokens per second and process, and completions of a third of the most tokens",
    }
    sources = {rates[job.setting][1] for job in left}
    origin = "; ".join(text for source, text in said.items() if source in sources)
    seconds = max(sum(each) / places, *each)
    return f"Time: about {duration(seconds)} for {_counted(len(left), 'job')}, {places} side by side ({origin})."


def _how_large(sweep: Sweep, out: Path, left: Sequence[Job]) -> str:
    n_bytes, unknown = 0.0, set[str]()
    for job in left:
        n_bytes += completions(sweep, job) * BYTES_PER_COMPLETION
        weights = _weights(sweep, out, job.setting)
        if job.arm is not None and weights is None:
            unknown.add(job.setting)
        elif job.arm is not None and weights is not None:
            n_bytes += weights * sweep.arms[job.arm].treatment.iterations
    text = f"Disk: about {n_bytes / 1e6:,.0f} MB"
    if unknown:
        text += f", and the weights of every iteration ({', '.join(sorted(unknown))}: the base model is not here yet)"
    return f"{text}; {BYTES_PER_COMPLETION} bytes per completion are assumed."


def _weights(sweep: Sweep, out: Path, setting: str) -> int | None:
    """Bytes of the base model's folder; None: it isn't known."""
    account, said = Job(setting).folder(out) / "evaluated.json", sweep.settings[setting].base
    if account.is_file():
        folder = Path(msgspec.json.decode(account.read_bytes(), type=Evaluated).checkpoint)
    elif isinstance(said, str):
        folder = Path(said)
    else:
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
