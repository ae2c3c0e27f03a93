"""Our trainers beside TRL 1.16 at its best settings for a CPU: work per second of CPU time, and peak memory.

Run by hand, a few minutes: python tests/benchmarks/bench_trainers.py [sft ...] [--threads N]
One model (Llama of 2.8M parameters, random weights, float32). Each side runs in processes of its own, in turns, and
warms up before it is timed. CPU time is compared, so that a busy machine does not decide. A part is a function that
returns a line for the table: `PARTS`.

sft: 256 rows, prompts of 16 to 95 tokens, completions of 8 to 255, 32 rows per optimiser step, loss on completions.
TRL: no bfloat16, no activation checkpointing, the best of several micro-batch sizes with and without grouping by
length. Ours: the default settings.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpo_speed
from tabulate import tabulate

ROUNDS = 3
ROWS, STEP_ROWS = 256, 32
VOCABULARY = 2048
TRL_SETTINGS = [(8, False), (16, False), (4, True), (8, True), (16, True)]
"""Rows per micro-batch, and whether rows of like length share one."""


def make_model(folder: Path) -> None:
    """A Llama whose tokenizer has one token per word: "w7 w9"."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def sft_rows() -> list[tuple[str, str]]:
    import random

    draw = random.Random(0)

    def text(n: int) -> str:
        return " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(n))

    return [(text(draw.randrange(16, 96)), text(draw.randrange(8, 256))) for _ in range(ROWS)]


def sft_ours(folder: Path, batch_tokens: int) -> dict[str, float]:
    from harness.progress import silent
    from harness.recipes import Improvement
    from harness.trainers import epochs, phase, sft
    from harness.trainers.lm import open_model
    from harness.types import Row

    rows = [Row(problem_id=str(i), prompt=p, completion=c) for i, (p, c) in enumerate(sft_rows())]
    improve = Improvement(epochs=1, batch_rows=STEP_ROWS, batch_tokens=batch_tokens, learning_rate=1e-4, warmup=0.0)

    def once(rows: list[Row]) -> Callable[[], int]:
        lm = open_model(folder)
        tokens = sft.tokenize(lm, rows, silent)
        out = Path(tempfile.mkdtemp(dir=folder))

        def work() -> int:
            with phase.isolated(0, "cpu"):
                trained = epochs.run(
                    lm,
                    tokens,
                    lambda step: sft._losses(lm, step, batch_tokens),
                    out=out,
                    improve=improve,
                    seed=0,
                    validate=None,
                    save_every_s=600,
                    progress=silent,
                )
            return int(trained.trained_tokens)

        return work

    once(rows[:STEP_ROWS])()
    return timed(once(rows))


def sft_trl(folder: Path, batch_rows: int, grouped: bool) -> dict[str, float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": p, "completion": " " + c} for p, c in sft_rows()]
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def once(rows: list[dict[str, str]]) -> Callable[[], int]:
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(dir=folder),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            completion_only_loss=True,
            per_device_train_batch_size=batch_rows,
            gradient_accumulation_steps=STEP_ROWS // batch_rows,
            train_sampling_strategy="group_by_length" if grouped else "random",
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            max_length=None,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

        def work() -> int:
            trainer.train()
            return sum(len(c.split()) + 1 for _, c in sft_rows()[: len(rows)])

        return work

    once(rows[:STEP_ROWS])()
    return timed(once(rows))


def timed(work: Callable[[], int]) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = work()
    return {
        "tokens": tokens,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def child(threads: int, side: str, *arguments: Any) -> dict[str, float]:
    """One measurement in a process of its own."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, __file__, "--child", side, "--threads", str(threads), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def sft(folder: Path, threads: int) -> list[Any]:
    best = min(TRL_SETTINGS, key=lambda settings: child(threads, "sft_trl", folder, *map(int, settings))["cpu_s"])
    print(f"sft: TRL's best is {best[0]} rows per micro-batch, {'grouped by length' if best[1] else 'in any order'}")
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((child(threads, "sft_ours", folder, 8192), child(threads, "sft_trl", folder, *map(int, best))))
    return line("sft, completion tokens per CPU second", pairs)


def line(name: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> list[Any]:
    """Medians of both sides, and the ratios (above 1: ours is faster; below 1: ours needs less memory)."""
    ours, theirs = (
        sorted(pair[side]["tokens"] / pair[side]["cpu_s"] for pair in pairs)[len(pairs) // 2] for side in (0, 1)
    )
    memory = max(pair[0]["peak_mb"] for pair in pairs), max(pair[1]["peak_mb"] for pair in pairs)
    return [name, round(ours), round(theirs), ours / theirs, *map(round, memory), memory[0] / memory[1]]


def grpo(folder: Path, threads: int) -> list[Any]:
    return line("grpo, sampled tokens per CPU second", grpo_speed.pairs(folder, threads, child))


PARTS: dict[str, Callable[[Path, int], list[Any]]] = {"sft": sft, "grpo": grpo}
CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "sft_ours": lambda folder, tokens: sft_ours(Path(folder), int(tokens)),
    **grpo_speed.CHILDREN,
    "sft_trl": lambda folder, rows, grouped: sft_trl(Path(folder), int(rows), bool(int(grouped))),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(CHILDREN[options.child](*options.parts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        table = [PARTS[name](Path(folder), options.threads) for name in options.parts or PARTS]
    headers = ["what", "ours", "TRL", "ratio", "ours MB", "TRL MB", "ratio"]
    print(tabulate(table, headers=headers, floatfmt=".2f"))


if __name__ == "__main__":
    main()
