"""Private training of a whole network: residual (A1), DP-SGD (F), redact-then-DP-SGD (E)."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from pvision.checks import positive_int, unit_rate
from pvision.errors import ConfigError, PrivacyError
from pvision.models import require_privately_trainable
from pvision.modules.private_classifier import PrivateClassifier
from pvision.modules.video_classifier import TrainingData
from pvision.privacy import (
    PrivacySpec,
    PublicView,
    TwoViews,
    as_floats,
    full_view_loss,
    record_gradients,
    residual_loss,
)

__all__ = ["PrivateTraining"]


class PrivateTraining(PrivateClassifier):
    """Train all trainable parameters of a network privately, by the mechanism of the privacy statement.

    ``residual``: each step adds the un-noised gradient of a public batch's redacted view and the clipped, noised
    gradient of ℓ(x) − ℓ(π(x)) on an independent, secret Poisson batch. ``dp_sgd``: clipped, noised gradients of the
    full view; no public epochs. ``redact_then_dp_sgd``: public epochs on the redacted view, then DP-SGD.

    Args:
        network: as for `VideoClassifier`; no layer may mix samples or draw random numbers.
        privacy: everything that ε depends on.
        public_epochs: epochs on the redacted view before the first noisy step.
        optimizer: of the public epochs.
        private_optimizer: of the noisy steps.
        residual_weight: λ in (0, 1]: the residual's share, and its noise, in each step of ``residual``.
        microbatch: records whose gradients are held in memory at once.
        label_smoothing: of the public epochs.

    Raises:
        PrivacyError: if the network mixes samples, or the schedule has un-noised epochs that the mechanism's
            guarantee does not cover.

    Guarantee:
        That of `GaussianMechanism`; the public batch is drawn independently of the private one.
    """

    def __init__(
        self,
        network: nn.Module,
        privacy: PrivacySpec,
        *,
        public_epochs: int = 0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        private_optimizer: OptimizerCallable = torch.optim.Adam,
        residual_weight: float = 1.0,
        microbatch: int = 32,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__(
            network, privacy, public_epochs=public_epochs, optimizer=optimizer, label_smoothing=label_smoothing
        )
        self._check_schedule()
        self._private_optimizer = private_optimizer
        self._residual_weight = unit_rate("model.residual_weight", residual_weight)
        self._microbatch = positive_int("model.microbatch", microbatch)
        require_privately_trainable(network)

    def _check_schedule(self) -> None:
        mechanism, epochs = self.privacy.mechanism, self.public_epochs
        if mechanism == "dp_sgd" and epochs:
            raise PrivacyError(
                f"model.public_epochs is {epochs} under mechanism 'dp_sgd', whose guarantee for a whole record "
                "un-noised epochs would void. Set public_epochs to 0, or mechanism to 'redact_then_dp_sgd'."
            )
        if mechanism == "redact_then_dp_sgd" and not epochs:
            raise ConfigError("model.public_epochs must be above 0 under mechanism 'redact_then_dp_sgd', but 0 came.")

    def private_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the secret Poisson batches, for ``residual`` each with an independent public batch."""
        private = data.two_view_loader(self.start_mechanism(data).batches)
        return _Paired(data.public_loader(), private) if self.privacy.mechanism == "residual" else private

    def private_step(self, batch: "TwoViews | ResidualBatch") -> None:
        """Release the noisy gradients of a private batch and step; see the class."""
        mechanism = self.running_mechanism()
        views, loss = (batch.private, residual_loss) if isinstance(batch, ResidualBatch) else (batch, full_view_loss)
        trained, frozen = self._trained_and_frozen()
        floats = views._replace(
            full=as_floats(views.full), public=views.public._replace(video=as_floats(views.public.video))
        )
        gradients = record_gradients(loss(self.network, frozen), trained, floats, microbatch=self._microbatch)
        noisy = mechanism.release(gradients, trained, index=views.public.position)
        optimizer = self.optimizers()[1]  # type: ignore[index]  # the un-noised one comes first
        optimizer.zero_grad()
        if isinstance(batch, ResidualBatch):
            self._public_gradient(batch.public)
            noisy = {name: self._residual_weight * value for name, value in noisy.items()}
        for name, parameter in self.network.named_parameters():
            if name in noisy:
                parameter.grad = noisy[name] if parameter.grad is None else parameter.grad + noisy[name]
        optimizer.step()

    def private_optimizers(self) -> list[Optimizer]:
        """Return the optimizer of the noisy steps."""
        return [
            self._private_optimizer(parameter for parameter in self.network.parameters() if parameter.requires_grad)
        ]

    def _trained_and_frozen(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        trained: dict[str, Tensor] = {}
        frozen: dict[str, Tensor] = dict(self.network.named_buffers())
        for name, parameter in self.network.named_parameters():
            (trained if parameter.requires_grad else frozen)[name] = parameter.detach()
        return trained, frozen

    def _public_gradient(self, batch: PublicView) -> None:
        self.manual_backward(F.cross_entropy(self.network(as_floats(batch.video)), batch.label))


class ResidualBatch(NamedTuple):
    """The two independent batches of one residual step."""

    public: PublicView
    private: TwoViews


class _Paired:
    """Each private batch with the next public one; public epochs follow one another."""

    def __init__(self, public: Iterable[PublicView], private: Any) -> None:
        self._public, self._private = public, private

    def __len__(self) -> int:
        return len(self._private)

    def __iter__(self) -> Iterator[ResidualBatch]:
        public = self._endless()
        for private in self._private:
            yield ResidualBatch(next(public), private)

    def _endless(self) -> Iterator[PublicView]:
        while True:
            yield from self._public
