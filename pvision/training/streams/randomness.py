"""The global random generators: seeded for each experience, kept in checkpoints, one state for each process."""

import random
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from pvision.continual._collectives import from_all

__all__ = ["random_states", "restore_random_states", "seed_experience"]


def seed_experience(seed: int, experience: int) -> None:
    """Seed all global generators for an experience, so that it does not depend on what was drawn before it."""
    words = np.random.SeedSequence([seed, experience]).generate_state(3, np.uint32)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[1]))
    np.random.seed(int(words[2]))  # noqa: NPY002  # users' transforms draw from the global generator


def random_states() -> list[dict[str, Any]]:
    """Return the states of all processes' generators as tensors and plain values; a collective."""
    return from_all(_state())


def restore_random_states(states: list[dict[str, Any]]) -> None:
    """Set the generators of this process to the state that it had."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    state = states[rank % len(states)]  # fewer, if the run had fewer processes
    torch.set_rng_state(state["torch"])
    random.setstate((state["python"][0], tuple(state["python"][1]), state["python"][2]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002  # as above
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # as above
    return {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],  # type: ignore[attr-defined]  # typed as the union of two forms
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
