"""The adapters of a network by name: which there are, which run, which are trained."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from pvision.adapters.adapter import Adapter
from pvision.adapters.description import new_adapters, new_magnitudes
from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.magnitude import Magnitude
from pvision.adapters.places import Place, find_places
from pvision.adapters.site_table import SiteTable
from pvision.errors import ConfigError

__all__ = ["AdapterStack"]


class AdapterStack(nn.Module):
    """A frozen network and named adapters in it; `AdaptedModel` is the one to use.

    Args:
        base: the network.

    Attributes:
        base: the network.
        sites: by module, the adapters there.
        places: every place of the network that can be adapted.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        base.zero_grad()
        self.places: tuple[Place, ...] = find_places(base)
        self.sites = SiteTable(base)
        self._magnitudes = nn.ModuleDict()
        self._names: list[str] = []
        self._active: tuple[str, ...] = ()
        self._merged: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all adapters, the oldest first."""
        return tuple(self._names)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of those that contribute, merged or not."""
        return self._active

    @property
    def merged(self) -> tuple[str, ...]:
        """The names of those that are merged into the weights."""
        return self._merged

    @property
    def depth(self) -> int:
        """How many transformer blocks the network has."""
        return 1 + max((place.block for place in self.places if place.block is not None), default=-1)

    @property
    def layers(self) -> tuple[AdaptedLayer, ...]:
        """The places that have adapters, in the order of the network."""
        return self.sites.layers(self.places)

    def activate(self, *names: str) -> Self:
        """Let exactly these adapters contribute."""
        self._refuse_merged("activate")
        self._active = self.known(names)
        self._refresh()
        return self

    @property
    def magnitudes(self) -> dict[str, nn.Parameter]:
        """The trainable numbers of adapters that have one, by the name of the adapter."""
        return {name: one.value for name, one in self._magnitudes.items() if isinstance(one, Magnitude)}

    def train_only(self, *names: str, magnitudes: Collection[str] = ()) -> Self:
        """Let exactly these adapters require gradients; what a method has fixed in them stays fixed.

        Args:
            *names: the adapters.
            magnitudes: the adapters whose magnitude requires gradients, whether or not they do so themselves.

        Raises:
            ConfigError: if there is no adapter, or no magnitude, of one of these names.
        """
        chosen = self.known(names)
        self._check_magnitudes(magnitudes)
        for name, value in self.magnitudes.items():
            value.requires_grad_(name in magnitudes)
            value.grad = value.grad if name in magnitudes else None
        for layer in self.layers:
            for name, adapter in layer.adapters.items():
                adapter.requires_grad_(name in chosen)
                if name not in chosen:  # an optimizer that still holds it would go on with an old gradient
                    adapter.zero_grad()
        return self

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapters' trainable parameters by place, adapter and name: ``blocks.0.attn.qkv.q/first/up``.

        Trainable magnitudes come last, as ``magnitudes/first``.
        """
        of_layers = {
            f"{layer.name}/{name}/{key}": parameter
            for layer in self.layers
            for name, adapter in layer.adapters.items()
            for key, parameter in adapter.named_parameters()
            if parameter.requires_grad
        }
        values = {f"magnitudes/{name}": value for name, value in self.magnitudes.items() if value.requires_grad}
        return of_layers | values

    def stack(self, name: str, made: Sequence[tuple[Place, Adapter]]) -> Self:
        """Stack adapters that exist already, under one name; they are then the trainable ones.

        Raises:
            ConfigError: if the name is taken or no name, two adapters are for one place, or some are merged into the
                weights.
        """
        self._refuse_merged("add")
        self._check_name(name)
        if len({place.name for place, _ in made}) < len(made):
            raise ConfigError(f"{name!r} has two adapters for one place. Give them two names.")
        for place, adapter in made:
            self.sites.put(place, name, adapter)
        self._names.append(name)
        self._active = (*self._active, name)
        self.train_only(name)
        self._refresh()
        return self

    def remove(self, *names: str) -> Self:
        """Take these adapters away."""
        self._refuse_merged("remove")
        chosen = self.known(names)
        for layer in self.layers:
            for name in set(layer.adapters) & set(chosen):
                self.sites.drop(layer, name)
        self._names = [name for name in self._names if name not in chosen]
        self._active = tuple(name for name in self._active if name not in chosen)
        for name in set(self.magnitudes) & set(chosen):
            del self._magnitudes[name]
        self.sites.drop_empty()
        self._refresh()
        return self

    def prune(self, *names: str) -> int:
        """Remove ranks that contribute nothing, and adapters of which nothing is left; return how many ranks went.

        Parameters are new afterwards, so make the optimizer after pruning, not before.

        Args:
            *names: the adapters to prune; none for all.
        """
        self._refuse_merged("prune")
        chosen, gone = self.known(names) if names else self.names, 0
        for layer in self.layers:
            for name, adapter in layer.adapters.items():
                if name in chosen:
                    gone += adapter.prune()
                    if adapter.is_empty:
                        self.sites.drop(layer, name)
        self.sites.drop_empty()
        return gone

    def reset(self, names: Sequence[str]) -> None:
        """Forget all adapters, and take these names for those that are put into `sites` next."""
        self.remove(*self.names)
        self._names = list(names)

    def extend(self, description: Mapping[str, Any]) -> None:
        """Stack the adapters that a description tells of (`description.py`), with tensors still to be filled."""
        self._refuse_merged("load")
        for name in description["names"]:
            self._check_name(name)
        for place, name, adapter in new_adapters(self, description):
            self.sites.put(place, name, adapter)
        self._names += description["names"]
        new_magnitudes(self, description)
        self.activate(*self._active, *description["active"])

    def put_magnitude(self, name: str, start: float) -> None:
        """Multiply what an adapter adds with a trainable number that begins at ``start``."""
        adapters = [layer.adapters[name] for layer in self.layers if name in layer.adapters]
        like = next((parameter for adapter in adapters for parameter in adapter.parameters()), torch.empty(0))
        self._magnitudes[name] = magnitude = Magnitude(start, like=like)
        for adapter in adapters:
            adapter.refer_to(magnitude)

    def _refresh(self) -> None:
        running = tuple(name for name in self._active if name not in self._merged)
        for site in self.sites.all():
            site.running = running

    def known(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return these names in the order of the stack.

        Raises:
            ConfigError: if there is no adapter of one of them.
        """
        if unknown := [name for name in names if name not in self._names]:
            raise ConfigError(f"there is no adapter {unknown[0]!r}. There are: {', '.join(self._names) or 'none'}.")
        return tuple(name for name in self._names if name in names)

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
            raise ConfigError(
                f"name must be letters, digits, - and _, and no attribute of nn.ModuleDict, but {name!r} came."
            )
        if name in self._names:
            raise ConfigError(f"an adapter named {name!r} exists. Choose another name, or remove that one.")

    def _check_magnitudes(self, names: Collection[str]) -> None:
        if unknown := [name for name in names if name not in self.magnitudes]:
            there = ", ".join(self.magnitudes) or "none"
            raise ConfigError(f"magnitudes: {unknown[0]!r} has none. There are: {there}. Call add_magnitude first.")

    def _refuse_merged(self, action: str) -> None:
        if self._merged:
            raise ConfigError(f"{action}: {list(self._merged)} are merged into the weights. Call unmerge() first.")
