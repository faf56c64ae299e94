"""LoRA: a frozen linear map plus a trainable map of low rank.

[0] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.adapter import Adapter, Setting, new_parameter
from pvision.adapters.places import Place
from pvision.checks import positive, positive_int
from pvision.errors import ConfigError

__all__ = ["LoRA", "LowRank", "check_rank"]


@dataclass(frozen=True)
class LoRA:
    """Add ``scaling · B A x`` to ``W₀ x``, where A has ``rank`` rows.

    A starts as a linear layer does, B at zero.

    Args:
        rank: rows of A and columns of B; at most the smaller side of the matrix.
        alpha: the scaling is ``alpha / rank``; None for a scaling of 1.

    Raises:
        ConfigError: if ``rank`` is no whole number above 0 or ``alpha`` no finite number above 0.
    """

    rank: int = 8
    alpha: float | None = None

    place_kind: ClassVar[str] = "linear"
    default_targets: ClassVar[tuple[str, ...]] = ("q", "v")

    def __post_init__(self) -> None:
        positive_int("rank", self.rank)
        if self.alpha is not None:
            positive("alpha", self.alpha)

    @property
    def scaling(self) -> float:
        """What the product B A is multiplied with."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def build(self, place: Place, weight: Tensor) -> "LowRank":
        """Return a new adapter of this rank."""
        check_rank(self.rank, place)
        return LowRank(place, rank=self.rank, scaling=self.scaling, like=weight)


class LowRank(Adapter, kind="low_rank"):
    """The map ``scaling · B A``, with A = ``down`` and B = ``up``.

    A may be fixed, or confined to a subspace: projecting its gradient instead is undone by any optimizer that rescales
    or decays what it is given, such as AdamW.

    Args:
        place: where it sits.
        rank: rows of A.
        scaling: what the product is multiplied with.
        like: a tensor whose device and dtype the new ones take; None for float32 on the CPU.

    Attributes:
        down: A, ``(rank, in_features)``; of an adapter confined to a subspace, its coordinates, ``(rank, k)``.
        up: B, ``(out_features, rank)``.
        basis: the orthonormal basis of that subspace, ``(in_features, k)``, or None.
    """

    basis: Tensor | None
    down: Tensor

    def __init__(self, place: Place, *, rank: int, scaling: float = 1.0, like: Tensor | None = None) -> None:
        super().__init__(place)
        like = torch.empty(0) if like is None else like
        self.scaling = float(scaling)
        self.down = new_parameter(rank, place.in_features, like=like)
        self.up = new_parameter(place.out_features, rank, like=like)
        self.register_buffer("basis", None)
        nn.init.kaiming_uniform_(self.down, a=sqrt(5))

    @property
    def mergeable(self) -> bool:
        """Whether it is a change of weights: always."""
        return True

    @property
    def rank(self) -> int:
        """How many ranks it has now."""
        return self.up.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``scaling · B A x`` of tokens, ``(…, in_features)``."""
        narrow = tokens if self.basis is None else F.linear(tokens, self.basis.T)
        return F.linear(self.hidden(F.linear(narrow, self.down)), self.up) * self.scaling

    def hidden(self, inner: Tensor) -> Tensor:
        """Return what B is given, of ``A x``, ``(…, rank)``; a subclass may weigh the ranks."""
        return inner

    def down_matrix(self) -> Tensor:
        """Return A, ``(rank, in_features)``, whatever it is made of."""
        return self.down if self.basis is None else self.down @ self.basis.T

    def up_matrix(self) -> Tensor:
        """Return B, ``(out_features, rank)``, with all that weighs its ranks but not the scaling."""
        return self.up

    def delta_weight(self) -> Tensor:
        """Return ``scaling · B A``."""
        return self.up_matrix() @ self.down_matrix() * self.scaling

    def fix_down(self, matrix: Tensor) -> None:
        """Set A to ``matrix`` and never train it.

        A becomes a buffer, so no optimizer can move it and `AdaptedModel.train_only` does not thaw it.

        Args:
            matrix: the rows of A, ``(rank, in_features)``.

        Raises:
            ConfigError: if its shape is another one.
        """
        _check_shape("matrix", matrix, (self.rank, self.in_features))
        self.basis = None
        self._set_fixed(matrix)

    def confine_to(self, basis: Tensor) -> None:
        """Make A = C basisᵀ with C trainable, so that A stays in the subspace whatever the optimizer does.

        Args:
            basis: orthonormal columns, ``(in_features, k)`` with ``rank <= k``.

        Raises:
            ConfigError: if the shape does not fit or the columns are not orthonormal to 1e-3.
        """
        if basis.ndim != 2 or basis.shape[0] != self.in_features or basis.shape[1] < self.rank:
            wanted = f"({self.in_features}, k) with k of at least {self.rank}"
            raise ConfigError(f"basis must have the shape {wanted}, but {tuple(basis.shape)} came.")
        gram = basis.T @ basis
        if not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device), atol=1e-3):
            raise ConfigError(
                "basis must have orthonormal columns. Take them from a QR or singular value decomposition."
            )
        self.basis = _own_copy(basis, like=self.up)
        self.down = new_parameter(self.rank, basis.shape[1], like=self.up).requires_grad_(self.up.requires_grad)
        nn.init.kaiming_uniform_(self.down, a=sqrt(5))

    def prune(self) -> int:
        """Remove the ranks whose row of A or column of B is zero throughout."""
        alive = self.alive()
        return self.keep_ranks(alive) if not bool(alive.all()) else 0

    def alive(self) -> Tensor:
        """Return which ranks can contribute, bool, ``(rank,)``."""
        return self.down.ne(0).any(1) & self.up.ne(0).any(0)

    def keep_ranks(self, alive: Tensor) -> int:
        """Keep the ranks where ``alive`` is true and return how many are gone; parameters are new afterwards."""
        gone = int((~alive).sum())
        self.up = nn.Parameter(self.up.detach()[:, alive].contiguous(), requires_grad=self.up.requires_grad)
        if isinstance(self.down, nn.Parameter):
            self.down = nn.Parameter(self.down.detach()[alive], requires_grad=self.down.requires_grad)
        else:
            self._set_fixed(self.down[alive])
        return gone

    @property
    def is_empty(self) -> bool:
        """Whether no rank is left."""
        return self.rank == 0

    def settings(self) -> Mapping[str, Setting]:
        """Return rank, scaling, and what A is."""
        fixed = not isinstance(self.down, nn.Parameter)
        subspace = None if self.basis is None else self.basis.shape[1]
        return {"rank": self.rank, "scaling": self.scaling, "down_fixed": fixed, "subspace": subspace}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return an adapter with these settings."""
        adapter = cls(place, rank=cast(int, settings["rank"]), scaling=cast(float, settings["scaling"]))
        if settings["down_fixed"]:
            adapter.fix_down(adapter.down.detach())
        if settings["subspace"] is not None:
            width = cast(int, settings["subspace"])
            adapter.basis = torch.zeros(place.in_features, width)
            adapter.down = new_parameter(adapter.rank, width, like=adapter.up)
        return adapter

    def _set_fixed(self, matrix: Tensor) -> None:
        fixed = _own_copy(matrix, like=self.up)
        del self.down
        self.register_buffer("down", fixed)


def check_rank(rank: int, place: Place) -> None:
    """Refuse a rank above the smaller side of the matrix at ``place``.

    Raises:
        ConfigError: naming the place.
    """
    most = min(place.in_features, place.out_features)
    if rank > most:
        shape = f"({place.out_features}, {place.in_features})"
        raise ConfigError(f"rank must be at most {most} at {place.name}, whose matrix is {shape}, but {rank} came.")


def _own_copy(matrix: Tensor, *, like: Tensor) -> Tensor:
    """Return a copy laid out row by row, as a file gives it back: products of other layouts round differently."""
    return matrix.detach().to(like).clone(memory_format=torch.contiguous_format)


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ConfigError(f"{name} must have the shape {shape}, but {tuple(value.shape)} came.")
