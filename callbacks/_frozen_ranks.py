"""How several processes stop together, and make sure that they hold the same."""

import torch
import torch.distributed as dist

from pvision.continual._collectives import from_all, together
from pvision.errors import ConfigError

__all__ = ["same_everywhere", "stop_together"]


def stop_together(fault: str | None, *, device: torch.device) -> None:
    """Raise on all processes if one has found a fault, so that none waits for the others.

    Args:
        fault: what this process has found.
        device: on which the group can exchange a number.

    Raises:
        ConfigError: with the fault.
    """
    if not together():
        if fault is not None:
            raise ConfigError(fault)
        return
    count = torch.tensor([fault is not None], dtype=torch.int32, device=device)
    dist.all_reduce(count)
    if int(count) == 0:
        return
    rank, found = next((rank, one) for rank, one in enumerate(from_all(fault)) if one is not None)
    raise ConfigError(f"Process {rank}: {found}")


def same_everywhere(sha256: str) -> None:
    """Refuse frozen weights that differ between processes; each calls this.

    Raises:
        ConfigError: naming each process' hash.
    """
    hashes = from_all(sha256)
    if len(set(hashes)) > 1:
        told = ", ".join(f"{one[:12]}… on process {rank}" for rank, one in enumerate(hashes))
        raise ConfigError(
            f"The processes hold different frozen weights: frozen_sha256 is {told}. Load the same file on each of them."
        )
