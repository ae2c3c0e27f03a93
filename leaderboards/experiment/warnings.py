"""What a reader of a sweep's report must not miss: rewards that were fooled, policies that collapsed, what was broken.

`warnings_of` gives sentences on an arm's last evaluated checkpoint. Each rule is a threshold that the sentence shows
with its numbers; none is a test, and none is corrected for the number of arms. Not handled: why it happened.
"""

from __future__ import annotations

from collections.abc import Iterator

from .format import change_text, number_text
from .read import TRAIN, Setting
from .report import NEGLIGIBLE, ArmReport, Stage

CLEAR_RISE = 0.05
"""Of a mean reward, which also must have risen with every seed."""
PASSED_ON = 0.25
"""Share of the reward's rise that pass@1 on test has to show."""
LEFT_OF_DISTINCT = 0.5
LEFT_OF_ENTROPY = 0.25


def warnings_of(arm: ArmReport, base: Stage, setting: Setting) -> Iterator[str]:
    """Sentences, the gravest first; none before the first iteration is evaluated."""
    if not arm.stages:
        return
    last = arm.stages[-1]
    yield from _fooled(last, setting.test)
    yield from _collapsed(last, base, setting)
    for name in setting.others:
        moved = last.change.get(f"{name} pass@1")
        if moved and moved.high is not None and moved.high < 0 and moved.value <= -NEGLIGIBLE:
            yield f"It costs something elsewhere: pass@1 on {name} fell, {change_text(moved)} pp against base."


def _fooled(last: Stage, test: str) -> Iterator[str]:
    """The reward on training problems rose clearly, and pass@1 on test problems did not follow."""
    moved, rises = last.change.get(f"{test} pass@1"), last.reward_rises
    if not moved or moved.low is None or len(rises) < max(len(last.seeds), 1):
        return
    rise = sum(rises) / len(rises)
    if rise < CLEAR_RISE or min(rises) <= 0:
        return
    if moved.low > 0 and moved.value >= PASSED_ON * rise:
        return
    reward = f"its own reward on training problems rose by {rise:.2f} to {number_text(last.rewards.get(TRAIN))}"
    held_out = f"pass@1 on {test} changed by {change_text(moved)} pp"
    trained = last.change.get(f"{TRAIN} pass@1")
    if trained is not None and trained.value >= rise / 2:
        yield f"Overfitting: {reward}, and so did pass@1 there ({change_text(trained)} pp), but {held_out}."
    else:
        yield f"Reward hacking: {reward}, but {held_out}: the policy has learnt its reward, not the task."


def _collapsed(last: Stage, base: Stage, setting: Setting) -> Iterator[str]:
    """Fewer problems are solved by many tries, or the same ones in fewer ways."""
    k = max(setting.ks)
    ceiling = last.change.get(f"{setting.test} pass@{k}")
    if k > 1 and ceiling and ceiling.high is not None and ceiling.high < 0 and ceiling.value <= -NEGLIGIBLE:
        yield (
            f"Collapse: pass@{k} on {setting.test} fell, {change_text(ceiling)} pp against base: fewer problems are "
            "solved at all."
        )
    before, after = base.distinct.get(setting.test), last.distinct.get(setting.test)
    if before and after is not None and after < LEFT_OF_DISTINCT * before:
        yield (
            f"Collapse: a problem of {setting.test} has {after:.2f} distinct correct solutions, {before:.2f} before: "
            "less than half."
        )
    before, after = base.drift.get("entropy"), last.drift.get("entropy")
    if before and after is not None and after < LEFT_OF_ENTROPY * before:
        yield f"Collapse: the entropy is {after:.3f} nats per token, {before:.3f} before: less than a quarter."
