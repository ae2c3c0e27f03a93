"""A long stream of real completions through the sandbox: does anything grow or slow down, is a verdict ever wrong?

Run by hand, some fifteen minutes: python tests/benchmarks/soak.py. Shorter: --n 20000.
The completions of the real data come in random order, each with a comment and blank lines of its own so that none is a
duplicate, and one in a hundred is followed by a program that attacks (memory, threads, files, signals, output). Endless
programs are found beforehand and left out. Descriptors and mounts of workers are seen by root only, or not counted.
Needs the real data (tests/conftest.py says where it is). Exits with 1 if a verdict is wrong; growth is only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from bench_graders import read_data, table
from graders import our_jobs, our_task
from processes import Process, tree

from harness.sandbox import open_sandbox
from harness.sandbox.pool import Pool
from harness.types import Job, Limits, Status

SETTLED_S = 2.0
"""Programs end sooner, or are few: what is older belongs to the sandbox."""
SHARE_OF_ATTACKS = 0.01
MEMORY_BYTES = 192 << 20
"""Enough for the real completions; filling it takes less than the first try allows."""
ATTACKS = (
    "kept = []\nwhile True: kept.append(bytearray(1 << 24))",
    "kept = bytearray(1 << 40)",
    "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "for i in range(2000):\n    with open(f'/tmp/{i}', 'w') as file: file.write('x' * 10_000)",
    "import os\nos.kill(os.getpid(), 9)",
    "import os\nos._exit(0)",
    "import os\nwhile True: os.fork()",
    "print('x' * (1 << 26))\nraise SystemExit",
    "import ctypes\nctypes.string_at(1)",
    "def again(): again()\nagain()",
    "import os\nkept = [os.open('/dev/null', os.O_RDONLY) for _ in range(10_000)]",
    "import os\nos.write(3, b'\\x04\\x00\\x00\\x00{}{}' * 100)\nraise SystemExit",
)


class Sample(NamedTuple):
    """What the sandbox holds at one moment. Counts are over this process and its workers' unless said otherwise."""

    done: int
    wall_s: float
    cpu_s: float
    own_rss_bytes: int
    workers_rss_bytes: int
    """Of judges and fork servers."""
    all_rss_bytes: int
    """Of everything below this process, programs included."""
    processes: int
    zombies: int
    descriptors: int
    mounts: int
    files: int
    """In the system's folder for temporary files, and in the workers'."""


def lines(path: str) -> int:
    """Lines of a file of /proc; 0 where it may not be read or its process has gone."""
    try:
        return Path(path).read_bytes().count(b"\n")
    except OSError:
        return 0


def entries(path: str) -> int:
    """Entries of a folder; 0 as above."""
    try:
        return len(os.listdir(path))
    except OSError:
        return 0


def take_sample(done: int, begun: float) -> Sample:
    """Now. Programs under way are left out but for `all_rss_bytes`."""
    everything = tree(os.getpid())
    settled = [process for process in everything if process.age_s > SETTLED_S]
    own, workers = settled[0], settled[1:]
    return Sample(
        done=done,
        wall_s=time.perf_counter() - begun,
        cpu_s=sum(process.cpu_s for process in everything),
        own_rss_bytes=own.rss_bytes,
        workers_rss_bytes=sum(process.rss_bytes for process in workers),
        all_rss_bytes=sum(process.rss_bytes for process in everything[1:]),
        processes=len(workers),
        zombies=sum(process.state == "Z" for process in settled),
        descriptors=sum(entries(f"/proc/{process.pid}/fd") for process in settled),
        mounts=sum(lines(f"/proc/{process.pid}/mountinfo") for process in settled),
        files=entries(tempfile.gettempdir()) + sum(map(scratch_files, workers)),
    )


def scratch_files(process: Process) -> int:
    """Files in the /tmp that a worker's programs see, where that is one of its own."""
    root = f"/proc/{process.pid}/root"
    try:
        if os.path.samefile(root, "/"):
            return 0
    except OSError:
        return 0
    return entries(f"{root}/var/tmp")


def usable(jobs: list[Job], official: list[bool], tier: str) -> list[Job]:
    """Those that end, each with the official verdict here; the others are counted and printed."""
    quick = Limits(cpu_s=1, wall_s=0.25, memory_bytes=MEMORY_BYTES)
    with open_sandbox(workers=2, tier=tier, limits=quick) as box:
        found = {job.completion.index: done[0].status for job, done in box.run(jobs)}
    kept = [job for job in jobs if found[job.completion.index] != Status.timeout]
    wrong = [job for job in kept if (found[job.completion.index] == Status.passed) != official[job.completion.index]]
    print(f"{len(jobs)} completions, {len(jobs) - len(kept)} endless ones left out, {len(wrong)} verdicts not official")
    return kept


def stream(jobs: list[Job], n: int, seed: int) -> Iterator[Job]:
    """`n` jobs, no two alike; attacks have negative indices."""
    draw = random.Random(seed)
    for i in range(n):
        job = draw.choice(jobs)
        if draw.random() < SHARE_OF_ATTACKS:
            yield changed(job, f"{draw.choice(ATTACKS)}\n# {i}\n", -1)
        else:
            blank = "\n" * draw.randrange(4)
            yield changed(job, f"{job.completion.program}{blank}\n# {i} {'x' * draw.randrange(200)}\n")


def changed(job: Job, program: str, index: int | None = None) -> Job:
    """The job with another program."""
    completion = msgspec.structs.replace(
        job.completion, program=program, index=job.completion.index if index is None else index
    )
    return Job(problem=job.problem, completion=completion)


def soak(box: Pool, jobs: Iterator[Job], official: list[bool], every: int) -> tuple[list[Sample], list[str]]:
    """Runs all jobs; a sample every so many, and a line for each wrong verdict."""
    begun = time.perf_counter()
    time.sleep(SETTLED_S + 0.1)  # or the first sample would not know the workers
    samples, wrong = [take_sample(0, begun)], []
    print_sample(None, samples[0])
    for done, (job, executions) in enumerate(box.run(jobs), start=1):
        index = job.completion.index
        passed = executions[-1].status == Status.passed
        if passed != (index >= 0 and official[index]) or executions[-1].status == Status.sandbox_error:
            wrong.append(f"{job.problem.id} {index}: {executions[-1].status} {executions[-1].detail}")
        if done % every == 0:
            samples.append(take_sample(done, begun))
            print_sample(samples[-2], samples[-1])
    return samples, wrong


def print_sample(before: Sample | None, now: Sample) -> None:
    """One line."""
    if before is None:
        print("      done   /s  CPU ms  own MB  workers MB  all MB  processes zombies descriptors mounts files")
    rate, cpu_ms = pace([before or now, now])
    sizes = [now.own_rss_bytes / 1e6, now.workers_rss_bytes / 1e6, now.all_rss_bytes / 1e6]
    print(
        f"{now.done:10} {rate:4.0f} {cpu_ms:7.2f} {sizes[0]:7.1f} {sizes[1]:11.1f} {sizes[2]:7.1f} {now.processes:10}"
        f" {now.zombies:7} {now.descriptors:11} {now.mounts:6} {now.files:5}",
        flush=True,
    )


def pace(samples: list[Sample]) -> tuple[float, float]:
    """Completions per second and CPU milliseconds per completion between the first and the last sample."""
    first, last = samples[0], samples[-1]
    n = last.done - first.done
    return n / max(last.wall_s - first.wall_s, 1e-9), 1e3 * (last.cpu_s - first.cpu_s) / max(n, 1)


def compare(samples: list[Sample]) -> dict[str, Any]:
    """The last tenth against the first: rates, and growth of all that must not grow."""
    tenth = max(1, (len(samples) - 1) // 10)
    first, last = samples[tenth], samples[-1]
    rates, cpu = zip(pace(samples[: tenth + 1]), pace(samples[-tenth - 1 :]), strict=True)
    growing = ("own_rss_bytes", "workers_rss_bytes", "processes", "zombies", "descriptors", "mounts", "files")
    growth = {name: getattr(last, name) - getattr(first, name) for name in growing}
    return {"rate": rates[1] / rates[0], "cpu": cpu[1] / cpu[0], **growth}


def main() -> None:
    """Streams, prints, compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=5000)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=100, help="of each problem, to draw from")
    parser.add_argument("--json", type=Path, help="a file for the comparison and the wrong verdicts")
    options = parser.parse_args()
    data, official = read_data(options.samples)
    jobs = usable(our_jobs(our_task(data["problems"]), data["completions"]), official, options.tier)
    with open_sandbox(workers=2, tier=options.tier, limits=Limits(memory_bytes=MEMORY_BYTES)) as box:
        print(box.version)
        samples, wrong = soak(box, stream(jobs, options.n, options.seed), official, options.every)
    found = compare(samples)
    print("\n".join(wrong))
    table(
        [
            ["rate of the last tenth / the first's", "0.9 to 1.1", found["rate"]],
            ["CPU time of the last tenth / the first's", "", found["cpu"]],
            *([f"growth of {name}", "0", value] for name, value in found.items() if name not in ("rate", "cpu")),
            ["wrong verdicts", "0", len(wrong)],
        ],
        [f"{options.n} completions", "target", "measured"],
    )
    if options.json:
        options.json.write_text(json.dumps(found | {"wrong": wrong, "samples": [each._asdict() for each in samples]}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
