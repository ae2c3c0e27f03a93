"""Weights pushed into a running vLLM engine: completions are those of the new model, and a wrong push is caught."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import HarnessError, InputError
from harness.samplers.vllm import VLLMSampler, vllm
from harness.samplers.vllm_engine import score
from harness.samplers.vllm_weights import Scored, push
from harness.types import Budget, Problem

pytestmark = [pytest.mark.vllm]

ASKED = [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(["def f(x):\n", "a", "return"])]
GREEDY = Budget(max_tokens=30)


@pytest.fixture(scope="module")
def engine(small: Path) -> Iterator[VLLMSampler]:
    sampler = vllm(str(small), enforce_eager=True, enable_sleep=True)
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def old(small: Path) -> Any:
    return load(small)


@pytest.fixture(scope="module")
def new(zoo: SimpleNamespace, wider: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = zoo.save(tmp_path_factory.mktemp("new"), 2, **wider)
    model = load(folder)
    model.folder = folder
    return model


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


def scored(model: Any, prompt: list[int], ids: list[int]) -> Scored:
    """A completion as a trainer scores it."""
    import torch

    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    of_tokens = [float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]
    return Scored(prompt_ids=prompt, ids=ids, logprobs=of_tokens)


def weights(model: Any) -> dict[str, Any]:
    return dict(model.state_dict())


def texts(sampler: VLLMSampler) -> list[str]:
    return [c.text for c in sorted(sampler.sample(ASKED, GREEDY), key=lambda c: c.problem_id)]


PROMPT, IDS = [0, 40, 50, 60], [70, 80, 90, 33, 44, 100]


def test_scores_are_those_of_the_model(engine: VLLMSampler, old: Any) -> None:
    expected = scored(old, PROMPT, IDS)
    assert score(engine.engine(), PROMPT, IDS) == pytest.approx(expected.logprobs, abs=1e-3)
    assert score(engine.engine(), PROMPT, IDS[:1]) == pytest.approx(expected.logprobs[:1], abs=1e-3)


def test_a_push_gives_the_completions_of_the_new_model(engine: VLLMSampler, old: Any, new: Any) -> None:
    from harness.samplers.hf import hf

    before = texts(engine)
    # a long prompt, so that whole blocks of it are cached: those of the old weights must be forgotten
    long = [Problem(id="long", task="t", prompt="how many apples are left? " * 12)]
    of_old = [c.text for c in engine.sample(long, GREEDY)]
    assert len(engine.tokenizer(long[0].prompt).input_ids) > 128
    pushed = engine.push(weights(new).items(), identity="new", check=scored(new, PROMPT, IDS))
    assert pushed.identity == "new"
    after = texts(pushed)
    theirs = hf(str(new.folder))
    assert after == [c.text for c in sorted(theirs.sample(ASKED, GREEDY), key=lambda c: c.problem_id)]
    assert after != before
    of_new = [c.text for c in pushed.sample(long, GREEDY)]
    assert of_new == [c.text for c in theirs.sample(long, GREEDY)] != of_old
    with pytest.raises(HarnessError, match="other weights were pushed"):
        texts(engine)
    back = pushed.push(weights(old).items(), identity=engine.identity, check=scored(old, PROMPT, IDS))
    assert texts(back) == texts(engine) == before


def test_a_push_after_sleeping(engine: VLLMSampler, old: Any, new: Any) -> None:
    before = texts(engine)
    engine.sleep()
    with pytest.raises(HarnessError, match="asleep"):
        engine.engine()
    engine.wake_up()
    pushed = engine.push(weights(new).items(), identity="new", check=scored(new, PROMPT, IDS))
    assert texts(pushed) != before
    pushed.push(weights(old).items(), identity=engine.identity, check=scored(old, PROMPT, IDS))
    assert texts(engine) == before


def shuffled(model: Any) -> dict[str, Any]:
    return {name: tensor.flip(0) if "layers.1.mlp" in name else tensor for name, tensor in weights(model).items()}


def misshapen(model: Any) -> dict[str, Any]:
    return {name: tensor[:-1] if "norm" in name else tensor for name, tensor in weights(model).items()}


@pytest.mark.parametrize("wrong", [shuffled, misshapen, lambda model: {}])
def test_a_wrong_push_is_caught(engine: VLLMSampler, new: Any, wrong: Any) -> None:
    before = texts(engine)
    with pytest.raises(HarnessError, match=r"differ from the trainer's by .* nats|cannot take the pushed weights"):
        engine.push(wrong(new).items(), identity="new", check=scored(new, PROMPT, IDS))
    assert texts(engine) == before  # loaded anew, from its folder


def test_pushed_weights_end_with_their_engine(engine: VLLMSampler, new: Any) -> None:
    pushed = engine.push(weights(new).items(), identity="new", check=scored(new, PROMPT, IDS))
    pushed.close()
    with pytest.raises(HarnessError, match="the engine that held the pushed weights is closed"):
        texts(pushed)


def test_a_push_needs_a_scored_completion_and_a_quiet_engine(engine: VLLMSampler, old: Any) -> None:
    llm = engine.engine()
    for bad in (Scored(prompt_ids=PROMPT, ids=[], logprobs=[]), Scored(prompt_ids=PROMPT, ids=IDS, logprobs=[0.0])):
        with pytest.raises(InputError, match="give one log-probability for each"):
            push(llm, weights(old).items(), check=bad)
    stream = engine.sample(ASKED, Budget(n=4, temperature=1.0, max_tokens=50))
    next(stream)
    with pytest.raises(HarnessError, match="while a stream of completions is open"):
        push(llm, weights(old).items(), check=scored(old, PROMPT, IDS))
    stream.close()
    assert push(llm, weights(old).items(), check=scored(old, PROMPT, IDS)) < 1e-3


def test_a_push_by_way_of_a_file(engine: VLLMSampler, old: Any, new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What several GPUs need: their processes cannot share tensors with this one."""
    llm = engine.engine()
    parallel = llm.llm_engine.vllm_config.parallel_config
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "world_size", 2)
        difference = push(llm, weights(new).items(), check=scored(new, PROMPT, IDS))
    assert difference < 1e-3
    push(llm, weights(old).items(), check=scored(old, PROMPT, IDS))
