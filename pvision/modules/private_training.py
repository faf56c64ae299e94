"""Private training of a whole network, by every mechanism that a privacy statement can name."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from pvision.checks import positive_int, unit_rate
from pvision.errors import ConfigError, PrivacyError
from pvision.modules.private_classifier import PrivateClassifier, PrivateLoader
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
from pvision.privacy.step_gradients import trained_parameters
from pvision.training import refuse_unsafe_network

__all__ = ["PrivateTraining"]


class PrivateTraining(PrivateClassifier):
    """Train all trainable parameters of a network privately, by the mechanism of the privacy statement.

    ``residual``: each step adds the un-noised gradient of a public batch's redacted view and the clipped, noised
    gradient of ℓ(x) − ℓ(π(x)) on an independent, secret Poisson batch. ``residual_shared_batch``: both on one batch.
    ``dp_sgd``: clipped, noised gradients of the full view; with population ``"masked"``, each step adds the un-noised
    gradient of records in which nothing is masked. ``redact_then_dp_sgd``: public epochs on the redacted view, then
    DP-SGD.

    Args:
        network: as for `VideoClassifier`; no layer may mix samples or draw random numbers.
        privacy: everything that ε depends on.
        public_epochs: un-noised epochs before the first noisy step: on the redacted view, or, under ``dp_sgd`` with
            population ``"masked"``, on records in which nothing is masked.
        public_loss: for private labels: makes from the network a module ``(video, mask) -> loss`` that knows no label,
            such as `pvision.models.RotationPretext`; all un-noised training uses it.
        optimizer: of the public epochs.
        private_optimizer: of the noisy steps.
        residual_weight: λ in (0, 1]: the noisy gradient's share, and its noise's, in each step of the residuals.
        microbatch: records whose gradients are held in memory at once.
        label_smoothing: of the public epochs.

    Raises:
        PrivacyError: if the network mixes samples, or un-noised training would use what the statement protects.

    Guarantee:
        That of `GaussianMechanism`; the public batch is drawn independently of the private one, but for
        ``residual_shared_batch``, which is accounted accordingly.
    """

    def __init__(
        self,
        network: nn.Module,
        privacy: PrivacySpec,
        *,
        public_epochs: int = 0,
        public_loss: Callable[[nn.Module], nn.Module] | None = None,
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
        self._check_public_loss(public_loss)
        self.label_free_loss = None if public_loss is None else public_loss(network)
        self._private_optimizer = private_optimizer
        self._residual_weight = unit_rate("model.residual_weight", residual_weight)
        self._microbatch = positive_int("model.microbatch", microbatch)
        refuse_unsafe_network(network, allow_shared=True)  # torch.func adds up all uses of a parameter first

    def _check_schedule(self) -> None:
        mechanism, epochs = self.privacy.mechanism, self.public_epochs
        if mechanism == "dp_sgd" and self.privacy.population == "all" and epochs:
            raise PrivacyError(
                f"model.public_epochs is {epochs} under mechanism 'dp_sgd', whose guarantee for a whole record "
                "un-noised epochs would void. Set public_epochs to 0, or mechanism to 'redact_then_dp_sgd'."
            )
        if mechanism == "redact_then_dp_sgd" and not epochs:
            raise ConfigError("model.public_epochs must be above 0 under mechanism 'redact_then_dp_sgd', but 0 came.")

    def _check_public_loss(self, public_loss: Any) -> None:
        unnoised = self.privacy.mechanism != "dp_sgd"
        if self.privacy.label == "private" and unnoised and public_loss is None:
            raise PrivacyError(
                "privacy.label is 'private', but un-noised training would use the labels. Give a label-free "
                "model.public_loss, for example pvision.models.RotationPretext, or use mechanism 'dp_sgd'."
            )
        if public_loss is not None and not unnoised and self.privacy.population == "all":
            raise ConfigError("model.public_loss has no use under mechanism 'dp_sgd', which trains on noise alone.")

    # Un-noised training

    def public_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the batches of un-noised training: all redacted records, or those in which nothing is masked."""
        if self.privacy.mechanism != "dp_sgd":
            return data.public_loader()
        if self.privacy.population == "all":
            return ()
        return data.public_loader(self._unmasked(data))

    def public_loss(self, batch: PublicView) -> Tensor:
        """Return the loss of un-noised training: without labels if they are private."""
        if self.label_free_loss is None:
            return super().public_loss(batch)
        loss: Tensor = self.label_free_loss(as_floats(batch.video), batch.mask)
        # The classifier itself gets no gradient from it, but with several processes DDP waits for one.
        return loss + self._zero()

    def publicly_trained(self) -> list[nn.Parameter]:
        """Return the network's parameters, and those that only the label-free loss has."""
        own = {id(parameter) for parameter in self.network.parameters()}
        more = [] if self.label_free_loss is None else self.label_free_loss.parameters()
        return super().publicly_trained() + [one for one in more if one.requires_grad and id(one) not in own]

    def _unmasked(self, data: TrainingData) -> list[int]:
        outside = self.protected_units(data).of_record < 0
        positions: list[int] = outside.nonzero().flatten().tolist()
        return positions

    # Noisy steps

    def private_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the secret batches, each with an independent un-noised one where the mechanism has such a part."""
        private = data.two_view_loader(self.start_mechanism(data).batches)
        if self._pairs_batches(data):
            return PrivateLoader(_Paired(self.public_loader(data), private))
        return PrivateLoader(private)

    def _pairs_batches(self, data: TrainingData) -> bool:
        if self.privacy.mechanism == "dp_sgd" and self.privacy.population == "masked":
            return bool(self._unmasked(data))
        return self.privacy.mechanism == "residual"

    def private_step(self, batch: "TwoViews | PairedBatch") -> None:
        """Release the noisy gradients of a private batch and step; see the class."""
        views = batch.private if isinstance(batch, PairedBatch) else batch
        noisy = self._release(views)
        optimizer = self.optimizers()[1]  # type: ignore[index]  # the un-noised one comes first
        optimizer.zero_grad()
        if isinstance(batch, PairedBatch):
            self.manual_backward(self._unsmoothed_loss(batch.public))
        elif self.privacy.mechanism == "residual_shared_batch":
            self.manual_backward(self._shared_batch_loss(views.public))
        weight = self._residual_weight if self.privacy.two_views else 1.0
        for name, parameter in self.network.named_parameters():
            if name in noisy:
                noisy_gradient = weight * noisy[name]
                parameter.grad = noisy_gradient if parameter.grad is None else parameter.grad + noisy_gradient
        optimizer.step()

    def private_optimizers(self) -> list[Optimizer]:
        """Return the optimizer of the noisy steps."""
        return [self._private_optimizer(self.publicly_trained())]

    def _release(self, views: TwoViews) -> dict[str, Tensor]:
        mechanism = self.running_mechanism()
        trained = trained_parameters(self.network)
        frozen = {name: one.detach() for name, one in self.network.named_parameters() if name not in trained}
        frozen |= self.network.named_buffers()
        loss = residual_loss if self.privacy.two_views else full_view_loss
        floats = views._replace(
            full=as_floats(views.full), public=views.public._replace(video=as_floats(views.public.video))
        )
        gradients = record_gradients(
            loss(self.network, frozen),
            trained,
            floats,
            microbatch=self._microbatch,
            fixed_size=mechanism.batches.fixed_size,
        )
        return mechanism.release(gradients, trained, index=views.public.position)

    def _unsmoothed_loss(self, batch: PublicView) -> Tensor:
        if self.label_free_loss is not None:
            return self.public_loss(batch)
        return F.cross_entropy(self.network(as_floats(batch.video)), batch.label)

    def _shared_batch_loss(self, batch: PublicView) -> Tensor:
        """Return what DDP averages to the gradient of the whole batch's summed loss over its expected size."""
        expected = self.privacy.sample_rate * self.running_mechanism().units.count
        if not len(batch.label):  # this rank's part is empty, but the others wait for its gradients
            return self._zero()
        summed = F.cross_entropy(self.network(as_floats(batch.video)), batch.label, reduction="sum")
        return summed * self.trainer.world_size / expected

    def _zero(self) -> Tensor:
        """Return 0, as a function of every trained parameter."""
        return sum((one.sum() * 0 for one in self.publicly_trained()), torch.zeros((), device=self.device))


class PairedBatch(NamedTuple):
    """The two independent batches of one noisy step."""

    public: PublicView
    private: TwoViews


class _Paired:
    """Each private batch with the next public one; public epochs follow one another."""

    def __init__(self, public: Iterable[PublicView], private: Any) -> None:
        self._public, self._private = public, private

    def __len__(self) -> int:
        return len(self._private)

    def __iter__(self) -> Iterator[PairedBatch]:
        public = self._endless()
        for private in self._private:
            yield PairedBatch(next(public), private)

    def _endless(self) -> Iterator[PublicView]:
        while True:
            yield from self._public
