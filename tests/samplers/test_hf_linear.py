"""Linear layers by oneDNN: the same numbers and gradients as torch's own, where they are used at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.samplers import hf_linear, hf_model

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that gains by it."""
    monkeypatch.setattr(hf_linear, "gains", lambda: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what oneDNN is given."""
    seen: list[tuple[int, ...]] = []
    product = hf_linear._product

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(x.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(hf_linear, "_product", counted)
    return seen


def case(shape: tuple[int, ...], columns: int, bias: bool, kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(len(shape) + columns)
    x = torch.randn(shape)
    if kind == "transposed":
        x = torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    elif kind == "expanded":
        x = torch.randn(1, *shape[1:]).expand(shape)
    elif kind == "part":
        x = torch.randn(*shape[:-1], shape[-1] + 3)[..., 1 : shape[-1] + 1]
    return x, torch.randn(columns, shape[-1]), torch.randn(columns) if bias else None


@pytest.mark.parametrize("kind", ["plain", "transposed", "expanded", "part"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "columns"), [((32, 8), 5), ((33, 1), 1), ((4, 16, 24), 48), ((2, 3, 40, 7), 130), ((513, 192), 64)]
)
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], columns: int, bias: bool, kind: str, everywhere: None, calls: list[tuple[int, ...]]
) -> None:
    results = []
    for function in (functional.linear, hf_linear.linear):
        x, weight, added = case(shape, columns, bias, kind)
        leaves = [each.requires_grad_() for each in (x, weight, added) if each is not None]
        out = function(x, weight, added)
        loss = (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum()
        results.append([out.detach(), *torch.autograd.grad(loss, leaves)])
    assert len(calls) == 3  # forwards, and backwards to x and to the weight
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_a_gradient_that_is_one_number_repeated(everywhere: None) -> None:
    layer = hf_linear.QuickLinear(6, 4)
    x = torch.randn(40, 6, requires_grad=True)
    layer(x).sum().backward()  # the gradient of a sum has strides of 0
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(40, 6))
    torch.testing.assert_close(layer.weight.grad, x.detach().sum(0).expand(4, 6))


def test_frozen_weights_cost_no_product(everywhere: None, calls: list[tuple[int, ...]]) -> None:
    layer = hf_linear.QuickLinear(6, 4).requires_grad_(False)
    x = torch.randn(40, 6, requires_grad=True)
    layer(x).pow(2).sum().backward()
    assert len(calls) == 2
    assert layer.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("what", ["few rows", "no rows", "bfloat16", "float64", "autocast", "another CPU"])
def test_what_does_not_suit_is_left_to_torch(
    what: str, everywhere: None, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"few rows": hf_linear.MIN_ROWS - 1, "no rows": 0}.get(what, 64)
    dtype = {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(what, torch.float32)
    x, weight = torch.randn(rows, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype)
    if what == "another CPU":
        monkeypatch.setattr(hf_linear, "gains", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=what == "autocast"):
        assert torch.equal(hf_linear.linear(x, weight, None), functional.linear(x, weight))
    assert not calls


def test_a_models_layers_and_names_stay(zoo: SimpleNamespace, tiny: Path, everywhere: None) -> None:
    plain = zoo.llama(len(zoo.tokenizer()), 1, eos_token_id=1, bos_token_id=0)  # what is saved in `tiny`
    quick: Any = hf_model.load_model(tiny, "float32", "cpu", False)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(module, hf_linear.QuickLinear) for module in quick.modules()) == 2 * 7 + 1
    ids = torch.arange(3, 63).view(2, 30)
    torch.testing.assert_close(quick(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-4)
