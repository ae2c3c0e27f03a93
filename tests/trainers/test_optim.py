"""The optimiser step against transformers' schedules and Trainer, and steps that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch import nn

from harness.errors import InputError, UnknownName
from harness.trainers.optim import Optim, adamw, decay_excluded, optimiser_step, schedule_factor


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_are_those_of_transformers(schedule, warmup):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = transformers.get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=11)
    config = Optim(schedule=schedule, warmup_steps=warmup)
    for step in range(12):
        assert schedule_factor(step, 11, config) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "GPT2", "OPT", "Gemma2", "GPTNeoX", "Bloom"])
def test_what_does_not_decay_is_what_transformers_leaves_out(build, name):
    model = build(name)
    decays = transformers.Trainer.get_decay_parameter_names(None, model)
    assert decay_excluded(model) == {n for n, _ in model.named_parameters()} - set(decays)


def test_norms_and_biases_do_not_decay(llama):
    excluded = decay_excluded(llama)
    assert excluded == {n for n, _ in llama.named_parameters() if "norm" in n}
    optimiser = adamw(llama, Optim(weight_decay=0.1))
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.0]
    names = {parameter: name for name, parameter in llama.named_parameters()}
    decays, stays = ({names[parameter] for parameter in group["params"]} for group in optimiser.param_groups)
    assert stays == excluded
    assert decays == set(names.values()) - excluded


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in adamw(model, Optim()).param_groups) == 2


def step_of(model, optimiser, gradient, config, step=0):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    return optimiser_step(optimiser, step=step, total_steps=10, config=config)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    torch.manual_seed(0)
    model, config = nn.Linear(3, 2), Optim(learning_rate=0.1, weight_decay=0.1)
    optimiser = adamw(model, config)
    assert not step_of(model, optimiser, 1.0, config).skipped
    weights = [p.detach().clone() for p in model.parameters()]
    moments = [s["exp_avg"].clone() for s in optimiser.state.values()]
    done = step_of(model, optimiser, bad, config, step=1)
    assert done.skipped
    assert not math.isfinite(done.grad_norm)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))
    assert all(torch.equal(s["exp_avg"], m) for s, m in zip(optimiser.state.values(), moments, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not step_of(model, optimiser, 1.0, config, step=2).skipped
    assert not any(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(("max_norm", "scale"), [(0.5, 0.5 / (2 * math.sqrt(8))), (0.0, 1.0), (100.0, 1.0)])
def test_clipping_scales_all_gradients_together(max_norm, scale):
    model = nn.Linear(3, 2)
    config = Optim(max_norm=max_norm, epsilon=1e3, learning_rate=1.0)  # so large an epsilon that a step is lr g / eps
    before = model.weight.detach().clone()
    done = step_of(model, adamw(model, config), 2.0, config)
    assert done.grad_norm == pytest.approx(2 * math.sqrt(8))
    torch.testing.assert_close(before - model.weight.detach(), torch.full((2, 3), 2e-3 * scale), rtol=1e-2, atol=1e-6)


def test_errors_say_what_to_do():
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        Optim(schedule="cosin")
    with pytest.raises(InputError, match="must be from 0"):
        Optim(warmup_steps=-1)
