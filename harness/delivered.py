"""The model that a command left in a folder: `check` says what stands in the way of using it, and what is odd about it.

`reading_of` says how the model that training begins with reads prompts, which is how the new one is to read them.
Not handled: weights that can be loaded and make no sense (evaluation will say).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.samplers import hf_model, prompting
from harness.types import Form


@dataclass(frozen=True)
class Reading:
    """A model and how it reads prompts."""

    folder: Path
    template: str | None
    """Text of the chat template, if one is applied."""
    system: str | None

    @property
    def form(self) -> Form:
        """Of its completions."""
        return "continuation" if self.template is None else "message"

    def messages(self, prompt: str) -> dict[str, Any]:
        """`{"messages": ...}` for a chat model, else nothing."""
        if self.template is None:
            return {}
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return {"messages": [*system, {"role": "user", "content": prompt}]}


def reading_of(model: str | Path, model_args: Mapping[str, Any]) -> Reading:
    """The model of a folder or name, read as the sampler reads it with these arguments."""
    folder = hf_model.resolve(str(model), None).resolve()
    wanted, system = model_args.get("apply_chat_template"), model_args.get("system_instruction")
    _, tokenizer = hf_model.load_texts(folder, False)
    return Reading(folder, prompting.template(tokenizer, folder, wanted=wanted, system_instruction=system), system)


def check(made: Path, start: Reading, model_args: Mapping[str, Any]) -> list[str]:
    """Notes on a model that was trained from `start`. It is loaded once, onto the CPU.

    Raises:
        InputError: there is no model in `made`, it cannot be loaded, or it would be asked in another way.
    """
    if not any(made.glob("model*.safetensors")):
        is_adapter = (made / "adapter_config.json").is_file()
        hint = "it is an adapter: merge it into its base" if is_adapter else "save weights and tokenizer there"
        raise InputError(f"{made} has no model.safetensors: {hint}.")
    config, _ = hf_model.load_texts(made, False)
    hf_model.load_model(made, hf_model.find_dtype(config, "auto", "checkpoint"), "cpu", False)
    template = reading_of(made, model_args).template
    if (template is None) != (start.template is None):
        change = "lost its" if template is None else "a new"
        raise InputError(f"the tokenizer in {made} has {change} chat template: save the tokenizer of {start.folder}.")
    notes = []
    if _same_weights(start.folder, made):
        notes.append("the weights are those that training began with.")
    if template != start.template:
        notes.append("the chat template is another than that of the model that training began with.")
    return notes


def _same_weights(one: Path, other: Path) -> bool:
    """Whether the tensors that both have are equal to the bit; what is stored in another dtype is not."""
    before, after = _tensors(one), _tensors(other)
    both = before.keys() & after.keys()
    return bool(both) and all(before[name] == after[name] for name in both)


def _tensors(folder: Path) -> dict[str, str]:
    """Hashes of all tensors by name: of dtype, shape and bytes (https://github.com/huggingface/safetensors#format)."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(n_header))
            for name, tensor in header.items():
                if name != "__metadata__":
                    first, last = tensor["data_offsets"]
                    file.seek(8 + n_header + first)
                    kind = json.dumps([tensor["dtype"], tensor["shape"]]).encode()
                    found[name] = hashlib.sha256(kind + file.read(last - first)).hexdigest()
    return found
