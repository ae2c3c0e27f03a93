"""Placebos: a treatment with one field changed, so that what is left of its effect is not what the field is for.

`control(name, treatment)` applies one by its word (`harness ls control`). Each changes one field of a treatment, which
its first line names; `one_iteration_3x` changes two that are one thing: three iterations' samples in one. Reward terms
that a control replaces stay with weight 0, so that the true reward is still reported.

Rewards (arXiv 2506.10947 found that some models learn from random ones): `random_reward`, `matched_reward`,
`wrong_label`, `format_only`, `majority_reward`. Rows: `no_verification`, `matched_rows`, `one_per_problem`. The loop:
`one_iteration_3x`, `frozen`. Not handled: equal budgets of tokens (every run reports what it used).
"""

from __future__ import annotations

import msgspec

from harness import registry
from harness.errors import InputError
from harness.recipes import Reward, Selection, TermUse, Treatment


def control(name: str, treatment: Treatment) -> Treatment:
    """The treatment under a control: a word of `harness ls control`, or `file.py:function` of your own.

    Raises:
        UnknownName: no such control; names the nearest.
        InputError: the control has no meaning for this treatment.
    """
    changed: Treatment = registry.find("control", name)(treatment)
    if treatment.source == "none" and changed.improve == treatment.improve:
        raise InputError(f"{treatment.name} samples nothing: the control {name} has no meaning for it.")
    if changed == treatment:
        raise InputError(f"the control {name} changes nothing of {treatment.name}: leave it out.")
    return changed


def random_reward(treatment: Treatment) -> Treatment:
    """reward: a fair coin, by problem id and index alone."""
    return _only_term(treatment, "random", TermUse(args={"probability": 0.5}))


def matched_reward(treatment: Treatment) -> Treatment:
    """reward: the true rewards of each problem, dealt out at random among its completions.

    A threshold then keeps as many completions of each problem as it really would, and a group has the advantages that
    it really has, on other completions.
    """
    return msgspec.structs.replace(treatment, reward=msgspec.structs.replace(treatment.reward, shuffled=True))


def wrong_label(treatment: Treatment) -> Treatment:
    """reward: 1 for wrong completions, 0 for right ones."""
    return _only_term(treatment, "wrong_label", TermUse())


def format_only(treatment: Treatment) -> Treatment:
    """reward: the treatment's own format term, or else 1 where an answer or a program was found, right or wrong."""
    own = treatment.reward.terms.get("format")
    if own is None:
        return _only_term(treatment, "extracted", TermUse())
    args = own.args if isinstance(own, TermUse) else {}
    return _only_term(treatment, "format", TermUse(args=args))


def majority_reward(treatment: Treatment) -> Treatment:
    """reward: 1 where the answer is the most frequent one of its problem; no labels are used."""
    return _only_term(treatment, "majority", TermUse())


def no_verification(treatment: Treatment) -> Treatment:
    """select: nothing that looks at the reward; as many completions of a problem, but any.

    No threshold, no variance filter, weights of 1, and the best of a problem become random ones of it.
    """
    select = _select_of(treatment, "no_verification")
    if select.pairs is not None:
        raise InputError(
            f"{treatment.name} pairs right with wrong completions: use the control matched_reward instead."
        )
    limits = [most for most in (select.top, select.cap) if most is not None]
    changed = msgspec.structs.replace(
        select, threshold=None, variance=False, weight="ones", top=None, cap=min(limits, default=None)
    )
    return msgspec.structs.replace(treatment, select=changed)


def matched_rows(treatment: Treatment) -> Treatment:
    """select: in place of the rows of a problem the dataset's own solution; the other arm is `one_per_problem`.

    The same problems as the treatment's, one human row each: the paper's SFT (5K) beside ReST* (5K), arXiv 2312.06585.
    """
    select = msgspec.structs.replace(_select_of(treatment, "matched_rows"), human="matched")
    return msgspec.structs.replace(treatment, select=select)


def one_per_problem(treatment: Treatment) -> Treatment:
    """select: one row of each problem, and none of the dataset's own."""
    select = msgspec.structs.replace(_select_of(treatment, "one_per_problem"), cap=1, human="none")
    return msgspec.structs.replace(treatment, select=select)


def one_iteration_3x(treatment: Treatment) -> Treatment:
    """iterations and sample: one iteration with three times the samples (arXiv 2312.06585, section 4.2).

    It costs as much sampling as three iterations: it is the control of a treatment that has three.
    """
    if not treatment.uses_rows:
        raise InputError(f"{treatment.name} samples afresh at every step: one_iteration_3x has no meaning for it.")
    sample = msgspec.structs.replace(treatment.sample, n=3 * (treatment.sample.n or 1))
    return msgspec.structs.replace(treatment, iterations=1, sample=sample)


def frozen(treatment: Treatment) -> Treatment:
    """improve, on_policy or external: a learning rate of 0.

    Everything is done, saved and evaluated as ever, and no weight changes: what is left is the noise of the evaluation
    and whatever saving and loading do to a model.
    """
    external = treatment.external
    if external is not None:
        if "learning_rate" not in external.args:
            raise InputError(
                f"{treatment.name} has no external.args.learning_rate that the control frozen could set to 0."
            )
        args = {**external.args, "learning_rate": 0.0}
        return msgspec.structs.replace(treatment, external=msgspec.structs.replace(external, args=args))
    if treatment.on_policy is not None:
        on_policy = msgspec.structs.replace(treatment.on_policy, learning_rate=0.0)
        return msgspec.structs.replace(treatment, on_policy=on_policy)
    return msgspec.structs.replace(treatment, improve=msgspec.structs.replace(treatment.improve, learning_rate=0.0))


def _only_term(treatment: Treatment, name: str, use: TermUse) -> Treatment:
    """The reward is this term; the others, without their gates, are reported beside it."""
    others = {
        other: msgspec.structs.replace(before, weight=0.0, gate=None) if isinstance(before, TermUse) else 0.0
        for other, before in treatment.reward.terms.items()
    }
    return msgspec.structs.replace(treatment, reward=Reward(terms={**others, name: use}))


def _select_of(treatment: Treatment, name: str) -> Selection:
    if not treatment.uses_rows:
        raise InputError(f"{treatment.name} selects no rows: the control {name} has no meaning for it.")
    return treatment.select
