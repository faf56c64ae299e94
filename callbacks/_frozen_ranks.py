"""How several processes stop together, and make sure that they hold the same."""

from typing import Any

import torch
import torch.distributed as dist

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
    if not _several():
        if fault is not None:
            raise ConfigError(fault)
        return
    count = torch.tensor([fault is not None], dtype=torch.int32, device=device)
    dist.all_reduce(count)
    if int(count) == 0:
        return
    faults: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    rank, found = next((rank, one) for rank, one in enumerate(faults) if one is not None)
    raise ConfigError(f"Process {rank}: {found}")


def same_everywhere(sha256: str) -> None:
    """Refuse frozen weights that differ between processes; each calls this.

    Raises:
        ConfigError: naming each process' hash.
    """
    if not _several():
        return
    hashes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(hashes, sha256)
    if len(set(hashes)) > 1:
        told = ", ".join(f"{one[:12]}… on process {rank}" for rank, one in enumerate(hashes))
        raise ConfigError(
            f"The processes hold different frozen weights: frozen_sha256 is {told}. Load the same file on each of them."
        )


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
