"""The Gaussian mechanism: the one place that clips, sums, charges and adds noise."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.errors import PrivacyError
from pvision.privacy.agreed_sum import agreed_sum
from pvision.privacy.gradients import RecordGradients, wide
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.noise import SecretSource
from pvision.privacy.ranks import Ranks
from pvision.privacy.report import PrivacyReport
from pvision.privacy.sampling import Draw, FixedBatches, PoissonBatches, PrivateBatches
from pvision.privacy.spec import PrivacySpec
from pvision.privacy.unit_gradients import unit_means
from pvision.privacy.units import Units

__all__ = ["GaussianMechanism", "protected_units"]


class GaussianMechanism:
    """Releases noisy sums of clipped per-unit gradients, and counts what it released.

    Sampler and accountant belong to it, so that they cannot disagree: batches come from `batches`, and a batch that
    was not drawn there is refused.

    Args:
        spec: the privacy statement.
        num_records: records in the training set; public.
        units: for each record the name of its video or subject, for a statement with such a unit.
        population: positions of the records with a masked pixel, for a statement with population ``"masked"``.
        ledger: where releases are charged, on rank 0; None counts in memory only, which no crash survives.
        taken: releases that the running training loop has counted already; see `PrivateBatches`.
        ranks: the processes that release together; torch's default process group if None.

    Attributes:
        steps: releases so far, lost ones included.
        nonfinite: units on this rank that contributed nothing because their gradient was not finite. It was not
            noised: keep it to yourself.

    Raises:
        PrivacyError: if δ is not below 1 / (number of units), or the data does not fit the statement.

    Guarantee:
        ``spec.epsilon(relation, steps=mechanism.steps)`` holds for all releases so far together: a unit's share of
        a sum is at most ``max_grad_norm`` (times 1 + 1e-6 for rounding), noise is drawn afresh for each release from a
        generator that nobody can seed unless the run is declared NOT PRIVATE, and a release is charged before it is
        made. The divisor ``sample_rate * units`` does not depend on who was drawn.

        With several ranks, the batch is drawn as a whole and shared out, rank 0 adds the noise to its own part, and one
        all-reduce adds the parts up: neither ε nor the released distribution knows how many ranks there are.

        ==============================  =========================================
        batch                           release
        ==============================  =========================================
        empty, here or on all ranks     noise and what others have, charged
        NaN or inf in a gradient        that unit contributes zero
        not drawn by ``batches``        PrivacyError, nothing charged or released
        other than its gradients        PrivacyError, nothing charged or released
        after the last step             PrivacyError, nothing charged or released
        the ledger cannot be written    PrivacyError on every rank, no release
        ==============================  =========================================
    """

    def __init__(
        self,
        spec: PrivacySpec,
        *,
        num_records: int,
        units: Sequence[str] | None = None,
        population: Sequence[int] | Tensor | None = None,
        ledger: PrivacyLedger | None = None,
        taken: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.spec = spec
        self.num_records = num_records
        self.ranks = ranks or Ranks()
        self.units = protected_units(spec, num_records=num_records, units=units, population=population)
        self._ledger = ledger or PrivacyLedger.create(None, spec, num_records=self.units.count)
        if self._ledger.spec != spec:
            raise PrivacyError(
                "The ledger was opened for another privacy statement, and would charge other releases than these. Open "
                "it with the statement of the mechanism."
            )
        self.steps = self.ranks.count_of_first(self._ledger.spent)
        self.nonfinite = 0
        self.batches = self._batches()
        self.batches.resume(spent=self.steps, taken=taken)
        seed = None if spec.noise_seed is None else spec.noise_seed + 1
        self._noise = SecretSource(seed=seed, secure=spec.secure_noise)

    def report(self) -> PrivacyReport:
        """Return what may be claimed of the releases so far."""
        return self.spec.report(steps=self.steps)

    def release(
        self, gradients: Iterable[RecordGradients], like: Mapping[str, Tensor], *, index: Tensor | Sequence[int]
    ) -> dict[str, Tensor]:
        """Return the noisy mean gradient of a batch; with several ranks, a collective.

        Args:
            gradients: the per-record gradients of this rank's part of the batch, in any number of pieces.
            like: one tensor per parameter, for shape, dtype and device; decides the result for an empty batch.
            index: positions of this rank's records, as `batches` drew them.

        Returns:
            For each parameter, (Σ clipped gradients + noise) / (sample_rate · units), the same bits on every rank.

        Raises:
            PrivacyError: see the table above.
        """
        if self.steps >= self.spec.steps:
            raise PrivacyError(
                f"All {self.spec.steps} steps of the privacy statement are released; set privacy.steps before training."
            )
        try:
            refusal, drawn = None, Draw(0, 0, 0)
            own = {name: torch.zeros_like(value, dtype=wide(value)) for name, value in like.items()}
            drawn = self._add_own_part(own, gradients, torch.as_tensor(index).cpu())
        except Exception as error:  # whatever it is, the other ranks must not wait for a part that never comes
            refusal = error
        total = agreed_sum(own, refusal=refusal, state=(self.steps, *drawn), ranks=self.ranks)
        expected = self.spec.sample_rate * self.units.count
        return {name: (value / expected).to(like[name].dtype) for name, value in total.items()}

    def _add_own_part(self, total: dict[str, Tensor], gradients: Iterable[RecordGradients], index: Tensor) -> Draw:
        """Add this rank's clipped gradients, and on rank 0 the noise; return what batch this was."""
        drawn = self.batches.confirm(index)
        self._add_clipped(total, gradients, index)
        # Charged before the noisy sum exists: an interrupted release counts.
        if self.ranks.first:
            self._check_alone()
            self._ledger.charge()
        self.steps += 1
        self.batches.spent = self.steps
        if self.ranks.first:
            scale = self.spec.noise * self.spec.max_grad_norm
            for value in total.values():
                value += scale * self._noise.normal(value)
        return drawn

    def _check_alone(self) -> None:
        """Refuse to release beside another mechanism, or a copy of this one: each would count only its own steps."""
        if self._ledger.spent != self.steps:
            raise PrivacyError(
                f"The ledger has charged {self._ledger.spent} releases, of which this mechanism knows {self.steps}: "
                "another one, or a copy, releases beside it. Use one mechanism for one ledger."
            )

    def _batches(self) -> PrivateBatches:
        spec = self.spec
        if spec.sampling == "deterministic":
            return FixedBatches(self.units, sample_rate=spec.sample_rate, steps=spec.steps, ranks=self.ranks)
        return PoissonBatches(
            units=self.units,
            sample_rate=spec.sample_rate,
            steps=spec.steps,
            max_batch_size=spec.max_batch_size,
            ranks=self.ranks,
            secure=spec.secure_noise,
            seed=spec.noise_seed,
        )

    def _add_clipped(self, total: dict[str, Tensor], gradients: Iterable[RecordGradients], index: Tensor) -> None:
        counted = _Counted(gradients)
        for piece in counted if self.units.one_each else unit_means(counted, self.units.of_record[index]):
            norms = piece.norms()
            # Clip, never normalise: normalising would blow rounding errors of a zero residual up to the bound.
            weights = (self.spec.max_grad_norm / norms).clamp(max=1)  # infinity, for a norm of 0, becomes 1
            finite = norms.isfinite()
            self.nonfinite += int((~finite).sum())
            for name, value in piece.weighted_sum(weights.where(finite, 0)).items():
                total[name] += value
        if counted.records != len(index):
            raise PrivacyError(
                f"Gradients of {counted.records} records came for a batch of {len(index)}: each record has exactly one."
            )


class _Counted:
    """Pieces of gradients, counted as they pass."""

    def __init__(self, gradients: Iterable[RecordGradients]) -> None:
        self._gradients = gradients
        self.records = 0

    def __iter__(self) -> Iterator[RecordGradients]:
        for piece in self._gradients:
            self.records += len(piece)
            yield piece


def protected_units(
    spec: PrivacySpec,
    *,
    num_records: int,
    units: Sequence[str] | None = None,
    population: Sequence[int] | Tensor | None = None,
) -> Units:
    """Return the units of a data set that noisy steps draw from; arguments as for `GaussianMechanism`.

    Raises:
        PrivacyError: if the data does not fit the statement.
    """
    for name, came, needed, what in (
        ("unit", units, spec.unit != "clip", "units, the name of each record's unit"),
        (
            "population",
            population,
            spec.population != "all",
            "population, the positions of records with a masked pixel",
        ),
    ):
        if needed != (came is not None):
            raise PrivacyError(
                f"privacy.{name} is {getattr(spec, name)!r}, but the mechanism was given "
                f"{'no ' if needed else ''}{what}. {'Pass it' if needed else 'Leave it out'}, or state another {name}."
            )
    drawn_from = Units(positive_int("num_records", num_records), names=units, population=population)
    if spec.delta >= 1 / drawn_from.count:
        raise PrivacyError(
            f"privacy.delta {spec.delta} is not below 1/N = {1 / drawn_from.count:.2g} for {drawn_from.count} "
            f"{spec.unit}s: publishing one of them at random would satisfy it. "
            f"Set it well below, for example {0.1 / drawn_from.count:.0e}."
        )
    if spec.num_records is not None and spec.num_records != drawn_from.count:
        raise PrivacyError(
            f"privacy.num_records is {spec.num_records}, but noisy steps draw from {drawn_from.count} {spec.unit}s, on "
            f"which the ε of truncated sampling depends. Set it to {drawn_from.count}."
        )
    return drawn_from
