"""Secret randomness for noise and for sampling."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["SecretSource"]


class SecretSource:
    """Random numbers that nobody can recompute.

    NumPy's counter-based Philox generator with a key from the operating system. torch's own CPU generator keeps only 32
    bits of its seed, which can be searched.

    Args:
        seed: None takes 128 bits of entropy from the operating system; a number is for tests, and not secret.

    Guarantee:
        Without a seed it is independent of ``seed_everything`` and of every other source.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers in the shape, dtype and on the device of ``like``."""
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        return torch.as_tensor(self._generator.standard_normal(tuple(like.shape), dtype=dtype)).to(like)

    def uniform(self, count: int) -> Tensor:
        """Return ``count`` numbers from [0, 1), float64, drawn with 53 bits."""
        return torch.from_numpy(self._generator.random(count))
