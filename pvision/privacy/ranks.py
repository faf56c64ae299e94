"""The processes that train together, as far as the mechanism needs them."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Ranks"]


class Ranks:
    """The processes of one training run: one, or those of torch's default process group.

    Attributes:
        rank: number of this process, from 0.
        world_size: how many there are.

    Example:
        >>> Ranks().world_size
        1
    """

    def __init__(self) -> None:
        self._together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self._together else 0
        self.world_size = dist.get_world_size() if self._together else 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which keeps the ledger and draws the noise."""
        return self.rank == 0

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all ranks, the same bits on each; a collective."""
        if self._together:
            dist.all_reduce(values)
        return values

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, rank by rank, on every rank; they may have unequally many. A collective."""
        if not self._together:
            return rows
        counts = self.add_up(torch.eye(self.world_size, dtype=torch.int64, device=rows.device)[self.rank] * len(rows))
        most = int(counts.max())
        filled = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(filled) for _ in range(self.world_size)]
        dist.all_gather(parts, filled)
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])

    def from_first(self, secret: bytes) -> bytes:
        """Return what rank 0 passed, on every rank; a collective."""
        if not self._together:
            return secret
        # NCCL moves only what lies on the GPU.
        device = f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"
        carrier = torch.tensor(list(secret), dtype=torch.uint8, device=device)
        dist.broadcast(carrier, src=0)
        return bytes(carrier.tolist())

    def count_of_first(self, count: int) -> int:
        """Return the non-negative number that rank 0 passed, on every rank; a collective."""
        return int.from_bytes(self.from_first(count.to_bytes(8, "big")), "big")
