# my_trainer.py: one pass of plain PyTorch over the rows
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

init, train, out = sys.argv[1:]
model, words = AutoModelForCausalLM.from_pretrained(init), AutoTokenizer.from_pretrained(init)
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
for row in map(json.loads, Path(train).read_text().splitlines()):
    prompt = words(row["prompt"])["input_ids"]
    completion = words(row["completion"], add_special_tokens=False)["input_ids"]
    completion += [words.eos_token_id] * row["complete"]
    labels = torch.tensor([[-100] * len(prompt) + completion])  # the loss is on the completion alone
    model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss.backward()
    optimiser.step()
    optimiser.zero_grad()
model.save_pretrained(out)
words.save_pretrained(out)
