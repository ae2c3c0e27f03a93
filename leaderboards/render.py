"""Run folders to a leaderboard: a row per run, a column per task and metric, provenance below.

`render(runs)` is the main function. A cell is `value [low, high]` in percent. Runs are in the order of the first
metric, and share a rank unless a paired test over their common problems tells them apart (`ranking.py`). Partial runs,
ungraded completions and sandbox errors are shown, never dropped. Only the run folders are read: the same runs give the
same text.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tabulate import tabulate

from harness.errors import InputError
from harness.finished import results_of
from harness.metrics.subsets import pass_at_k
from harness.results import percent, spread
from harness.selftest import read, sentence
from harness.store import read_manifest, read_results
from harness.types import Estimate, Manifest

from .ranking import ranks
from .strata import table

CSV_COLUMNS = (
    *("rank", "run", "task", "metric", "value", "low", "high", "se", "problems", "problems_expected"),
    *("n_min", "n_max", "ungraded", "sandbox_errors", "method"),
)


@dataclass(frozen=True)
class Entry:
    """One run as the leaderboard sees it."""

    name: str
    manifest: Manifest
    estimates: dict[str, dict[str, Estimate]]
    counts: dict[str, dict[str, Any]]
    problems: dict[str, dict[str, dict[str, Any]]]
    """n, c, split and level by task and problem."""
    selftest: str = ""
    """What is known of the grader, in a sentence; empty for a run that needed no sandbox or is not finished."""


def render(runs: Sequence[Path], *, format: str = "markdown", by: str | None = None) -> str:
    """A leaderboard of finished runs as `markdown`, `csv` or `json`.

    `by` ("level", or a key of the problems' metadata) adds a break-down to the markdown.
    """
    if len({path.resolve() for path in runs}) < len(runs):
        raise InputError("a run is named twice: name every run once.")
    entries = [_entry(path) for path in runs]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        entries = [replace(entry, name=str(path)) for entry, path in zip(entries, runs, strict=True)]
    columns = list(
        dict.fromkeys((t, m) for entry in entries for t, metrics in entry.estimates.items() for m in metrics)
    )
    if not columns:
        raise InputError("none of the runs has a result: finish one first, by the command that began it.")
    values = {e.name: _per_problem(e, columns[0]) for e in entries if _value(e, columns[0]) is not None}
    places = {entry.name: "-" for entry in entries} | {name: str(rank) for name, rank in ranks(values).items()}
    by_path = list(zip(entries, runs, strict=True))
    entries.sort(key=lambda entry: (-_value_or(entry, columns[0], -1.0), entry.name))
    if format == "json":
        return json.dumps([_as_dict(entry, places[entry.name]) for entry in entries], indent=1) + "\n"
    if format == "csv":
        return _csv(entries, columns, places)
    text = _markdown(entries, columns, places)
    if by is None:
        return text
    if by == "difficulty":
        raise InputError("difficulty is a base model's: harness compare BASE RUN --by difficulty breaks down by it.")
    loaded = [(entry.name, results_of(path, with_tasks=by != "level")[1]) for entry, path in by_path if entry.estimates]
    ks = sorted({int(m.partition("@")[2]) for _, m in columns if m.startswith("pass@")})
    return f"{text}\n## By {by}\n\n{table(loaded, ks, by)}\n"


def _entry(path: Path) -> Entry:
    if (path / "manifest.json").is_file() and not (path / "results.json").is_file():
        return Entry(path.resolve().name, read_manifest(path / "manifest.json"), {}, {}, {})
    manifest, results = read_results(path)
    estimates = {
        task: {name: msgspec.convert({"name": name} | fields, Estimate) for name, fields in metrics.items()}
        for task, metrics in results["tasks"].items()
    }
    return Entry(
        path.resolve().name, manifest, estimates, results["counts"], results["problems"], _selftest(path, manifest)
    )


def _selftest(path: Path, manifest: Manifest) -> str:
    if manifest.sandbox == "none needed":
        return ""
    found = read(path / "selftest.json") if (path / "selftest.json").is_file() else None
    if found is None or found.sandbox != manifest.sandbox:
        return "Grader not self-tested here: run `harness selftest`."
    return sentence(found)


def _value(entry: Entry, column: tuple[str, str]) -> float | None:
    estimate = entry.estimates.get(column[0], {}).get(column[1])
    return estimate.value if estimate else None


def _value_or(entry: Entry, column: tuple[str, str], default: float) -> float:
    value = _value(entry, column)
    return default if value is None else value


def _problems_sha(entry: Entry, group: str) -> str | None:
    task = group.partition("/")[0]
    return next((record.problems_sha for record in entry.manifest.tasks if record.name == task), None)


def _markdown(entries: Sequence[Entry], columns: Sequence[tuple[str, str]], places: dict[str, str]) -> str:
    header = ["rank", "run", *(f"{task} {metric}" for task, metric in columns), "problems x samples"]
    header += ["truncated", "ungraded", "sandbox errors"]
    rows = [
        [places[e.name], e.name, *(_cell(e, column) for column in columns), _sizes(e), _truncated(e)]
        + [sum(count[what] for count in e.counts.values()) for what in ("ungraded", "sandbox_errors")]
        for e in entries
    ]
    if len({_problems_sha(e, columns[0][0]) for e in entries if e.estimates}) > 1:
        header[0] += " (not the same problems)"
    lines = [
        "# Leaderboard",
        "",
        tabulate(rows, headers=header, tablefmt="github", disable_numparse=True),
        "",
        *itertools.chain.from_iterable((line, "") for line in _selftests(entries)),
        "Values are percent with 95% intervals over problems. Runs share a rank unless a paired test on their common "
        f"problems tells them apart on {' '.join(columns[0])} (5%, Holm over all pairs). "
        "*PARTIAL*: not all problems of the task have completions. *UNFINISHED*: the run has no results yet. Ungraded "
        "completions (of them sandbox errors) are never counted as wrong: they are missing, and a problem that is left "
        "with fewer than k has no pass@k.",
        "",
        "## Where the numbers come from",
        "",
        *itertools.chain.from_iterable(_provenance(entry) for entry in entries),
    ]
    return "\n".join(lines) + "\n"


def _selftests(entries: Sequence[Entry]) -> list[str]:
    """What is known of the graders; where that differs between runs, a line for each with the runs' names."""
    runs: dict[str, list[str]] = {}
    for entry in entries:
        if entry.selftest:
            runs.setdefault(entry.selftest, []).append(entry.name)
    return [f"{', '.join(names)}: {line}" if len(runs) > 1 else line for line, names in runs.items()]


def _cell(entry: Entry, column: tuple[str, str]) -> str:
    estimate = entry.estimates.get(column[0], {}).get(column[1])
    if estimate is None:
        return "-"
    if estimate.value is None:
        return f"- ({estimate.note})"
    interval = "" if estimate.low is None else f" [{percent(estimate.low)}, {percent(estimate.high)}]"
    return percent(estimate.value) + interval


def _sizes(entry: Entry) -> str:
    parts = []
    for task, count in entry.counts.items():
        of_task = [metrics for group, metrics in entry.estimates.items() if group.partition("/")[0] == task]
        numbers = [e for metrics in of_task for name, e in metrics.items() if not name.startswith("gap_")]
        size = ", ".join(dict.fromkeys(spread(e) for e in numbers)) or "0"
        partial = count["problems"] < count["problems_expected"]
        parts.append(size + (f" *PARTIAL* (of {count['problems_expected']})" if partial else ""))
    return "; ".join(parts) or "*UNFINISHED*"


def _truncated(entry: Entry) -> str:
    """Completions that ran into max_tokens; a dash where nobody noted how completions ended."""
    known = [count["truncated"] for count in entry.counts.values() if count["truncated"] is not None]
    return str(sum(known)) if known else "-"


def _provenance(entry: Entry) -> list[str]:
    manifest = entry.manifest
    sampling = ", ".join(f"{key} {value:g}" for key, value in _sampling(manifest).items())
    environment = ", ".join(f"{key} {value}" for key, value in manifest.environment.items() if key != "platform")
    tasks = "; ".join(f"{task.name} {task.revision} (prompts {task.prompts_sha})" for task in manifest.tasks)
    return [
        f"- **{entry.name}**: model `{manifest.model}` {manifest.model_identity[:16]}; tasks {tasks}; "
        f"{sampling or 'completions as they came'}; grader {manifest.grader}, sandbox {manifest.sandbox}, "
        f"{manifest.limits.cpu_s:g} s and {manifest.limits.memory_bytes >> 20} MiB a program; "
        f"{environment}; started {manifest.started}."
    ]


def _sampling(manifest: Manifest) -> dict[str, float]:
    """Sampling parameters, of completions that were sampled here."""
    budget = {} if manifest.replays else msgspec.structs.asdict(manifest.budget)
    if not budget:
        return {}
    return {name: budget[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")}


def _per_problem(entry: Entry, column: tuple[str, str]) -> dict[str, float]:
    """pass@k of each problem of the column's task; problems with too few graded completions are not in it."""
    group, metric = column
    task, _, split = group.partition("/")
    k = int(metric.partition("@")[2])
    enough = {
        name: (counts["n"], counts["c"])
        for name, counts in entry.problems[task].items()
        if counts["n"] >= k and split in ("", counts["split"])
    }
    n_P, c_P = np.array(list(enough.values())).T
    u_P = pass_at_k(n_P, c_P, [k])[:, 0].tolist()
    sha = _problems_sha(entry, group)  # problems of one id in two versions of a task are two problems
    return {f"{sha} {name}": u for name, u in zip(enough, u_P, strict=True)}


def _as_dict(entry: Entry, rank: str) -> dict[str, Any]:
    return {
        "run": entry.name,
        "rank": rank,
        "tasks": {t: {m: msgspec.to_builtins(e) for m, e in metrics.items()} for t, metrics in entry.estimates.items()},
        "counts": entry.counts,
        "manifest": msgspec.to_builtins(entry.manifest),
    }


def _csv(entries: Sequence[Entry], columns: Sequence[tuple[str, str]], places: dict[str, str]) -> str:
    """A row per run, task and metric, in fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry, (task, metric) in itertools.product(entries, columns):
        estimate = entry.estimates.get(task, {}).get(metric)
        if estimate is None:
            continue
        count = entry.counts[task.partition("/")[0]]
        e = msgspec.to_builtins(estimate)
        writer.writerow(
            [
                *(
                    places[entry.name],
                    entry.name,
                    task,
                    metric,
                    *(e[field] for field in ("value", "low", "high", "se")),
                ),
                *(estimate.n_problems, count["problems_expected"], *estimate.n_samples),
                *(count["ungraded"], count["sandbox_errors"], estimate.method),
            ]
        )
    return file.getvalue()
