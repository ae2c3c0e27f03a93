"""TRL's SFTTrainer as a treatment: python trl_sft.py --base MODEL --train rows.jsonl --out FOLDER (recipe trl_sft).

Rows are tokenised here: the loss is on completions alone, one that was cut off teaches no end, and the chat template is
applied where rows have messages. Not handled: weights, pairs, tokenizers that put a space before every text. Needs trl.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base", "--train", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch_rows", type=int, default=64, help="rows per optimiser step")
    parser.add_argument("--micro_rows", type=int, default=8, help="rows that go through the model together")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    args = parser.parse_args()

    words = AutoTokenizer.from_pretrained(args.base)
    rows = [json.loads(line) for line in Path(args.train).read_text().splitlines()]
    if any(row["weight"] != 1 or row["rejected"] is not None for row in rows):
        raise SystemExit("TRL's SFTTrainer knows neither weights nor pairs: use our own trainer for these rows.")
    gpu = torch.cuda.is_available()
    trainer = SFTTrainer(
        model=args.base,
        processing_class=words,
        train_dataset=Dataset.from_list([tokens(words, row) for row in rows]),
        args=SFTConfig(
            output_dir=f"{args.out}/work",
            seed=args.seed,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.micro_rows,
            gradient_accumulation_steps=max(1, args.batch_rows // args.micro_rows),
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,  # below 1: a share of all steps
            max_length=None,
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
    n_tokens = sum(sum(tokens(words, row)["completion_mask"]) for row in rows)
    account = {"steps": trainer.state.global_step, "trained_tokens": round(n_tokens * args.epochs)}
    Path(args.out, "trained.json").write_text(json.dumps(account))


def tokens(words: Any, row: dict[str, Any]) -> dict[str, list[int]]:
    """A row as TRL takes it when it is not to tokenise itself."""
    if messages := row.get("messages"):
        text = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = words(text, add_special_tokens=False)["input_ids"]
    else:
        prompt = words(row["prompt"])["input_ids"]
    completion = words(row["completion"], add_special_tokens=False)["input_ids"]
    completion += [words.eos_token_id] * row["complete"]
    mask = [0] * len(prompt) + [1] * len(completion)
    return {"input_ids": prompt + completion, "completion_mask": mask}


if __name__ == "__main__":
    main()
