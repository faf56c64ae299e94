"""Prefixes that differ from image to image: keys and values that a method gives to each forward pass.

A `Prefix` holds keys and values of its own, the same for all images. Here they come from outside, as in
[0] Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning",
    CVPR 2023, https://arxiv.org/abs/2211.13218
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from torch import Tensor, nn

from pvision.adapters.adapter import Adapter, Setting
from pvision.adapters.attention import check_own_forward
from pvision.adapters.places import Place, find_places
from pvision.adapters.site_table import SiteTable
from pvision.adapters.targets import choose_places
from pvision.errors import ConfigError

__all__ = ["PrefixedNetwork"]

_NAME = "prefix"


class PrefixedNetwork(nn.Module):
    """A frozen network whose attention layers take keys and values of each image's own, where they are given.

    The network stays in evaluation mode: dropout in it would make what it says of an image a matter of chance.

    Args:
        base: the network. It is frozen, stays whole, and has nothing new in its state dict.
        blocks: the transformer blocks that take prefixes, counted from 0 at the input; None for all.

    Attributes:
        base: the network.
        places: its attention layers that take prefixes, in order.
        width: the size of a key and of a value, all heads side by side.

    Raises:
        ConfigError: if the network has no attention layer that can be written out, a block does not exist, or layers
            differ in width.

    Guarantee:
        Without prefixes the output is bit by bit that of ``base``.
    """

    def __init__(self, base: nn.Module, *, blocks: Collection[int] | None = None) -> None:
        super().__init__()
        self.sites = SiteTable(base)
        offered = [place for place in find_places(base) if self.sites.offers(place)]
        chosen = choose_places(offered, targets="attention", kind="attention", blocks=blocks)
        self.places: tuple[Place, ...] = tuple(chosen)
        self.width = _width(chosen)
        for place in chosen:
            check_own_forward(base.get_submodule(place.module), place.module)
        self.base = base.requires_grad_(False)
        self._prefixes = [_GivenPrefix(place) for place in chosen]
        for place, prefix in zip(chosen, self._prefixes, strict=True):
            self.sites.put(place, _NAME, prefix)

    def forward(self, image: Tensor, prefixes: Tensor | None = None) -> Tensor:
        """Return what the network returns.

        Args:
            image: normalised images, ``(B, C, H, W)``.
            prefixes: ``(len(places), 2, B, length, width)``: for each layer keys, then values, of each image. They are
                put before those of the image's tokens. None computes the network as it is.

        Raises:
            ConfigError: if ``prefixes`` has another shape.
        """
        if prefixes is None:
            plain: Tensor = self.base(image)
            return plain
        with self._given(prefixes, images=len(image)):
            output: Tensor = self.base(image)
        return output

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is trained around the network; the network itself stays as it is evaluated."""
        super().train(mode)
        self.base.eval()
        return self

    @contextmanager
    def _given(self, prefixes: Tensor, *, images: int) -> Iterator[None]:
        layers = len(self.places)
        if prefixes.ndim != 5 or (*prefixes.shape[:3], prefixes.shape[4]) != (layers, 2, images, self.width):
            raise ConfigError(
                f"prefixes must be ({layers}, 2, {images}, length, {self.width}): keys and values for each attention "
                f"layer and image, but {tuple(prefixes.shape)} came."
            )
        for prefix, given in zip(self._prefixes, prefixes, strict=True):
            prefix.given = given
        self._run(_NAME)
        try:
            yield
        finally:
            self._run()
            for prefix in self._prefixes:
                prefix.given = None

    def _run(self, *names: str) -> None:
        for site in self.sites.all():
            site.running = names


class _GivenPrefix(Adapter):
    """Keys and values that are set from outside for one forward pass.

    Attributes:
        given: ``(2, B, length, width)`` within that pass, else None.
    """

    additive = False
    given: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the keys and values that were set."""
        if self.given is None:
            raise ConfigError("a prefix of each image's own was not set. Call the PrefixedNetwork with prefixes.")
        return self.given

    def contribution(self, tokens: Tensor) -> Tensor:
        """Return `forward`: there are no parameters whose dtype would matter."""
        return self.forward(tokens)

    def settings(self) -> Mapping[str, Setting]:
        """Return nothing: there is nothing to keep."""
        return {}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return a new one."""
        return cls(place)


def _width(places: Collection[Place]) -> int:
    widths = sorted({place.out_features for place in places})
    if len(widths) > 1:
        raise ConfigError(f"prefixes need attention layers of one width, but these have {widths}. Choose fewer blocks.")
    return widths[0]
