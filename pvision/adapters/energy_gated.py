"""LoRA inside a subspace, which each image opens as far as its class token lies in it.

[0] Chen et al., "Replay-Free Continual Low-Rank Adaptation with Dynamic Memory" (DualLoRA),
    https://arxiv.org/abs/2411.00623 (its gate is not published in detail: the formula here is ours)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pvision.adapters.adapter import Setting
from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.lora import LoRA, LowRank, check_rank
from pvision.adapters.places import Place
from pvision.adapters.stack import AdapterStack
from pvision.errors import ConfigError

__all__ = ["EnergyGatedLoRA", "EnergyGatedLowRank", "record_shares"]


@dataclass(frozen=True, eq=False)
class EnergyGatedLoRA(LoRA):
    """Add ``ω(x) · scaling · B C Φᵀ x`` to ``W₀ x``, with B and C trained and Φ fixed.

    ω(x) = ‖Φᵀx̄‖² / ‖x̄‖² is one number for each image, x̄ being the class token among the inputs of the layer: the
    share of its energy that lies in the span of Φ.

    Args:
        rank: rows of C; at a place whose basis has fewer columns, as many as those.
        alpha: the scaling is ``alpha`` by the rank at the place; None for a scaling of 1.
        bases: by the name of a place, Φ: orthonormal columns, ``(in_features, k)`` with k of at least 1.
        gated: False for ω = 1, which merges.

    Raises:
        ConfigError: if ``rank`` is no whole number above 0, ``alpha`` no finite number above 0, or ``bases`` is None.
    """

    bases: Mapping[str, Tensor] | None = None
    gated: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bases:
            raise ConfigError("bases must map names of places to orthonormal bases, but there is none. Give some.")

    def build(self, place: Place, weight: Tensor) -> "EnergyGatedLowRank":
        """Return a new adapter in the subspace of this place."""
        basis = (self.bases or {}).get(place.name)
        if basis is None or not basis.numel():
            raise ConfigError(f"bases has none for {place.name}. Give one, or leave this layer out of targets.")
        rank = min(self.rank, basis.shape[-1])
        check_rank(rank, place)
        scaling = 1.0 if self.alpha is None else self.alpha / rank
        adapter = EnergyGatedLowRank(place, rank=rank, scaling=scaling, gated=self.gated, like=weight)
        adapter.confine_to(basis.to(weight.device))
        return adapter


class EnergyGatedLowRank(LowRank, kind="energy_gated_low_rank"):
    """The map ``ω(x) · scaling · B C Φᵀ``, with C = ``down``, B = ``up`` and Φ = ``basis``.

    Args:
        place: where it sits.
        rank: rows of C.
        scaling: what the product is multiplied with.
        gated: whether ω applies.
        like: a tensor whose device and dtype the new ones take; None for float32 on the CPU.

    Attributes:
        gated: may be switched at any time; while it is False, ω is 1 and the adapter merges.

    Guarantee:
        It contributes exactly 0 to an image whose class token is 0, and to tokens orthogonal to Φ no more than
        rounding.
    """

    def __init__(
        self, place: Place, *, rank: int, scaling: float = 1.0, gated: bool = True, like: Tensor | None = None
    ) -> None:
        super().__init__(place, rank=rank, scaling=scaling, like=like)
        self.gated = gated

    @property
    def mergeable(self) -> bool:
        """Whether it is a change of weights: only with its gate off."""
        return not self.gated

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``ω(x) · scaling · B C Φᵀ x`` of tokens, ``(B, …, in_features)``."""
        change = super().forward(tokens)
        if not self.gated:
            return change
        return change * self.share(tokens).to(change.dtype).view(-1, *[1] * (change.ndim - 1))

    def share(self, tokens: Tensor) -> Tensor:
        """Return ω, ``(B,)`` in [0, 1], float32 at least; 0 where the class token is 0. ``gated`` has no part in it.

        Args:
            tokens: inputs of the layer, ``(B, N, in_features)`` with the class token first, or ``(B, in_features)``.

        Raises:
            ConfigError: if they have another shape, so that there is no class token.
        """
        if tokens.ndim not in (2, 3):
            raise ConfigError(
                f"the energy gate needs inputs of the shape (B, N, {self.in_features}) with the class token first, "
                f"but {tuple(tokens.shape)} came. Target layers inside a transformer block."
            )
        token = tokens[:, 0] if tokens.ndim == 3 else tokens
        token = token.to(torch.promote_types(token.dtype, torch.float32))
        # Autocast would round the two energies differently, and their quotient could exceed 1 by a percent.
        with torch.autocast(token.device.type, enabled=False):
            inside = token if self.basis is None else token @ self.basis.to(token.dtype)
            energy = token.square().sum(-1)
            share = inside.square().sum(-1) / energy.clamp_min(torch.finfo(token.dtype).tiny)
        return share.clamp_max(1)

    def fix_down(self, matrix: Tensor) -> None:
        """Refuse: without Φ there is no gate.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("fix_down would take the basis away that the gate needs. Use LoRA for a fixed A.")

    def settings(self) -> Mapping[str, Setting]:
        """Return those of a low-rank map, and whether the gate is on."""
        return {**super().settings(), "gated": self.gated}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return an adapter with these settings."""
        adapter = super().rebuild(place, settings)
        adapter.gated = bool(settings["gated"])
        return adapter


@contextmanager
def record_shares(adapted: AdapterStack, *names: str) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block, collect ω of all energy-gated adapters, also of those that do not run or have their gate off.

    Args:
        adapted: what holds them.
        *names: the adapters; none for all.

    Yields:
        By the name of the adapter, one tensor ``(B,)`` without gradient for each of its layers, in the order of the
        network; each forward pass appends. Their mean over the layers tells how much an image resembles those whose
        features gave the bases.

    Raises:
        ConfigError: if there is no energy-gated adapter of one of these names, or none at all.

    Example:
        ``with record_shares(adapted) as shares: logits = adapted(images)``, then
        ``{name: torch.stack(seen).mean(0) for name, seen in shares.items()}``.
    """
    chosen = adapted.known(names) if names else adapted.names
    found = [
        (layer, name, adapter)
        for layer in adapted.layers
        for name, adapter in layer.adapters.items()
        if name in chosen and isinstance(adapter, EnergyGatedLowRank)
    ]
    shares: dict[str, list[Tensor]] = {name: [] for name in chosen if any(name == one for _, one, _ in found)}
    if not shares or (names and len(shares) < len(chosen)):
        raise ConfigError(f"record_shares: no adapter of EnergyGatedLoRA among {list(chosen)}. Add one first.")
    handles = [_watched(layer, adapter, shares[name]) for layer, name, adapter in found]
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()


def _watched(layer: AdaptedLayer, adapter: EnergyGatedLowRank, seen: list[Tensor]) -> RemovableHandle:
    return layer.on_input(lambda tokens: seen.append(adapter.share(tokens)))
