"""How adapters reach the network: a site watches one module and changes what comes out of it.

The network keeps its modules, its parameters and their names; nothing is wrapped. A linear layer and a whole MLP have a
forward hook. An attention layer that has no linear layer to hook, or gets a prefix, has its ``forward`` replaced
(`attention.py`).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pvision.adapters.adapter import Adapter
from pvision.adapters.places import Place
from pvision.errors import ConfigError

__all__ = ["Site"]


class Site(nn.Module):
    """The adapters at one module of the network.

    Hooks are bound methods of this module, so a copy or a pickle of an adapted model is whole and on its own.

    Args:
        module: the network's module; it is not registered here, as it belongs to the network.
        name: its name in the network.
        owner: the module that holds it. Some compute with a layer's weights without calling it, past any hook.

    Attributes:
        slots: by role, then by name, the adapters.
        running: the names of those that contribute now, in the order of their stack.
        kept: the module's weights without adapters while some are merged into them, else None.
    """

    module: nn.Module
    owner: nn.Module
    kept: Tensor | None

    def __init__(self, module: nn.Module, name: str, owner: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "module", module)
        object.__setattr__(self, "owner", owner)
        self.name = name
        self.places: dict[str, Place] = {}
        self.slots = nn.ModuleDict()
        self.running: tuple[str, ...] = ()
        self.register_buffer("kept", None, persistent=False)
        self._handles: list[RemovableHandle] = []
        self._called = False
        self.attach()

    def attach(self) -> None:
        """Begin to change the module's output."""
        self._handles = [
            self.module.register_forward_hook(self._add, with_kwargs=True),
            self.owner.register_forward_pre_hook(self._expect),
            self.owner.register_forward_hook(self._check_called),
        ]

    def detach(self) -> None:
        """Leave the module as it was found."""
        for handle in self._handles:
            handle.remove()

    def put(self, place: Place, name: str, adapter: Adapter) -> None:
        """Place an adapter on top of those that are there."""
        if place.role not in self.slots:
            self.places[place.role] = place
            self.slots[place.role] = nn.ModuleDict()
            self._sort()
        self.stack(place.role)[name] = adapter

    def _sort(self) -> None:
        """Order the places by their rows: sums and parameters come in one order, whatever was added first."""
        ordered = sorted(self.places.values(), key=lambda place: (place.first_row, -place.out_features, place.role))
        self.places = {place.role: place for place in ordered}
        self.slots = nn.ModuleDict({role: self.slots[role] for role in self.places})

    def stack(self, role: str) -> nn.ModuleDict:
        """Return all adapters of one place by name, the oldest first."""
        stack = self.slots[role]
        if not isinstance(stack, nn.ModuleDict):
            raise TypeError(f"{self.name}: the slot {role} is no ModuleDict")
        return stack

    def drop(self, role: str, name: str) -> None:
        """Take one adapter away, and the slot with the last."""
        del self.stack(role)[name]
        if not len(self.stack(role)):
            del self.slots[role], self.places[role]

    def adapters(self, names: Collection[str]) -> Iterator[tuple[Place, Adapter]]:
        """Yield the adapters of these names with their places."""
        for role, place in self.places.items():
            for name, adapter in self.stack(role).items():
                if name in names and isinstance(adapter, Adapter):
                    yield place, adapter

    def changed(self, tokens: Tensor, output: Tensor) -> Tensor:
        """Return ``output`` with what the running adapters add to it; rows that none touches keep their bits."""
        changes: dict[int, Tensor] = {}
        for place, adapter in self.adapters(self.running):
            if not adapter.additive:
                continue
            change = adapter.contribution(tokens).to(output.dtype)
            if place.out_features == output.shape[-1]:
                output = output + change
            else:
                row = place.first_row
                changes[row] = changes[row] + change if row in changes else change
        return _rows_added(output, changes) if changes else output

    def _add(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        self._called = True
        return self.changed(args[0] if args else next(iter(kwargs.values())), output)

    def _expect(self, module: nn.Module, args: Any) -> None:
        self._called = False

    def _check_called(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._called and any(True for _ in self.adapters(self.running)):
            passed_by = f"{type(self.owner).__name__} computes with the weights of {self.name} without calling it"
            # timm's BEiT and EVA have a switch for this.
            switch = "set its qkv_bias_separate to True, or " if hasattr(self.owner, "qkv_bias_separate") else ""
            raise ConfigError(
                f"{passed_by}, so adapters there have no effect. To adapt this network, {switch}remove them and target "
                "other layers."
            )

    @property
    def weight(self) -> nn.Parameter | None:
        """The matrix that adapters here change, None at a place that has none."""
        name = "in_proj_weight" if isinstance(self.module, nn.MultiheadAttention) else "weight"
        weight = getattr(self.module, name, None)
        return weight if isinstance(weight, nn.Parameter) else None

    def original_weight(self) -> Tensor | None:
        """Return the matrix without any adapter, whether or not some are merged into it."""
        return self.weight if self.kept is None else self.kept

    @torch.no_grad()
    def merge(self, names: Collection[str]) -> None:
        """Set the weights to the original ones plus the changes of these adapters; of none, to the original ones."""
        weight, original = self.weight, self.original_weight()
        if weight is None or original is None:
            return
        merged = self.merged_weight(names)
        if merged is not None:
            self.kept = original.detach().clone()
            weight.copy_(merged)
        elif self.kept is not None:  # else nothing is written: a backward pass may still need the weights as they are
            weight.copy_(self.kept)
            self.kept = None

    @torch.no_grad()
    def absorb(self, names: Collection[str]) -> None:
        """Add the changes of these adapters to the original weights for good."""
        merged = self.merged_weight(names)
        if merged is not None and self.weight is not None:
            self.weight.copy_(merged)

    def merged_weight(self, names: Collection[str]) -> Tensor | None:
        """Return original weights plus these changes, summed in float32 at least; None if no adapter changes any."""
        original, total = self.original_weight(), None
        for place, adapter in self.adapters(names):
            if original is None or not adapter.mergeable:
                continue
            change = adapter.delta_weight().detach() * adapter.multiplier
            if total is None:
                total = original.detach().to(torch.promote_types(original.dtype, torch.float32)).clone()
            total[place.first_row : place.first_row + place.out_features] += change.to(total.dtype)
        return None if total is None or original is None else total.to(original.dtype)


def _rows_added(output: Tensor, changes: Mapping[int, Tensor]) -> Tensor:
    """Return a fused output with changes added to some of its thirds, by the row where each begins."""
    size = next(iter(changes.values())).shape[-1]
    thirds = torch.split(output, size, dim=-1)
    return torch.cat(
        [part + changes[row] if (row := index * size) in changes else part for index, part in enumerate(thirds)], -1
    )
