"""The sampler `vllm` against the sampler `hf` and itself, for real: vLLM on a CPU (`make test-vllm`)."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from harness.errors import HarnessError, InputError, MissingDependency
from harness.samplers.vllm import VLLMSampler, vllm
from harness.types import Budget, Completion, Problem

pytestmark = [pytest.mark.vllm]

PROMPTS = ["def f(x):\n", "Question: how many apples are left?\nAnswer:", "a", "return", "    return a + b\n\n\ndef g"]
SAMPLED = Budget(n=3, temperature=0.9, top_p=0.95, top_k=40, max_tokens=12, seed=3)


def problems(*prompts: str) -> list[Problem]:
    return [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(prompts)]


def by_key(completions: Iterable[Completion]) -> dict[tuple[str, int], Completion]:
    completions = list(completions)
    keyed = {(c.problem_id, c.index): c for c in completions}
    assert len(keyed) == len(completions)
    return keyed


def same(left: dict[Any, Completion], right: dict[Any, Completion]) -> bool:
    """Equal but for the rounding of log-probabilities."""
    return left.keys() == right.keys() and all(
        (a.text, a.n_tokens, a.stop_reason, a.form) == (b.text, b.n_tokens, b.stop_reason, b.form)
        and math.isclose(a.logprob or 0, b.logprob or 0, abs_tol=1e-3)
        for a, b in ((left[key], right[key]) for key in left)
    )


def open_vllm(folder: Path, **options: Any) -> VLLMSampler:
    return vllm(str(folder), enforce_eager=True, **options)


@pytest.fixture(scope="module")
def engine(small: Path) -> Iterator[VLLMSampler]:
    """One engine for all tests that need no other: loading takes seconds."""
    sampler = open_vllm(small, enable_sleep=True)
    yield sampler
    sampler.close()


# ---- agreement with hf


def test_greedy_completions_are_those_of_hf(engine: VLLMSampler, small: Path) -> None:
    from harness.samplers.hf import hf

    budget = Budget(max_tokens=40)
    ours = by_key(engine.sample(problems(*PROMPTS), budget))
    theirs = by_key(hf(str(small)).sample(problems(*PROMPTS), budget))
    assert same(ours, theirs)
    assert {c.stop_reason for c in ours.values()} == {"stop", "length"}
    assert engine.identity == hf(str(small)).identity


def test_logprobs_of_tokens_are_those_of_a_teacher_forced_pass(engine: VLLMSampler, small: Path) -> None:
    budget = Budget(n=8, temperature=0.7, top_p=0.9, top_k=50, max_tokens=40)
    rollouts = list(engine.rollouts(problems(*PROMPTS), budget))
    assert len(rollouts) == 40
    differences = []
    for rollout in rollouts:
        expected = teacher_forced(small, rollout.prompt_ids, rollout.ids)
        assert len(expected) == len(rollout.logprobs) == len(rollout.ids)
        differences += [abs(a - b) for a, b in zip(expected, rollout.logprobs, strict=True)]
    assert sum(differences) / len(differences) < 1e-3
    assert max(differences) < 1e-3


def teacher_forced(folder: Path, prompt: list[int], ids: list[int], temperature: float = 1.0) -> list[float]:
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logprobs = (model(torch.tensor([prompt + ids])).logits[0].double() / temperature).log_softmax(-1)
    return [float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]


@pytest.mark.parametrize("stop", [("return",), ("\n", "a"), (" ", "never there"), ("<|end|>",)])
def test_stop_strings_cut_like_those_of_hf(engine: VLLMSampler, small: Path, stop: tuple[str, ...]) -> None:
    from harness.samplers.hf import hf

    budget = Budget(max_tokens=60, stop=stop)
    assert same(
        by_key(engine.sample(problems(*PROMPTS), budget)), by_key(hf(str(small)).sample(problems(*PROMPTS), budget))
    )


def test_a_stop_string_ends_a_completion_at_the_token_that_completes_it(engine: VLLMSampler) -> None:
    budget = Budget(n=8, temperature=0.8, max_tokens=60, seed=2)
    checked = 0
    for free in list(engine.rollouts(problems("a"), budget)):
        middle = len(free.text) // 2
        stop = free.text[middle : middle + 3]
        if len(stop) < 3:
            continue
        stopped = msgspec.structs.replace(budget, stop=(stop, "never there"))
        done = [("p/0", index) for index in range(8) if index != free.index]
        (cut,) = engine.rollouts(problems("a"), stopped, done)
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.stop_reason == "stop"
        assert cut.ids == free.ids[: len(cut.ids)]
        assert cut.logprobs == pytest.approx(free.logprobs[: len(cut.ids)], abs=1e-4)
        whole, less = (engine.tokenizer.decode(ids, skip_special_tokens=True) for ids in (cut.ids, cut.ids[:-1]))
        assert stop in whole
        assert stop not in less
        checked += 1
    assert checked >= 5


def test_end_tokens_are_those_of_the_generation_config_too(small: Path, tmp_path: Path, zoo: SimpleNamespace) -> None:
    import shutil

    from harness.samplers.hf import hf

    folder = shutil.copytree(small, tmp_path / "copy")
    plain = zoo.tokenizer()("a").input_ids[-1]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [plain, 0]}))
    budget = Budget(max_tokens=60)
    sampler = open_vllm(folder)
    ours = by_key(sampler.sample(problems(*PROMPTS), budget))
    assert same(ours, by_key(hf(str(folder)).sample(problems(*PROMPTS), budget)))
    rollouts = list(sampler.rollouts(problems(*PROMPTS), msgspec.structs.replace(budget, n=9, temperature=1.5)))
    assert {0, 1, plain} == {r.ids[-1] for r in rollouts if r.stop_reason == "stop"}
    assert not any({0, 1, plain} & set(r.ids[:-1]) for r in rollouts)


# ---- what is sampled, and what isn't


def test_a_completion_depends_on_seed_problem_and_index_alone(engine: VLLMSampler) -> None:
    whole = by_key(engine.sample(problems(*PROMPTS), SAMPLED))
    assert len(whole) == 15
    assert len({c.text for c in whole.values()}) == 15
    done = list(whole)[::2]
    rest = by_key(engine.sample(problems(*PROMPTS)[::-1], SAMPLED, done))
    assert same(rest, {key: completion for key, completion in whole.items() if key not in done})
    assert list(engine.sample(problems(*PROMPTS), SAMPLED, list(whole))) == []
    some = by_key(engine.sample(problems(*PROMPTS), SAMPLED, wanted={"p/1", "p/4"}))
    assert same(some, {key: completion for key, completion in whole.items() if key[0] in ("p/1", "p/4")})
    raised = by_key(engine.sample(problems(*PROMPTS), msgspec.structs.replace(SAMPLED, n=5), list(whole)))
    assert set(raised) == {(f"p/{i}", index) for i in range(5) for index in (3, 4)}
    other = by_key(engine.sample(problems(*PROMPTS), msgspec.structs.replace(SAMPLED, seed=4)))
    assert sum(other[key].text == whole[key].text for key in whole) < 3  # a short one may be drawn again
    longer = by_key(engine.sample(problems("def f(x):\n"), msgspec.structs.replace(SAMPLED, n=5, max_tokens=20)))
    assert all(longer["p/0", i].text.startswith(whole["p/0", i].text) for i in range(3))


def test_completions_come_as_they_are_finished_and_the_queue_is_bounded(engine: VLLMSampler) -> None:
    asked = [Problem(id=f"p/{i}", task="t", prompt=PROMPTS[i % 5]) for i in range(400)]
    budget = Budget(n=4, temperature=1.0, max_tokens=30)
    stream = engine.sample(asked, budget)
    inner = engine.engine().llm_engine
    first = next(stream)
    most = 2 * inner.vllm_config.scheduler_config.max_num_seqs
    assert first.n_tokens == 1 or first.stop_reason == "stop"  # one that was short, long before the last
    assert 0 < inner.get_num_unfinished_requests() <= most < 1600
    with pytest.raises(HarnessError, match="still sampling for another stream"):
        next(engine.sample(problems("a"), Budget(max_tokens=1)))
    stream.close()
    assert inner.get_num_unfinished_requests() == 0
    assert len(list(engine.sample(problems(*PROMPTS), Budget(max_tokens=2)))) == 5


def test_more_prompt_tokens_than_one_step_takes(engine: VLLMSampler) -> None:
    asked = [Problem(id=f"p/{i}", task="t", prompt=f"{i} " + "left? " * (40 + i)) for i in range(50)]
    budget = Budget(n=2, temperature=1.0, max_tokens=3)
    found = by_key(engine.sample(asked, budget))
    tokens = sum(len(engine.tokenizer(p.prompt).input_ids) for p in asked)
    assert tokens > engine.engine().llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    alone = by_key(engine.sample(asked, budget, wanted={"p/7", "p/39"}))
    assert len(found) == 100
    assert same(alone, {key: completion for key, completion in found.items() if key[0] in ("p/7", "p/39")})


def test_draws_follow_the_exact_distribution(engine: VLLMSampler, small: Path) -> None:
    import torch
    from scipy import stats
    from transformers import LlamaForCausalLM

    draws, prompt = 2000, engine.tokenizer("a").input_ids
    seen = [r.ids[0] for r in engine.rollouts(problems("a"), Budget(n=draws, temperature=1.3, max_tokens=1, seed=7))]
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(small).eval()(torch.tensor([prompt])).logits[0, -1].double()
    expected = ((logits / 1.3).softmax(-1) * draws).tolist()
    common = [token for token, count in enumerate(expected) if count >= 5]
    observed = [seen.count(token) for token in common]
    observed, wanted = [*observed, draws - sum(observed)], [expected[token] for token in common]
    assert stats.chisquare(observed, [*wanted, draws - sum(wanted)]).pvalue > 1e-3


# ---- sleep


def test_sleep_and_wake_up(engine: VLLMSampler, small: Path) -> None:
    before = by_key(engine.sample(problems(*PROMPTS), SAMPLED))
    engine.sleep()
    with pytest.raises(HarnessError, match="asleep: call wake_up first"):
        next(engine.sample(problems("a"), SAMPLED))
    engine.wake_up()
    engine.wake_up()
    assert same(by_key(engine.sample(problems(*PROMPTS), SAMPLED)), before)
    with pytest.raises(InputError, match="enable_sleep=true"):
        open_vllm(small).sleep()


# ---- settings


def test_a_chat_template_is_applied_and_room_is_what_max_model_len_leaves(
    small_chat: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.samplers.hf import hf

    options = {"apply_chat_template": True, "system_instruction": "You count."}
    sampler = open_vllm(small_chat, max_model_len=32, **options)
    theirs = hf(str(small_chat), **options)
    assert sampler.identity != theirs.identity
    completions = list(sampler.sample(problems("a", "how many"), Budget(max_tokens=100)))
    used = {f"p/{i}": len(theirs._prompt_ids(p)) for i, p in enumerate(problems("a", "how many"))}
    for completion in completions:
        assert completion.form == "message"
        assert (completion.n_tokens == 32 - used[completion.problem_id]) == (completion.stop_reason == "length")
    assert "length" in {c.stop_reason for c in completions}
    with pytest.raises(InputError, match="leaves no room in the model's 32"):
        sampler.sample(problems(PROMPTS[1] * 3), Budget())
    assert capfd.readouterr() == ("", "")  # loading and sampling print nothing


def test_sampling_logprobs_are_of_the_distribution_drawn_from(small: Path) -> None:
    sampler = open_vllm(small, logprobs="sampling", batch_size=4)
    assert sampler.identity != open_vllm(small).identity
    for rollout in sampler.rollouts(problems("a"), Budget(n=6, temperature=0.6, max_tokens=20)):
        expected = teacher_forced(small, rollout.prompt_ids, rollout.ids, temperature=0.6)
        assert rollout.logprobs == pytest.approx(expected, abs=1e-3)
    assert sampler.engine().llm_engine.vllm_config.scheduler_config.max_num_seqs == 4


def test_a_trainers_random_state_survives_loading(small: Path) -> None:
    import random

    import torch

    random.seed(1)
    torch.manual_seed(1)
    expected = random.Random(1).random(), torch.rand(1, generator=torch.Generator().manual_seed(1))
    open_vllm(small).engine()
    assert (random.random(), torch.rand(1)) == expected


def test_what_cannot_be_done_is_said_in_one_sentence(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"temperature is 0\.001: vLLM samples with 0 \(greedy\) or at least 0\.01"):
        open_vllm(small).sample(problems("a"), Budget(temperature=0.001))
    with pytest.raises(InputError, match="temperature 0 gives 2 equal completions"):
        open_vllm(small).sample(problems("a"), Budget(n=2))
    with pytest.raises(InputError, match="data_parallel_size is 0"):
        open_vllm(small, data_parallel_size=0)
    with pytest.raises(InputError, match="data_parallel_size above 1 is for sampling alone"):
        open_vllm(small, data_parallel_size=2, enable_sleep=True).sleep()
    with pytest.raises(InputError, match="gpu_memory_utilization is 2: it must be above 0"):
        open_vllm(small, gpu_memory_utilization=2)
    with pytest.raises(InputError, match="batch_size is 0"):
        open_vllm(small, batch_size=0)
    with pytest.raises(InputError, match=r"vLLM cannot load .*max_model_len"):
        open_vllm(small, max_model_len=10**9).engine()
    sampler = open_vllm(small)
    (small / "special_tokens_map.json").write_text("{}")
    try:
        with pytest.raises(InputError, match="was changed while it was in use"):
            list(sampler.sample(problems("a"), Budget()))
    finally:
        (small / "special_tokens_map.json").unlink()


def test_without_vllm_the_extra_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"the sampler vllm needs .* pip install 'treatment-harness\[vllm\]'"):
        open_vllm(small)


# ---- from the command line


def test_harness_eval_and_resume(small: Path, tmp_path: Path, shared_data: Path) -> None:
    command = [sys.executable, "-m", "harness", "eval", "--model", "vllm", "--tasks", "gsm8k", "--limit", "3"]
    command += ["--model_args", f"pretrained={small},enforce_eager=true", "--num_fewshot", "0", "--max_tokens", "20"]
    command += ["--task_args", f"path={shared_data}/gsm8k_test.jsonl.gz", "--output_path", str(tmp_path / "run")]
    command += ["--temperature", "1"]
    texts: dict[tuple[str, int], str] = {}
    for n in ("2", "4"):
        done = subprocess.run([*command, "--n", n], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stdout + done.stderr
        rows = map(json.loads, (tmp_path / "run" / "completions.jsonl").read_text().splitlines())
        found = {(row["problem_id"], row["index"]): row["text"] for row in rows}
        assert len(found) == 3 * int(n)
        assert texts.items() <= found.items()
        texts = found
    assert json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["gsm8k"]["pass@1"]["value"] == 0
