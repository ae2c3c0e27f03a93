"""Tokens per second of the sampler `hf` beside transformers' `generate` and, where it is installed, vLLM.

Run by hand, a few minutes: python tests/benchmarks/bench_samplers.py [--threads N]
One model (Llama of 2.8M parameters, random weights, float32), 64 prompts of 16 to 95 tokens, 16 completions each, at
temperature 1. One of 64 tokens ends a completion, so that lengths are as uneven as real ones: 63 tokens on average, 256
at most. Only tokens of completions count. `generate` runs at the batch size that was its best on a quarter of it. vLLM
(the CPU build, in .venv-vllm: `make test-vllm` makes it) does the same work with the same tokens ending a completion.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from harness.samplers.hf_decode import Row, decode
from harness.samplers.hf_linear import quicken
from harness.types import Budget

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY, PROMPTS, COMPLETIONS, MOST_TOKENS = 2048, 64, 16, 256
ENDS = list(range(3, 3 + VOCABULARY // 64))
ROUNDS = 2


def model() -> Any:
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
        initializer_range=0.05,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    made = LlamaForCausalLM(config).eval()
    made.generation_config.eos_token_id = ENDS
    return made


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return sorted((rng.integers(50, VOCABULARY, rng.integers(16, 96)).tolist() for _ in range(PROMPTS)), key=len)


def quickened() -> Any:
    """As the sampler loads a model."""
    made = model()
    quicken(made)
    return made


def ours(llama: Any, tokenizer: Any, seed: int) -> int:
    rows = [
        Row(problem_id=str(p), index=i, prompt_ids=ids, room=MOST_TOKENS)
        for p, ids in enumerate(prompts())
        for i in range(COMPLETIONS)
    ]
    return sum(len(row.ids) for row in decode(llama, tokenizer, rows, Budget(temperature=1.0, seed=seed), slots=512))


def generate(llama: Any, together: int, seed: int, asked: Sequence[list[int]]) -> int:
    torch.manual_seed(seed)
    tokens = 0
    for start in range(0, len(asked), together):
        some = asked[start : start + together]
        longest = max(map(len, some))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in some])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in some])
        new = llama.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=COMPLETIONS,
            max_new_tokens=MOST_TOKENS,
        )[:, longest:]
        ended = torch.isin(new, torch.tensor(ENDS))
        tokens += int(torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, new.shape[1]).sum())
    return tokens


def rate(work: Callable[[int], int], seed: int) -> tuple[float, float]:
    """Tokens per second of wall clock, and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work(seed)
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


def vllm(llama: Any, threads: int, *how: str) -> float | None:
    """Tokens per second of vLLM, after its own warm-up; None where it isn't installed."""
    python = ROOT / ".venv-vllm" / "bin" / "python"
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        llama.save_pretrained(folder)
        work = {
            "prompts": prompts(),
            "n": COMPLETIONS,
            "max_tokens": MOST_TOKENS,
            "temperature": 1.0,
            "end_ids": ENDS,
            "dtype": "float32",
            "repeats": ROUNDS,
        }
        (Path(folder) / "work.json").write_text(json.dumps(work))
        run = subprocess.run(
            [str(python), str(ROOT / "tests/benchmarks/vllm_side.py"), folder, str(Path(folder) / "work.json"), *how],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    found = json.loads(run.stdout.splitlines()[-1])
    return float(found["tokens"] / min(found["all_seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    llama, loaded = model(), quickened()
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0")
    peers: dict[str, Callable[[int], int]] = {"ours (hf), 512 slots": lambda seed: ours(loaded, tokenizer, seed)}
    quarter = prompts()[::4]
    tried = {n: rate(lambda seed, n=n: generate(llama, n, seed, quarter), 0)[1] for n in (1, 2, 4, 8, 16)}  # type: ignore[misc]
    together = max(tried, key=lambda n: tried[n])
    print({f"generate, {n * COMPLETIONS} rows": f"{found:,.0f} tokens/CPU s" for n, found in tried.items()}, flush=True)
    peers[f"generate, {together * COMPLETIONS} rows"] = lambda seed: generate(llama, together, seed, prompts())
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for seed in range(ROUNDS):  # in turn, so that what else the machine does hits all of them
        for name, work in peers.items():
            rates[name].append(rate(work, seed))
    best = {name: tuple(max(each) for each in zip(*found, strict=True)) for name, found in rates.items()}
    for name, found in (("vLLM", vllm(llama, threads)), ("ours (vllm)", vllm(llama, threads, "ours"))):
        if found is not None:
            best[name] = (found, float("nan"))
    first = best["ours (hf), 512 slots"]
    rows = [[name, wall, cpu, first[0] / wall, first[1] / cpu] for name, (wall, cpu) in best.items()]
    headers = ["sampler", "tokens/s", "tokens/CPU s", "ours / it", "ours / it, CPU"]
    print(f"\nSampling: {PROMPTS} prompts x {COMPLETIONS} completions, {threads} threads, best of {ROUNDS} rounds\n")
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", ",.0f", ",.0f", ".2f", ".2f")))
    print(f"\nTargets: at least 4 against generate at its best, at least 1 against vLLM. {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
