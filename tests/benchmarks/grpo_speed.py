"""A GRPO step beside that of TRL 1.16: sampling, rewards and training together. A part of bench_trainers.py.

By hand, some ten minutes: python tests/benchmarks/bench_trainers.py grpo
The model of bench_trainers.py (a Llama of 2.8M parameters in float32), but one token of 64 ends a completion: lengths
are as uneven as real ones, 63 tokens on average, 256 at most. 16 prompts of 16 to 95 tokens, 8 completions each, one
optimiser step. The reward is whether a completion's length is even, so that next to no group is without variance and
none is left out. The learning rate is too small to change the lengths.

TRL: no bfloat16, no activation checkpointing, the best of several micro-batch sizes; it samples all 128 at once. Ours:
the default settings but for the size of micro-batches. The first step is not counted. Target: at most 0.75 of TRL's
time (a ratio of 1.33 in the table), and no more memory.
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPTS, COMPLETIONS, MOST_TOKENS, VOCABULARY = 16, 8, 256, 2048
STEPS, ROUNDS = 2, 3
TRL_ROWS = (8, 16, 32, 64, 128)
LEARNING_RATE = 1e-7
BATCH_TOKENS = 2048
"""Ours per micro-batch: as fast here as the default, with less memory."""

Child = Callable[..., dict[str, Any]]


def make_ending(folder: Path) -> Path:
    """The model in `folder` with the end token at 1/64: a constant in all hidden states, which its embedding picks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = folder / "ending"
    model = AutoModelForCausalLM.from_pretrained(folder)
    end = model.config.eos_token_id
    with torch.no_grad():
        weight = model.get_input_embeddings().weight  # tied with the output layer
        weight[:, 0] = 1.0
        ids = torch.randint(2, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(0))
        low, high = 1.0, 2.0
        for _ in range(20):
            weight[end, 0] = (low + high) / 2
            rare = model(ids).logits.softmax(-1)[..., end].mean() < 1 / 64
            low, high = ((low + high) / 2, high) if rare else (low, (low + high) / 2)
    model.save_pretrained(made)
    AutoTokenizer.from_pretrained(folder).save_pretrained(made)
    return made


def prompts() -> list[str]:
    draw = random.Random(0)
    return [
        " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(draw.randrange(16, 96))) for _ in range(PROMPTS)
    ]


def ours(folder: Path) -> dict[str, Any]:
    """One training of several rounds; the time of a step is from the end of one to the end of the next."""
    from harness.recipes import OnPolicy, Reward
    from harness.trainers import grpo
    from harness.types import Budget, Problem, Status, Task, Verdict

    problems = tuple(Problem(id=str(i), task="even", prompt=text, answer="") for i, text in enumerate(prompts()))

    def grade(problem: Problem, completion: Any, executions: Any) -> Verdict:
        even = completion.n_tokens % 2 == 0
        status = Status.passed if even else Status.wrong
        return Verdict(problem_id=problem.id, index=completion.index, passed=even, status=status)

    marks, learn = [], grpo.learn

    def marked(*args: Any) -> None:
        learn(*args)
        marks.append(mark())

    grpo.learn = marked
    trained = grpo.train(
        Task(name="even", problems=problems, extract=lambda _, c: c, grade=grade, gold=lambda _: None),
        init=folder,
        out=Path(tempfile.mkdtemp(dir=folder.parent)),
        on_policy=OnPolicy(
            rounds=STEPS + 1,
            problems=PROMPTS,
            learning_rate=LEARNING_RATE,
            batch_tokens=BATCH_TOKENS,
            mask_truncated=False,
            save_every=1000,
        ),
        sample=Budget(n=COMPLETIONS, temperature=1.0, max_tokens=MOST_TOKENS),
        reward=Reward(),
        seed=0,
    )
    return measured(marks, [figures["sampled_tokens"] for figures in trained.history])


def trl(folder: Path, rows: int) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[tuple[float, float]] = []
    tokens: list[float] = []

    def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [float(len(ids) % 2 == 0) for ids in completion_ids]

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(mark())

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(dir=folder.parent),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=PROMPTS * COMPLETIONS // rows,
        num_generations=COMPLETIONS,
        max_completion_length=MOST_TOKENS,
        temperature=1.0,
        learning_rate=LEARNING_RATE,
        max_steps=STEPS + 1,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=even,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts()]),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Marks()],
    )
    trainer.train()
    return measured(marks, tokens)


def mark() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(marks: list[tuple[float, float]], tokens: list[float]) -> dict[str, Any]:
    """Of the steps after the first: completion tokens, CPU and wall-clock seconds, all in sum."""
    assert len(marks) == len(tokens) == STEPS + 1, (len(marks), len(tokens))
    return {
        "tokens": sum(tokens[1:]),
        "wall_s": marks[-1][0] - marks[0][0],
        "cpu_s": marks[-1][1] - marks[0][1],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "grpo_ours": lambda folder: ours(Path(folder)),
    "grpo_trl": lambda folder, rows: trl(Path(folder), int(rows)),
}


def pairs(folder: Path, threads: int, child: Child) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(ours, TRL's) in turns, TRL with its best micro-batch size."""
    made = make_ending(folder)
    tried = {rows: child(threads, "grpo_trl", made, rows) for rows in TRL_ROWS}
    best = min(tried, key=lambda rows: float(tried[rows]["cpu_s"] / tried[rows]["tokens"]))
    print(f"grpo: TRL's best is {best} rows per micro-batch")
    return [(child(threads, "grpo_ours", made), child(threads, "grpo_trl", made, best)) for _ in range(ROUNDS)]
