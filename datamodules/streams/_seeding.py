"""The global generators, seeded for one image at a time and put back afterwards."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["SeedAll", "seeded_globals"]


class SeedAll(Protocol):
    """Seeds the global generators with whatever it is given."""

    def __call__(self, *parts: int | str) -> None:
        """Seed them: equal parts, equal numbers."""


@contextmanager
def seeded_globals() -> Iterator[SeedAll]:
    """Give a function that seeds the global generators of torch (CPU), numpy and Python; put them back in the end.

    All three, because augmentations that users bring draw from any of them.
    """
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  # the generator that others draw from
    try:
        yield _seed_all
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002  # as above
        random.setstate(python_state)


def _seed_all(*parts: int | str) -> None:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big")
    # Not torch.manual_seed, which would seed the accelerators too.
    generator: Any = torch.default_generator
    generator.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # as above
    random.seed(seed)
