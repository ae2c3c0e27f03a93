"""Sampling and grading together, against each of them alone: wall clock of `harness.evaluate`.

Run by hand, two minutes: python tests/benchmarks/bench_pipeline.py [--rounds N]
A Llama of 2.8M parameters samples on one thread; one worker grades. What random weights write is no program, so each
completion is given one of a few real ones in its place, slow enough that grading takes about as long as sampling. Two
cores are needed, and nothing else on them.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from bench_samplers import COMPLETIONS, MOST_TOKENS, PROMPTS, model, prompts
from tabulate import tabulate
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harness import registry
from harness.evaluate import evaluate
from harness.grading.code import verdict
from harness.grading.programs import standalone
from harness.samplers.hf_decode import Row, decode
from harness.types import Budget, Completion, Key, Problem, Task, Test

PROGRAM = "def double(x):\n    t = 0\n    while t < {steps}:\n        t += 1\n    return 2 * x\n"


def task() -> Task:
    test = Test(id="0", kind="call", input=[3], expected=6)
    problems = tuple(
        Problem(id=f"p/{i}", task="double", prompt="", entry_point="double", tests=(test,)) for i in range(PROMPTS)
    )
    return Task(name="double", problems=problems, extract=standalone, grade=verdict, gold=lambda problem: None)


class Both:
    """Real decoding, real programs."""

    identity = "both"

    def __init__(self, steps: int, *, sampled: bool) -> None:
        self.llama, self.steps, self.sampled = model(), steps, sampled
        words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b")

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        return {problem.id: COMPLETIONS for problem in problems}

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        rows = (
            Row(problem_id=problem.id, index=i, prompt_ids=ids, room=MOST_TOKENS)
            for problem, ids in zip(problems, prompts(), strict=True)
            for i in range(COMPLETIONS)
        )
        torch.set_num_threads(1)
        finished = (
            decode(self.llama, self.tokenizer, rows, Budget(temperature=1.0), slots=128) if self.sampled else rows
        )
        for place, row in zip(itertools.count(), finished):
            text = PROGRAM.format(steps=self.steps + place)  # all different, so that all run
            yield Completion(problem_id=row.problem_id, index=row.index, text=text, form="program")


def seconds(sampler: Both) -> float:
    registry.BUILT_IN["task"]["double"] = f"{__name__}:task"
    registry.BUILT_IN["sampler"]["both"] = f"{__name__}:made"
    globals()["made"] = lambda: sampler
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        evaluate("double", "both", workers=1, output_path=Path(folder) / "run")
        return time.perf_counter() - started


def sampling(sampler: Both) -> float:
    started = time.perf_counter()
    list(sampler.sample(task().problems, Budget()))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    alone = sampling(Both(0, sampled=True))
    none, some = seconds(Both(0, sampled=False)), seconds(Both(100_000, sampled=False))
    steps = max(0, int(100_000 * (alone - none) / (some - none)))  # grading takes about as long as sampling
    rows = []
    for _ in range(rounds):
        first, second = sampling(Both(steps, sampled=True)), seconds(Both(steps, sampled=False))
        both = seconds(Both(steps, sampled=True))
        rows.append([first, second, both, both / max(first, second), both / (first + second)])
    headers = ["sampling alone, s", "grading alone, s", "together, s", "together / the longer", "together / their sum"]
    print(f"\nPipeline: {PROMPTS * COMPLETIONS} completions, one thread samples, one worker grades\n")
    print(tabulate(sorted(rows, key=lambda row: row[3]), headers=headers, tablefmt="github", floatfmt=".2f"))
    print("\nTarget: together / the longer at most 1.1.")


if __name__ == "__main__":
    main()
