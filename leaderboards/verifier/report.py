"""What verifiers.json holds: every number of a verifier report, as types. No logic.

Shares are fractions and differences are differences of fractions, never percent. `None` is: not measured, or without an
interval. A selector is named like its metric without k: "maj", "best[lever]", "codet[generated]".
"""

from __future__ import annotations

from harness.types import Record

from ..experiment.report import Number

FORMAT = 2
"""Raised when the shape of the file changes."""

ONE = "pass@1"
"""The baseline that every selector has: one completion, not chosen."""


class Selector(Record, frozen=True, omit_defaults=False):
    """One rule that chooses one of k completions."""

    name: str
    levels: dict[int, Number]
    """By k: how often the chosen completion is right."""
    captured: dict[int, Number | None]
    """By k: (selector - pass@1) / (pass@k - pass@1); None where pass@k is pass@1."""
    best_k: int | None
    """The k from which it falls beyond noise, 1 among them; None if it is not seen to fall."""
    fall: Number | None
    """What it scores at the largest k minus at `best_k`."""


class Gain(Record, frozen=True, omit_defaults=False):
    """A selector against a baseline at one k, paired by problem."""

    selector: str
    against: str
    """`ONE` or a selector."""
    k: int
    value: float
    low: float
    high: float
    se: float
    p: float
    p_holm: float
    p_sign_flip: float
    problems: int
    better: int
    worse: int


class Bin(Record, frozen=True, omit_defaults=False):
    """Completions with scores of about the same size."""

    score: float
    """Their mean."""
    right: Number
    """The share of them that is right, with an interval over problems."""
    completions: int


class Calibrated(Record, frozen=True, omit_defaults=False):
    """How far a score that is a probability is from the truth."""

    brier: Number
    ece: float
    ece_squared: float
    bins: tuple[Bin, ...]


class Quality(Record, frozen=True, omit_defaults=False):
    """How well a score tells right completions from wrong ones."""

    score: str
    pairs: Number | None
    """Share of the pairs (right, wrong) of one problem that it orders rightly; None where there is no such pair."""
    pairs_by_problem: Number | None
    """The same with every problem counted alike."""
    auroc: Number | None
    """Pooled over problems."""
    average_precision: Number | None
    calibrated: Calibrated | None
    """None unless the score is said to be a probability."""


class Chosen(Record, frozen=True, omit_defaults=False):
    """The completion with the highest score of k."""

    k: int
    score: float
    """What it is expected to score."""
    rise: float | None
    """The same less that of k = 1, in standard deviations within a problem; None where all scores are equal."""
    right: Number
    gap: Number | None
    """Its score minus its success rate, if the score is a probability."""


class Pressure(Record, frozen=True, omit_defaults=False):
    """What choosing ever harder by one score does."""

    score: str
    chosen: tuple[Chosen, ...]
    best_k: int | None
    """The k from which the success rate falls beyond noise; None if it is not seen to fall."""
    fall: Number | None
    """The success rate at the largest k minus that at `best_k`."""


class Submitted(Record, frozen=True, omit_defaults=False):
    """Problems solved by n submissions, at least one of them right."""

    n: int
    solved: dict[int, Number]
    """By k >= n, k > 1: n@k, the submissions chosen by filter and cluster."""
    random: Number
    """pass@n: as many random submissions."""
    gain: Number
    """Of the chosen over the random ones at the largest k, paired by problem."""


class Several(Record, frozen=True, omit_defaults=False):
    """Several submissions out of k programs."""

    suite: str
    """By whose results programs are clustered."""
    accepted: str | None
    """The suite that a program has to pass to be submitted."""
    submitted: tuple[Submitted, ...]


class Kept(Record, frozen=True, omit_defaults=False):
    """Tests run on the `keep` best by a score alone."""

    keep: int
    right: Number
    change: Number | None
    """Against running them on all, paired by problem; None for all."""
    cpu_s: float | None
    """Expected CPU seconds of running the tests of one problem, the mean over all problems, nothing for those without
    tests; None where not measured."""


class Pruned(Record, frozen=True, omit_defaults=False):
    """Of k programs the best by a score are run on a suite, and the one that passes most of its tests is chosen."""

    score: str
    suite: str
    k: int
    kept: tuple[Kept, ...]
    """From all down to one."""
    enough: int
    """The smallest keep such that neither it nor a larger one is seen to be worse than keeping all."""
    programs: int
    """Completions of problems with tests."""
    unmeasured: int
    """Those of them whose CPU seconds are unknown; each counts like the mean of its problem's others."""


class Part(Record, frozen=True, omit_defaults=False):
    """One task, or one split of it."""

    name: str
    problems: int
    completions: tuple[int, int]
    """Fewest and most graded ones of a problem."""
    ks: tuple[int, ...]
    mixed: int
    """Problems with right and wrong completions: elsewhere there is nothing to choose."""
    one: Number
    """pass@1"""
    ceiling: dict[int, Number]
    """pass@k by k."""
    selectors: tuple[Selector, ...]
    baselines: tuple[str, ...]
    gains: tuple[Gain, ...]
    """At the largest k; Holm's adjustment is over all of them."""
    quality: tuple[Quality, ...]
    pressure: tuple[Pressure, ...]
    several: Several | None
    """None where programs have no results to be clustered by."""
    pruned: tuple[Pruned, ...]
    """Empty without scores, or without a suite to rank by."""
    notes: tuple[str, ...]


class Source(Record, frozen=True, omit_defaults=False):
    """Where a score comes from, as RUN/scores says; nothing is known of one that came with the completions."""

    score: str
    scorer: str | None
    suite: str | None
    """Whose executions the scorer has seen."""
    seconds: float | None
    probability: bool
    warnings: tuple[str, ...]


class Tests(Record, frozen=True, omit_defaults=False):
    """A suite of tests beside the task's own."""

    suite: str
    source: str
    problems: int
    """That have any of its tests."""
    tests: int
    most: int
    """Tests of one problem."""
    programs: int
    """Different ones that were run."""
    seconds: float
    """Wall clock of running it."""
    cpu_s: float | None
    """Mean CPU seconds of a completion, on the problems that have tests."""
    made: dict[str, int]
    """What was counted when it was made."""
    quality: dict[str, str]
    """What quality.json says, as text."""


class VerifierReport(Record, frozen=True, omit_defaults=False):
    """The whole of verifiers.json."""

    format: int
    run: str
    model: str
    baseline: str
    parts: tuple[Part, ...]
    sources: tuple[Source, ...]
    suites: tuple[Tests, ...]
