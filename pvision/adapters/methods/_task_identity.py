"""From which experience an image may come, told from one forward pass, and what that does to its logits."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pvision.continual.class_statistics import ClassStatistics
from pvision.continual.feature_recorder import InputRecorder
from pvision.continual.subspace import SubspaceMemory
from pvision.errors import ConfigError

__all__ = ["ClassTokens", "EnergyIdentity", "FeatureIdentity", "mixed", "raised"]

_SPHERE = 0.01  # makes every covariance invertible


class ClassTokens(InputRecorder):
    """While it is entered, keep the class tokens among the inputs of layers, ``(B, dim)``."""

    def take(self, name: str, features: Tensor) -> None:
        """Take the class tokens of one input of one layer.

        Raises:
            ConfigError: if the input has no class token.
        """
        if features.ndim != 3:
            raise ConfigError(
                f"method.identity: energy needs inputs of the shape (B, N, d) with the class token first, but "
                f"{tuple(features.shape)} came at {name}. Choose identity: features, or target other layers."
            )
        super().take(name, features[:, 0])


class EnergyIdentity(nn.Module):
    """Tell the experience by the residual bases: p(τ|x) ∝ exp(scale · mean over layers of ω_τ(x)).

    ω_τ(x) = ‖Φ_τᵀx̄‖² / ‖x̄‖², x̄ being the class token among the inputs of a layer.

    Args:
        memory: of each layer the residual basis Φ_τ of each experience.
        scale: what the shares are multiplied with.
        like: a tensor whose device and dtype are taken.
    """

    def __init__(self, memory: SubspaceMemory, *, scale: float, like: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.layers = {name: list(memory[name].ranks) for name in memory}
        for index, name in enumerate(self.layers):
            self.register_buffer(f"basis_{index}", memory[name].basis().to(like), persistent=False)

    def forward(self, features: Tensor, tokens: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """Return log p(τ|x), ``(B, experiences)``, of the class tokens of each layer; ``features`` have no part."""
        shares = [
            self._shares(tokens[name][-1], self.get_buffer(f"basis_{index}"), ranks)
            for index, (name, ranks) in enumerate(self.layers.items())
        ]
        return (self.scale * torch.stack(shares).mean(0)).log_softmax(1)

    def _shares(self, token: Tensor, basis: Tensor, ranks: list[int]) -> Tensor:
        token = token.to(basis.dtype)
        with torch.autocast(token.device.type, enabled=False):
            energies = torch.split((token @ basis).square(), ranks, dim=1)
            total = token.square().sum(1).clamp_min(torch.finfo(token.dtype).tiny)
            return torch.stack([energy.sum(1) for energy in energies], dim=1) / total[:, None]


class FeatureIdentity(nn.Module):
    """Tell the experience by the features: p(τ|x) = Σ over its classes c of p(c|x), of normal classes (ours).

    Each covariance is drawn towards that of all classes and a little towards a sphere, as in regularised discriminant
    analysis (Friedman 1989). It keeps ``classes * d²`` numbers, and an image costs as many multiplications.

    Args:
        statistics: of the features of each class.
        tasks: the classes of each experience.
        scale: what log p(x|c) is multiplied with; below 1 for less confidence.
        shrinkage: share of the covariance around the means of all classes in each class's, from 0 to 1.
        like: a tensor whose device and dtype are taken.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        tasks: Sequence[Sequence[int]],
        *,
        scale: float,
        shrinkage: float,
        like: Tensor,
    ) -> None:
        super().__init__()
        self.scale = scale
        classes = statistics.classes
        weights = torch.tensor([max(statistics.count(label) - 1, 1e-3) for label in classes], dtype=torch.float64)
        covariances = torch.stack([statistics.covariance(label) for label in classes])
        pooled = torch.einsum("c,cij->ij", weights / weights.sum(), covariances)
        even = pooled.diagonal().mean().clamp_min(1e-12) * torch.eye(statistics.dim, dtype=torch.float64)
        mixed = (1 - _SPHERE) * ((1 - shrinkage) * covariances + shrinkage * pooled) + _SPHERE * even
        factors = torch.linalg.cholesky(mixed)
        whiten = torch.linalg.solve_triangular(factors, torch.eye(statistics.dim, dtype=torch.float64), upper=False)
        means = torch.stack([statistics.mean(label) for label in classes])
        self._keep("whiten", whiten.to(like))
        self._keep("shift", torch.einsum("cij,cj->ci", whiten, means).to(like))
        self._keep("volume", factors.diagonal(dim1=1, dim2=2).log().sum(1).to(like))
        self._keep("member", torch.tensor([[label in task for label in classes] for task in tasks], device=like.device))

    def forward(self, features: Tensor, tokens: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """Return log p(τ|x), ``(B, experiences)``, of features ``(B, d)``; ``tokens`` have no part in it."""
        whiten = self.get_buffer("whiten")
        with torch.autocast(features.device.type, enabled=False):
            size, dim = whiten.shape[:2]
            white = (features.to(whiten.dtype) @ whiten.reshape(size * dim, dim).T).view(-1, size, dim)
            squares = (white - self.get_buffer("shift")).square().sum(2)
            scores = self.scale * (-0.5 * squares - self.get_buffer("volume"))
            of_tasks = scores[:, None, :].masked_fill(~self.get_buffer("member"), -torch.inf).logsumexp(2)
            return of_tasks.log_softmax(1)

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)


def raised(logits: Tensor, log_tasks: Tensor, member: Tensor) -> Tensor:
    """Return logits with log p(τ|x) added to those of the classes of τ.

    Args:
        logits: ``(B, classes)``.
        log_tasks: log p(τ|x), ``(B, experiences)``.
        member: which class occurs in which experience, bool, ``(experiences, classes)``.
    """
    return logits + log_tasks[:, :, None].masked_fill(~member, -torch.inf).logsumexp(1).to(logits.dtype)


def mixed(logits: Tensor, log_tasks: Tensor, member: Tensor) -> Tensor:
    """Return log Σ_τ p(τ|x) p(c|τ, x), where p(c|τ, x) is the softmax over the classes of τ alone; see `raised`."""
    within = logits[:, None, :].masked_fill(~member, -torch.inf).log_softmax(2)
    return (within + log_tasks[:, :, None]).logsumexp(1).to(logits.dtype)
