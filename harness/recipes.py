"""Treatments as data: `recipe` reads one of `trainers/recipes/*.yaml`, or a file of your own, into a `Treatment`.

Every method of the family is a setting of one loop, sample -> reward -> select -> improve -> evaluate: a new method
should be a new YAML file. A file, or an arm of a sweep, may start from another recipe and say only what differs:
`{recipe: rft, select: {cap: 4}}`. An unknown key is an error that names the nearest one. Not handled: methods with a
model of their own beside the policy (a critic, a verifier).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from harness import command, registry
from harness.config import Where, read_yaml, typed
from harness.errors import InputError, UnknownName
from harness.types import Budget, Record

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class TermUse(Record, frozen=True):
    """How one reward term counts."""

    weight: float = 1.0
    gate: str | None = None
    """Another term: where that one is not positive, this one is worth 0."""
    args: dict[str, Any] = msgspec.field(default_factory=dict)
    """Arguments of the term's function."""


class Reward(Record, frozen=True):
    """The sum of weighted terms (`harness.rewards`); every term is reported beside the total."""

    terms: dict[str, TermUse | float] = msgspec.field(default_factory=lambda: {"tests": 1.0})
    """By name (`harness ls term`) or `file.py:function`; a number is a weight alone. With 0 a term is only reported."""
    shuffled: bool = False
    """Exchange the totals of each problem's completions among them, at random: the control `matched_reward`."""


class Selection(Record, frozen=True):
    """Which completions become training rows, in this order: variance, threshold, dedupe, top, cap (`harness.rows`)."""

    threshold: float | None = 1.0
    """Kept from this reward on; None: all that have one."""
    variance: bool = False
    """Drop problems whose completions all have the same reward."""
    dedupe: Literal["none", "text", "answer", "equations", "program"] = "none"
    """What makes two completions of a problem the same; one of each stays."""
    pick: Literal["first", "shortest", "farthest", "random"] = "first"
    """Which one stays; "farthest" has the largest summed edit distance to the others' (RFT, arXiv 2308.01825)."""
    top: Count | None = None
    """At most so many of a problem, the best rewarded."""
    cap: Count | None = None
    """At most so many of a problem, at random."""
    human: Literal["none", "union", "only", "matched"] = "none"
    """The dataset's own solutions: left out, added, alone, or alone and only for problems that would have rows."""
    weight: Literal["ones", "reward", "exponential"] = "ones"
    """Of a row: 1, its reward, or exp(reward / beta) normalised to a mean of 1 per problem (RWR)."""
    beta: Positive = 1.0
    problems: Count | None = None
    """Rows of at most so many problems, those first in a pseudo-random order of their ids."""
    pairs: Count | None = None
    """Make so many pairs (right, wrong) per problem instead of rows (DPO)."""
    accumulate: bool = False
    """Rows of earlier iterations stay."""


class Improvement(Record, frozen=True):
    """How rows change weights (`trainers/sft.py`, `trainers/dpo.py`)."""

    loss: Literal["nll", "dpo"] = "nll"
    epochs: Positive = 3.0
    batch_rows: Count = 64
    """Rows per optimiser step."""
    batch_tokens: Count = 8192
    """Most tokens, padding included, that go through the model together; it changes speed and memory only."""
    learning_rate: NotNegative = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps."""
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    until: Literal["epochs", "validation"] = "epochs"
    """"validation": of the checkpoints after each epoch, the one with the best pass@1 on validation problems; stops
    when it falls `patience` times in a row."""
    patience: Count = 1
    beta: Positive = 0.1
    """Of DPO."""
    lora: dict[str, Any] | None = None
    """Arguments of peft's `LoraConfig`; None: all weights are trained."""
    processes: Count = 1
    """So many GPUs of this machine train together, each with a part of every weight; on a CPU as many processes. It
    changes speed and memory only; dropout draws other numbers."""


SPEED_ONLY = frozenset(
    {("improve", "batch_tokens"), ("improve", "processes"), ("on_policy", "batch_tokens"), ("on_policy", "save_every")}
)
"""Settings of a treatment that may be changed on the way: but for rounding they decide nothing that is learnt."""


class OnPolicy(Record, frozen=True):
    """Small rounds of sampling and policy gradient inside the trainer (`trainers/grpo.py`), in place of selection."""

    loss: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of `trainers.losses.PolicyLoss`: type, clip_low, clip_high, beta, ..."""
    advantage: Literal["group", "leave_one_out", "max_at_k", "batch_mean"] = "group"
    scale: Literal["none", "group", "batch"] = "none"
    k: Count = 1
    """Of max_at_k."""
    rounds: Count = 30
    problems: Count = 16
    """Problems of a round; each gets `sample.n` completions."""
    updates: Count = 1
    """Passes over a round's completions."""
    batch_rows: Count | None = None
    """Rows per optimiser step; None: the whole round."""
    batch_tokens: Count = 8192
    learning_rate: NotNegative = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Share = 0.0
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    mask_truncated: bool = True
    """Completions that ran into max_tokens don't train."""
    save_every: Count = 10
    """Rounds between two checkpoints to resume from."""
    lora: dict[str, Any] | None = None


class External(Record, frozen=True):
    """A command that trains in place of our trainers (`harness.external`); `improve` is not used then."""

    command: str
    """`{python} mine.py --base {base} --train {train} --out {out}`: `harness.command.PLACEHOLDERS` has the rest."""
    args: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    """Put after the command, each as `--key value`; a recipe that starts from this one may change them one by one."""
    data: Literal["rows", "problems"] = "rows"
    """What {train} holds: the rows that were sampled and selected, or problems, for a command that samples by itself;
    `select` is not used then."""
    timeout_s: Positive = 86400.0
    """Wall clock of one training."""
    disk_gb: Positive = 200.0
    """Most that {out} and the log may grow to."""
    sampled_tokens: Count | None = None
    """How many tokens the command may sample; it is told (`{budget}`), and a note says if it reports more."""
    resumes: bool = False
    """After an interruption the command finds {out} as it left it; else {out} is empty."""
    shell: bool = False
    """The command is for /bin/sh: pipes, variables. Values of placeholders are quoted."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Further environment variables."""


class Treatment(Record, frozen=True):
    """A training method as data."""

    name: str
    paper: str = ""
    iterations: Count = 1
    init: Literal["base", "previous"] = "base"
    """Where each iteration's training starts."""
    source: str = "policy"
    """Who samples: "policy" (the last checkpoint), "base", "none" (human rows alone), or a teacher's folder."""
    sample: Budget = Budget(n=8, temperature=1.0, max_tokens=512)
    reward: Reward = Reward()
    select: Selection = Selection()
    improve: Improvement = Improvement()
    on_policy: OnPolicy | None = None
    """Given: each iteration is so many rounds of policy gradient; `select` and `improve` are not used."""
    external: External | None = None
    """Given: a command of yours trains."""

    @property
    def uses_rows(self) -> bool:
        """Whether rows are sampled and selected before training; else the trainer samples by itself."""
        return self.on_policy is None and (self.external is None or self.external.data == "rows")


def recipe(source: str | Path | Mapping[str, Any]) -> Treatment:
    """A treatment from the name of a recipe (`harness ls recipe`), a YAML file, or a mapping.

    A file or mapping with a key `recipe` starts from that recipe. Mappings are merged key by key, anything else is
    replaced; a reward term is dropped by the weight 0, which leaves it in the report.

    Raises:
        UnknownName: no such recipe, key or reward term; names the nearest.
        InputError: a value that cannot be, or values that contradict each other.
    """
    data, where = _raw(source, ())
    treatment = typed(data, Treatment, where)
    _check_terms(treatment.reward)
    for problem in _contradictions(treatment):
        raise InputError(f"{where(())}: {problem}.")
    return treatment


def names() -> dict[str, str]:
    """The recipes that are there by name, each with the first line of its file."""
    return {name: path.read_text().partition("\n")[0].strip("# ") for name, path in sorted(_files().items())}


def _files() -> dict[str, Path]:
    import harness

    return {path.stem: path for root in harness.__path__ for path in Path(root).glob("trainers/recipes/*.yaml")}


def _raw(source: str | Path | Mapping[str, Any], seen: tuple[Path, ...]) -> tuple[dict[str, Any], Where]:
    """The keys of a recipe, those of the recipe that it starts from included, and where each of them stands."""
    if isinstance(source, Mapping):
        data, where, folder = dict(source), _inside(source), Path()
    else:
        path = _find(str(source))
        if path in seen:
            raise InputError(f"{path} starts from itself: give its key recipe another name.")
        seen = (*seen, path)
        data, where = read_yaml(path)
        data, folder = {"name": path.stem, **data}, path.parent
    origin = data.pop("recipe", None)
    if origin is None:
        return _with_defaults(data), where
    is_file = isinstance(origin, str) and Path(origin).suffix in (".yaml", ".yml")
    before, where_before = _raw(folder / origin if is_file else origin, seen)
    return merged(before, data), lambda key: where(key) or where_before(key)


def _with_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that starts from no other: what says a part of `sample` keeps the treatment's default for the rest, and
    the default reward is written out, so that one who starts from this recipe adds to it."""
    standard = Treatment(name="")
    data = merged({"sample": msgspec.to_builtins(standard.sample)}, data)
    reward = data.get("reward", {})
    if isinstance(reward, Mapping) and "terms" not in reward:
        data["reward"] = {**reward, "terms": dict(standard.reward.terms)}
    return data


def _find(name: str) -> Path:
    path, files = Path(name), _files()
    if path.suffix not in (".yaml", ".yml"):
        if name not in files:
            raise UnknownName("recipe", name, files)
        return files[name]
    if not path.is_file():
        raise InputError(f"there is no recipe file {path}: `harness ls recipe` lists those that need none.")
    return path.resolve()


def _inside(source: Mapping[str, Any]) -> Where:
    def where(key: tuple[str, ...]) -> str:
        value: Any = source
        for part in key:
            if not isinstance(value, Mapping) or part not in value:
                return ""
            value = value[part]
        return "the recipe"

    return where


def merged(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`after` over `before`: mappings are merged key by key, anything else is replaced."""
    both = dict(before)
    for key, value in after.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _check_terms(reward: Reward) -> None:
    """Every term exists, takes its arguments, and has its gate among the others."""
    for name, use in reward.terms.items():
        use = use if isinstance(use, TermUse) else TermUse(weight=use)
        registry.bind("term", name, use.args)
        if use.gate is not None and use.gate not in reward.terms:
            raise UnknownName(f"reward term for the gate of {name} called", use.gate, reward.terms)


def _contradictions(treatment: Treatment) -> Iterator[str]:
    """What cannot work together, each with what to do."""
    sample, select, on_policy = treatment.sample, treatment.select, treatment.on_policy
    n = sample.n or 1
    if n > 1 and sample.temperature == 0:
        yield f"sample.n is {n} with temperature 0, which draws the same text every time: set sample.temperature"
    if not treatment.reward.terms:
        yield "reward.terms is empty: name a term, or use the term constant"
    if math.isinf(select.beta):
        yield "select.beta is infinite, which weighs all rows alike: set select.weight to ones"
    if treatment.external is not None:
        yield from _external_contradictions(treatment, treatment.external)
    if on_policy is not None:
        if on_policy.advantage == "max_at_k" and on_policy.k > n:
            yield f"on_policy.k {on_policy.k} is more than sample.n {n}: max@k needs at least k completions"
        if treatment.source != "policy":
            yield f"source is {treatment.source!r} in an on-policy treatment: leave it out"
        if (processes := treatment.improve.processes) > 1:
            yield f"improve.processes is {processes} and policy gradients train on one device: leave it out"
    if not treatment.uses_rows:
        return
    if (treatment.source == "none") != (select.human == "only"):
        yield (
            f"source is {treatment.source!r} and select.human is {select.human!r}: none and only belong "
            "together, for training on the dataset's solutions alone"
        )
    if treatment.external is None and (treatment.improve.loss == "dpo") != (select.pairs is not None):
        yield "improve.loss dpo and select.pairs need each other: set both or neither"
    if select.pairs is not None and (select.threshold is None or select.human != "none"):
        yield "select.pairs needs a select.threshold between right and wrong, and no human rows"


def _external_contradictions(treatment: Treatment, external: External) -> Iterator[str]:
    for fault in command.faults(external.command, shell=external.shell):
        yield f"external.command {fault}"
    if (processes := treatment.improve.processes) > 1:
        yield f"improve.processes is {processes} and an external command trains as it likes: leave it out"
    if treatment.on_policy is not None:
        yield "external and on_policy both say how to train: leave one out"
    elif external.data == "problems" and (treatment.source != "policy" or treatment.select != Selection()):
        yield "external.data is problems, for a command that samples by itself: leave source and select out"
