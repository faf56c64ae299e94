"""Differential privacy in plain PyTorch: redaction, per-record gradients, the mechanism, sampling, accounting."""

from pvision.privacy.accounting import affordable_steps, epsilon, noise_multiplier_for
from pvision.privacy.gradients import (
    DenseGradients,
    OuterGradients,
    RecordGradients,
    full_view_loss,
    record_gradients,
    residual_loss,
)
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger.lines import LedgerMark
from pvision.privacy.ledger.reading import LedgerRecord, ledger_report, read_ledger
from pvision.privacy.mechanism import GaussianMechanism, protected_units
from pvision.privacy.ranks import Ranks
from pvision.privacy.redaction import Redaction, resample_mask
from pvision.privacy.report import PrivacyReport
from pvision.privacy.residual_head import (
    ResidualHead,
    TailAverage,
    clip_rows,
    noisy_head_gradient,
    whitening,
)
from pvision.privacy.sampling import FixedBatches, PoissonBatches, PrivateBatches
from pvision.privacy.spec import PrivacySpec
from pvision.privacy.unit_gradients import unit_means
from pvision.privacy.units import Units
from pvision.privacy.views import PublicView, TwoViews, as_floats, surrogate_views

__all__ = [
    "DenseGradients",
    "FixedBatches",
    "GaussianMechanism",
    "LedgerMark",
    "LedgerRecord",
    "OuterGradients",
    "PoissonBatches",
    "PrivacyLedger",
    "PrivacyReport",
    "PrivacySpec",
    "PrivateBatches",
    "PublicView",
    "Ranks",
    "RecordGradients",
    "Redaction",
    "ResidualHead",
    "TailAverage",
    "TwoViews",
    "Units",
    "affordable_steps",
    "as_floats",
    "clip_rows",
    "epsilon",
    "full_view_loss",
    "ledger_report",
    "noise_multiplier_for",
    "noisy_head_gradient",
    "protected_units",
    "read_ledger",
    "record_gradients",
    "resample_mask",
    "residual_loss",
    "surrogate_views",
    "unit_means",
    "whitening",
]
