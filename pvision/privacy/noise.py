"""Secret randomness for noise and for sampling.

[0] Salmon et al. 2011, doi:10.1145/2063384.2063405 (Philox).
[1] Mironov 2012, doi:10.1145/2382196.2382264 (the last bits of a noisy number reveal what the noise was added to).
[2] Holohan & Braghin 2021, arXiv:2107.10138 (sums of draws as the remedy).
"""

import hashlib
import math
import os
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from pvision.checks import positive_int
from pvision.errors import ConfigError, PrivacyError

__all__ = ["SecretSource"]

_KEY_BYTES = 32
_SUMMED = 4  # Gaussians in one secure number, as in the secure modes of other libraries
_CHUNK = 2**17  # numbers made at once: bounds the memory to about ten megabytes


class SecretSource:
    """Random numbers that nobody can recompute.

    By default NumPy's counter-based Philox generator [0] under a key from the operating system; torch's own CPU
    generator keeps only 32 bits of its seed, which can be searched. Philox passes the usual statistical tests, and its
    128-bit key cannot be searched, but it is no cipher: it was not designed to withstand somebody who sees its numbers
    and calculates. Nor are its Gaussians guarded against [1].

    ``secure=True`` closes both. Each number is made from fresh bytes of the operating system's cryptographic generator
    (or, under a ``key``, of SHAKE-256), and a Gaussian is the sum of four, each from a Box-Muller pair of its own,
    divided by two [2]: to invert it, an attacker would have to search more than 2^150 combinations. It costs about
    fifteen times the time; `benchmarks/noise.py` measures it.

    Args:
        seed: for tests only: the numbers can be recomputed, so they are not secret.
        secure: draw every number cryptographically. There is no fallback: without entropy the error passes through.
        key: 16 or 32 secret bytes, as `new_key` makes them; sources under one key yield the same numbers. It lets the
            ranks of one run draw one sample. Use a key for one purpose and once: numbers that repeat cancel noise.

    Raises:
        PrivacyError: if ``secure`` comes with a seed.
        ConfigError: if a seed or a key is malformed, or both come.

    Guarantee:
        ===================  ==========================  ============================================
        arguments            independent of every other  numbers recomputed by
        ===================  ==========================  ============================================
        none                 yes, and of any seed        who breaks Philox
        ``key``              of other keys               who holds the key, or breaks Philox
        ``secure``           yes, and of any seed        nobody
        ``secure``, ``key``  of other keys               who holds the key
        ``seed``             no                          everybody
        ===================  ==========================  ============================================

        A copy (also by pickle) of a source without key and seed starts afresh; one with a key refuses to be copied.
    """

    def __init__(self, *, seed: int | None = None, secure: bool = False, key: bytes | None = None) -> None:
        if not isinstance(secure, bool):
            raise ConfigError(f"secure must be True or False, but {secure!r} came.")
        if seed is not None and secure:
            raise PrivacyError("seed must be None with secure=True: numbers from a seed are known. Leave one out.")
        if seed is not None and key is not None:
            raise ConfigError("Give seed or key, not both: each decides all the numbers.")
        if seed is not None:
            positive_int("seed", seed, low=0)
        if key is not None and not (isinstance(key, bytes) and len(key) in (16, _KEY_BYTES)):
            raise ConfigError("key must be 16 or 32 bytes; make it by SecretSource.new_key(), and keep it secret.")
        self._kind = (seed is not None, secure, key is not None)
        self._stream = _Cryptographic(os.urandom if key is None else _Shake(key)) if secure else _Philox(seed, key)

    @staticmethod
    def new_key() -> bytes:
        """Return 32 bytes of entropy from the operating system."""
        return os.urandom(_KEY_BYTES)

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers in the shape, dtype and on the device of ``like``."""
        numbers = np.empty(tuple(like.shape), dtype=np.float64 if like.dtype == torch.float64 else np.float32)
        self._stream.normal(numbers.reshape(-1))
        return torch.from_numpy(numbers).to(like)

    def uniform(self, count: int) -> Tensor:
        """Return ``count`` numbers from [0, 1), float64, drawn with 53 bits."""
        return torch.from_numpy(self._stream.uniform(count))

    @override
    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        seeded, secure, keyed = self._kind
        if keyed:
            raise PrivacyError("A SecretSource with a key cannot be copied: the copy would repeat its numbers.")
        return super().__reduce_ex__(protocol) if seeded else (_fresh, (secure,))


def _fresh(secure: bool) -> SecretSource:
    return SecretSource(secure=secure)


class _Philox:
    def __init__(self, seed: int | None, key: bytes | None) -> None:
        if key is None:
            bits = np.random.Philox(np.random.SeedSequence(seed))  # None: 128 bits from the operating system
        else:
            digest = hashlib.blake2b(key, digest_size=16).digest()
            bits = np.random.Philox(key=int.from_bytes(digest, "little"))
        self._generator = np.random.Generator(bits)

    def normal(self, out: NDArray[Any]) -> None:
        self._generator.standard_normal(out=out, dtype=out.dtype.type)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self._generator.random(count)


class _Cryptographic:
    """Numbers from ``read``, which returns as many bytes as it is asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def normal(self, out: NDArray[Any]) -> None:
        for start in range(0, len(out), _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = self._gaussians(len(part))

    def uniform(self, count: int) -> NDArray[np.float64]:
        words = np.frombuffer(self._read(8 * count), dtype="<u8")
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def _gaussians(self, count: int) -> NDArray[np.float64]:
        pairs = (count + 1) // 2
        uniform = self.uniform(2 * _SUMMED * pairs).reshape(2, _SUMMED, pairs)
        radius = np.sqrt(-2 * np.log1p(-uniform[0]))  # 1 - u is never 0
        angle = 2 * math.pi * uniform[1]
        # The two numbers of a pair go into different sums: cos + sin of one angle is again one draw, not two.
        sums = np.concatenate([(radius * np.cos(angle)).sum(axis=0), (radius * np.sin(angle)).sum(axis=0)])
        return np.asarray(sums[:count] / math.sqrt(_SUMMED), dtype=np.float64)


class _Shake:
    """The bytes of SHAKE-256 over a key and a counter, a pseudo-random function of both."""

    def __init__(self, key: bytes) -> None:
        self._key = len(key).to_bytes(1, "little") + key
        self._calls = 0

    def __call__(self, count: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(self._key + self._calls.to_bytes(16, "little")).digest(count)
