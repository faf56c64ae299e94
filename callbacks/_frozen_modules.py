"""Which modules must stay frozen, and who else could reach their weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor, nn

from pvision.errors import ConfigError

__all__ = ["HasFrozenModules", "find_frozen", "shared_weights"]


@runtime_checkable
class HasFrozenModules(Protocol):
    """A module that knows what of it must stay frozen."""

    def frozen_modules(self) -> Mapping[str, nn.Module]:
        """Return them by the names that messages call them by; none where the setting freezes nothing."""


def find_frozen(module: pl.LightningModule, paths: Sequence[str] | None) -> dict[str, nn.Module]:
    """Return the modules that must stay frozen, without the wrapper that `torch.compile` puts around one.

    Args:
        module: the project's.
        paths: of attributes, such as ``"model.backbone"``; None asks the module.

    Raises:
        ConfigError: if a path leads to no module, nobody says what is frozen, or there is nothing in it to watch.
    """
    if paths is not None:
        found = {path: _at(module, path) for path in paths}
    elif isinstance(module, HasFrozenModules):
        found = dict(module.frozen_modules())
    else:
        raise ConfigError(
            f"FrozenGuard does not know what must stay frozen: {type(module).__name__} has no frozen_modules(). "
            f"Name it: FrozenGuard(modules=[…]), of {_children(module)}."
        )
    unwrapped = {name: getattr(one, "_orig_mod", one) for name, one in found.items()}
    for name, one in unwrapped.items():
        if next(_tensors(one), None) is None:
            raise ConfigError(
                f"The frozen module {name!r} ({type(one).__name__}) has neither parameters nor buffers, so there is "
                "nothing to guard. Name the module that holds the weights."
            )
    return unwrapped


def shared_weights(module: nn.Module, frozen: Mapping[str, nn.Module]) -> str | None:
    """Return the name of a parameter outside the frozen modules that takes gradients and shares memory with them."""
    inside = {part for one in frozen.values() for part in one.modules()}
    taken: dict[int, list[tuple[int, int]]] = {}
    for one in frozen.values():
        for tensor in _tensors(one):
            taken.setdefault(tensor.untyped_storage().data_ptr(), []).append(_extent(tensor))
    name: str
    for path, part in module.named_modules():
        for name, parameter in () if part in inside else part.named_parameters(path, recurse=False):
            first, last = _extent(parameter)
            others = taken.get(parameter.untyped_storage().data_ptr(), ())
            if parameter.requires_grad and any(first < end and start < last for start, end in others):
                return name
    return None


def _at(module: nn.Module, path: str) -> nn.Module:
    found = module
    for step in path.split("."):
        child = getattr(found, step, None)
        if not isinstance(child, nn.Module):
            raise ConfigError(
                f"FrozenGuard(modules=…) names {path!r}, but {type(found).__name__} has no module {step!r}. "
                f"It has {_children(found)}."
            )
        found = child
    return found


def _children(module: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in module.named_children()) or "none"


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return where in memory a tensor begins and ends."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + (reach * tensor.element_size() if tensor.numel() else 0)
