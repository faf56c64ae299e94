"""What is asked of the processes that train together: one, or torch's default group."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["from_all", "from_first", "gathered", "movable", "process_count", "sum_of_all", "together", "union_of_all"]


def together() -> bool:
    """Return whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def process_count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if together() else 1


def movable(values: Tensor) -> Tensor:
    """Return ``values`` where the group can move them: NCCL only on the GPU, others on the CPU."""
    if together() and dist.get_backend() == "nccl":
        return values.cuda()
    return values.cpu() if together() or values.device.type == "mps" else values


def sum_of_all(values: Tensor) -> Tensor:
    """Return the sum of ``values`` over all ranks, the same bits on each; a collective."""
    if not together():
        return values
    total = movable(values).clone()
    dist.all_reduce(total)
    return total.to(values.device)


def gathered(values: Tensor) -> list[Tensor]:
    """Return the ``values`` of each rank, all of one shape; a collective."""
    if not together():
        return [values]
    own = movable(values).contiguous()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    return [part.to(values.device) for part in parts]


def from_first(values: Tensor) -> Tensor:
    """Return what rank 0 passed, on every rank; all pass tensors of one shape. A collective."""
    if not together():
        return values
    carrier = movable(values).clone().contiguous()
    dist.broadcast(carrier, src=0)
    return carrier.to(values.device)


def union_of_all(labels: list[int]) -> list[int]:
    """Return the sorted union of all ranks' labels; a collective."""
    return sorted({label for one in from_all(labels) for label in one})


def from_all(value: Any) -> list[Any]:
    """Return what each rank passed, anything that can be pickled, in the order of ranks; a collective."""
    if not together():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
