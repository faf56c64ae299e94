"""The Gaussian mechanism: the one place that clips, sums, charges and adds noise."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.errors import PrivacyError
from pvision.privacy.gradients import RecordGradients, wide
from pvision.privacy.noise import SecretSource
from pvision.privacy.sampling import PoissonBatches
from pvision.privacy.spec import PrivacyReport, PrivacySpec

__all__ = ["GaussianMechanism"]


class GaussianMechanism:
    """Releases noisy sums of clipped per-record gradients, and counts what it released.

    Sampler and accountant belong to it, so that they cannot disagree: batches come from `batches`, and a batch that
    was not drawn there is refused.

    Args:
        spec: the privacy statement.
        num_records: records in the training set, N; public.

    Attributes:
        steps: releases so far.

    Raises:
        PrivacyError: if δ is not below 1/N.

    Guarantee:
        ``spec.epsilon(relation, steps=mechanism.steps)`` holds for all releases so far together: a record's share of
        a sum is at most ``max_grad_norm`` (times 1 + 1e-6 for rounding), noise is drawn afresh for each release from a
        generator that nobody can seed unless the run is declared NOT PRIVATE, and a release is counted before it is
        made. The divisor ``sample_rate * N`` does not depend on who was drawn.

        ==========================  =========================================
        batch                       release
        ==========================  =========================================
        empty                       noise alone, charged
        NaN or inf in a gradient    that record contributes zero
        not drawn by ``batches``    PrivacyError, nothing charged or released
        other than its gradients    PrivacyError, nothing charged or released
        after the last step         PrivacyError, nothing charged or released
        ==========================  =========================================
    """

    def __init__(self, spec: PrivacySpec, *, num_records: int) -> None:
        self.spec = spec
        self.num_records = positive_int("num_records", num_records)
        if spec.delta >= 1 / num_records:
            raise PrivacyError(
                f"privacy.delta {spec.delta} is not below 1/N = {1 / num_records:.2g} for {num_records} records: "
                "publishing one record at random would satisfy it. "
                f"Set it well below, for example {0.1 / num_records:.0e}."
            )
        self.steps = 0
        self.batches = PoissonBatches(
            num_records=num_records, sample_rate=spec.sample_rate, steps=spec.steps, seed=spec.noise_seed
        )
        self._noise = SecretSource(seed=None if spec.noise_seed is None else spec.noise_seed + 1)

    def report(self) -> PrivacyReport:
        """Return what may be claimed of the releases so far."""
        return self.spec.report(steps=self.steps)

    def release(
        self, gradients: Iterable[RecordGradients], like: Mapping[str, Tensor], *, index: Tensor
    ) -> dict[str, Tensor]:
        """Return the noisy mean gradient of a batch.

        Args:
            gradients: the per-record gradients of the batch, in any number of pieces.
            like: one tensor per parameter, for shape, dtype and device; decides the result for an empty batch.
            index: positions of the batch's records, as `batches` drew them.

        Returns:
            For each parameter, (Σ clipped gradients + noise) / (sample_rate · N).

        Raises:
            PrivacyError: see the table above.
        """
        if self.steps >= self.spec.steps:
            raise PrivacyError(
                f"All {self.spec.steps} steps of the privacy statement are released; set privacy.steps before training."
            )
        self.batches.confirm(index)
        total, records = self._clipped_sum(gradients, like)
        if records != len(index):
            raise PrivacyError(
                f"Gradients of {records} records came for a batch of {len(index)}: each record has exactly one."
            )
        self.steps += 1  # charged before the noisy sum exists: an interrupted release counts
        scale = self.spec.noise * self.spec.max_grad_norm
        expected = self.spec.sample_rate * self.num_records
        noisy = {name: value + scale * self._noise.normal(value) for name, value in total.items()}
        return {name: (value / expected).to(like[name].dtype) for name, value in noisy.items()}

    def _clipped_sum(
        self, gradients: Iterable[RecordGradients], like: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], int]:
        total = {name: torch.zeros_like(value, dtype=wide(value)) for name, value in like.items()}
        records = 0
        for piece in gradients:
            norms = piece.norms()
            records += len(norms)
            # Clip, never normalise: normalising would blow rounding errors of a zero residual up to the bound.
            weights = (self.spec.max_grad_norm / norms).clamp(max=1)  # infinity, for a norm of 0, becomes 1
            weights = weights.where(norms.isfinite(), 0)
            for name, value in piece.weighted_sum(weights).items():
                total[name] += value
        return total, records
