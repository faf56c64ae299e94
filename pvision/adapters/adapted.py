"""A frozen network with adapters: add, choose, merge, prune and scale them."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from pvision.adapters.adapter import AdapterMethod
from pvision.adapters.description import described, rebuilt
from pvision.adapters.stack import AdapterStack
from pvision.adapters.targets import choose_places
from pvision.checks import at_least
from pvision.errors import ConfigError

__all__ = ["AdaptedModel"]


class AdaptedModel(AdapterStack):
    """A frozen network and the adapters in it; call it as the network itself.

    Args:
        base: the network. It is frozen, and stays whole and usable on its own: its modules and parameters keep their
            names, and calling it runs the adapters too.

    Attributes:
        base: the network.
        sites: by module, the adapters there.
        places: every place of the network that can be adapted.

    Guarantee:
        No parameter of ``base`` requires gradients, and only `merge` and `absorb` write to its weights. `unmerge`
        restores them bit by bit, from a copy. A state dict holds the unmerged weights, whether merged or not, and
        rebuilds the adapters that it describes when it is loaded.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.register_state_dict_post_hook(_hold_original_weights)  # type: ignore[no-untyped-call]  # torch's gap

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns, with the active adapters."""
        return self.base(*args, **kwargs)

    def add(
        self,
        method: AdapterMethod,
        *,
        name: str = "adapter",
        targets: str | Sequence[str] | None = None,
        blocks: Collection[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Stack a new trainable adapter on those that are there, which are frozen; see `add_adapters`.

        Raises:
            ConfigError: as `add_adapters`; the model is then as it was.
        """
        self._refuse_merged("add")
        self._check_name(name)
        if isinstance(method, type) or not isinstance(method, AdapterMethod):
            raise ConfigError(f"method must be the settings of a method, such as LoRA(rank=8), but {method!r} came.")
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(f"dtype must be a floating-point dtype such as torch.float32, but {dtype} came.")
        offered = [place for place in self.places if self.sites.offers(place)]
        chosen = choose_places(
            offered,
            targets=method.default_targets if targets is None else targets,
            kind=method.place_kind,
            blocks=blocks,
        )
        # All are built before any is put in place, so a refusal changes nothing.
        made = [(place, method.build(place, self.sites.weight_at(place).to(dtype=dtype))) for place in chosen]
        return self.stack(name, made)

    @contextmanager
    def disabled(self) -> Iterator[Self]:
        """Within the block, compute the network without any adapter; the output is bit by bit the base's.

        Afterwards those run again that ran before, as far as they still exist.
        """
        merged, active = self._merged, self._active
        self.unmerge()
        try:
            yield self.activate()
        finally:
            self.unmerge().activate(*(name for name in active if name in self._names))
            if remaining := [name for name in merged if name in self._names]:
                self.merge(*remaining)

    def merge(self, *names: str) -> Self:
        """Add adapters to the weights, so that they cost nothing more: the active ones, or those that are named.

        Raises:
            ConfigError: if one is no change of weights (bottleneck, prefix), is not active, or some are merged already;
                or if weights are shared with another layer or computed from others, so that none can be written alone.
        """
        self._refuse_merged("merge")
        chosen = self.known(names) if names else self._active
        if idle := [name for name in chosen if name not in self._active]:
            raise ConfigError(f"merge: {idle} are not active. Activate them first.")
        self._check_mergeable(chosen)
        for site in self.sites.all():
            site.merge(chosen)
        self._merged = chosen
        self._refresh()
        return self

    def unmerge(self) -> Self:
        """Restore the weights from before `merge`, bit by bit."""
        for site in self.sites.all():
            site.merge(())
        self._merged = ()
        self._refresh()
        return self

    def absorb(self, *names: str) -> Self:
        """Add these adapters to the weights for good and remove them: the weights are then the new frozen W₀."""
        self._refuse_merged("absorb")
        chosen = self.known(names)
        self._check_mergeable(chosen)
        for site in self.sites.all():
            site.absorb(chosen)
        return self.remove(*chosen)

    def scale(self, factors: float | Sequence[float], *names: str, outside: float = 1.0) -> Self:
        """Set what the output of adapters is multiplied with, for example by depth (`lines_factors`).

        Args:
            factors: one for all, or one for each transformer block from the input on, at least 0.
            *names: the adapters; none for all.
            outside: the factor at places outside the blocks, where there is one for each block.

        Raises:
            ConfigError: if there is not one factor for each block, or an adapter is a prefix, which adds nothing to an
                output that could be multiplied.
        """
        self._refuse_merged("scale")
        chosen = self.known(names) if names else self.names
        each = [factors] * self.depth if isinstance(factors, int | float) else list(factors)
        outside = factors if isinstance(factors, int | float) else outside
        if len(each) != self.depth:
            raise ConfigError(f"factors must have one value for each of the {self.depth} blocks, but {len(each)} came.")
        checked = [at_least("factors", factor, 0) for factor in each]
        self._check_additive("scale", chosen)
        adapters = [
            (layer, adapter) for layer in self.layers for name, adapter in layer.adapters.items() if name in chosen
        ]
        for layer, adapter in adapters:
            adapter.factor = (
                at_least("outside", outside, 0) if layer.place.block is None else checked[layer.place.block]
            )
        return self

    def add_magnitude(self, name: str, *, start: float = 1.0) -> Self:
        """Multiply what an adapter adds with one trainable number, the same at all of its places.

        It multiplies beside the factors of `scale`, and `merge` and files hold it. `train_only` freezes it unless told
        otherwise, also where another adapter is added.

        Args:
            name: the adapter.
            start: the number's first value.

        Raises:
            ConfigError: if there is no such adapter, it has a magnitude, is a prefix, nothing is left of it, or
                ``start`` is no finite number of at least 0.
        """
        self._refuse_merged("add_magnitude")
        self.known((name,))
        if name in self.magnitudes:
            raise ConfigError(f"{name!r} has a magnitude. Set that one: magnitudes[{name!r}].")
        start = at_least("start", start, 0)
        self._check_additive("add_magnitude", (name,))
        if not any(name in layer.adapters for layer in self.layers):
            raise ConfigError(f"add_magnitude: nothing is left of {name!r} after pruning. Remove it.")
        self.put_magnitude(name, start)
        return self

    def get_extra_state(self) -> Tensor:
        """Return what is needed to rebuild the adapters, as bytes of JSON."""
        return described(self)

    def set_extra_state(self, state: Tensor) -> None:
        """Rebuild the adapters that the bytes describe, unless they are these; their tensors follow."""
        self._refuse_merged("load_state_dict")
        rebuilt(self, state)
        self._refresh()

    def _check_additive(self, action: str, names: Collection[str]) -> None:
        adapters = [adapter for layer in self.layers for name, adapter in layer.adapters.items() if name in names]
        if unfit := {type(adapter).__name__ for adapter in adapters if not adapter.additive}:
            raise ConfigError(f"{action}: {sorted(unfit)} cannot be scaled. Name the adapters that can.")

    def _check_mergeable(self, names: Collection[str]) -> None:
        users = Counter(id(one) for module in self.base.modules() for one in module._parameters.values())
        for layer in self.layers:
            for name, adapter in layer.adapters.items():
                if name not in names:
                    continue
                if not adapter.mergeable:
                    kind = type(adapter).__name__
                    raise ConfigError(
                        f"{name!r} is a {kind} at {layer.name}: no change of weights, so it cannot be merged."
                    )
                if layer.site.weight is None or users[id(layer.site.weight)] > 1:
                    raise ConfigError(
                        f"the weights of {layer.name} are shared with another layer or computed from others, so "
                        f"{name!r} cannot be merged into them. Leave it unmerged."
                    )


def _hold_original_weights(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    """Put the unmerged weights into a state dict, so that loading it never adds an adapter twice."""
    if isinstance(module, AdaptedModel):
        for site in module.sites.all():
            if site.kept is not None and site.weight is not None:
                name = "in_proj_weight" if isinstance(site.module, nn.MultiheadAttention) else "weight"
                state[f"{prefix}base.{site.name}.{name}"] = site.kept
