"""A control is one word and changes one field."""

import msgspec
import pytest

from harness import registry
from harness.controls import control
from harness.errors import InputError, UnknownName
from harness.recipes import Reward, TermUse, Treatment, recipe

FIELDS = {
    "format_only": {"reward"},
    "frozen": {"improve"},
    "majority_reward": {"reward"},
    "matched_reward": {"reward"},
    "matched_rows": {"select"},
    "no_verification": {"select"},
    "one_iteration_3x": {"iterations", "sample"},
    "one_per_problem": {"select"},
    "random_reward": {"reward"},
    "wrong_label": {"reward"},
}


def differing(one: msgspec.Struct, other: msgspec.Struct) -> set[str]:
    before, after = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    return {name for name in before if before[name] != after[name]}


def test_every_control_is_checked_here() -> None:
    assert FIELDS.keys() == registry.BUILT_IN["control"].keys()


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("method", ["rest_em", "rft", "iml", "raft"])
def test_a_control_changes_the_field_that_it_names(name, method) -> None:
    treatment = recipe(method)
    changed = control(name, treatment)
    one_already = {"iterations"} if treatment.iterations == 1 else set()
    assert differing(treatment, changed) == FIELDS[name] - one_already
    says = registry.names("control")[name].partition(":")[0]
    assert FIELDS[name] <= set(says.replace(",", "").split())
    assert msgspec.convert(msgspec.to_builtins(changed), Treatment) == changed


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"one_iteration_3x", "one_per_problem"} - {"matched_rows"}))
def test_controls_of_on_policy_treatments(name) -> None:
    treatment = recipe("grpo")
    if FIELDS[name] == {"select"}:
        with pytest.raises(InputError, match="grpo selects no rows"):
            control(name, treatment)
        return
    field = {"on_policy"} if name == "frozen" else {"reward"}
    assert differing(treatment, control(name, treatment)) == field


def test_what_exactly_changes() -> None:
    treatment = recipe("rest_em")
    frozen = control("frozen", treatment)
    assert differing(treatment.improve, frozen.improve) == {"learning_rate"}
    assert frozen.improve.learning_rate == 0
    assert control("frozen", recipe("grpo")).on_policy.learning_rate == 0
    once = control("one_iteration_3x", treatment)
    assert (once.iterations, once.sample.n) == (1, 96)
    assert differing(treatment.reward, control("matched_reward", treatment).reward) == {"shuffled"}
    assert differing(treatment.select, control("matched_rows", treatment).select) == {"human"}
    assert differing(treatment.select, control("one_per_problem", treatment).select) == {"cap"}
    assert control("one_per_problem", recipe("rft")).select.human == "none"
    assert differing(treatment.select, control("no_verification", treatment).select) == {"threshold"}


def test_no_verification_leaves_nothing_that_looks_at_the_reward() -> None:
    raft = control("no_verification", recipe("raft")).select
    assert (raft.threshold, raft.top, raft.cap, raft.variance, raft.weight) == (None, None, 1, False, "ones")
    assert control("no_verification", recipe("iml")).select.weight == "ones"
    with pytest.raises(InputError, match="matched_reward instead"):
        control("no_verification", recipe("dpo"))


def test_the_true_reward_is_still_reported() -> None:
    treatment = msgspec.structs.replace(
        recipe("rest_em"),
        reward=Reward(terms={"tests": 1.0, "speed": TermUse(weight=0.5, gate="tests", args={"limit_s": 2})}),
    )
    terms = control("wrong_label", treatment).reward.terms
    assert terms == {"tests": 0.0, "speed": TermUse(weight=0, args={"limit_s": 2}), "wrong_label": TermUse()}


def test_format_only_takes_the_treatments_own_format() -> None:
    own = recipe({"recipe": "grpo", "reward": {"terms": {"format": {"weight": 0.2, "args": {"opened": True}}}}})
    assert control("format_only", own).reward.terms == {"tests": 0.0, "format": TermUse(args={"opened": True})}
    assert set(control("format_only", recipe("grpo")).reward.terms) == {"tests", "extracted"}


def test_controls_without_meaning_are_refused() -> None:
    for name in ("random_reward", "no_verification", "one_per_problem"):
        with pytest.raises(InputError, match="sft samples nothing"):
            control(name, recipe("sft"))
    assert differing(recipe("sft"), control("frozen", recipe("sft"))) == {"improve"}
    with pytest.raises(InputError, match="one_iteration_3x has no meaning"):
        control("one_iteration_3x", recipe("grpo"))
    with pytest.raises(InputError, match="changes nothing"):
        control("frozen", control("frozen", recipe("rft")))
    with pytest.raises(UnknownName, match="no control 'random_rewards': did you mean 'random_reward'"):
        control("random_rewards", recipe("rft"))


def test_a_control_of_your_own(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import msgspec\n"
        "def hot(treatment):\n"
        "    sample = msgspec.structs.replace(treatment.sample, temperature=1.5)\n"
        "    return msgspec.structs.replace(treatment, sample=sample)\n"
    )
    assert control(f"{tmp_path}/mine.py:hot", recipe("rft")).sample.temperature == 1.5
