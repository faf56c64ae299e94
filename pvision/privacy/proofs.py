"""Which statements of privacy have a proof, and which accounting it leads to."""

from typing import TYPE_CHECKING

from pvision.errors import PrivacyError
from pvision.privacy.accounting import Relation

if TYPE_CHECKING:
    from pvision.privacy.spec import PrivacySpec

__all__ = ["ACCOUNTED", "NOT_PROTECTED", "check_proof"]

ACCOUNTED: dict[str, dict[Relation, Relation]] = {
    # A zeroed-out record's residual is exactly zero; an exchanged one moves the sum by up to twice the bound.
    "residual": {"zero_out": "zero_out", "replace": "replace"},
    "residual_shared_batch": {"zero_out": "zero_out", "replace": "replace"},
    # Under a masked relation one gradient replaces another, also when content is only removed.
    "dp_sgd": {"zero_out": "replace", "replace": "replace", "add_remove": "add_remove"},
    # Phase 1 saw the redacted record without noise, so nothing covers the whole record any more.
    "redact_then_dp_sgd": {"zero_out": "replace", "replace": "replace"},
}
"""For each mechanism: our relation, and the relation whose accounting covers it. An absent one has no finite ε."""

_MASKED = "the mask, the label, everything outside the sensitive region, and that the record exists"

NOT_PROTECTED = {
    "residual": _MASKED,
    "residual_shared_batch": _MASKED,
    "dp_sgd": "that the data set has this size",
    "redact_then_dp_sgd": _MASKED,
}


def check_proof(spec: "PrivacySpec") -> None:
    """Refuse a statement that nobody has proved.

    Raises:
        PrivacyError: with the reason, and what can be stated instead.
    """
    _check_relation(spec)
    _check_publicity(spec)
    if spec.polarity is None and (spec.mechanism != "dp_sgd" or spec.population == "masked"):
        raise PrivacyError(
            "privacy.polarity is missing: which side of the mask is sensitive? Say 'inside' (what the mask covers, for "
            "example people) or 'outside' (everything else, for example the room)."
        )
    if spec.mechanism == "residual_shared_batch" and spec.sampling != "poisson":
        raise PrivacyError(
            f"privacy.sampling {spec.sampling!r} has no proof under mechanism 'residual_shared_batch', whose bound is "
            "for Poisson batches that everybody knows. Use sampling 'poisson', or mechanism 'residual'."
        )


def _check_relation(spec: "PrivacySpec") -> None:
    if spec.relation not in ACCOUNTED[spec.mechanism]:
        raise PrivacyError(
            f"privacy.relation {spec.relation!r} has no proof under mechanism {spec.mechanism!r}: the "
            "redacted view is used without noise. Use relation 'zero_out' or 'replace', or mechanism 'dp_sgd'."
        )
    if spec.relation != "add_remove":
        return
    if spec.sampling == "deterministic":
        raise PrivacyError(
            "privacy.relation 'add_remove' has no proof under sampling 'deterministic': without one record, the others "
            "move to other batches. Use sampling 'poisson', or relation 'replace'."
        )
    if spec.population == "masked":
        raise PrivacyError(
            "privacy.relation 'add_remove' has no proof for population 'masked': records without a masked pixel are "
            "trained on without noise. Use population 'all', or relation 'zero_out' or 'replace'."
        )


def _check_publicity(spec: "PrivacySpec") -> None:
    if spec.mask == "private" and (spec.mechanism != "dp_sgd" or spec.population == "masked"):
        raise PrivacyError(
            "privacy.mask 'private' has no proof where something un-noised depends on the mask, as under mechanism "
            f"{spec.mechanism!r} with population {spec.population!r}. Use mechanism 'dp_sgd' over all records, or "
            "redact a fixed zone of the camera: that zone is then the mask, and public."
        )
    if spec.label == "private" and spec.population == "masked":
        raise PrivacyError(
            "privacy.label 'private' has no proof for population 'masked': the labels of records without a masked "
            "pixel are trained on without noise. Use population 'all'."
        )
    if spec.label == "private" and spec.mechanism == "residual_shared_batch":
        raise PrivacyError(
            "privacy.label 'private' has no proof under mechanism 'residual_shared_batch'. Use mechanism 'residual' or "
            "'redact_then_dp_sgd' with a label-free model.public_loss, or 'dp_sgd'."
        )
