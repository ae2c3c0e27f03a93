"""Losses by hand, their gradients on what they must not look at, and that micro-batches add up."""

from __future__ import annotations

import math

import pytest
import torch

from harness.errors import InputError, UnknownName
from harness.trainers.losses import (
    KINDS,
    PolicyLoss,
    dpo_loss,
    kl_terms,
    nll_loss,
    normaliser,
    policy_loss,
    summarise,
)

nan, inf = math.nan, math.inf


def numbers(rows):
    return torch.tensor(rows, dtype=torch.float64)


LOGPROBS = numbers([[-1.0, -2.0, -0.5], [-0.7, -1.5, nan], [-3.0, nan, nan]])
OLD = numbers([[-1.5, -2.0, -0.4], [-0.2, -1.6, nan], [-2.0, nan, inf]])
REFERENCE = numbers([[-1.1, -2.5, -0.5], [-0.9, -1.4, nan], [-2.5, nan, nan]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
ADVANTAGES = numbers([1.0, -2.0, 0.5])
LOW, HIGH = 0.2, 0.28


def clip(ratio, advantage):
    return -min(ratio * advantage, min(max(ratio, 1 - LOW), 1 + HIGH) * advantage)


def by_hand(kind):
    """The sum over the batch before it is divided by Z, in plain Python."""
    e, total = math.exp, 0.0
    for row in range(3):
        places = [t for t in range(3) if MASK[row, t]]
        a = float(ADVANTAGES[row])
        now, old = ([float(x[row, t]) for t in places] for x in (LOGPROBS, OLD))
        ratios = [e(x - y) for x, y in zip(now, old, strict=True)]
        if kind == "cispo":
            total += sum(-min(r, 5.0) * a * x for r, x in zip(ratios, now, strict=True))
        elif kind == "reinforce":
            total += sum(-a * x for x in now)
        elif kind == "gspo":
            total += clip(e((sum(now) - sum(old)) / len(places)), a)
        elif kind == "rloo":
            total += clip(e(sum(now) - sum(old)), a)
        elif kind == "grpo":
            total += sum(clip(r, a) for r in ratios) / len(places)
        elif kind == "bnpo":
            total += sum(clip(r, a) for r in ratios) / 6
        else:
            total += sum(clip(r, a) for r in ratios)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_by_hand(kind):
    config = PolicyLoss(type=kind)
    z = normaliser(config, n_tokens=6, n_rows=3, max_completion_tokens=5, n_micro_batches=1)
    assert z == {"rows": 3, "tokens": 6, "constant": 15, "micro_batch": 1}[config.kind.average]
    loss, stats = policy_loss(LOGPROBS, MASK, advantages=ADVANTAGES, normaliser=z, config=config, old_logprobs_BT=OLD)
    assert float(loss) == pytest.approx(by_hand(kind) / z, rel=1e-12)
    assert int(stats["tokens"]) == 6


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bnpo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_micro_batches_add_up(kind, beta):
    config = PolicyLoss(type=kind, beta=beta)
    z = normaliser(config, n_tokens=6, n_rows=3, max_completion_tokens=5)

    def loss_of(rows, width):
        given = [x[rows, :width] for x in (LOGPROBS, MASK, OLD, REFERENCE)]
        logprobs = given[0].clone().requires_grad_()
        loss, stats = policy_loss(
            logprobs,
            given[1],
            advantages=ADVANTAGES[rows],
            normaliser=z,
            config=config,
            old_logprobs_BT=given[2],
            reference_logprobs_BT=given[3],
        )
        loss.backward()
        return float(loss.detach()), logprobs.grad, stats

    whole, gradient, stats = loss_of([0, 1, 2], 3)
    first, second = loss_of([2, 1], 2), loss_of([0], 3)
    assert first[0] + second[0] == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(first[1], gradient[[2, 1], :2])
    torch.testing.assert_close(second[1], gradient[[0]])
    parts, total = summarise([first[2], second[2]]), summarise([stats])
    assert parts == pytest.approx(total)
    assert total["tokens"] == 6
    assert torch.equal(gradient[~MASK], torch.zeros(3, dtype=torch.float64)), "masked tokens have no gradient at all"


def entropies(logits):
    p = logits.softmax(-1)
    return -(p * p.log()).sum(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_entropy_bonus_is_taken_off_by_the_average_of_the_type(kind):
    """Value and gradient with respect to logits, where dH / dz_v = -p_v (log p_v + H) is by hand."""
    logits = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = normaliser(PolicyLoss(type=kind), n_tokens=6, n_rows=3, max_completion_tokens=5, n_micro_batches=1)
    given = {"advantages": ADVANTAGES, "normaliser": z, "old_logprobs_BT": OLD}
    without, _ = policy_loss(LOGPROBS, MASK, config=PolicyLoss(type=kind), **given)
    leaf = logits.clone().requires_grad_()
    config = PolicyLoss(type=kind, entropy=0.3)
    loss, stats = policy_loss(LOGPROBS, MASK, config=config, entropy_BT=entropies(leaf), **given)
    loss.backward()
    lengths = MASK.sum(-1, keepdim=True)
    share = {"rows": 1 / (3 * lengths), "tokens": 1 / 6, "constant": 1 / 15, "micro_batch": 1 / 6}
    weight_BT = share[config.kind.average] * MASK  # of each token's entropy
    entropy_BT, p = entropies(logits), logits.softmax(-1)
    torch.testing.assert_close(loss - without, -0.3 * (weight_BT * entropy_BT).sum())
    torch.testing.assert_close(leaf.grad, 0.3 * weight_BT[..., None] * p * (p.log() + entropy_BT[..., None]))
    assert not leaf.grad[~MASK].any()
    assert summarise([stats])["full_entropy"] == pytest.approx(float(entropy_BT[MASK].mean()))


def test_a_bonus_needs_entropies_and_rows_without_advantage():
    assert PolicyLoss().may_skip
    assert not PolicyLoss(entropy=1e-3).may_skip
    with pytest.raises(InputError, match="pass entropy_BT"):
        policy_loss(LOGPROBS, MASK, advantages=ADVANTAGES, normaliser=6, config=PolicyLoss(entropy=1e-3))
    with pytest.raises(InputError, match="must be a number"):
        PolicyLoss(entropy=nan)


def test_a_divergence_in_the_reward_is_not_in_the_loss():
    config = PolicyLoss(type="rloo", beta=0.1, kl_in_reward=True)
    assert config.may_skip
    given = {"advantages": ADVANTAGES, "normaliser": 3, "old_logprobs_BT": OLD}
    loss, stats = policy_loss(LOGPROBS, MASK, config=config, **given)
    assert loss == policy_loss(LOGPROBS, MASK, config=PolicyLoss(type="rloo"), **given)[0]
    assert "kl" not in stats


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_every_type_has_the_gradient_of_reinforce(kind):
    """With ratios of 1 nothing is clipped, and only the weights of the tokens differ."""
    logprobs = LOGPROBS.clone().requires_grad_()
    loss, _ = policy_loss(logprobs, MASK, advantages=ADVANTAGES, normaliser=1.0, config=PolicyLoss(type=kind))
    loss.backward()
    lengths = MASK.sum(1, keepdim=True)
    share = {"grpo": 1 / lengths, "gspo": 1 / lengths, "bnpo": 1 / 6}.get(kind, 1.0)
    torch.testing.assert_close(logprobs.grad, -(ADVANTAGES[:, None] * share * MASK))


def test_zero_advantage_has_no_gradient_unless_there_is_kl():
    config = PolicyLoss()
    assert config.may_skip
    assert not PolicyLoss(beta=0.1).may_skip
    logprobs = LOGPROBS.clone().requires_grad_()
    loss, _ = policy_loss(logprobs, MASK, advantages=torch.zeros(3), normaliser=6.0, config=config, old_logprobs_BT=OLD)
    loss.backward()
    assert not logprobs.grad.any()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_ratios_beyond_float_range_stay_finite(advantage):
    logprobs = numbers([[-1.0, -1.0]]).requires_grad_()
    old = numbers([[-2000.0, -1.0]])
    loss, _ = policy_loss(
        logprobs,
        torch.ones(1, 2),
        advantages=numbers([advantage]),
        normaliser=2.0,
        config=PolicyLoss(),
        old_logprobs_BT=old,
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logprobs.grad).all()


def test_two_sided_clipping_bounds_bad_completions():
    config = PolicyLoss(delta=4.0)
    arguments = {"advantages": numbers([-1.0]), "normaliser": 1.0, "old_logprobs_BT": numbers([[-9.0]])}
    bounded, _ = policy_loss(numbers([[-1.0]]), torch.ones(1, 1), config=config, **arguments)
    free, _ = policy_loss(numbers([[-1.0]]), torch.ones(1, 1), config=PolicyLoss(), **arguments)
    assert float(bounded) == pytest.approx(4.0)
    assert float(free) == pytest.approx(math.exp(8))


def test_clipped_shares_and_kl_are_means_over_tokens():
    config = PolicyLoss(beta=0.1, kl="k2", kl_bias_correction=False)
    _, stats = policy_loss(
        LOGPROBS,
        MASK,
        advantages=ADVANTAGES,
        normaliser=6.0,
        config=config,
        old_logprobs_BT=OLD,
        reference_logprobs_BT=REFERENCE,
    )
    found = summarise([stats])
    # ratios e^.5 e^0 e^-.1 with A > 0, e^-.5 e^.1 with A < 0, e^-1 with A > 0
    assert found["clipped_high"] == pytest.approx(1 / 6)
    assert found["clipped_low"] == pytest.approx(1 / 6)
    squares = sum(d * d / 2 for d in (0.1, 0.5, 0.0, 0.2, 0.1, 0.5))
    assert found["kl"] == pytest.approx(squares / 6)


def test_weights_are_on_the_loss_and_not_on_the_divergence():
    """One token, A = 2, ratio e^0.5 clipped to 1.28, weight 3; k3 of d = 0.2, times the ratio."""
    logprobs = numbers([[-1.0]]).requires_grad_()
    loss, _ = policy_loss(
        logprobs,
        torch.ones(1, 1),
        advantages=numbers([2.0]),
        normaliser=4.0,
        config=PolicyLoss(beta=0.1),
        old_logprobs_BT=numbers([[-1.5]]),
        reference_logprobs_BT=numbers([[-1.2]]),
        weights=numbers([[3.0]]),
    )
    loss.backward()
    ratio, k3, slope = math.exp(0.5), math.exp(-0.2) + 0.2 - 1, 1 - math.exp(-0.2)
    assert float(loss.detach()) == pytest.approx((-3 * 1.28 * 2 + 0.1 * k3 * ratio) / 4)
    assert float(logprobs.grad) == pytest.approx(0.1 * ratio * (k3 + slope) / 4), "also through the ratio"


@pytest.mark.parametrize(("kind", "corrected"), [("k2", False), ("k3", True)])
def test_kl_gradient_is_that_of_the_reverse_divergence(kind, corrected):
    """Summed over all of a small vocabulary, on policy: the gradient of KL(p || q) itself."""
    logits = numbers([0.3, -1.0, 0.7]).requires_grad_()
    log_q = numbers([-0.5, 0.2, 1.0]).log_softmax(-1)
    log_p = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), logits, retain_graph=True)
    ratio = torch.exp(log_p - log_p.detach()) if corrected else 1.0
    surrogate = (log_p.detach().exp() * kl_terms(log_p - log_q, kind) * ratio).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_estimates_are_unbiased(kind):
    log_p, log_q = numbers([0.3, -1.0, 0.7]).log_softmax(-1), numbers([-0.5, 0.2, 1.0]).log_softmax(-1)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close((log_p.exp() * kl_terms(log_p - log_q, kind)).sum(), exact)


def test_a_row_of_weight_two_is_the_row_twice():
    weights = numbers([1.0, 2.0, 1.0])
    once, stats = nll_loss(LOGPROBS, MASK, normaliser=8.0, weights=weights)
    twice, _ = nll_loss(LOGPROBS[[0, 1, 1, 2]], MASK[[0, 1, 1, 2]], normaliser=8.0)
    assert float(once) == pytest.approx(float(twice), rel=1e-12)
    assert float(once) == pytest.approx((3.5 + 2 * 2.2 + 3.0) / 8)
    assert summarise([stats]) == pytest.approx({"tokens": 6, "nll": 8.7 / 6})


def test_dpo_by_hand():
    one = numbers([-4.0, -3.0])
    loss, stats = dpo_loss(
        one,
        one - 1,
        reference_chosen_B=one - 0.5,
        reference_rejected_B=one + 1.0,
        normaliser=2,
        beta=0.4,
    )
    assert float(loss) == pytest.approx(math.log1p(math.exp(-0.4 * 2.5)))
    assert summarise([stats]) == pytest.approx({"pairs": 2, "margin": 1.0, "preferred": 1.0})


def test_errors_say_what_to_do():
    with pytest.raises(UnknownName, match="did you mean 'grpo'"):
        PolicyLoss(type="gprpo")
    with pytest.raises(UnknownName, match="level of the importance ratio"):
        PolicyLoss(level="word")
    with pytest.raises(UnknownName, match="KL estimate 'k4'"):
        PolicyLoss(kl="k4")
    with pytest.raises(InputError, match="above 1 \\+ clip_high"):
        PolicyLoss(delta=1.1)
    with pytest.raises(InputError, match=r"clip_low 1\.5"):
        PolicyLoss(clip_low=1.5)
    with pytest.raises(InputError, match="needs max_completion_tokens"):
        normaliser(PolicyLoss(type="dr_grpo"), n_tokens=1, n_rows=1)
    with pytest.raises(InputError, match="no reference log-probabilities"):
        policy_loss(LOGPROBS, MASK, advantages=ADVANTAGES, normaliser=1.0, config=PolicyLoss(beta=1.0))
