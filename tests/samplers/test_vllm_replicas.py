"""Copies of a model in processes of their own: the same completions as from one engine."""

import os
from pathlib import Path

import pytest

from harness.errors import HarnessError, InputError
from harness.samplers.prompting import Request
from harness.samplers.vllm import vllm
from harness.samplers.vllm_replicas import shares, visible_gpus
from harness.types import Budget, Completion, Problem

pytestmark = [pytest.mark.vllm]

ASKED = [Problem(id=f"p/{i}", task="t", prompt=prompt) for i, prompt in enumerate(["def f(x):\n", "a", "return"])]
SAMPLED = Budget(n=5, temperature=0.9, max_tokens=20, seed=3, stop=("zz",))


def by_key(completions: list[Completion]) -> dict[tuple[str, int], tuple[str, int | None]]:
    assert len({(c.problem_id, c.index) for c in completions}) == len(completions)
    return {(c.problem_id, c.index): (c.text, c.n_tokens) for c in completions}


def test_two_copies_sample_what_one_does(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copies = vllm(str(small), data_parallel_size=2, enforce_eager=True)
    found = by_key(list(copies.sample(ASKED, SAMPLED)))
    assert len(found) == 15
    stream = copies.sample(ASKED, Budget(n=200, temperature=1.0, max_tokens=60))
    next(stream)
    stream.close()  # abandoned: the next one is not disturbed
    rest = by_key(list(copies.sample(ASKED, SAMPLED, list(found)[::2])))
    assert rest == {key: found[key] for key in list(found)[1::2]}
    processes = copies._engine.replicas.processes  # type: ignore[union-attr]
    processes[1].kill()
    with pytest.raises(HarnessError, match=r"vLLM process 2 of 2 ended with code -9"):
        list(copies.sample(ASKED, SAMPLED))
    copies.close()
    assert all(process.poll() is not None for process in processes)
    one = vllm(str(small), enforce_eager=True)
    assert by_key(list(one.sample(ASKED, SAMPLED))) == found
    one.close()
    assert capfd.readouterr() == ("", "")


def test_what_a_process_cannot_load_is_told_and_none_is_left(small: Path) -> None:
    copies = vllm(str(small), data_parallel_size=2, enforce_eager=True, gpu_memory_utilization=1e-6)
    with pytest.raises(InputError, match="vLLM cannot load"):
        list(copies.sample(ASKED, SAMPLED))
    assert copies._engine.replicas is None


@pytest.mark.parametrize("prompts", [0, 1, 3, 40])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 7])
def test_shares_are_even_and_whole(prompts: int, number: int, n: int) -> None:
    asked = [
        Request(problem_id=str(i), indices=tuple(range(n)), prompt_ids=[1], room=1, stop=()) for i in range(prompts)
    ]
    parts = shares(asked, number)
    keys = [[(request.problem_id, index) for request in part for index in request.indices] for part in parts]
    flat = [key for part in keys for key in part]
    assert sorted(flat) == sorted((str(i), index) for i in range(prompts) for index in range(n))
    assert len(parts) == number
    assert max(map(len, keys)) - min(map(len, keys)) <= max(n, 1)


def test_each_process_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_gpus(i, 2, 2)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0,1", "2,3"]
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d")
    assert [visible_gpus(i, 3, 1)["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["GPU-a", "GPU-b", "GPU-c"]
    with pytest.raises(InputError, match="need 6 GPUs and there are 4"):
        visible_gpus(0, 3, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus(0, 3, 2) == {}
