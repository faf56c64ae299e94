"""The additive residual head: a linear head on what a frozen encoder sees only in the full view.

::

    h(x)      = clip_1( P (φ(x) − φ(π(x))) )
    logits(x) = f_pub(π(x)) + W h(x)

f_pub and P never read masked content, and h(π(x)) = 0, so the ordinary gradient of W *is* the residual between the
views: a zeroed-out record contributes exactly nothing. With few, well-conditioned parameters the noise stays small
beside the signal; the redacted view keeps the public network's logits bit for bit. Why and how well:
docs/methods/maskdp.md.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import positive_int, unit_rate
from pvision.errors import ConfigError
from pvision.privacy.gradients import OuterGradients
from pvision.privacy.mechanism import GaussianMechanism

__all__ = ["ResidualHead", "TailAverage", "clip_rows", "noisy_head_gradient", "whitening"]

_DAMPING = 0.05
_LEAST_DEVIATION = 1e-3


class ResidualHead(nn.Module):
    """A bias-free linear head on projected feature differences, starting at zero.

    Args:
        feature_dim: features of the encoder.
        num_classes: how many classes.
        projection_dim: dimensions kept; fewer means less noise.

    Raises:
        ConfigError: if ``projection_dim`` exceeds ``feature_dim``.

    Guarantee:
        The features of a record whose two views are equal are exactly zero.
    """

    projection: Tensor

    def __init__(self, feature_dim: int, num_classes: int, *, projection_dim: int = 96) -> None:
        super().__init__()
        if positive_int("projection_dim", projection_dim) > feature_dim:
            raise ConfigError(
                f"projection_dim must be at most the encoder's {feature_dim} features, but {projection_dim} came."
            )
        self.register_buffer("projection", torch.zeros(feature_dim, projection_dim))
        self.weight = nn.Parameter(torch.zeros(num_classes, projection_dim))

    def fit_projection(self, difference: Tensor) -> None:
        """Choose the projection from feature differences of public clips.

        Args:
            difference: φ(x) − φ(π(x)) of clips outside the guarantee, ``(N, feature_dim)``.
        """
        self.projection.copy_(whitening(difference, self.projection.shape[1]))

    def features(self, full: Tensor, public: Tensor, *, same: Tensor) -> Tensor:
        """Return h, ``(B, projection_dim)``, of norm 1 at most.

        Args:
            full: φ of the full view, ``(B, feature_dim)``.
            public: φ of the redacted view, ``(B, feature_dim)``.
            same: where the two views are equal, bool, ``(B,)``.
        """
        projected = clip_rows((full - public) @ self.projection)
        # φ of two equal clips may differ by rounding, which whitening would enlarge; the guarantee needs exactly 0.
        return projected.masked_fill(same.unsqueeze(1), 0)

    def forward(self, features: Tensor) -> Tensor:
        """Return what to add to the public logits, ``(B, num_classes)``."""
        logits: Tensor = features @ self.weight.T
        return logits


def clip_rows(rows: Tensor) -> Tensor:
    """Scale rows down to L2 norm 1 at most; shorter rows stay."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp_min(1)


def whitening(rows: Tensor, dim: int) -> Tensor:
    """Return a projection to ``dim`` decorrelated directions in which the median row has norm 1.

    Args:
        rows: public rows about zero, ``(N, features)``.
        dim: how many principal directions to keep.

    Returns:
        ``(features, dim)``; directions of little variance are damped rather than blown up.

    Raises:
        ConfigError: if all rows are zero: then nothing distinguishes the views.
    """
    deviation = rows.square().mean(0).sqrt() + _LEAST_DEVIATION
    standard = rows / deviation
    variances, directions = torch.linalg.eigh(standard.T @ standard / len(rows))
    variances, directions = variances.flip(0)[:dim].clamp_min(0), directions.flip(1)[:, :dim]
    scales = variances.sqrt() + _DAMPING * variances[0].sqrt()
    projection = directions / scales / deviation.unsqueeze(1)
    median = torch.linalg.vector_norm(rows @ projection, dim=1).median()
    if not median > 0:
        raise ConfigError(
            "The two views of the public clips have equal features, so nothing can be learned from their difference. "
            "Check that their masks are not empty (redaction.sensitive) and that the encoder sees the masked region."
        )
    return torch.div(projection, median)


@torch.no_grad()
def noisy_head_gradient(
    weight: Tensor,
    mechanism: GaussianMechanism,
    features: Tensor,
    base_logits: Tensor,
    label: Tensor,
    *,
    index: Tensor,
) -> Tensor:
    """Return the mechanism's noisy cross-entropy gradient of a linear head.

    Args:
        weight: the head's weight, ``(num_classes, dim)``.
        mechanism: clips, adds noise and counts.
        features: inputs of the head, ``(B, dim)``.
        base_logits: logits to which the head adds, ``(B, num_classes)``.
        label: class indices, ``(B,)``.
        index: positions of the records, as the mechanism's sampler drew them, ``(B,)``.

    Returns:
        The gradient, in the shape of ``weight``.

    Guarantee:
        That of `GaussianMechanism.release`.
    """
    probabilities = torch.softmax(base_logits + features @ weight.T, 1)
    error = probabilities - F.one_hot(label, len(weight)).to(probabilities.dtype)
    return mechanism.release([OuterGradients("weight", error, features)], {"weight": weight}, index=index)["weight"]


class TailAverage:
    """The mean of the last iterates of noisy descent: post-processing that averages noise away.

    Args:
        steps: how many steps there will be.
        share: share of the last steps that is averaged, above 0 and at most 1.
    """

    def __init__(self, *, steps: int, share: float = 0.5) -> None:
        averaged = max(1, round(positive_int("steps", steps) * unit_rate("share", share)))
        self._first = steps - averaged
        self._averaged = 0
        self._sum: Tensor | None = None

    @torch.no_grad()
    def update(self, weight: Tensor, *, step: int) -> None:
        """Take note of the iterate after a step; steps are numbered from 1, and lost ones have a number too."""
        if step > self._first:
            self._sum = weight.clone() if self._sum is None else self._sum + weight
            self._averaged += 1

    @torch.no_grad()
    def copy_to(self, weight: Tensor) -> None:
        """Set ``weight`` to the mean; leave it if no step was averaged."""
        if self._sum is not None:
            weight.copy_(self._sum / self._averaged)

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """Return what a checkpoint must keep."""
        return {"sum": self._sum, "averaged": self._averaged}

    def load_state_dict(self, state: dict[str, Any], *, like: Tensor) -> None:
        """Go on from a checkpoint, on the device of ``like``."""
        self._sum = None if state["sum"] is None else state["sum"].to(like)
        self._averaged = int(state["averaged"])
