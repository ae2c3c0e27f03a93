"""What learned verifiers are worth on problems that they never saw, in the two generated worlds, on one CPU core.

By hand, some ten minutes on an idle machine: python tests/benchmarks/verifiers.py [FOLDER]
For each world: the tiny base model is sampled on training problems and on test problems, programs are run on the
prompt's examples (what verifiers see) and on the inputs of the hidden tests (what majority goes by), verifiers are
trained from the training run alone, and each then chooses one of k completions of a test problem. FOLDER is gone on
with.

Settings were chosen on the validation problems of the training run; test problems are looked at here only.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np

from harness import bases, selectors, suites
from harness.evaluate import evaluate
from harness.finished import results_of
from harness.metrics.inference import diff_ci
from harness.trainers.verifier import Settings, train_verifier
from harness.types import Budget, Floats
from harness.verifiers import rate

TRAIN = {"split": "train", "problems": 1200}
TEST = {"split": "test", "problems": 300}
N_TRAIN, N_TEST = 8, 16
KS = (8, 16)
SETTINGS = Settings(epochs=3, patience=1, learning_rate=1e-3)
ALL, NO_EXECUTION, NO_PROMPT = ("prompt", "program", "execution"), ("prompt", "program"), ("program", "execution")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Arm:
    """One verifier."""

    kind: str
    inputs: tuple[str, ...]
    agreement: bool = True


ARMS = {
    "list_programs": {
        "verifier": Arm("lever", ALL),
        "values_only": Arm("lever", ALL, agreement=False),
        "no_execution": Arm("lever", NO_EXECUTION),
        "no_prompt": Arm("lever", NO_PROMPT),
        "probe": Arm("probe", NO_EXECUTION),
        "probe_execution": Arm("probe", ALL),
    },
    "word_problems": {
        "verifier": Arm("lever", NO_EXECUTION),
        "no_prompt": Arm("lever", ("program",)),
        "probe": Arm("probe", NO_EXECUTION),
    },
}


def timed(what: str, function: Callable[[], Value]) -> Value:
    """The value, with its seconds of wall clock and of this process's CPU printed."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    print(f"  {what}: {time.perf_counter() - wall:.0f} s, CPU {time.process_time() - cpu:.0f} s", flush=True)
    return value


def sample(world: str, base: Path, run: Path, problems: dict[str, object], n: int) -> None:
    evaluate(
        world,
        "hf",
        model_args={"pretrained": str(base), "device": "cpu"},
        task_args=problems,
        k=1,
        budget=Budget(n=n, temperature=1.0, max_tokens=128),
        output_path=run,
    )


def scored(
    world: str,
    folder: Path,
    *,
    arms: dict[str, Arm],
    train: dict[str, object] = TRAIN,
    test: dict[str, object] = TEST,
    settings: Settings = SETTINGS,
    ks: Sequence[int] = KS,
) -> dict[str, Floats]:
    """(P, K) of every selector on the test problems, by its name."""
    base = timed("base model", lambda: bases.base({"pretrain": world}))
    runs = {"train": folder / f"{world}-train", "test": folder / f"{world}-test"}
    timed("sampling training problems", lambda: sample(world, base, runs["train"], train, N_TRAIN))
    timed("sampling test problems", lambda: sample(world, base, runs["test"], test, N_TEST))
    if world == "list_programs":
        for run in runs.values():
            shown = suites.examples(suites.problems_of(run))
            timed(f"examples, {run.name}", partial(suites.run_suite, run, shown))
        inputs = suites.own_inputs(suites.problems_of(runs["test"]))
        timed("inputs", lambda: suites.run_suite(runs["test"], inputs))
    rate(runs["test"], "sum_logprob", args={})
    for name, arm in arms.items():
        path = folder / f"{world}-{name}"
        if not path.is_dir():
            account = timed(
                f"training {name}",
                partial(
                    train_verifier,
                    [runs["train"]],
                    path,
                    base=base,
                    kind=arm.kind,
                    inputs=arm.inputs,
                    agreement=arm.agreement,
                    settings=settings,
                    device="cpu",
                ),
            )
            found = account["validation"]
            print("    validation: " + ", ".join(f"{x} {found[x]:.3f}" for x in ("loss", "auroc", "pair_accuracy")))
        scorer = {"path": str(path), "device": "cpu"}
        timed(f"rating with {name}", partial(rate, runs["test"], "verifier", args=scorer, name=name))
    _, results = results_of(runs["test"])
    wanted = ["maj", "maj[inputs]", "max_pass[examples]", "best[mean logprob]", "best[sum_logprob]"]
    wanted += [f"{rule}[{name}]" for name in arms for rule in ("best", "vote", "lever")]
    table = {"pass@1": np.repeat(selectors.oracle(results, [1]), len(ks), axis=1)}
    for metric in selectors.metrics_of(results):
        name = f"{metric.rule}[{metric.of}]" if metric.of else metric.rule
        if name in wanted:
            table[name] = metric.values(ks)
    return {**table, "pass@k": selectors.oracle(results, ks)}


def show(table: dict[str, Floats], ks: Sequence[int] = KS) -> None:
    """Percent, and paired differences with majority and with the log-probability, 95 %."""
    majority = "maj" if "maj" in table else "maj[inputs]"
    against = [majority, "best[mean logprob]"]
    for place, k in enumerate(ks):
        print(f"  k={k:<3} {'':22} {'%':>6}   " + "   ".join(f"{'against ' + name:>30}" for name in against))
        for name, values in table.items():
            cells = []
            for other in against:
                found = diff_ci(values[:, place] - table[other][:, place])
                change = (values[:, place] - table[other][:, place]).mean()
                cells.append(f"{100 * change:+6.2f} [{100 * found.low:+6.2f}, {100 * found.high:+6.2f}]")
            print(f"        {name:22} {100 * values[:, place].mean():6.2f}   " + "   ".join(f"{x:>30}" for x in cells))


def main(folder: Path) -> None:
    """Both worlds."""
    for world, arms in ARMS.items():
        print(world, flush=True)
        show(scored(world, folder, arms=arms))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
