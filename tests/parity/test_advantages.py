"""Level 2: our advantages and importance weights against what TRL computes of given completions and rewards."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

G, N = 4, 16
nan = float("nan")
# None in one term, in both, in all of a group but one completion, in a whole group; and a group without variance
FIRST = [1.0, 0.0, None, 0.5, None, None, None, 2.0, None, None, None, None, 0.3, 0.3, 0.3, 0.3]
SECOND = [0.2, None, None, 0.9, 0.1, None, None, None, None, None, None, None, 1.0, 1.0, 1.0, 1.0]
WEIGHTS = [1.0, 0.5]
REWARDS_PGR = np.array([FIRST, SECOND], dtype=float).T.reshape(N // G, G, 2)


def first(completions: list[str], **_: Any) -> list[float | None]:
    return list(FIRST)


def second(completions: list[str], **_: Any) -> list[float | None]:
    return list(SECOND)


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Sixteen recorded completions, and what a sampler thought of them; NaN: it could not say."""
    draw = random.Random(5)
    ids = [[draw.randrange(4, 64) for _ in range(1 + i % 7)] for i in range(len(prompts))]
    logprobs = [[-4.0 + draw.uniform(-0.5, 0.5) for _ in row] for row in ids]
    logprobs[3][1] = nan
    return {
        "prompt_ids": [[4 + i % 5] * (1 + i % 3) for i in range(len(ids))],
        "completion_ids": ids,
        "logprobs": logprobs,
    }


@pytest.fixture(scope="module")
def grpo(trainers: SimpleNamespace) -> Any:
    trainer = trainers.grpo(
        rewards=[first, second], rollout=rollout, per_device_train_batch_size=N, reward_weights=WEIGHTS
    )
    trainer.model.train()
    return trainer


def run(trainer: Any) -> Any:
    return trainer._generate_and_score_completions([{"prompt": f"t{4 + i}"} for i in range(N)])


@pytest.mark.filterwarnings("ignore:All reward functions returned None")
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_are_those_of_trl(grpo: Any, scale: str) -> None:
    from harness.trainers.advantages import group_advantages, total_reward

    grpo.scale_rewards, grpo.multi_objective_aggregation = scale, "sum_then_normalize"
    found = group_advantages(total_reward(REWARDS_PGR, WEIGHTS), scale=scale)
    expected = run(grpo)["advantages"].numpy()
    assert np.count_nonzero(expected) >= 3
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-5 if scale == "group" else 1e-6)


def test_normalise_then_sum_is_that_of_trl(grpo: Any) -> None:
    from harness.trainers.advantages import normalise_then_sum

    grpo.scale_rewards, grpo.multi_objective_aggregation = "group", "normalize_then_sum"
    expected = run(grpo)["advantages"].numpy()
    assert np.count_nonzero(expected) >= 3
    np.testing.assert_allclose(normalise_then_sum(REWARDS_PGR, WEIGHTS).ravel(), expected, rtol=1e-5, atol=2e-5)


def test_leave_one_out_is_that_of_trl(trainers: SimpleNamespace) -> None:
    from harness.trainers.advantages import leave_one_out, total_reward

    trainer = trainers.rloo(
        rewards=[first, second],
        per_device_train_batch_size=N,
        reward_weights=WEIGHTS,
        beta=0.0,
        max_completion_length=3,
    )
    trainer.model.train()
    expected = run(trainer)["advantages"].numpy()
    assert np.count_nonzero(expected) >= 3
    np.testing.assert_allclose(
        leave_one_out(total_reward(REWARDS_PGR, WEIGHTS)).ravel(), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_weights_are_those_of_trl(grpo: Any, mode: str) -> None:
    import torch

    from harness.trainers.mismatch import importance_weights, summarise_mismatch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "use_vllm", True)
        patch.setattr(grpo, "vllm_importance_sampling_correction", True)
        patch.setattr(grpo, "_last_loaded_step", grpo.state.global_step, raising=False)  # no weights to send anywhere
        patch.setattr(grpo, "vllm_importance_sampling_mode", mode)
        patch.setattr(grpo, "vllm_importance_sampling_clip_max", 1.4)
        patch.setattr(grpo, "vllm_importance_sampling_clip_min", 0.7)
        output = run(grpo)
    mask = output["completion_mask"].bool()
    found, stats = importance_weights(
        output["old_per_token_logps"], output["sampling_per_token_logps"], mask, mode=mode, cap=1.4, floor=0.7
    )
    expected = output["importance_sampling_ratio"]
    assert found is not None
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    shown = {name: values[-1] for name, values in grpo._metrics["train"].items() if name.startswith("sampling/")}
    figures = summarise_mismatch([stats])
    assert figures["difference"] == pytest.approx(shown["sampling/sampling_logp_difference/mean"], rel=1e-5)
    assert figures["difference_max"] == pytest.approx(shown["sampling/sampling_logp_difference/max"], rel=1e-5)
    assert figures["weight"] == pytest.approx(shown["sampling/importance_sampling_ratio/mean"], rel=1e-5)
