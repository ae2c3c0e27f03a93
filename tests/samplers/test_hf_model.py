"""What the sampler `hf` makes of folders, Hub names, chat templates and bad input; what its identity covers."""

import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from tokenizers import processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    dynamic_module_utils,
)

from harness.errors import InputError, MissingDependency, UnknownName
from harness.samplers.hf import hf
from harness.types import Budget, Problem


def problems(*prompts: str) -> list[Problem]:
    return [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(prompts)]


# ---- prompts


def test_the_chat_template_is_applied_once(chat: Path, tiny: Path) -> None:
    problem = Problem(id="p", task="t", context="Be brief. ", prompt="How many?")
    plain, automatic = hf(str(tiny)), hf(str(chat))
    assert (plain.form, automatic.form) == ("continuation", "message")
    assert next(automatic.sample([problem], Budget(max_tokens=2))).form == "message"
    decoded = automatic.tokenizer.decode(automatic._prompt_ids(problem))
    assert decoded == "<s><|user|>Be brief. How many?</s><|assistant|>"  # one <s> only
    told = hf(str(chat), system_instruction="You count.")
    assert told.tokenizer.decode(told._prompt_ids(problem)) == "<s><|system|>You count.</s>" + decoded[3:]
    off = hf(str(chat), apply_chat_template=False)
    assert off.form == "continuation"
    assert off.tokenizer.decode(off._prompt_ids(problem)) == "<s>Be brief. How many?"
    assert len({automatic.identity, told.identity, off.identity}) == 3
    with pytest.raises(InputError, match="no chat template"):
        hf(str(tiny), apply_chat_template=True)
    with pytest.raises(InputError, match="needs a chat template"):
        hf(str(tiny), system_instruction="You count.")


def test_a_template_that_refuses_system_messages_is_an_error(zoo: SimpleNamespace, tmp_path: Path) -> None:
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + zoo.TEMPLATE
    sampler = hf(str(zoo.save(tmp_path, seed=1, template=refuse)), system_instruction="You count.")
    with pytest.raises(InputError, match="no system role"):
        sampler.sample(problems("a"), Budget())


def test_an_end_token_that_the_tokenizer_appends_to_prompts_is_dropped(
    zoo: SimpleNamespace, tiny: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    tokenizer = zoo.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    sampler = hf(str(folder))
    assert sampler.tokenizer("a").input_ids[-1] == 1
    assert sampler._prompt_ids(problems("a")[0]) == zoo.tokenizer()("a").input_ids


# ---- bad input: before any work is done


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(n=2), "temperature 0 gives 2 equal completions"),
        (Budget(n=0), "n is 0"),
        (Budget(temperature=-1.0), "temperature is -1.0"),
        (Budget(temperature=math.nan), "temperature is nan"),
        (Budget(top_p=0.0), "top_p is 0.0"),
        (Budget(top_k=-1), "top_k is -1"),
        (Budget(max_tokens=0), "max_tokens is 0"),
    ],
)
def test_a_senseless_budget_is_refused_at_once(tiny: Path, budget: Budget, message: str) -> None:
    sampler = hf(str(tiny))
    with pytest.raises(InputError, match=message):
        sampler.counts(problems("a"), budget)
    with pytest.raises(InputError, match=message):
        sampler.sample(problems("a"), budget)
    assert not sampler._loaded


def test_an_empty_stop_string_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="stop strings of problem 'p/0' is empty"):
        hf(str(tiny)).sample(problems("a"), Budget(stop=("x", "")))


def test_counts(tiny: Path) -> None:
    sampler = hf(str(tiny))
    assert sampler.counts(problems("a", "b"), Budget()) == {"p/0": 1, "p/1": 1}
    assert sampler.counts(problems("a"), Budget(n=7, temperature=1.0)) == {"p/0": 7}


def test_the_context_bounds_a_completion(tiny: Path) -> None:
    sampler = hf(str(tiny))
    long = "a b c " * 20
    used = len(sampler._prompt_ids(problems(long)[0]))
    completion = next(sampler.sample(problems(long), Budget(n=1, max_tokens=1000, seed=5)))
    assert completion.n_tokens == 128 - used or completion.stop_reason == "stop"
    assert completion.n_tokens is not None
    assert completion.n_tokens <= 128 - used
    with pytest.raises(InputError, match=r"'p/1' has a prompt of .* no room in the model's 128"):
        sampler.sample(problems("a", long * 3), Budget())


def test_prompts_that_the_model_cannot_read_are_refused(zoo: SimpleNamespace, tmp_path: Path) -> None:
    words = zoo.tokenizer()
    words.backend_tokenizer.post_processor = processors.ByteLevel()  # no <s>
    words.save_pretrained(tmp_path)
    zoo.llama(30, 1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="empty prompt"):
        hf(str(tmp_path)).sample(problems(""), Budget())
    with pytest.raises(InputError, match="tokenizer belongs to another model"):
        hf(str(tmp_path)).sample(problems("a z"), Budget())


def test_broken_weights_are_an_error_and_no_completion(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    model = LlamaForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"not finite on problem 'p/0' after 0 tokens"):
        list(hf(str(folder)).sample(problems("a"), Budget()))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        list(hf(str(folder)).sample(problems("a"), Budget()))


def test_folders_that_hold_no_causal_language_model(zoo: SimpleNamespace, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        hf(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"no config\.json"):
        hf(str(tmp_path))
    folder = shutil.copytree(tiny, tmp_path / "weightless")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights"):
        hf(str(folder))
    config = LlamaConfig(vocab_size=300, **zoo.SHAPE)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(InputError, match="LlamaForSequenceClassification, which is not a causal"):
        hf(str(folder))
    headless = LlamaModel(config)
    headless.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"not whole: 1 tensors, lm_head\.weight"):
        list(hf(str(folder)).sample(problems("a"), Budget()))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no usable tokenizer"):
        hf(str(folder))


def test_arguments_that_make_no_sense(tiny: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'bfloat16'"):
        hf(str(tiny), dtype="bfloat")
    with pytest.raises(InputError, match="batch_size is 0"):
        hf(str(tiny), batch_size=0)
    with pytest.raises(InputError, match="not a torch device"):
        hf(str(tiny), device="abacus")
    with pytest.raises(InputError, match="is for models of the Hub"):
        hf(str(tiny), revision="main")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named(package: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"{package}: pip install 'treatment-harness\[hf\]'"):
        hf(str(tiny))


# ---- identity and the Hub


def test_identity_is_of_the_content(zoo: SimpleNamespace, tiny: Path, chat: Path, tmp_path: Path) -> None:
    here = hf(str(tiny)).identity
    folder = shutil.copytree(tiny, tmp_path / "copy")
    assert hf(str(folder)).identity == here
    (folder / "trainer_state.json").write_text("{}")
    assert hf(str(folder)).identity == here
    assert hf(str(folder), dtype="float32").identity == here  # what "auto" is on a CPU
    assert hf(str(folder), dtype="bfloat16").identity != here
    old = hf(str(folder))
    size = (folder / "model.safetensors").stat().st_size
    zoo.save(folder, seed=2)
    assert (folder / "model.safetensors").stat().st_size == size
    assert hf(str(folder)).identity != here
    with pytest.raises(InputError, match="was changed while it was in use"):
        list(old.sample(problems("a"), Budget()))
    assert hf(str(chat)).identity != here
    zoo.save(folder, seed=1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    assert hf(str(folder)).identity != here


def test_a_hub_name_is_resolved_to_its_snapshot(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hf("someone/tiny").identity == hf(str(tiny)).identity
    assert hf("someone/tiny", revision=commit).folder.name == commit
    with pytest.raises(InputError, match="neither a folder nor a model that could be loaded from the Hub"):
        hf("someone/else")


def test_code_of_the_checkpoint_runs_only_if_trusted_and_never_prints_to_stdout(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "own_model.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "print('loud')\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"}
    written = json.loads((folder / "config.json").read_text())
    written |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="set trust_remote_code if you trust it"):
        hf(str(folder))
    completion = next(hf(str(folder), trust_remote_code=True).sample(problems("a"), Budget(max_tokens=3)))
    assert completion == next(hf(str(tiny)).sample(problems("a"), Budget(max_tokens=3)))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loud" in printed.err
