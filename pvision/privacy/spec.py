"""Everything that ε depends on, in one frozen object."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from pvision.checks import one_of, open_unit, positive, positive_int, unit_rate
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy.accounting import RELATIONS, Relation, epsilon, noise_multiplier_for

__all__ = ["Mechanism", "PrivacyReport", "PrivacySpec"]

Mechanism = Literal["residual", "dp_sgd", "redact_then_dp_sgd"]

# For each mechanism: our relation -> the relation whose accounting covers it. An absent one has no finite ε.
_ACCOUNTED: dict[str, dict[str, Relation]] = {
    # A zeroed-out record's residual is exactly zero; an exchanged one moves the sum by up to twice the bound.
    "residual": {"zero_out": "zero_out", "replace": "replace"},
    # Under a masked relation one gradient replaces another, also when content is only removed.
    "dp_sgd": {"zero_out": "replace", "replace": "replace", "add_remove": "add_remove"},
    # Phase 1 saw the redacted record without noise, so nothing covers the whole record any more.
    "redact_then_dp_sgd": {"zero_out": "replace", "replace": "replace"},
}

_NOT_PROTECTED = {
    "residual": "the mask, the label, everything outside the mask, and that the record exists",
    "dp_sgd": "nothing of a single record; several records of one person add up",
    "redact_then_dp_sgd": "the mask, the label, everything outside the mask, and that the record exists",
}


@dataclass(frozen=True)
class PrivacySpec:
    """The privacy statement of a training run. There are no defaults for what only the user can know.

    Args:
        mechanism: ``"residual"``: un-noised gradient of the redacted view plus clipped, noised gradient of the
            difference between the views; ``"dp_sgd"``: every record's whole gradient is clipped and noised;
            ``"redact_then_dp_sgd"``: un-noised training on redacted clips, then DP-SGD.
        unit: what one record is. Only ``"clip"`` can be trained today.
        mask: whether the mask may be known to an attacker: ``"public"`` or ``"private"``.
        label: the same for the label.
        relation: the neighbouring relation in which ``target_epsilon`` is meant.
        delta: δ; below 1 / (number of records).
        max_grad_norm: the clipping bound of one record's contribution (L2).
        sample_rate: probability that a record is in one batch; 1 uses every record in every step.
        steps: noisy steps.
        target_epsilon: ε to reach after ``steps``; the noise multiplier follows. Give this or ``noise_multiplier``.
        noise_multiplier: noise standard deviation divided by ``max_grad_norm``.
        noise_seed: for tests only: with a known seed the noise can be subtracted, so the run counts as NOT PRIVATE.

    Raises:
        ConfigError: if a value is outside its range.
        PrivacyError: if the combination has no proof.

    Guarantee:
        ===================  ==================  ===============  ==========================
        mechanism            ε for zero-out      ε for replace    ε for add or remove
        ===================  ==================  ===============  ==========================
        residual             REPLACE_SPECIAL     REPLACE_ONE      infinite
        dp_sgd               REPLACE_ONE         REPLACE_ONE      ADD_OR_REMOVE_ONE
        redact_then_dp_sgd   REPLACE_ONE         REPLACE_ONE      infinite
        ===================  ==================  ===============  ==========================
    """

    mechanism: Mechanism
    unit: Literal["clip", "video", "subject"]
    mask: Literal["public", "private"]
    label: Literal["public", "private"]
    relation: Relation
    delta: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    target_epsilon: float | None = None
    noise_multiplier: float | None = None
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        one_of("privacy.mechanism", self.mechanism, _ACCOUNTED)
        one_of("privacy.unit", self.unit, ("clip", "video", "subject"))
        one_of("privacy.mask", self.mask, ("public", "private"))
        one_of("privacy.label", self.label, ("public", "private"))
        one_of("privacy.relation", self.relation, RELATIONS)
        open_unit("privacy.delta", self.delta)
        positive("privacy.max_grad_norm", self.max_grad_norm)
        unit_rate("privacy.sample_rate", self.sample_rate)
        positive_int("privacy.steps", self.steps)
        if self.noise_seed is not None:
            positive_int("privacy.noise_seed", self.noise_seed, low=0)
        self._check_noise()
        self._check_proof()

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

    def _check_proof(self) -> None:
        if self.relation not in _ACCOUNTED[self.mechanism]:
            raise PrivacyError(
                f"privacy.relation {self.relation!r} has no proof under mechanism {self.mechanism!r}: the "
                "redacted view is used without noise. Use relation 'zero_out' or 'replace', or mechanism 'dp_sgd'."
            )
        if self.unit != "clip":
            raise PrivacyError(
                f"privacy.unit {self.unit!r} is not available: a {self.unit} with several clips needs their gradients "
                "averaged before one clipping. State unit 'clip', and that the guarantee is for one clip."
            )
        for name, value in (("mask", self.mask), ("label", self.label)):
            if value == "private" and self.mechanism != "dp_sgd":
                raise PrivacyError(
                    f"privacy.{name} 'private' has no proof under mechanism {self.mechanism!r}, whose un-noised part "
                    f"depends on the {name}. Use mechanism 'dp_sgd', or state that the {name} is 'public'."
                )

    @cached_property
    def noise(self) -> float:
        """The noise multiplier: the given one, or the least that reaches ``target_epsilon``."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        return noise_multiplier_for(
            target_epsilon=self.target_epsilon or math.nan,
            sample_rate=self.sample_rate,
            steps=self.steps,
            delta=self.delta,
            relation=_ACCOUNTED[self.mechanism][self.relation],
        )

    @property
    def private(self) -> bool:
        """False if the noise can be recomputed by whoever knows the configuration."""
        return self.noise_seed is None

    def epsilon(self, relation: Relation, *, steps: int | None = None) -> float:
        """Return ε under ``relation`` after ``steps`` releases (all planned ones if None); infinite without a proof."""
        accounted = _ACCOUNTED[self.mechanism].get(relation)
        if accounted is None:
            return math.inf
        return epsilon(
            noise_multiplier=self.noise,
            sample_rate=self.sample_rate,
            steps=self.steps if steps is None else steps,
            delta=self.delta,
            relation=accounted,
        )

    def accounted_relation(self, relation: Relation) -> Relation:
        """Return the relation whose accounting covers ``relation`` under this mechanism.

        Raises:
            PrivacyError: if nothing covers it.
        """
        try:
            return _ACCOUNTED[self.mechanism][relation]
        except KeyError:
            raise PrivacyError(f"Mechanism {self.mechanism!r} gives no finite ε for relation {relation!r}.") from None

    def report(self, *, steps: int) -> "PrivacyReport":
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
            accountant="pld",
            private=self.private,
            not_protected=_NOT_PROTECTED[self.mechanism],
        )


@dataclass(frozen=True)
class PrivacyReport:
    """What a run may claim, and what it may not.

    ``private`` is False where no guarantee is worth anything: un-noised training on the full view, or known noise.
    """

    mechanism: str
    epsilon_zero_out: float
    epsilon_replace: float
    epsilon_add_remove: float
    delta: float
    unit: str
    mask: str
    label: str
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    accountant: str
    private: bool
    not_protected: str

    @classmethod
    def drop_only(cls) -> "PrivacyReport":
        """Return the report of training on redacted clips alone: ε = 0 for what was masked."""
        return cls(
            mechanism="drop_only",
            epsilon_zero_out=0.0,
            epsilon_replace=0.0,
            epsilon_add_remove=math.inf,
            delta=0.0,
            unit="clip",
            mask="public",
            label="public",
            noise_multiplier=0.0,
            max_grad_norm=0.0,
            sample_rate=0.0,
            steps=0,
            accountant="none",
            private=True,
            not_protected=_NOT_PROTECTED["residual"],
        )

    @classmethod
    def no_privacy(cls) -> "PrivacyReport":
        """Return the report of un-noised training on the full view."""
        return cls(
            mechanism="none",
            epsilon_zero_out=math.inf,
            epsilon_replace=math.inf,
            epsilon_add_remove=math.inf,
            delta=0.0,
            unit="clip",
            mask="public",
            label="public",
            noise_multiplier=0.0,
            max_grad_norm=math.inf,
            sample_rate=1.0,
            steps=0,
            accountant="none",
            private=False,
            not_protected="everything",
        )

    def as_dict(self) -> dict[str, str | float | int | bool]:
        """Return the fields, infinities as the string ``"inf"``, for JSON."""
        return {key: "inf" if value == math.inf else value for key, value in asdict(self).items()}
