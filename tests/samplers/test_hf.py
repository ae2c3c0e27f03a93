"""What the sampler `hf` draws: against `generate`, teacher forcing, exact probabilities and itself."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from harness.samplers.hf import hf
from harness.samplers.hf_decode import Row, decode
from harness.samplers.prompting import added_text
from harness.types import Budget, Completion, Problem

PROMPTS = ["def f(x):\n", "Question: how many apples are left?\nAnswer:", "a", "return", "    return a + b\n\n\ndef g"]
WORDS = ["a", "b", "c", "d", "e", "f"]
SAMPLED = Budget(n=3, temperature=0.9, top_p=0.95, top_k=40, max_tokens=12, seed=3)


def problems(*prompts: str) -> list[Problem]:
    return [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(prompts)]


def by_key(completions: Iterable[Completion]) -> dict[tuple[str, int], Completion]:
    completions = list(completions)
    keyed = {(c.problem_id, c.index): c for c in completions}
    assert len(keyed) == len(completions)
    return keyed


def same(left: dict[Any, Completion], right: dict[Any, Completion]) -> bool:
    """Equal but for the rounding of log-probabilities, which depends on the shape of a batch."""
    return left.keys() == right.keys() and all(
        (a.text, a.n_tokens, a.stop_reason) == (b.text, b.n_tokens, b.stop_reason)
        and math.isclose(a.logprob or 0, b.logprob or 0, abs_tol=5e-4)
        for a, b in ((left[key], right[key]) for key in left)
    )


# ---- what is sampled


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])  # rotary, learned and sliding-window positions
def test_greedy_tokens_are_those_of_generate(kind: str, zoo: SimpleNamespace, tmp_path: Path) -> None:
    words = zoo.tokenizer()
    if kind == "llama":
        model = zoo.llama(len(words), 2)
    elif kind == "gpt2":
        config = GPT2Config(
            vocab_size=len(words),
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=None,
        )
        model = zoo.build(GPT2LMHeadModel, config, 2)
    else:
        model = zoo.build(MistralForCausalLM, MistralConfig(vocab_size=len(words), **zoo.SHAPE, sliding_window=6), 2)
    words.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    completions = by_key(hf(str(tmp_path), batch_size=4).sample(problems(*PROMPTS), Budget(max_tokens=20)))
    for i, prompt in enumerate(PROMPTS):
        ids = words(prompt, return_tensors="pt").input_ids
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=1, pad_token_id=0
        )
        completion = completions[f"p/{i}", 0]
        assert completion.text == words.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
        assert completion.n_tokens == expected.shape[1] - ids.shape[1]


def test_end_tokens_are_those_of_tokenizer_and_generation_config(
    zoo: SimpleNamespace, tiny: Path, tmp_path: Path
) -> None:
    tokenizer, model = zoo.tokenizer(), LlamaForCausalLM.from_pretrained(tiny).eval()
    budget = Budget(n=30, temperature=1.5, max_tokens=30, seed=1)
    common = Counter(token for index in range(30) for token in replay(model, tokenizer, index, budget)).most_common(9)
    plain = next(token for token, _ in common if token not in tokenizer.all_special_ids)
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [plain, 0]}))
    reasons = []
    for completion in hf(str(folder)).sample(problems("a"), budget):
        ids = replay(model, tokenizer, completion.index, budget)
        end = next((place for place, token in enumerate(ids) if token in (plain, 0, 1)), None)
        assert completion.text == tokenizer.decode(ids[:end], skip_special_tokens=True)  # without the end token
        assert completion.n_tokens == (30 if end is None else end + 1)
        assert completion.stop_reason == ("length" if end is None else "stop")
        reasons.append("none" if end is None else ids[end])
    assert {plain, "none"} < set(reasons)


def test_logprob_is_that_of_a_teacher_forced_pass(zoo: SimpleNamespace, tiny: Path) -> None:
    tokenizer, model = zoo.tokenizer(), LlamaForCausalLM.from_pretrained(tiny).eval()
    budget = Budget(temperature=0.7, top_p=0.9, top_k=50, max_tokens=40)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS * 4]
    rows = [Row(problem_id="p", index=i, prompt_ids=ids, room=40) for i, ids in enumerate(prompts)]
    finished = list(decode(model, tokenizer, rows, budget, slots=7))
    assert len(finished) == len(rows)
    assert {row.stop_reason for row in rows} == {"stop", "length"}  # some sums include an end token
    for row in rows:
        assert row.logprob == pytest.approx(teacher_forced(model, row.prompt_ids, row.ids), abs=5e-4)
        assert (row.stop_reason == "stop") == (row.ids[-1] == tokenizer.eos_token_id)


def teacher_forced(model: Any, prompt: list[int], ids: list[int]) -> float:
    return sum(token_logprobs(model, prompt, ids, 1.0))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.0, 3, 1.0), (1.3, 0, 0.7), (0.8, 4, 0.85)]
)
def test_draws_follow_the_exact_distribution(
    temperature: float, top_k: int, top_p: float, zoo: SimpleNamespace, tmp_path: Path
) -> None:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=inner)
    model = zoo.llama(len(WORDS), 5, initializer_range=0.15)
    words.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    draws = 3000
    budget = Budget(n=draws, temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=2, seed=11)
    seen = Counter(c.text.strip() for c in hf(str(tmp_path), batch_size=1000).sample(problems("b a"), budget))
    expected = pair_probabilities(model, words("b a").input_ids, budget)
    assert set(seen) <= set(expected)  # nothing that the filters exclude
    common = [pair for pair, p in expected.items() if p * draws >= 5]
    rest = 1 - sum(expected[pair] for pair in common)
    observed = [seen[pair] for pair in common] + [draws - sum(seen[pair] for pair in common)]
    wanted = [expected[pair] * draws for pair in common] + [rest * draws]
    if rest * draws < 1:
        observed, wanted = observed[:-1], [w * sum(observed[:-1]) / sum(wanted[:-1]) for w in wanted[:-1]]
    assert len(observed) > 3
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def pair_probabilities(model: Any, prompt: list[int], budget: Budget) -> dict[str, float]:
    """Every two words that may follow the prompt, by transformers' own filters."""
    filters: list[Any] = [TemperatureLogitsWarper(budget.temperature)]
    filters += [TopKLogitsWarper(budget.top_k)] if budget.top_k else []
    filters += [TopPLogitsWarper(budget.top_p)] if budget.top_p < 1 else []

    def following(ids: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[:, -1].double()
        for keep in filters:
            logits = keep(None, logits)
        return list(logits.softmax(-1)[0].tolist())

    return {
        f"{WORDS[i]} {WORDS[j]}": p * q
        for i, p in enumerate(following(prompt))
        if p > 0
        for j, q in enumerate(following([*prompt, i]))
        if q > 0
    }


def test_a_completion_depends_on_seed_problem_and_index_alone(zoo: SimpleNamespace, tiny: Path) -> None:
    whole = by_key(hf(str(tiny), batch_size=1).sample(problems(*PROMPTS), SAMPLED))
    assert len(whole) == 15
    assert len({c.text for c in whole.values()}) == 15
    for batch_size in (3, 7, 64, "auto"):
        assert same(by_key(hf(str(tiny), batch_size=batch_size).sample(problems(*PROMPTS), SAMPLED)), whole)
    sampler = hf(str(tiny), batch_size=4)
    done = list(whole)[::2]
    rest = by_key(sampler.sample(problems(*PROMPTS)[::-1], SAMPLED, done))
    assert same(rest, {key: completion for key, completion in whole.items() if key not in done})
    assert list(sampler.sample(problems(*PROMPTS), SAMPLED, list(whole))) == []
    some = by_key(sampler.sample(problems(*PROMPTS), SAMPLED, wanted={"p/1", "p/4"}))
    assert same(some, {key: completion for key, completion in whole.items() if key[0] in ("p/1", "p/4")})
    other = by_key(sampler.sample(problems(*PROMPTS), msgspec.structs.replace(SAMPLED, seed=4)))
    assert not any(other[key].text == whole[key].text for key in whole)
    longer = by_key(sampler.sample(problems("def f(x):\n"), msgspec.structs.replace(SAMPLED, n=5, max_tokens=20)))
    assert all(longer["p/0", i].text.startswith(whole["p/0", i].text) for i in range(3))


def test_the_places_of_finished_rows_are_taken_by_others(zoo: SimpleNamespace) -> None:
    """Rows of all lengths through few slots, so that they are refilled, moved and dropped in every way."""
    tokenizer = zoo.tokenizer()
    model = zoo.llama(len(tokenizer), 1, eos_token_id=1, bos_token_id=0, initializer_range=0.1)
    rng, budget = np.random.default_rng(5), Budget(temperature=1.1, top_k=30, seed=4)
    prompts = [rng.integers(6, 100, length).tolist() for length in (1, 2, 40, 3, 90, 1, 5, 17)]

    def sampled(slots: int, order: Iterable[int]) -> dict[tuple[int, int], Row]:
        rooms = {(p, i): 1 + (7 * p + 13 * i) % 35 for p in range(len(prompts)) for i in range(6)}
        rows = [
            Row(problem_id=str(p), index=i, prompt_ids=prompts[p], room=rooms[p, i]) for p in order for i in range(6)
        ]
        return {(int(row.problem_id), row.index): row for row in decode(model, tokenizer, rows, budget, slots=slots)}

    alone = sampled(1, range(8))
    assert len(alone) == 48
    for slots, order in ((5, range(8)), (13, range(7, -1, -1)), (48, range(8)), (64, range(8))):
        together = sampled(slots, order)
        assert {key: row.ids for key, row in together.items()} == {key: row.ids for key, row in alone.items()}
    for row in together.values():
        exact = token_logprobs(model, row.prompt_ids, row.ids, 1.0)
        np.testing.assert_allclose(row.own_logprobs, exact, rtol=0, atol=1e-4)  # single log-probabilities in float32
        np.testing.assert_allclose(
            row.logprobs, token_logprobs(model, row.prompt_ids, row.ids, budget.temperature), rtol=0, atol=1e-4
        )


def token_logprobs(model: Any, prompt: list[int], ids: list[int], temperature: float) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0].double() / temperature
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]


def test_a_prompt_goes_through_the_model_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = hf(str(tiny), batch_size=6)
    model = sampler._model()
    read, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: read.append(inputs["input_ids"].shape) or forward(**inputs))
    assert len(list(sampler.sample(problems(*PROMPTS), msgspec.structs.replace(SAMPLED, n=16)))) == 80
    assert [shape for shape in read if shape[1] > 1] == [(5, max(len(sampler.tokenizer(p).input_ids) for p in PROMPTS))]
    assert max(shape[0] for shape in read[1:]) == 6


# ---- text


def test_stop_strings_cut_where_they_begin_even_inside_a_token(zoo: SimpleNamespace, tiny: Path) -> None:
    tokenizer, model = zoo.tokenizer(), LlamaForCausalLM.from_pretrained(tiny).eval()
    sampler = hf(str(tiny))
    budget = Budget(n=8, temperature=0.8, max_tokens=30, seed=2)
    checked = 0
    for free in sampler.sample(problems("a"), budget):
        middle = len(free.text) // 2
        stop = free.text[middle : middle + 3]
        if len(stop) < 3 or free.text.index(stop[1:]) != free.text.index(stop) + 1:
            continue
        stops = ("never there", stop[1:], stop)  # the last two in the same place: the cut is at the first
        cut = by_key(sampler.sample(problems("a"), msgspec.structs.replace(budget, stop=stops)))
        completion = cut["p/0", free.index]
        assert completion.text == free.text[: free.text.index(stop)]
        assert completion.stop_reason == "stop"
        ids = replay(model, tokenizer, free.index, budget)
        assert stop in tokenizer.decode(ids[: completion.n_tokens])
        assert stop not in tokenizer.decode(ids[: completion.n_tokens][:-1])
        prompt = tokenizer("a").input_ids
        assert completion.logprob == pytest.approx(teacher_forced(model, prompt, ids[: completion.n_tokens]), abs=5e-4)
        checked += 1
    assert checked >= 3


def replay(model: Any, tokenizer: Any, index: int, budget: Budget) -> list[int]:
    """The tokens of completion `index` of the prompt "a"."""
    row = Row(
        problem_id="p/0",
        index=index,
        prompt_ids=tokenizer("a").input_ids,
        room=budget.max_tokens,
    )
    list(decode(model, tokenizer, [row], budget, slots=1))
    return row.ids


def test_a_problems_own_stop_strings_are_for_continuations_without_others(tiny: Path, chat: Path) -> None:
    def texts(folder: Path, stop: tuple[str, ...], own: tuple[str, ...], template: bool | None = None) -> list[str]:
        asked = [Problem(id="p/0", task="t", prompt="a", stop=own), Problem(id="p/1", task="t", prompt="a")]
        budget = Budget(n=5, temperature=0.8, max_tokens=30, seed=2, stop=stop)
        completions = by_key(hf(str(folder), apply_chat_template=template).sample(asked, budget))
        return [completions["p/0", i].text for i in range(5)] + [completions["p/1", i].text for i in range(5)]

    free = texts(tiny, (), ())
    letter = max(set("".join(free[:5])), key="".join(free[:5]).count)
    cut = [text.partition(letter)[0] for text in free]
    assert texts(tiny, (), (letter,)) == cut[:5] + free[5:]
    assert texts(tiny, (letter,), ("never there",)) == cut
    assert texts(chat, (), (letter,), False) == cut[:5] + free[5:]
    replies = texts(chat, (), ())
    assert letter in "".join(replies[:5])
    assert texts(chat, (), (letter,)) == replies


def test_a_stop_string_that_is_a_special_token_stops(zoo: SimpleNamespace, tiny: Path) -> None:
    budget = Budget(n=60, temperature=2.0, max_tokens=40, seed=1)
    plain = by_key(hf(str(tiny)).sample(problems("a"), budget))
    stopped = by_key(hf(str(tiny)).sample(problems("a"), msgspec.structs.replace(budget, stop=("<|end|>",))))
    assert all(plain[key].text.startswith(stopped[key].text) for key in plain)
    assert sum((c.n_tokens or 0) for c in stopped.values()) < sum((c.n_tokens or 0) for c in plain.values())
    assert not any("<|end|>" in c.text for c in plain.values())


def test_the_space_at_the_start_of_a_completion_is_kept() -> None:
    pieces = ["<unk>", "</s>", "\u2581", "\u2581\u2581\u2581", "\u2581return", "\u2581def", ":", "x"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # the decoder of Llama 2
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    prompt = [ids["\u2581def"], ids["x"], ids[":"], ids["<0x0A>"]]
    completion = [ids["\u2581\u2581\u2581"], ids["\u2581return"], ids["x"]]
    assert fast.decode(completion) == "   returnx"  # one space lost
    assert added_text(fast, prompt, completion) == "    returnx"
    assert added_text(fast, prompt, [ids["<0xC3>"], ids["<0xA9>"]]) == "\u00e9"
    assert added_text(fast, prompt, [ids["<0xC3>"], ids["x"]]).endswith("x")  # half a letter: no crash


# ---- manners


def test_nothing_is_printed_and_no_mode_is_left_on(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = hf(str(tiny), batch_size=2).sample(problems(*PROMPTS), SAMPLED)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    list(stream)
    assert capfd.readouterr() == ("", "")


def test_bfloat16(tiny: Path) -> None:
    sampler = hf(str(tiny), dtype="bfloat16")
    completions = list(sampler.sample(problems(*PROMPTS), SAMPLED))
    assert len(completions) == 15
    assert sampler._model().dtype == torch.bfloat16
