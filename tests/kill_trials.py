"""Kills trials with signal 9 at random moments, goes on, and compares the weights: `python -m tests.kill_trials`.

A tiny ReST-EM trial (two iterations) and a tiny GRPO trial are run once without a break. Then others are started and
killed, the trial and the trainer that it may just have, all at once as in a power cut, until there were so many kills.
A trial that got to its end in spite of them must have the same files as the first: rows, completions, scores, and
weights to the bit. Prints where the kills fell. `--points 30` takes a minute or two per method.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from harness import processes
from harness.trials import Trial

ROOT = str(Path(__file__).resolve().parents[1])
TOY = f"{Path(__file__).resolve().parent / 'toy_task.py'}:toy"
METHODS: dict[str, dict[str, Any]] = {
    "rest_em": {
        "recipe": "rest_em",
        "iterations": 2,
        "sample": {"n": 24, "temperature": 1.0, "max_tokens": 6, "top_k": 0},
        "improve": {"epochs": 4, "batch_rows": 16, "learning_rate": 3e-3, "until": "validation"},
    },
    "grpo": {
        "recipe": "grpo",
        "iterations": 2,
        "sample": {"n": 6, "temperature": 1.0, "max_tokens": 6},
        "on_policy": {
            **{"rounds": 16, "problems": 6, "updates": 2, "batch_rows": 18, "save_every": 3},
            **{"learning_rate": 1e-3, "mask_truncated": False, "loss": {"beta": 0.01}},
        },
    },
}
VOLATILE = ("seconds", "peak_memory_bytes", "started", "environment", "logprob")
"""What may differ between two runs of a trial: times, and the last digits of a log-probability, which depend on how
many completions are sampled together (in an evaluation that goes on, those that are left)."""


def trial_of(method: str, base: Path) -> Trial:
    """The trial as data."""
    from harness.recipes import recipe
    from harness.trials import Evaluation, TaskUse
    from harness.types import Budget

    return Trial(
        treatment=recipe(METHODS[method]),
        base=str(base),
        train=TaskUse(task=TOY, args={"n": 12}),
        validation=TaskUse(task=TOY, args={"n": 4, "split": "validation"}),
        evaluation=Evaluation(
            on={"test": TaskUse(task=TOY, args={"split": "test", "n": 12})},
            budget=Budget(n=4, temperature=1.0, max_tokens=6),
            train_limit=12,
        ),
    )


def run(trial: str, out: str) -> None:
    """The trial, in a process of its own."""
    from harness.treat import treat

    treat(msgspec.json.decode(trial.encode(), type=Trial), Path(out), workers=1)


def killed(method: str, base: Path, folder: Path, *, points: int, seed: int) -> Counter[str]:
    """Where so many kills fell, by phase. AssertionError: a trial that was killed ended otherwise than one that wasn't.

    Args:
        method: of METHODS.
        base: folder of the model.
        folder: for the trials' folders; none may be there.
        points: kills.
        seed: of their moments.
    """
    trial = msgspec.json.encode(trial_of(method, base)).decode()
    draw, phases = random.Random(seed), Counter[str]()
    with processes.server({"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}), (folder / "log.txt").open("ab") as log:

        def start(out: Path) -> processes.Child:
            return processes.start("tests.kill_trials:run", trial, str(out), output=log)

        whole = folder / "whole"
        begun = time.monotonic()
        assert start(whole).wait() == 0, (folder / "log.txt").read_text()
        seconds = time.monotonic() - begun
        for number in range(1, points + 1):
            out = folder / f"killed_{number}"
            left = points - phases.total()
            # so that a trial sees about ten kills; each of them costs the start of a process
            for _ in range(min(left, 10)):
                child = start(out)
                time.sleep(draw.uniform(0, 0.1 * seconds + 0.6))
                status = kill_all(child)
                if status == 0:  # it was done before
                    break
                assert status == -signal.SIGKILL, (folder / "log.txt").read_text()
                phases[phase(out)] += 1
            assert start(out).wait() == 0, (folder / "log.txt").read_text()
            compare(whole, out)
            if phases.total() == points:
                return phases
    raise AssertionError(f"the trials were too short to be killed {points} times: {dict(phases)}")


def kill_all(child: processes.Child) -> int:
    """Ends a fork and whatever else comes from its server, at once; gives its exit status."""
    server = _parent(child.pid) if child.pid is not None else None
    if server is not None:
        for pid in map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split()):
            os.kill(pid, signal.SIGKILL)  # not reaped before the server hears of it: the number is still its own
    return child.wait()


def _parent(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


def phase(out: Path) -> str:
    """What the trial in `out` was at."""
    for folder in sorted(out.glob("iteration_*")):
        if not (folder / "evaluated.json").is_file():
            if folder.name == "iteration_0":
                return "evaluating the base model"
            if not (folder / "rows.jsonl").is_file() and not (folder / "train").is_dir():
                return "sampling"
            return "evaluating" if (folder / "train" / "trained.json").is_file() else "training"
    return "between phases"


def compare(one: Path, other: Path) -> None:
    """Every file of a trial's folder that is not a log or a lock."""
    found = [_content(folder) for folder in (one, other)]
    assert found[0].keys() == found[1].keys(), sorted(found[0].keys() ^ found[1].keys())
    differing = [name for name in found[0] if found[0][name] != found[1][name]]
    assert not differing, differing
    assert sum(name.endswith("model.safetensors") for name in found[0]) == 2


def _content(out: Path) -> dict[str, Any]:
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = {}
    for path in files:
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            found[name] = _without(json.loads(path.read_bytes()), out)
        elif path.suffix == ".jsonl":
            lines = (_without(json.loads(line), out) for line in path.read_bytes().splitlines())
            found[name] = sorted(map(json.dumps, lines))  # they are in the order in which they were finished
        elif path.name != "log.txt":
            found[name] = path.read_bytes()
    return found


def _without(value: Any, out: Path) -> Any:
    """Without times, and without the name of the folder."""
    if isinstance(value, dict):
        return {name: _without(inner, out) for name, inner in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [_without(inner, out) for inner in value]
    return value.replace(str(out), "OUT") if isinstance(value, str) else value


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=30, help="kills of each method")
    parser.add_argument("--method", choices=[*METHODS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from tests.samplers.conftest import save

    for method in METHODS if given.method == "both" else [given.method]:
        with tempfile.TemporaryDirectory() as folder:
            base = save(Path(folder) / "base", 1, attention_dropout=0.1)
            begun = time.monotonic()
            phases = killed(method, base, Path(folder), points=given.points, seed=given.seed)
            where = ", ".join(f"{n} while {name}" for name, n in phases.most_common())
            print(f"{method}: {phases.total()} kills in {time.monotonic() - begun:.0f} s: {where}; the same to the bit")


if __name__ == "__main__":
    main()
