"""What report.json holds: every number of a sweep's report, as types. No logic.

Shares are fractions and differences are differences of fractions, never percent. `None` is: not measured. Numbers of an
arm are means over its seeds, intervals are 95% over problems like these (`measure.py` has the statistics).
"""

from __future__ import annotations

from typing import Literal

from harness.types import Record

FORMAT = 2
"""Raised when the shape of report.json changes."""

Effect = Literal["higher", "lower", "none", "undecided"]
"""What a comparison shows: a rise or a fall by Holm's p < 0.05, no difference beyond `NEGLIGIBLE`, or neither."""

NEGLIGIBLE = 0.02
"""A difference that lies within -0.02 to 0.02 by its 95% interval is called none."""


class Number(Record, frozen=True, omit_defaults=False):
    """A mean over problems with its interval, which one problem doesn't have."""

    value: float
    low: float | None
    high: float | None
    se: float | None
    problems: int


class Stage(Record, frozen=True, omit_defaults=False):
    """One arm, or the base, at one iteration."""

    iteration: int
    seeds: tuple[int, ...]
    """Those that have got there; none for the base."""
    scores: dict[str, Number]
    """By evaluation and metric: "test pass@1", "train pass@1", "test maj@8"."""
    change: dict[str, Number]
    """The same minus the base's, paired by problem."""
    gap: Number | None
    """pass@1 on train minus on test."""
    gap_change: Number | None
    """How much more pass@1 has changed on train than on test against the base: the difference in differences."""
    rewards: dict[str, float | None]
    """Mean of the arm's own reward by evaluation."""
    base_rewards: dict[str, float | None]
    """The base's completions by this arm's reward."""
    reward_rises: tuple[float, ...]
    """On train against the base, by seed."""
    distinct: dict[str, float | None]
    """Distinct correct solutions of a problem by evaluation."""
    drift: dict[str, float | None]
    """kl_to_base, entropy, tokens."""
    rows: float | None
    """Training rows of this iteration."""
    sampled_tokens: float | None
    """In order to train, this iteration and those before."""
    trained_tokens: float | None
    reward_calls: float | None
    seconds: float | None
    """Wall clock of sampling and training, evaluation not counted, this iteration and those before."""


class Comparison(Record, frozen=True, omit_defaults=False):
    """The last checkpoints of an arm against another's, on pass@1 of one evaluation."""

    arm: str
    against: str
    """"base" or an arm."""
    value: float
    low: float
    high: float
    se: float
    p: float
    p_holm: float
    p_sign_flip: float
    detectable: float
    """The smallest true difference that would be found with 80% power, at 5% without Holm's adjustment."""
    problems: int
    better: int
    worse: int
    effect: Effect
    new_seeds: Number | None
    """The same difference with an interval for new seeds as well as new problems; two seeds are needed."""


class Trend(Record, frozen=True, omit_defaults=False):
    """From the first iteration to the last."""

    first: int
    last: int
    test: Number
    gap: Number | None


class ArmReport(Record, frozen=True, omit_defaults=False):
    """One arm."""

    name: str
    control: str | None
    of: str | None
    against: tuple[str, ...]
    """The arms that it is compared with beside the base."""
    iterations: int | None
    """How many it is to have."""
    stages: tuple[Stage, ...]
    """Those that at least one seed has finished, in order; means are over the seeds that have."""
    seed_changes: dict[str, float]
    """The last checkpoint's difference from the base on test pass@1, by seed."""
    seed_sd: float | None
    trend: Trend | None
    failures: dict[str, str]
    """Why it failed, by seed."""
    progress: dict[str, int]
    """Finished iterations by seed."""
    warnings: tuple[str, ...]

    @property
    def final(self) -> Stage | None:
        """The last planned iteration: the reported checkpoint, whatever the others scored."""
        return self.stages[-1] if self.stages and self.stages[-1].iteration == self.iterations else None


class SettingReport(Record, frozen=True, omit_defaults=False):
    """One base model and its problems."""

    name: str
    test: str
    others: tuple[str, ...]
    ks: tuple[int, ...]
    base: Stage | None
    arms: tuple[ArmReport, ...]
    family: int
    """Comparisons that were declared, those included that have no result yet: Holm's adjustment is over so many."""
    comparisons: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    """The treatments against one another: a family of its own."""
    elsewhere: dict[str, tuple[Comparison, ...]]
    """The same on pass@1 of the other evaluations, such as transfer: a family each."""
    bins: dict[str, dict[str, Number]]
    """By arm and difficulty: the change on those test problems that the base solves so often (`strata.difficulty`)."""
    ranking: dict[str, int]
    """Ranks, best first; those that a paired test cannot tell apart share one."""
    notes: tuple[str, ...]


class SweepReport(Record, frozen=True, omit_defaults=False):
    """The whole of report.json."""

    format: int
    name: str
    seeds: tuple[int, ...]
    settings: tuple[SettingReport, ...]
