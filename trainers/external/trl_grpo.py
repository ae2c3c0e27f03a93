"""TRL's GRPOTrainer as a treatment, the recipe trl_grpo: python trl_grpo.py --base MODEL --train problems.jsonl ...

It samples by the treatment's `sample` and asks our scoring service for rewards. Not handled: stop strings (the service
cuts at them, the model learns to stop from that alone), vLLM, several GPUs. Needs trl.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from harness.scoring import score


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base", "--train", "--out", "--budget"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--problems", type=int, default=16, help="problems of a step")
    parser.add_argument("--micro_rows", type=int, default=8, help="completions that go through the model together")
    parser.add_argument("--learning_rate", type=float, default=1e-6)
    args = parser.parse_args()

    sample = json.loads(args.budget)["sample"]
    problems = [json.loads(line) for line in Path(args.train).read_text().splitlines()]
    sampled = 0

    def reward(completions: list[Any], completion_ids: list[list[int]], problem_id: list[str], **_: Any) -> list[Any]:
        nonlocal sampled
        lengths = [len(ids) for ids in completion_ids]
        sampled += sum(lengths)
        return score(problem_id, completions, n_tokens=lengths)

    words = AutoTokenizer.from_pretrained(args.base)
    gpu = torch.cuda.is_available()
    trainer = GRPOTrainer(
        model=args.base,
        processing_class=words,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(
            [{"problem_id": each["problem_id"], "prompt": each.get("messages", each["prompt"])} for each in problems]
        ),
        args=GRPOConfig(
            output_dir=f"{args.out}/work",
            seed=args.seed,
            max_steps=args.steps,
            per_device_train_batch_size=args.micro_rows,
            gradient_accumulation_steps=max(1, args.problems * sample["n"] // args.micro_rows),
            num_generations=sample["n"],
            max_completion_length=sample["max_tokens"],
            **{name: sample[name] for name in ("temperature", "top_p", "top_k")},
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            use_cpu=not gpu,
            bf16=gpu,
            activation_checkpointing=gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.save_model(args.out)
    words.save_pretrained(args.out)
    account = {"steps": trainer.state.global_step, "sampled_tokens": sampled, "trained_tokens": sampled}
    Path(args.out, "trained.json").write_text(json.dumps(account))


if __name__ == "__main__":
    main()
