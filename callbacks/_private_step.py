"""One private step of somebody else's module: from their loss to the gradient that their optimizer gets."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from pvision.callbacks._private_loader import PublicBatches
from pvision.callbacks._private_log import PrivateLog
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import GaussianMechanism, unit_means
from pvision.privacy.agreed_sum import agreed_sum
from pvision.privacy.record_batches import BatchRedaction, check_rows, tensors_of
from pvision.privacy.step_gradients import StepGradients, gradients_of, trained_parameters

__all__ = ["PrivateStep", "carrier"]

Loss = Callable[[Any], Tensor]


class PrivateStep:
    """Computes the gradients of private steps, and sees to it that optimizers get no others.

    Args:
        module: the user's module.
        mechanism: releases them.
        log: what stands in for the module's ``log``.
        redact: the redaction, for mechanisms with two views.
        public: un-redacted batches for the un-noised part of ``"residual"``.
        engine: see `StepGradients`.
        microbatch: see `StepGradients`.
        residual_weight: the share of the noisy gradient beside the un-noised one.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        mechanism: GaussianMechanism,
        *,
        log: PrivateLog,
        redact: BatchRedaction | None,
        public: PublicBatches | None,
        engine: str,
        microbatch: int,
        residual_weight: float,
    ) -> None:
        self._module, self._mechanism, self._log = module, mechanism, log
        self._redact, self._public, self._weight = redact, public, residual_weight
        self._engine, self._microbatch = engine, microbatch
        self._positions: list[int] | None = None
        self._released: dict[str, Tensor] = {}

    def expect(self, positions: list[int]) -> None:
        """Take note of the records of the batch that comes now."""
        self._positions = positions

    def check_released(self) -> None:
        """Refuse a training step that passed the mechanism by.

        Raises:
            PrivacyError: if no gradient was released for the batch.
        """
        if self._positions is not None:
            raise PrivacyError(
                "training_step released nothing for its batch. Under manual optimisation call "
                "private.backward(self, batch, loss) once in every training_step, in place of self.manual_backward."
            )

    def gradients(self, loss: Loss, batch: Any) -> dict[str, Tensor]:
        """Return what the optimizer gets, for each parameter that learns, the same bits on every rank; a collective."""
        if self._positions is None:
            raise PrivacyError(
                "A second release was asked for one batch, and ε covers one. Add up the losses of a batch, and call "
                "private.backward once in training_step."
            )
        positions, self._positions = self._positions, None
        loss = _scalar(loss)
        trained = trained_parameters(self._module)
        pieces = StepGradients(
            self._module,
            self._log.noting(loss),
            batch,
            records=len(positions),
            redact=self._redact,
            engine=self._engine,
            microbatch=self._microbatch,
        )
        index = torch.tensor(positions, dtype=torch.int64)
        released = self._mechanism.release(pieces, trained, index=index)
        if self._public is not None:
            public = self._public
            unnoised = self._agreed(lambda: self._public_gradient(loss, public.next()))
            released = _sum(self._weight, released, unnoised)
        elif self._redact is not None:
            unnoised = self._agreed(lambda: self._shared_gradient(loss, batch, index))
            released = _sum(self._weight, released, unnoised)
        self._released = released
        self._log.replay(pieces.noted)
        return released

    def _public_gradient(self, loss: Loss, batch: Any) -> dict[str, Tensor]:
        """Return this rank's share of the mean gradient of all ranks' public batches, in the redacted view."""
        records = len(tensors_of(batch)[0])
        redacted = self._redacted(batch, records=records)
        trained = {name: one for name, one in self._module.named_parameters() if one.requires_grad}
        with self._log.public(records):
            own = gradients_of(loss(redacted), trained)
        return {name: value / self._mechanism.ranks.world_size for name, value in own.items()}

    def _shared_gradient(self, loss: Loss, batch: Any, index: Tensor) -> dict[str, Tensor]:
        """Return the summed gradients of this rank's part of the private batch, redacted, over its expected size."""
        mechanism, records = self._mechanism, len(index)
        pieces = StepGradients(
            self._module,
            self._log.noting(loss),
            self._redacted(batch, records=records),
            records=records,
            engine=self._engine,
            microbatch=self._microbatch,
        )
        trained = trained_parameters(self._module)
        own = {name: torch.zeros_like(value) for name, value in trained.items()}
        for piece in pieces if mechanism.units.one_each else unit_means(pieces, mechanism.units.of_record[index]):
            for name, value in piece.weighted_sum(piece.norms().new_ones(len(piece))).items():
                own[name] += value.to(own[name].dtype)
        expected = mechanism.spec.sample_rate * mechanism.units.count
        return {name: value / expected for name, value in own.items()}

    def _redacted(self, batch: Any, *, records: int) -> Any:
        if self._redact is None:
            raise PrivacyError("redact is missing.")
        check_rows(batch, records=records)
        return self._redact(batch, records=records)

    def _agreed(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the sum of what all ranks compute, the same bits on each; where one fails, all refuse."""
        own, refusal = trained_parameters(self._module), None
        dtypes = {name: value.dtype for name, value in own.items()}
        try:
            own = compute()
        except Exception as error:  # whatever it is, the other ranks must not wait for a part that never comes
            refusal = error
        total = agreed_sum(own, refusal=refusal, state=(), ranks=self._mechanism.ranks)
        return {name: value.to(dtypes[name]) for name, value in total.items()}

    def check_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a step on other gradients than those that were released.

        Raises:
            PrivacyError: they would carry records into the weights without clipping and noise.
        """
        names = {id(one): name for name, one in self._module.named_parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                if name is None or not self._is_released(name, parameter.grad):
                    raise PrivacyError(
                        f"The optimizer was about to step on a gradient of {name or 'an unknown parameter'} that the "
                        "mechanism did not release. Take out every other backward, clipping or change of gradients "
                        "during training."
                    )

    def _is_released(self, name: str, gradient: Tensor) -> bool:
        released = self._released.get(name)
        if released is None or released.shape != gradient.shape:
            return False
        one, other = gradient.nan_to_num(), released.to(gradient.dtype).nan_to_num()
        if self._mechanism.ranks.world_size == 1:
            return torch.equal(one, other)
        # DDP averages equal gradients by dividing and adding up, which rounds.
        return torch.allclose(one, other, rtol=8 * torch.finfo(gradient.dtype).eps, atol=0)


def carrier(module: pl.LightningModule, gradients: Mapping[str, Tensor]) -> Tensor:
    """Return a scalar of value 0 whose gradients are the given ones, to the bit; every parameter takes part."""
    product = sum((one * gradients[name]).sum() for name, one in module.named_parameters() if name in gradients)
    if not isinstance(product, Tensor):
        raise ConfigError("The module has no trainable parameter.")
    return product - product.detach()


def _scalar(loss: Loss) -> Loss:
    """Take the loss out of what a training step returns."""

    def scalar(batch: Any) -> Tensor:
        result: Any = loss(batch)
        value = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(value, Tensor) or value.dim():
            raise ConfigError(
                f"The loss of a batch must be a tensor without dimensions, or a dict with one under 'loss', but "
                f"{type(value).__name__ if not isinstance(value, Tensor) else f'shape {tuple(value.shape)}'} came. No "
                "batch may be skipped: every one is a release."
            )
        return value

    return scalar


def _sum(weight: float, noisy: dict[str, Tensor], public: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight * value + public[name] for name, value in noisy.items()}
