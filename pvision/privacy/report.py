"""What a run may claim, and what it may not."""

import math
from dataclasses import asdict, dataclass

from pvision.privacy.proofs import NOT_PROTECTED

__all__ = ["PrivacyReport"]


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
    polarity: str | None = None
    sampling: str = "none"
    population: str = "all"
    secure_noise: bool = False

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
            not_protected=NOT_PROTECTED["residual"],
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

    def __str__(self) -> str:
        """Return the claim in a few lines, ε of both masked relations and what is not protected among them."""
        lines = [
            f"ε {self.epsilon_zero_out:.4g} (content or nothing behind the mask), "
            f"{self.epsilon_replace:.4g} (this content or other), {self.epsilon_add_remove:.4g} (record or none); "
            f"δ {self.delta:.2g}, for one {self.unit}",
            f"{self.mechanism}: {self.steps} releases" + self._noised(),
            f"not protected: {self.not_protected}",
        ]
        return "\n".join(
            lines
            if self.private
            else ["NOT PRIVATE: there is no noise, or whoever knows its seed can subtract it", *lines]
        )

    def _noised(self) -> str:
        if not self.noise_multiplier:
            return " with noise"
        return (
            f" (sampling: {self.sampling}, rate {self.sample_rate:.4g}), noise multiplier {self.noise_multiplier:.4g}, "
            f"clipping bound {self.max_grad_norm:.4g}"
        )

    def as_dict(self) -> dict[str, str | float | int | bool | None]:
        """Return the fields, infinities as the string ``"inf"``, for JSON."""
        return {key: "inf" if value == math.inf else value for key, value in asdict(self).items()}
