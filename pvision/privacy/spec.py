"""Everything that ε depends on, in one frozen object."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from pvision.checks import one_of, open_unit, positive, positive_int, unit_rate
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import accounting
from pvision.privacy.accounting import RELATIONS, Relation
from pvision.privacy.proofs import ACCOUNTED, NOT_PROTECTED, check_proof
from pvision.privacy.report import PrivacyReport

__all__ = ["UNITS", "Mechanism", "PrivacySpec", "Unit"]

Mechanism = Literal["residual", "residual_shared_batch", "dp_sgd", "redact_then_dp_sgd"]
Unit = Literal["clip", "video", "subject"]

UNITS: tuple[str, ...] = get_args(Unit)
"""What can be protected as one."""
_PUBLICITY = ("public", "private")
_SAMPLINGS = ("poisson", "truncated_poisson", "deterministic")


@dataclass(frozen=True)
class PrivacySpec:
    """The privacy statement of a training run. There are no defaults for what only the user can know.

    Args:
        mechanism: ``"residual"``: un-noised gradient of the redacted view plus clipped, noised gradient of the
            difference between the views, on an independent secret batch; ``"residual_shared_batch"``: the same with
            one batch for both, accounted as if everybody knew who is in it; ``"dp_sgd"``: every unit's whole gradient
            is clipped and noised; ``"redact_then_dp_sgd"``: un-noised training on redacted clips, then DP-SGD.
        unit: what is protected as one: ``"clip"``, ``"video"`` or ``"subject"``. The gradients of a unit's clips are
            averaged before they are clipped once.
        mask: whether an attacker may know the mask: ``"public"`` or ``"private"``.
        label: the same for the label; a private one needs a label-free loss for everything un-noised.
        relation: the neighbouring relation in which ``target_epsilon`` is meant.
        delta: δ; below 1 / (number of units).
        max_grad_norm: the clipping bound of one unit's contribution (L2).
        sample_rate: probability that a unit is in one batch; 1 uses every unit in every step.
        steps: noisy steps.
        target_epsilon: ε to reach after ``steps``; the noise multiplier follows. Give this or ``noise_multiplier``.
        noise_multiplier: noise standard deviation divided by ``max_grad_norm``.
        polarity: which side of the mask is sensitive, ``"inside"`` or ``"outside"``; None where no mask matters, that
            is under ``dp_sgd`` over all records.
        sampling: ``"poisson"``; ``"truncated_poisson"``: no batch exceeds ``max_batch_size``; ``"deterministic"``: the
            units take turns, in a fixed and public order.
        max_batch_size: the most units in one batch, for truncated sampling only.
        num_records: how many units there are, for truncated sampling only, whose ε depends on it.
        population: ``"masked"``: noisy steps draw only from units in which something is masked; the others are trained
            on without noise, and are not protected at all. ``"all"`` draws from every unit.
        secure_noise: draw from the operating system's generator, and close the hole that floating-point noise leaves.
        noise_seed: for tests only: with a known seed the noise can be subtracted, so the run counts as NOT PRIVATE.

    Raises:
        ConfigError: if a value is outside its range.
        PrivacyError: if the combination has no proof.

    Guarantee:
        =====================  ================  ===========  =================
        mechanism              zero-out          replace      add or remove
        =====================  ================  ===========  =================
        residual               REPLACE_SPECIAL   REPLACE_ONE  infinite
        residual_shared_batch  binomial mixture  the same     infinite
        dp_sgd                 REPLACE_ONE       REPLACE_ONE  ADD_OR_REMOVE_ONE
        redact_then_dp_sgd     REPLACE_ONE       REPLACE_ONE  infinite
        =====================  ================  ===========  =================

        Adding or removing is infinite, too, where the population is ``"masked"`` or the sampling deterministic.
        Proofs: docs/guarantee.md.
    """

    mechanism: Mechanism
    unit: Unit
    mask: Literal["public", "private"]
    label: Literal["public", "private"]
    relation: Relation
    delta: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    target_epsilon: float | None = None
    noise_multiplier: float | None = None
    polarity: Literal["inside", "outside"] | None = None
    sampling: Literal["poisson", "truncated_poisson", "deterministic"] = "poisson"
    max_batch_size: int | None = None
    num_records: int | None = None
    population: Literal["all", "masked"] = "all"
    secure_noise: bool = False
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        one_of("privacy.mechanism", self.mechanism, ACCOUNTED)
        one_of("privacy.unit", self.unit, UNITS)
        one_of("privacy.mask", self.mask, _PUBLICITY)
        one_of("privacy.label", self.label, _PUBLICITY)
        one_of("privacy.relation", self.relation, RELATIONS)
        open_unit("privacy.delta", self.delta)
        positive("privacy.max_grad_norm", self.max_grad_norm)
        unit_rate("privacy.sample_rate", self.sample_rate)
        positive_int("privacy.steps", self.steps)
        if self.polarity is not None:
            one_of("privacy.polarity", self.polarity, ("inside", "outside"))
        one_of("privacy.population", self.population, ("all", "masked"))
        self._check_sampling()
        self._check_noise()
        check_proof(self)

    def _check_sampling(self) -> None:
        one_of("privacy.sampling", self.sampling, _SAMPLINGS)
        for name in ("max_batch_size", "num_records"):
            value = getattr(self, name)
            if self.sampling == "truncated_poisson":
                positive_int(f"privacy.{name}", value)
            elif value is not None:
                raise ConfigError(
                    f"privacy.{name} {value!r} belongs to sampling 'truncated_poisson', but sampling is "
                    f"{self.sampling!r}. Leave it out, or change the sampling."
                )
        if self.max_batch_size is not None and self.max_batch_size > (self.num_records or 0):
            raise ConfigError(
                f"privacy.max_batch_size must be at most privacy.num_records, {self.num_records}, but "
                f"{self.max_batch_size} came."
            )
        if self.sampling == "deterministic":
            accounting.batches_per_cycle(self.sample_rate)

    def _check_noise(self) -> None:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ConfigError(
                "Give exactly one of privacy.target_epsilon (the noise follows) and privacy.noise_multiplier "
                f"(ε follows), but {self.target_epsilon!r} and {self.noise_multiplier!r} came."
            )
        if self.target_epsilon is not None:
            positive("privacy.target_epsilon", self.target_epsilon)
        if self.noise_multiplier is not None:
            positive("privacy.noise_multiplier", self.noise_multiplier)
        if not isinstance(self.secure_noise, bool):
            raise ConfigError(f"privacy.secure_noise must be true or false, but {self.secure_noise!r} came.")
        if self.noise_seed is not None:
            positive_int("privacy.noise_seed", self.noise_seed, low=0)
            if self.secure_noise:
                raise PrivacyError(
                    f"privacy.noise_seed {self.noise_seed} came together with secure_noise: secure noise cannot be "
                    "repeated. Leave one of them out."
                )

    @cached_property
    def noise(self) -> float:
        """The noise multiplier: the given one, or the least that reaches ``target_epsilon``."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        return accounting.noise_multiplier_for(
            target_epsilon=self.target_epsilon or math.nan,
            relation=self.accounted_relation(self.relation),
            **self._sampled,
            steps=self.steps,
        )

    @property
    def private(self) -> bool:
        """False if the noise can be recomputed by whoever knows the configuration."""
        return self.noise_seed is None

    def epsilon(self, relation: Relation, *, steps: int | None = None) -> float:
        """Return ε under ``relation`` after ``steps`` releases (all planned ones if None); infinite without a proof."""
        accounted = self._accounted(relation)
        if accounted is None:
            return math.inf
        return accounting.epsilon(
            noise_multiplier=self.noise,
            relation=accounted,
            **self._sampled,
            steps=self.steps if steps is None else steps,
        )

    def affordable_steps(self, budget: float) -> int:
        """Return how many of the planned releases keep ε, in the statement's own relation, at or below ``budget``."""
        return accounting.affordable_steps(
            budget=budget,
            noise_multiplier=self.noise,
            relation=self.accounted_relation(self.relation),
            **self._sampled,
            steps=self.steps,
        )

    def accounted_relation(self, relation: Relation) -> Relation:
        """Return the relation whose accounting covers ``relation`` under this mechanism.

        Raises:
            PrivacyError: if nothing covers it.
        """
        accounted = self._accounted(relation)
        if accounted is None:
            raise PrivacyError(f"Mechanism {self.mechanism!r} gives no finite ε for relation {relation!r}.")
        return accounted

    def report(self, *, steps: int) -> PrivacyReport:
        """Return what may be claimed after ``steps`` releases."""
        return PrivacyReport(
            mechanism=self.mechanism,
            epsilon_zero_out=self.epsilon("zero_out", steps=steps),
            epsilon_replace=self.epsilon("replace", steps=steps),
            epsilon_add_remove=self.epsilon("add_remove", steps=steps),
            delta=self.delta,
            unit=self.unit,
            mask=self.mask,
            label=self.label,
            noise_multiplier=self.noise,
            max_grad_norm=self.max_grad_norm,
            sample_rate=self.sample_rate,
            steps=steps,
            accountant=self.accountant,
            private=self.private,
            not_protected=self._not_protected(),
            polarity=self.polarity,
            sampling=self.sampling,
            population=self.population,
            secure_noise=self.secure_noise,
        )

    @property
    def two_views(self) -> bool:
        """Whether noisy steps release the difference between a record's two views, and add an un-noised part."""
        return self.mechanism in ("residual", "residual_shared_batch")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; ``PrivacySpec(**spec.as_dict())`` is equal."""
        return asdict(self)

    @property
    def accountant(self) -> str:
        """How ε is computed: ``"pld"``, ``"exact"`` or ``"binomial mixture"``."""
        if self._revealed:
            return "binomial mixture"
        return "exact" if self.sampling == "deterministic" else "pld"

    @property
    def _revealed(self) -> bool:
        return self.mechanism == "residual_shared_batch"

    @property
    def _sampled(self) -> dict[str, Any]:
        """The accountant's view of the sampling."""
        return {
            "sample_rate": self.sample_rate,
            "delta": self.delta,
            "sampling": "revealed_poisson" if self._revealed else self.sampling,
            "num_records": self.num_records,
            "max_batch_size": self.max_batch_size,
        }

    def _accounted(self, relation: Relation) -> Relation | None:
        if relation == "add_remove" and (self.population == "masked" or self.sampling == "deterministic"):
            return None
        return ACCOUNTED[self.mechanism].get(relation)

    def _not_protected(self) -> str:
        open_to_all = NOT_PROTECTED[self.mechanism]
        if self.label == "private":
            open_to_all = open_to_all.replace(" the label,", "")
        if self.population == "masked":
            open_to_all += f"; {self.unit}s without a masked pixel, of which nothing is protected"
        if self.unit == "subject":
            return open_to_all
        return f"{open_to_all}; several {self.unit}s of one person add up"
