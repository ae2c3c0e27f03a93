"""Linear layers by oneDNN: the same numbers as torch's own, where they are used at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from harness.samplers import hf_linear, hf_model
from harness.samplers.hf_linear import QuickLinear, quicken

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that gains by it, from 32 x 8 x 4 products on."""
    monkeypatch.setattr(hf_linear, "gains", lambda: True)
    monkeypatch.setattr(hf_linear, "MIN_PRODUCTS", 1024)
    torch.manual_seed(0)


def by_onednn(layer: nn.Module, x: Tensor) -> tuple[Any, bool]:
    """What the layer gives, and whether oneDNN did it."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        out = layer(x)
    return out, any(event.key == "mkldnn::_linear_pointwise" for event in seen.key_averages())


@pytest.mark.parametrize("kind", ["plain", "transposed", "expanded", "part"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "columns"), [((32, 8), 5), ((1025, 1), 1), ((4, 16, 24), 48), ((2, 3, 40, 7), 130), ((513, 192), 64)]
)
def test_values_are_those_of_torch(shape: tuple[int, ...], columns: int, bias: bool, kind: str) -> None:
    x = torch.randn(shape)
    if kind == "transposed":
        x = torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    elif kind == "expanded":
        x = torch.randn(1, *shape[1:]).expand(shape)
    elif kind == "part":
        x = torch.randn(*shape[:-1], shape[-1] + 3)[..., 1 : shape[-1] + 1]
    plain, quick = nn.Linear(shape[-1], columns, bias=bias), QuickLinear(shape[-1], columns, bias=bias)
    quick.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        ours, by_it = by_onednn(quick, x)
        theirs = plain(x)
    assert by_it
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    "what", ["few rows", "no rows", "no columns", "bfloat16", "float64", "autocast", "no gradient", "training"]
)
def test_what_does_not_suit_is_left_to_torch(what: str) -> None:
    rows, columns = {"few rows": (31, 4), "no rows": (0, 4), "no columns": (64, 0)}.get(what, (64, 4))
    dtype = {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(what, torch.float32)
    x, weight = torch.randn(rows, 8, dtype=dtype), nn.Parameter(torch.randn(columns, 8, dtype=dtype))
    quick, plain = QuickLinear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
    for layer in (quick, plain):
        layer.weight, layer.out_features = weight, columns
    mode = {"no gradient": torch.no_grad, "training": torch.enable_grad}.get(what, torch.inference_mode)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=what == "autocast"):
        ours, by_it = by_onednn(quick, x)
        assert torch.equal(ours, plain(x))
    assert not by_it
    assert ours.requires_grad == (what == "training")


def test_a_models_layers_and_names_stay(zoo: SimpleNamespace, tiny: Path) -> None:
    plain = zoo.llama(len(zoo.tokenizer()), 1, eos_token_id=1, bos_token_id=0)  # what is saved in `tiny`
    quick: Any = hf_model.load_model(tiny, "float32", "cpu", False)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(module, QuickLinear) for module in quick.modules()) == 2 * 7 + 1
    ids = torch.arange(3, 63).view(2, 30)
    with torch.inference_mode():
        found, by_it = by_onednn(quick, ids)
        torch.testing.assert_close(found.logits, plain(ids).logits, atol=1e-5, rtol=1e-4)
    assert by_it


def test_other_machines_keep_torchs_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_linear, "gains", lambda: False)
    layers = nn.Sequential(nn.Linear(8, 4))
    quicken(layers)
    assert type(layers[0]) is nn.Linear
