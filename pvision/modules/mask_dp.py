"""MaskDP: a public network on the redacted view plus a private head on what a frozen encoder sees only without it."""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pvision.checks import at_least, positive, unit_rate
from pvision.errors import ConfigError, PrivacyError
from pvision.modules.private_classifier import PrivateClassifier, PrivateLoader
from pvision.modules.video_classifier import TrainingData
from pvision.privacy import (
    PrivacySpec,
    Ranks,
    ResidualHead,
    TailAverage,
    TwoViews,
    as_floats,
    noisy_head_gradient,
    surrogate_views,
)

__all__ = ["MaskDP"]

_AVERAGE_KEY = "tail_average"


class MaskDP(PrivateClassifier):
    """Learn the redacted view without noise, then what masking took away under differential privacy.

    The public epochs train ``network`` on redacted clips. The private epoch trains a linear head on the difference
    of frozen features, φ(x) − φ(π(x)), whose logits are added to the network's. See `pvision.privacy.ResidualHead`.
    The difference is projected as clips outside the guarantee suggest (the data's ``pretraining_set``), or, where
    there are none, as `pvision.privacy.surrogate_views` of the redacted clips do.

    Args:
        network: as for `VideoClassifier`.
        encoder: φ, frozen: has ``features(video)`` and ``feature_dim``; trained on data outside the guarantee.
        privacy: everything that ε depends on; the mechanism must be ``"residual"``.
        public_epochs: epochs of ``network`` on the redacted view.
        optimizer: of the public epochs.
        projection_dim: dimensions of the feature difference that are kept.
        learning_rate: of the noisy steps; large, because features and gradients are small.
        momentum: of the noisy steps.
        average: share of the last noisy steps whose weights are averaged into the final ones.
        label_smoothing: of the public epochs.

    Raises:
        ConfigError: if a value is outside its range, or the encoder gives no features.
        PrivacyError: if another mechanism, or a private label, is stated.

    Guarantee:
        Network, projection and features of the redacted view never see masked content. A zeroed-out record adds
        exactly nothing to any release. The redacted view's logits are the public network's, bit for bit.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: nn.Module,
        privacy: PrivacySpec,
        *,
        public_epochs: int = 6,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        projection_dim: int = 96,
        learning_rate: float = 30.0,
        momentum: float = 0.9,
        average: float = 0.5,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__(
            network, privacy, public_epochs=public_epochs, optimizer=optimizer, label_smoothing=label_smoothing
        )
        if privacy.mechanism != "residual":
            raise PrivacyError(f"MaskDP needs privacy.mechanism 'residual', but {privacy.mechanism!r} came.")
        if privacy.label == "private":
            raise PrivacyError(
                "privacy.label 'private' has no proof under MaskDP, whose public network is trained with labels. Use "
                "PrivateTraining with a label-free model.public_loss, or state that the label is 'public'."
            )
        self.encoder: Any = encoder.requires_grad_(False).eval()
        self.head = ResidualHead(_feature_dim(encoder), self.num_classes, projection_dim=projection_dim)
        self._learning_rate = positive("model.learning_rate", learning_rate)
        self._momentum = at_least("model.momentum", momentum, 0)
        if self._momentum >= 1:
            raise ConfigError(f"model.momentum must be below 1, but {momentum} came.")
        self._average_share = unit_rate("model.average", average)
        self._average: TailAverage | None = None
        self._average_state: dict[str, Any] | None = None
        # The head never meets autograd, so DDP, which waits for every gradient, must not know it.
        self._ddp_params_and_buffers_to_ignore = ["head.weight"]

    def setup(self, stage: str) -> None:
        """Keep Lightning from warning that the encoder does not train: it must not."""
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        super().setup(stage)

    def train(self, mode: bool = True) -> "MaskDP":
        """Switch the mode of everything but the encoder, which stays frozen."""
        super().train(mode)
        self.encoder.eval()
        return self

    def logits(self, views: TwoViews) -> tuple[Tensor, Tensor]:
        """Return the logits of the full and of the redacted view."""
        base = self.network(as_floats(views.public.video))
        return base + self.head(self.head_features(views)), base

    @torch.no_grad()
    def head_features(self, views: TwoViews) -> Tensor:
        """Return the head's inputs, ``(B, projection_dim)``; exactly zero where a record's two views are equal."""
        full, public = self.encoder_features(views)
        same = (views.full == views.public.video).flatten(1).all(1)
        return self.head.features(full, public, same=same)

    @torch.no_grad()
    def encoder_features(self, views: TwoViews) -> tuple[Tensor, Tensor]:
        """Return φ of the full and of the redacted view, each ``(B, feature_dim)``."""
        return self.encoder.features(as_floats(views.full)), self.encoder.features(as_floats(views.public.video))

    def private_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the head's inputs in the mechanism's batches; features are computed once."""
        batches = self.start_mechanism(data).batches
        was_training = self.training
        self.eval()
        if not self.head.projection.any():  # after a resumption it is the checkpoint's
            self._fit_projection(data)
        records = _HeadRecords(self.cached_features(data))
        self.train(was_training)
        self._average = TailAverage(steps=self.privacy.steps, share=self._average_share)
        if self._average_state is not None:
            self._average.load_state_dict(self._average_state, like=self.head.weight)
            self._average_state = None
        return PrivateLoader(DataLoader(records, sampler=batches, batch_size=None))

    def private_step(self, batch: "HeadBatch") -> None:
        """Take one noisy step of the head."""
        mechanism, weight = self.running_mechanism(), self.head.weight
        weight.grad = noisy_head_gradient(weight, mechanism, *batch[:3], index=batch.position)
        self.optimizers()[1].step()  # type: ignore[index]  # the un-noised one comes first
        if self._average is not None:
            self._average.update(weight, step=mechanism.steps)
            if mechanism.steps == self.privacy.steps:
                self._finish()

    def on_train_epoch_end(self) -> None:
        """Average the weights also where the private epoch ended early."""
        self._finish()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running average too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_AVERAGE_KEY] = None if self._average is None else self._average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on averaging where the checkpoint stands."""
        super().on_load_checkpoint(checkpoint)
        self._average_state = checkpoint[_AVERAGE_KEY]

    def private_optimizers(self) -> list[Optimizer]:
        """Return the optimizer of the head."""
        step = self._learning_rate * (1 - self._momentum)
        return [torch.optim.SGD([self.head.weight], lr=step, momentum=self._momentum)]

    @torch.no_grad()
    def cached_features(self, data: TrainingData) -> "HeadBatch":
        """Return the head's inputs for all training records, in order; with several processes each computes a share."""
        ranks = Ranks()
        mine = range(ranks.rank, len(data.train_set), ranks.world_size)
        batches = [
            list(mine[start : start + data.eval_batch_size]) for start in range(0, len(mine), data.eval_batch_size)
        ]
        computed = []
        for batch in tqdm(data.two_view_loader(batches), desc="Features of the training clips", leave=False):
            views = self.transfer_batch_to_device(batch, self.device, 0)
            base = self.network(as_floats(views.public.video))
            computed.append(HeadBatch(self.head_features(views), base, views.label, views.public.position))
        columns = [ranks.gathered(torch.cat(column)) for column in zip(*computed, strict=True)]
        order = columns[-1].argsort()
        return HeadBatch(*(column[order] for column in columns))

    def _fit_projection(self, data: TrainingData) -> None:
        loader = data.pretraining_loader()
        # Every process computes all of it: what they project to must be the same to the last bit.
        pairs = loader if loader is not None else map(surrogate_views, data.public_in_order_loader())
        differences = []
        for batch in tqdm(pairs, desc="Features of the public clips", leave=False):
            full, public = self.encoder_features(self.transfer_batch_to_device(batch, self.device, 0))
            differences.append(full - public)
        self.head.fit_projection(torch.cat(differences))

    def _finish(self) -> None:
        if self._average is not None:
            self._average.copy_to(self.head.weight)
            self._average = None


class HeadBatch(NamedTuple):
    """What a noisy step of the head needs of a batch of records."""

    features: Tensor
    base_logits: Tensor
    label: Tensor
    position: Tensor


class _HeadRecords(Dataset[HeadBatch]):
    """Cached head inputs, indexed by lists of positions."""

    def __init__(self, cached: HeadBatch) -> None:
        self._cached = cached

    def __len__(self) -> int:
        return len(self._cached.label)

    def __getitem__(self, indices: list[int]) -> HeadBatch:
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self._cached.label.device)
        return HeadBatch(*(column[chosen] for column in self._cached))


def _feature_dim(encoder: nn.Module) -> int:
    dim = getattr(encoder, "feature_dim", None)
    if not isinstance(dim, int) or not callable(getattr(encoder, "features", None)):
        raise ConfigError(
            f"model.encoder ({type(encoder).__name__}) must have features(video) and an integer feature_dim. "
            "Use an encoder of pvision.models, or add both to yours."
        )
    return dim
