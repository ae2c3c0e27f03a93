"""A model whose weights are spread over several processes, each with a device of its own (FSDP).

`spread(model, ...)` leaves every process a part of each weight, of its gradient and of the optimiser's moments. What
the others have is fetched when a layer is run, forwards and backwards, and let go of after it. `Ranks` is how the
processes agree: who runs what (`share`), sums, and decisions that all must take alike.

This is `fully_shard` of torch (FSDP2; Zhao et al. 2023, arXiv 2304.11277; ZeRO, arXiv 1910.02054), which accelerate
calls, too: what accelerate adds, dealing out batches and writing checkpoints, is done here by the rules of our own. The
weights stay under their own names, and a frozen weight may have another dtype than a trained one. Each layer of the
model is a unit; embeddings, last norm and output layer, of which two may be one tensor, are the outermost. Gradients
are summed over processes, not averaged: the losses of a step's micro-batches sum to the loss of the step.

What leaves here is whole and on the CPU (`whole`, `whole_state`), so that files are the same for any number of
processes.

Not handled: several machines, copies of the parts (HSDP), tensor parallelism. Tested with gloo on CPUs: on several GPUs
(NCCL) it has not been run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that train together this one is. Each method must be called by all of them, in step."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is this one that writes files, validates, and speaks to the user."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        return flag if self.size == 1 else bool(self._reduced(torch.tensor(int(flag)), dist.ReduceOp.MAX))

    def first(self, number: float) -> float:
        """The first one's number, exactly."""
        return float(self.total(torch.tensor(number if self.leads else 0.0, dtype=torch.float64)))

    def total(self, numbers: Tensor) -> Tensor:
        """Sums over them, in float64 on the CPU; same shape."""
        numbers = numbers.detach().double().cpu()
        return numbers if self.size == 1 else self._reduced(numbers, dist.ReduceOp.SUM)

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)

    def share(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """This one's part of the items, and whether it counts: one that has nothing left to do goes through the last
        of them once more, as the others need it to take part, and must not count it."""
        for first in range(0, len(items), self.size):
            place = first + self.rank
            yield (items[place], True) if place < len(items) else (items[-1], False)

    def _reduced(self, numbers: Tensor, how: Any) -> Tensor:
        dist.all_reduce(numbers, how)  # on the CPU, by gloo: a GPU is not waited for
        return numbers


# --- weights


class Root(nn.Module):
    """Calls a function on a spread model; the weights that belong to no layer are there for the time of the call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], Tensor]) -> Tensor:
        """`function` of the model. What it returns must be a tensor: its gradient tells FSDP that a backward begins."""
        return function(self.model)


def spread(model: nn.Module, device: str, size: int) -> nn.Module:
    """Cuts the model's weights into `size` parts, of which this process keeps its own, on its device.

    Args:
        model: whole, the same in all processes; on the CPU or on `device`. It is changed in place.
        device: of this process.
        size: how many processes there are.

    Returns:
        A `Root`: passes through the model must go through it.
    """
    mesh = init_device_mesh(torch.device(device).type, (size,))
    root = Root(model)
    for module in [*_layers(model), root]:
        unit = fully_shard(module, mesh=mesh)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return root


def release(root: nn.Module) -> None:
    """Lets go of what the others have. After a backward pass that is done already; one without gradients needs it."""
    assert isinstance(root, FSDPModule)
    root.reshard()


def _layers(model: Any) -> list[nn.Module]:
    """Those that transformers says must stay in one piece on one device; none where it says nothing."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = getattr(plain, "_no_split_modules", None) or ()
    return [module for module in plain.modules() if type(module).__name__ in names]


# --- whole tensors


def whole(tensor: Tensor) -> Tensor:
    """All of a spread tensor, on the CPU of the first process, and nothing in the others; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if dist.get_rank() == 0 else full.new_empty(0, device="cpu")


def whole_state(model: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
    """Weights by name, whole; what is one tensor under two names still is."""
    found: dict[int, Tensor] = {}
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    if trained_only:
        state = {name: tensor for name, tensor in state.items() if tensor.requires_grad}
    for tensor in state.values():
        if id(tensor) not in found:
            found[id(tensor)] = whole(tensor.detach())
    return {name: found[id(tensor)] for name, tensor in state.items()}


def own_part(full: Tensor, like: Tensor) -> Tensor:
    """What this process keeps of a whole tensor, if `like` is spread and of its shape; else the tensor itself.

    Nothing is sent: each process has the whole one, read from the same file.
    """
    if not isinstance(like, DTensor) or full.shape != like.shape:
        return full
    placed = distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(placed).copy_(placed)  # not a view of the whole


def n_own(tensor: Tensor) -> int:
    """How many of the tensor's numbers are in this process."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()
