"""What a module says of itself: which memory it leaves alone, what of it is linear, and whether it trains privately."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

from pvision.callbacks.run_summary import ReportsPrivacy
from pvision.continual.feature_recorder import find_linears, input_dim
from pvision.continual.subspace import SubspaceMemory
from pvision.errors import ConfigError
from pvision.privacy import PrivacySpec

__all__ = ["HasLinearPart", "HasSubspaceMemory", "claims_privacy", "linear_part_of", "promised_bases"]


@runtime_checkable
class HasSubspaceMemory(Protocol):
    """A module that promises to keep its updates out of a memory of its own; or its ``method`` does."""

    @property
    def subspace_memory(self) -> SubspaceMemory:
        """The memory as it was before the experience; each name is that of a layer in the module, or its end."""


@runtime_checkable
class HasLinearPart(Protocol):
    """A module some of whose layers are no linear functions of their inputs, as those with gates; or its ``method``."""

    def linear_part(self) -> AbstractContextManager[Any]:
        """Return a context in which each layer is linear: what is gated adds nothing. That alone is certified."""


def claims_privacy(module: pl.LightningModule) -> bool:
    """Tell whether the module says that something is protected; it may see what is not before it trains on the rest."""
    if isinstance(getattr(module, "privacy", None), PrivacySpec):
        return True
    if not isinstance(module, ReportsPrivacy):
        return False
    report = module.privacy_report()
    epsilons = [getattr(report, f"epsilon_{relation}", 0.0) for relation in ("zero_out", "replace", "add_remove")]
    return any(math.isfinite(epsilon) for epsilon in epsilons)


@contextmanager
def linear_part_of(module: pl.LightningModule) -> Iterator[None]:
    """Enter the module's linear part, if it has one."""
    owner = _speaker(module, HasLinearPart)
    if isinstance(owner, HasLinearPart):
        with owner.linear_part():
            yield
    else:
        yield


def promised_bases(module: pl.LightningModule, chosen: Sequence[str]) -> dict[str, Tensor]:
    """Return the module's own memory as it is before the experience, by the names of layers.

    Raises:
        ConfigError: if a name in the memory fits no layer, or several, or one with inputs of another size.
    """
    owner = _speaker(module, HasSubspaceMemory)
    if not isinstance(owner, HasSubspaceMemory) or not isinstance(owner.subspace_memory, SubspaceMemory):
        return {}
    memory = owner.subspace_memory
    linears, found = find_linears(module), {}
    for own in memory:
        matching = [name for name in linears if name == own or name.endswith(f".{own}")]
        if len(matching) != 1:
            raise ConfigError(
                f"The layer {own!r} of subspace_memory must be one linear layer of the module (of a third, as "
                f"attn.qkv.q, the whole: attn.qkv), but it fits {', '.join(matching) or 'none'}. There are: "
                f"{', '.join(linears)}."
            )
        if memory[own].dim != input_dim(linears[matching[0]]):
            raise ConfigError(
                f"The memory of {own!r} is of inputs with {memory[own].dim} entries, but {matching[0]} takes "
                f"{input_dim(linears[matching[0]])}. Make it for the layer's inputs."
            )
        found[matching[0]] = memory[own].basis()
    return {name: basis for name, basis in found.items() if name in chosen}


def _speaker(module: pl.LightningModule, protocol: type) -> Any:
    """Return the module, or the method that it trains, if one of them follows the protocol."""
    return next((one for one in (module, getattr(module, "method", None)) if isinstance(one, protocol)), None)
