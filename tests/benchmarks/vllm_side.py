"""vLLM's part of a sampling benchmark: `.venv-vllm/bin/python tests/benchmarks/vllm_side.py FOLDER WORK.json [ours]`.

WORK.json: {"prompts": [[token ids], ...], "n": 16, "max_tokens": 256, "temperature": 1.0, "end_ids": [2], "dtype":
"float32", "repeats": 3}. `end_ids` end a completion; an empty list makes all of them `max_tokens` long.

Prints one JSON object: `seconds` (median of the repeats, after a warm-up on the same work), `all_seconds`, `tokens` and
`completions` of one repeat. Plain vLLM by its own `generate` and `n`, compiled, log-probabilities of sampled tokens
counted, nothing made into text; with `ours` as third argument, by the sampler's `stream`: one request per completion.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.samplers.prompting import Request
from harness.samplers.vllm_engine import _calm, open_engine, stream
from harness.types import Budget


class NoTexts:
    """A tokenizer for those who want no texts."""

    eos_token_id = None
    all_special_ids: tuple[int, ...] = ()

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return []

    def decode(self, ids: list[int], **options: bool) -> str:
        return ""


def plain(llm: Any, work: dict[str, Any]) -> list[int]:
    """Lengths of the completions."""
    from vllm import SamplingParams

    parameters = SamplingParams(
        n=work["n"],
        temperature=work["temperature"],
        max_tokens=work["max_tokens"],
        seed=0,
        ignore_eos=True,
        stop_token_ids=work["end_ids"],
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in work["prompts"]], parameters, use_tqdm=False)
    return [len(part.token_ids) for output in outputs for part in output.outputs]


def ours(llm: Any, work: dict[str, Any]) -> list[int]:
    asked = [
        Request(
            problem_id=str(i),
            indices=tuple(range(work["n"])),
            prompt_ids=ids,
            room=work["max_tokens"],
            stop=(),
        )
        for i, ids in enumerate(work["prompts"])
    ]
    budget = Budget(n=work["n"], temperature=work["temperature"], max_tokens=work["max_tokens"])
    return [len(sampled.ids) for sampled in stream(llm, NoTexts(), asked, budget=budget, eos=work["end_ids"])]


def main() -> None:
    folder, work = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    sample: Callable[..., list[int]] = ours if sys.argv[3:] == ["ours"] else plain
    # two small numbers that change no completion: room for the longest, and all of the work in one batch
    longest = max(map(len, work["prompts"])) + work["max_tokens"]
    llm = open_engine(
        folder,
        dtype=work.get("dtype", "float32"),
        logprobs="model",
        tensor_parallel_size=1,
        max_model_len=longest,
        max_num_seqs=min(1024, work["n"] * len(work["prompts"])),
    )
    with _calm(hide_errors=True):
        lengths = sample(llm, work)
        seconds = []
        for _ in range(work.get("repeats", 3)):
            start = time.perf_counter()
            lengths = sample(llm, work)
            seconds.append(time.perf_counter() - start)
    result = {"seconds": statistics.median(seconds), "all_seconds": seconds}
    print(json.dumps({**result, "tokens": sum(lengths), "completions": len(lengths)}))


if __name__ == "__main__":
    main()
