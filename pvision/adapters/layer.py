"""One adapted layer, as methods and tools see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pvision.adapters.adapter import Adapter
from pvision.adapters.places import Place
from pvision.adapters.sites import Site

__all__ = ["AdaptedLayer"]


@dataclass(frozen=True)
class AdaptedLayer:
    """A place of the network with its stack of adapters.

    Args:
        place: where it is, under which name and role.
        site: what holds the adapters and reaches the network's module.
    """

    place: Place
    site: Site

    @property
    def name(self) -> str:
        """The place's full name."""
        return self.place.name

    @property
    def module(self) -> nn.Module:
        """The network's module; of a third of a fused matrix, the one that holds the whole."""
        return self.site.module

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters by name, the oldest first."""
        stack = self.site.stack(self.place.role)
        return {name: adapter for name, adapter in stack.items() if isinstance(adapter, Adapter)}

    @property
    def weight(self) -> Tensor:
        """The frozen weights W₀ here, ``(out_features, in_features)``, whether or not adapters are merged into them.

        Raises:
            TypeError: at a whole MLP or attention layer, which has no one matrix.
        """
        whole = self.site.original_weight()
        if whole is None or self.place.kind != "linear":
            raise TypeError(f"{self.name} is a whole {self.place.kind} and has no one matrix")
        return whole.detach()[self.place.first_row : self.place.first_row + self.place.out_features]

    def on_input(self, see: Callable[[Tensor], object]) -> RemovableHandle:
        """Call ``see`` with the input, ``(…, in_features)``, in each forward pass until the handle is removed."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            see((args[0] if args else next(iter(kwargs.values()))).detach())

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)
