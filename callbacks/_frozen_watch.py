"""Whether the weights of modules are still what they were: exactly, and cheaply between."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvision.weights_hash import weights_sha256

__all__ = ["FrozenWatch"]


class _Place(NamedTuple):
    """Where a tensor hangs, and what it was when its bits were last known."""

    name: str
    owner: dict[str, Any]
    key: str
    tensor: Tensor
    address: int
    version: int

    def untouched(self) -> bool:
        return (
            self.owner.get(self.key) is self.tensor
            and self.tensor.data_ptr() == self.address
            and _version(self.tensor) == self.version
        )


class FrozenWatch:
    """Know the bits of some modules' parameters and buffers, and find out what changed.

    Args:
        modules: by the names that messages call them by.

    Attributes:
        sha256: of the weights as they were at first: for one module its `weights_sha256`, for several the hash of
            their names and hashes.
        parts: all modules in them, with names.
        parameters: of them, with names; those of the moment of the last look.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)
        self.sha256 = self.hash_now()
        self._digests = {name: _digest(tensor) for name, tensor in self._named()}
        self._remember()

    def hash_now(self) -> str:
        """Return the hash of the weights as they are now; reads all of them."""
        hashes = {name: weights_sha256(module) for name, module in self._modules.items()}
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        return hashlib.sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()

    def touched(self) -> list[str]:
        """Return the names of tensors that were written or replaced since the last look, and hold other bits now.

        It reads nothing else, so it takes microseconds where nothing was written. A write through ``.data``, or from
        outside torch, it does not see; `changed` does.
        """
        if any(len(held) != size for held, size in self._sizes) or any(
            held.get(key) is not other for held, key, other in self._others
        ):
            return self.changed()
        written = [place for place in self._places if not place.untouched()]
        if not written:
            return []
        if any(not isinstance(place.owner.get(place.key), Tensor) for place in written):
            return self.changed()
        other = [place.name for place in written if _digest(place.owner[place.key]) != self._digests[place.name]]
        if not other:
            self._remember()  # the same bits in another place, or written anew: DDP does so with buffers at every step
        return other

    def changed(self) -> list[str]:
        """Return the names of all tensors that hold other bits now, are new or are gone; reads all of them."""
        now = {name: _digest(tensor) for name, tensor in self._named()}
        if now == self._digests:
            self._remember()
            return []
        return [name for name in dict.fromkeys([*self._digests, *now]) if now.get(name) != self._digests.get(name)]

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in self._modules.items():
            yield from module.named_parameters(name, remove_duplicate=False)
            yield from module.named_buffers(name, remove_duplicate=False)

    def _remember(self) -> None:
        """Take where each tensor is now, and how often it was written, for where the known bits are."""
        self._places: list[_Place] = []
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self._others: list[tuple[dict[str, Any], str, nn.Module | None]] = []
        self.parts = [part for name, one in self._modules.items() for part in one.named_modules(prefix=name)]
        for path, part in self.parts:
            for held in (part._parameters, part._buffers, part._modules):
                self._sizes.append((held, len(held)))
                for key, value in held.items():
                    if isinstance(value, Tensor):
                        place = _Place(f"{path}.{key}", held, key, value, value.data_ptr(), _version(value))
                        self._places.append(place)
                    else:
                        self._others.append((held, key, value))
        self.parameters = [(one.name, one.tensor) for one in self._places if isinstance(one.tensor, nn.Parameter)]


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; what was made in inference mode does not count that."""
    return -1 if tensor.is_inference() else tensor._version


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.digest()
