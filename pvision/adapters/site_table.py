"""All sites of one network: made when an adapter comes, gone with the last."""

from collections.abc import Sequence

from torch import Tensor, nn

from pvision.adapters.adapter import Adapter
from pvision.adapters.attention import AttentionSite, check_own_forward, takes_prefix
from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.places import Place
from pvision.adapters.sites import Site
from pvision.errors import ConfigError

__all__ = ["SiteTable"]


class SiteTable(nn.ModuleDict):
    """The sites of a network by the name of their module, written with ``/`` for ``.``.

    They are in the order of the network, whatever was added first, so that a rebuilt model gives an optimizer its
    parameters in the same order.

    Args:
        base: the network; it is not registered here.

    Raises:
        ConfigError: if another table has adapters in it.
    """

    base: nn.Module

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)
        self._check_alone()

    def all(self) -> list[Site]:
        """Return the sites."""
        return [site for site in self.values() if isinstance(site, Site)]

    def layers(self, places: Sequence[Place]) -> tuple[AdaptedLayer, ...]:
        """Return those of ``places`` that have adapters, in their order."""
        sites = {place.name: site for site in self.all() for place in site.places.values()}
        return tuple(AdaptedLayer(place, sites[place.name]) for place in places if place.name in sites)

    def put(self, place: Place, name: str, adapter: Adapter) -> None:
        """Place one adapter on top of its stack.

        Raises:
            ConfigError: if another table has adapters in the network.
        """
        if not len(self):
            self._check_alone()
        site = self._at(place.module)
        if site is None:
            site = self._new(place)
            self._sort()
        site.put(place, name, adapter)

    def drop(self, layer: AdaptedLayer, name: str) -> None:
        """Take one adapter away."""
        layer.site.drop(layer.place.role, name)

    def drop_empty(self) -> None:
        """Leave the modules without adapters as they were found."""
        for key, site in list(self.items()):
            outer = site.out_site if isinstance(site, AttentionSite) else None
            if isinstance(site, Site) and not site.places and (outer is None or not outer.places):
                site.detach()
                del self[key]

    def offers(self, place: Place) -> bool:
        """Tell whether an adapter can sit at a place: a prefix only in attention layers that are known."""
        return place.kind != "attention" or takes_prefix(self.base.get_submodule(place.module))

    def weight_at(self, place: Place) -> Tensor:
        """Return the weights at a place; of a whole MLP or attention layer, those of its first parameter.

        Raises:
            ConfigError: if they are no floating-point numbers, or the attention layer there cannot be written out.
        """
        module = self.base.get_submodule(place.module)
        if isinstance(module, nn.MultiheadAttention) or place.kind == "attention":
            check_own_forward(module, place.module)
        fused = getattr(module, "in_proj_weight", None)
        weight = fused if fused is not None else getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or place.kind != "linear":
            weight = next(module.parameters())
        if not weight.is_floating_point():
            raise ConfigError(f"{place.name} has weights of {weight.dtype}, but adapters need floating-point weights.")
        return weight.detach()[place.first_row : place.first_row + place.out_features]

    def _check_alone(self) -> None:
        if any(_is_adapted(module) for module in self.base.modules()):
            raise ConfigError("the network has adapters already. Add to the AdaptedModel that add_adapters returned.")

    def _sort(self) -> None:
        for name, _ in self.base.named_modules():
            if (key := name.replace(".", "/")) in self._modules:
                self._modules[key] = self._modules.pop(key)

    def _at(self, module: str) -> Site | None:
        site = self._modules.get(module.replace(".", "/"))
        return site if isinstance(site, Site) else None

    def _new(self, place: Place) -> Site:
        module, owner = self.base.get_submodule(place.module), self._owner(place.module)
        inside = isinstance(module, nn.MultiheadAttention) or place.kind == "attention"
        site = AttentionSite(module, place.module, owner) if inside else Site(module, place.module, owner)
        if isinstance(owner, nn.MultiheadAttention):
            self._attention(place.module.rpartition(".")[0]).accompany(site)
        self[place.module.replace(".", "/")] = site
        return site

    def _owner(self, module: str) -> nn.Module:
        return self.base.get_submodule(module.rpartition(".")[0])

    def _attention(self, name: str) -> AttentionSite:
        """Return the site of the attention layer that owns an ``out_proj``; torch would not call that by itself."""
        site = self._at(name)
        if not isinstance(site, AttentionSite):
            site = AttentionSite(self.base.get_submodule(name), name, self._owner(name))
            self[name.replace(".", "/")] = site
        return site


def _is_adapted(module: nn.Module) -> bool:
    callers = [*module._forward_hooks.values(), vars(module).get("forward")]
    return any(isinstance(getattr(caller, "__self__", None), Site) for caller in callers)
