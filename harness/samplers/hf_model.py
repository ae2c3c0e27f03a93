"""A causal language model's folder: `resolve` finds it, `load_texts` and `load_model` read it, `identity` hashes it.

The one place that imports transformers. Not handled: adapters without their base model, several devices, quantised
weights in formats that need further packages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import InputError, MissingDependency

MOST_ROWS = 512
"""Beyond it a batch gains no speed: the multiplications are long enough."""
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "added_tokens.json")
OTHER_FILES = ("config.json", "generation_config.json", "special_tokens_map.json", "chat_template*", "*.py")


def packages() -> tuple[ModuleType, ModuleType]:
    """The modules torch and transformers."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("torch", "hf", "the sampler hf") from error
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency("transformers", "hf", "the sampler hf") from error
    return torch, transformers


def find_device(device: str | None) -> str:
    """A torch device that exists here; None is "cuda" where there is one, else "cpu"."""
    torch, _ = packages()
    has_cuda = torch.cuda.is_available()
    try:
        kind = torch.device(device or ("cuda" if has_cuda else "cpu"))
    except RuntimeError as error:
        raise InputError(f"device {device!r} is not a torch device: give cpu, cuda or cuda:0.") from error
    if kind.type == "cuda" and not has_cuda:
        raise InputError(f"device {device!r} is asked for and torch finds no GPU: leave device out.")
    return str(kind)


def find_dtype(config: Any, dtype: str, device: str) -> str:
    """The name of a torch dtype; "auto" is float32 on a CPU and the checkpoint's own elsewhere."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def resolve(pretrained: str, revision: str | None) -> Path:
    """The local folder of a model; a Hub model is downloaded unless the cache has it."""
    import huggingface_hub

    folder = Path(pretrained).expanduser()
    if folder.exists():
        if revision is not None:
            raise InputError(f"revision {revision!r} is for models of the Hub and {folder} is a folder: leave it out.")
        return folder
    if pretrained.startswith(("/", ".", "~")) or pretrained.count("/") != 1:
        raise InputError(
            f"{pretrained} does not exist: give a model's folder, or its name ORGANISATION/MODEL on the Hub."
        )
    download = functools.partial(
        huggingface_hub.snapshot_download, pretrained, revision=revision, ignore_patterns=["*/*"]
    )
    try:
        with quiet():
            found = Path(download(allow_patterns=[*WEIGHTS, *TOKENIZER_FILES, *OTHER_FILES]))
            if not any(found.glob(WEIGHTS[0])):
                download(allow_patterns=list(OLD_WEIGHTS))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{pretrained} is neither a folder nor a model that could be loaded from the Hub ({_first_line(error)}): "
            "check the name and the network, or give a local folder."
        ) from error
    return found


def load_texts(folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Configuration and tokenizer of a folder that holds a causal language model."""
    _, transformers = packages()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: it has no config.json.")
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{folder} brings its own Python code: read it, and set trust_remote_code if you trust it."
            ) from error
        raise InputError(f"{folder / 'config.json'} cannot be used ({_first_line(error)}).") from error
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.architectures and not known.intersection(config.architectures) and not own_code:
        raise InputError(f"{folder} holds a {config.architectures[0]}, which is not a causal language model.")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(
            f"{folder} has no usable tokenizer ({_first_line(error)}): save the tokenizer beside the weights."
        ) from error
    if not _model_files(folder)[0]:
        raise InputError(f"{folder} has no weights: there is neither {WEIGHTS[0]} nor {OLD_WEIGHTS[0]} in it.")
    return config, tokenizer


def load_eos(folder: Path, config: Any) -> int | list[int] | None:
    """End tokens of the generation config that transformers would give the model."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        loaded = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        loaded = GenerationConfig.from_model_config(config)
    eos: int | list[int] | None = loaded.eos_token_id
    return eos


def load_model(folder: Path, dtype: str, device: str, trust_remote_code: bool) -> Any:
    """The model, ready to sample from; its weights are complete."""
    torch, transformers = packages()
    from safetensors import SafetensorError

    from harness.samplers.hf_linear import quicken

    try:
        with quiet():
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights in {folder} cannot be loaded ({_first_line(error)}).") from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights in {folder} are not whole: {len(missing)} tensors, {missing[0]} among them, would be random."
        )
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise InputError(f"{folder} holds a {type(model).__name__}, which has no key-value cache: hf cannot sample it.")
    if torch.device(device).type == "cpu":
        quicken(model)
    return model.to(device).eval()


def rows_that_fit(config: Any, tokens: int, dtype: str, device: str) -> int:
    """Rows of so many tokens whose keys and values take at most half of the memory that is free: 1 to `MOST_ROWS`."""
    torch, _ = packages()
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * size * getattr(torch, dtype).itemsize
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    # The buffers grow by copying, so that there are two of a layer for a moment.
    return int(max(1, min(MOST_ROWS, free / 2 / (per_token * tokens + 4 * text.vocab_size * 4))))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps stdout for results, and transformers' notices and bars away; what matters of them is checked by us."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _model_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The weight files that transformers would load, and the other files that decide what is sampled."""
    weights = _matches(folder, WEIGHTS) or _matches(folder, OLD_WEIGHTS)
    return weights, _matches(folder, TOKENIZER_FILES + OTHER_FILES)


def _matches(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def identity(folder: Path, dtype: str, template: str | None, system_instruction: str | None) -> str:
    """SHA-256 over names and content of the model's files and over what else changes its completions."""
    files = {}
    for path in (path for group in _model_files(folder) for path in group):
        stat = path.stat()
        files[path.name] = _file_sha(path.resolve(), stat.st_size, stat.st_mtime_ns)
    parts = {"files": files, "dtype": dtype, "template": template, "system_instruction": system_instruction}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_sha(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; size and time are there so that a rewritten file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
