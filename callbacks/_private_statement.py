"""What `TrainPrivately` can promise, and the numbers that it logs."""

from typing import Any

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacyReport, PrivacySpec

__all__ = ["check_statement", "released_metrics"]


def released_metrics(report: PrivacyReport) -> dict[str, float]:
    """Return a report's finite ε, and its steps, under the names by which they are logged."""
    relations = {
        "privacy/epsilon_zero_out": report.epsilon_zero_out,
        "privacy/epsilon_replace": report.epsilon_replace,
        "privacy/epsilon_add_remove": report.epsilon_add_remove,
    }
    finite = {name: value for name, value in relations.items() if value != float("inf")}
    return {**finite, "privacy/steps": float(report.steps)}


def check_statement(privacy: Any, *, redact: Any) -> None:
    """Refuse a statement that `TrainPrivately` cannot keep.

    Raises:
        ConfigError: if ``redact`` is missing or of no use.
        PrivacyError: if un-noised training would use what is private.
    """
    if not isinstance(privacy, PrivacySpec):
        raise ConfigError(f"privacy must be a PrivacySpec, but a {type(privacy).__name__} came.")
    if privacy.two_views and redact is None:
        raise ConfigError(
            f"redact is missing: mechanism {privacy.mechanism!r} needs a function that removes what is sensitive from "
            "a batch. Without a mask use mechanism 'dp_sgd'."
        )
    if not privacy.two_views and redact is not None:
        raise ConfigError(
            f"redact came, but mechanism {privacy.mechanism!r} takes noisy steps on whole records only. Use mechanism "
            "'residual', or leave redact out."
        )
    if privacy.label == "private" and privacy.mechanism != "dp_sgd":
        raise PrivacyError(
            f"privacy.label is 'private', but under mechanism {privacy.mechanism!r} training_step sees the labels "
            "without noise. Use mechanism 'dp_sgd', or pvision.modules.PrivateTraining with a label-free public_loss."
        )
