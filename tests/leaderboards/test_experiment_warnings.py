"""Warnings of a sweep's report: what must be flagged, and what must not."""

import pytest

from harness.leaderboards.experiment.read import Setting
from harness.leaderboards.experiment.report import ArmReport, Number, Stage
from harness.leaderboards.experiment.warnings import warnings_of

SETTING = Setting(
    name="code",
    base=None,
    base_error=None,
    test="test",
    others=("transfer",),
    ks=(1, 16),
    arms=(),
    base_spec="",
)


def change(value, half=0.02):
    return Number(value=value, low=value - half, high=value + half, se=half / 2, problems=100)


def stage(**fields):
    nothing = {
        "iteration": 1,
        "seeds": (0, 1),
        "scores": {},
        "change": {},
        "gap": None,
        "gap_change": None,
        "rewards": {},
        "base_rewards": {},
        "reward_rises": (),
        "distinct": {},
        "drift": {},
        "rows": None,
        "sampled_tokens": None,
        "trained_tokens": None,
        "reward_calls": None,
        "seconds": None,
    }
    return Stage(**(nothing | fields))


def warnings(last, base=None):
    arm = ArmReport(
        name="arm",
        control=None,
        of=None,
        against=(),
        iterations=1,
        stages=(last,) if last else (),
        seed_changes={},
        seed_sd=None,
        trend=None,
        failures={},
        progress={},
        warnings=(),
    )
    return list(warnings_of(arm, base or stage(iteration=0), SETTING))


def moved(test, train=0.0, **more):
    return {"test pass@1": change(test), "train pass@1": change(train)} | more


def test_a_reward_that_was_fooled_is_flagged():
    """A reward for programs that compile: up on train, while nothing more is solved anywhere."""
    [warning] = warnings(stage(reward_rises=(0.3, 0.4), rewards={"train": 0.95}, change=moved(0.01, 0.02)))
    assert warning == (
        "Reward hacking: its own reward on training problems rose by 0.35 to 0.95, but pass@1 on test changed by "
        "+1.0 [-1.0, +3.0] pp: the policy has learnt its reward, not the task."
    )
    [small] = warnings(stage(reward_rises=(0.3, 0.4), change=moved(0.05, 0.05)))  # clear, and far less than the reward
    assert small.startswith("Reward hacking")
    [worse] = warnings(stage(reward_rises=(0.3, 0.4), change=moved(-0.2, -0.2)))
    assert worse.startswith("Reward hacking")


def test_what_is_learnt_by_heart_is_called_overfitting():
    [warning] = warnings(stage(reward_rises=(0.3, 0.3), rewards={"train": 0.7}, change=moved(0.01, 0.3)))
    assert warning.startswith(
        "Overfitting: its own reward on training problems rose by 0.30 to 0.70, and so did pass@1"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"reward_rises": (0.2, 0.2), "change": moved(0.1, 0.2)},  # the task was learnt with the reward
        {"reward_rises": (0.04, 0.04), "change": moved(0.0)},  # no clear rise
        {"reward_rises": (0.3, -0.01), "change": moved(0.0)},  # not with every seed
        {"reward_rises": (0.3,), "change": moved(0.0)},  # not measured for one of two seeds
        {"change": moved(0.0)},
    ],
)
def test_honest_or_unmeasured_rewards_are_not_flagged(fields):
    assert warnings(stage(**fields)) == []


def test_collapse_is_flagged_by_each_of_its_signs():
    base = stage(iteration=0, distinct={"test": 2.0}, drift={"entropy": 0.8})
    fewer = moved(0.1, **{"test pass@16": change(-0.1)})
    [ceiling, ways, entropy] = warnings(stage(change=fewer, distinct={"test": 0.9}, drift={"entropy": 0.1}), base)
    assert ceiling.startswith("Collapse: pass@16 on test fell, -10.0 [-12.0, -8.0] pp against base")
    assert "0.90 distinct correct solutions, 2.00 before" in ways
    assert "the entropy is 0.100 nats per token, 0.800 before" in entropy
    healthy = moved(0.1, **{"test pass@16": change(-0.01)})
    assert warnings(stage(change=healthy, distinct={"test": 1.1}, drift={"entropy": 0.3}), base) == []
    assert warnings(stage(distinct={"test": None}, drift={}), base) == []


def test_what_was_broken_elsewhere_is_flagged():
    [warning] = warnings(stage(change=moved(0.1, **{"transfer pass@1": change(-0.05)})))
    assert warning == "It costs something elsewhere: pass@1 on transfer fell, -5.0 [-7.0, -3.0] pp against base."


def test_nothing_is_said_before_the_first_iteration():
    assert warnings(None) == []
