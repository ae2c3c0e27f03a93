"""Methods that are each other under some setting are so to the last bit of their weights: whole trials of a tiny model.

What is equal in rows is tested in test_rows.py, in losses and advantages beside those. Here rows come from sampling and
weights from training, over two iterations: where an iteration starts, who samples and every seed must agree, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.controls import control
from harness.errors import InputError
from harness.recipes import recipe
from harness.results import collect
from harness.selectors import best_of, lever, majority, oracle
from harness.trials import Evaluated, Evaluation, TaskUse, Trial
from harness.types import Budget, Completion, Problem, Results, Status, Verdict

TOY = f"{Path(__file__).parent / 'toy_task.py'}:toy"
SAMPLE = {"n": 8, "temperature": 1.0, "max_tokens": 6, "top_k": 0}
IMPROVE = {
    "epochs": 2,
    "batch_rows": 16,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "warmup": 0,
    "until": "epochs",
}
TWICE = {"iterations": 2, "init": "base", "sample": SAMPLE, "improve": IMPROVE}
GRPO = {
    "recipe": "grpo",
    "sample": {"n": 6, "temperature": 1.0, "max_tokens": 6},
    "on_policy": {"rounds": 3, "problems": 6, "learning_rate": 1e-3, "mask_truncated": False},
}
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def treated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, ...]]:
    """Hashes of the weights after each iteration of a treatment; the base model's part is made once for all."""
    from harness.treat import treat
    from tests.samplers.conftest import save

    root = tmp_path_factory.mktemp("trials")
    base = save(root / "base_model", 1)
    done: dict[str, tuple[str, ...]] = {}

    def run(treatment: dict[str, Any], *, placebo: str | None = None, letter: str = "e") -> tuple[str, ...]:
        name = hashlib.sha256(json.dumps([treatment, placebo, letter]).encode()).hexdigest()[:8]
        if name not in done:
            made = recipe(treatment)
            args = {"n": 12, "letter": letter}
            trial = Trial(
                treatment=made if placebo is None else control(placebo, made),
                base=str(base),
                train=TaskUse(task=TOY, args=args),
                evaluation=Evaluation(
                    on={"test": TaskUse(task=TOY, args={**args, "split": "test"}, limit=1)},
                    budget=Budget(n=1, temperature=1.0, max_tokens=2),
                    train_limit=1,
                    drift=0,
                ),
            )
            made_of = treat(trial, root / name, shared=root / f"shared_{letter}", workers=1)
            done[name] = tuple(map(sha, made_of[1:]))
            assert len(set(done[name])) == made.iterations, "every iteration must change the weights"
        return done[name]

    return run


def sha(evaluated: Evaluated) -> str:
    return hashlib.sha256((Path(evaluated.checkpoint) / "model.safetensors").read_bytes()).hexdigest()


def over(name: str, **changes: Any) -> dict[str, Any]:
    """That recipe with what these trials have in common, and changes."""
    select = changes.pop("select", {})
    return {"recipe": name, **TWICE, "select": select, **changes}


@slow
def test_rft_is_rest_em_with_one_iteration(treated):
    rft = treated(over("rft", iterations=1, select={"dedupe": "none", "pick": "first", "human": "none", "cap": 3}))
    rest_em = over("rest_em", select={"cap": 3})
    assert rft == treated({**rest_em, "iterations": 1})
    assert rft == treated(rest_em)[:1]  # more iterations don't change the first


@slow
def test_rest_without_human_rows_from_the_base_is_rest_em(treated):
    rest = treated(over("rest", select={"human": "none", "cap": 3}))
    assert rest == treated(over("rest_em", select={"cap": 3}))
    assert rest != treated(over("rest", select={"cap": 3}))


@slow
def test_rest_with_any_threshold_is_rest_with_another(treated):
    low, high = (treated(over("rest", select={"threshold": threshold})) for threshold in (0.1, 0.9))
    assert low == high
    assert low != treated(over("rest", select={"threshold": None}))


@slow
def test_iml_over_all_problems_from_the_base_is_rest_em(treated):
    assert treated(over("iml")) == treated(over("rest_em", select={"cap": None}))


@slow
def test_raft_is_iml_with_a_cap_of_one(treated):
    assert treated(over("raft", init="previous")) == treated(over("iml", select={"cap": 1}, init="previous"))


@slow
def test_rwr_at_a_high_temperature_is_sft_on_all_samples(treated):
    everything = treated(over("rest_em", select={"threshold": None, "cap": None}))
    assert treated(over("rwr", select={"beta": 1e300})) == everything
    assert treated(over("rwr", select={"beta": 1.0})) != everything


@slow
def test_expert_iteration_by_sampling_is_rest_em(treated):
    select = {"dedupe": "none", "cap": 3, "accumulate": False}
    assert treated(over("expert_iteration", select=select)) == treated(over("rest_em", select={"cap": 3}))


@slow
def test_a_placebo_without_anything_to_hide_is_the_treatment(treated):
    """All completions are right: their rewards dealt out at random are the same rewards."""
    treatment = over("rest_em", select={"cap": 3})
    without = treated(treatment, letter="")
    assert treated(treatment, letter="", placebo="matched_reward") == without
    assert treated(treatment, letter="", placebo="no_verification") == without
    assert treated(treatment, placebo="no_verification") != treated(treatment)


@slow
def test_grpo_with_a_term_of_weight_0_is_grpo(treated):
    """P-GRPO rewards the reasoning where the tests pass; here it is the length."""

    def posterior(weight: float) -> dict[str, Any]:
        length = {"weight": weight, "gate": "tests", "args": {"limit": 6, "buffer": 4}}
        return {**GRPO, "reward": {"terms": {"tests": 1.0, "length": length}}}

    assert treated(posterior(0.0)) == treated(GRPO)
    assert treated(posterior(1.0)) != treated(GRPO)


@slow
def test_clipping_at_a_ratio_of_one_is_reinforce(treated):
    """One update per round: PPO's objective has REINFORCE's gradient."""

    def method(name: str, kind: str, **changes: Any) -> dict[str, Any]:
        on_policy = {**GRPO["on_policy"], "loss": {"type": kind}, "advantage": "batch_mean", **changes}
        return {"recipe": name, "sample": GRPO["sample"], "on_policy": on_policy}

    assert treated(method("grpo", "dapo")) == treated(method("reinforce", "reinforce"))
    twice = {"updates": 2, "learning_rate": 1e-2}
    assert treated(method("grpo", "dapo", **twice)) != treated(method("reinforce", "reinforce", **twice))


@slow
def test_max_at_1_is_rloo_in_all_but_the_name(treated):
    loss = {"type": "reinforce"}
    one, other = (
        {**GRPO, "on_policy": {**GRPO["on_policy"], "loss": loss, **advantage}}
        for advantage in ({"advantage": "max_at_k", "k": 1}, {"advantage": "leave_one_out"})
    )
    assert treated(one) == treated(other)


def test_gfpo_that_keeps_all_is_grpo():
    from harness.trainers.advantages import best_subset, group_advantages

    draw = np.random.default_rng(0)
    reward_PG, length_PG = draw.uniform(size=(5, 8)), draw.integers(1, 9, (5, 8))
    for scale in ("none", "group", "batch"):
        kept = np.where(best_subset(-length_PG, 8), reward_PG, np.nan)
        np.testing.assert_array_equal(group_advantages(kept, scale=scale), group_advantages(reward_PG, scale=scale))
        fewer = np.where(best_subset(-length_PG, 5), reward_PG, np.nan)
        assert (group_advantages(fewer, scale=scale) == 0).sum() == 5 * 3


def finished(passed_PG: Any, answers_PG: Any, **scores: Any) -> Results:
    """A run of these."""
    problems = [Problem(id=str(p), task="t", prompt="") for p in range(len(passed_PG))]
    completions, verdicts = [], {}
    for p, row in enumerate(passed_PG):
        for i, passed in enumerate(row):
            status = Status.passed if passed else Status.wrong
            here = {name: float(values[p][i]) for name, values in scores.items() if name != "logprob"}
            logprob = float(scores["logprob"][p][i])
            completions.append(Completion(problem_id=str(p), index=i, text="", logprob=logprob, scores=here))
            verdicts[str(p), i] = Verdict(
                problem_id=str(p), index=i, passed=bool(passed), status=status, answer=answers_PG[p][i]
            )
    return collect(problems, completions, verdicts, n=None)


def test_lever_is_between_the_majority_and_the_best_of_n():
    draw, ks = np.random.default_rng(1), [1, 2, 5]
    answers = draw.integers(0, 3, (6, 7)).astype(str)
    passed = answers == "1"  # answers decide: no two completions with one answer differ
    verifier, constant, even = draw.uniform(0.1, 1, (6, 7)), np.full((6, 7), 0.7), np.full((6, 7), -3.0)
    run = finished(passed, answers, verifier=constant, logprob=even)
    np.testing.assert_allclose(lever(run, ks, verifier="verifier")[0], majority(run, ks), atol=1e-12)
    distinct = np.array([[f"{i}" for i in range(7)]] * 6)
    product = np.log(verifier) + draw.normal(-5, 2, (6, 7))
    run = finished(passed, distinct, verifier=verifier, logprob=product - np.log(verifier), both=product)
    np.testing.assert_allclose(lever(run, ks, verifier="verifier")[0], best_of(run, ks, score="both"), atol=1e-12)


def test_best_of_n_by_an_oracle_is_pass_at_n_and_by_nothing_pass_at_1():
    draw, ks = np.random.default_rng(2), [1, 2, 5]
    passed = draw.integers(0, 2, (6, 7))
    nothing = np.zeros((6, 7))
    run = finished(passed, passed.astype(str), right=passed, nothing=nothing, logprob=nothing)
    np.testing.assert_allclose(best_of(run, ks, score="right"), oracle(run, ks))
    np.testing.assert_allclose(best_of(run, ks, score="nothing"), np.repeat(oracle(run, [1]), 3, axis=1))


def test_there_is_no_weight_at_an_infinite_temperature():
    """What RWR tends to is a setting of its own, and said so."""
    with pytest.raises(InputError, match=r"set select\.weight to ones"):
        recipe(over("rwr", select={"beta": float("inf")}))
    assert msgspec.structs.replace(recipe("rwr").select, beta=1e300).weight == "exponential"
