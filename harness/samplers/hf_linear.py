"""Linear layers of a model on an AMD CPU, computed by oneDNN: `quicken(model)` changes how, not what, they compute.

PyTorch multiplies float32 matrices on a CPU with Intel's MKL, which keeps its AVX-512 code for Intel's processors.
oneDNN, which PyTorch has on board for other types, takes less than half of the time on an EPYC (one thread, 192 to 2048
columns: 200 to 220 GFLOP/s beside 85 to 100). Products of fewer than `MIN_ROWS` rows are left to MKL, which has less to
set up.

Not handled: layers that are not `nn.Linear` (GPT-2's, say), types other than float32, derivatives of derivatives.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_ROWS = 32


@functools.cache
def gains() -> bool:
    """Whether this machine has a CPU that MKL is slow on, and oneDNN is not."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    if "AuthenticAMD" not in text or "avx512f" not in text:
        return False
    with_both: bool = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return with_both


def quicken(model: nn.Module) -> None:
    """Lets the linear layers of `model` be computed by oneDNN, where that gains. Weights and names stay as they are."""
    if gains():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = QuickLinear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.linear`: (..., I) times (O, I) transposed."""
    suits = (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and gains()
    )
    if not suits:
        return functional.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


class QuickLinear(nn.Linear):
    """`nn.Linear`, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.t()) if to_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found
