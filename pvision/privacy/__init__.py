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
from pvision.privacy.mechanism import GaussianMechanism
from pvision.privacy.redaction import Redaction, resample_mask
from pvision.privacy.residual_head import (
    ResidualHead,
    TailAverage,
    clip_rows,
    noisy_head_gradient,
    whitening,
)
from pvision.privacy.sampling import PoissonBatches
from pvision.privacy.spec import PrivacyReport, PrivacySpec
from pvision.privacy.views import PublicView, TwoViews, as_floats, surrogate_views

__all__ = [
    "DenseGradients",
    "GaussianMechanism",
    "OuterGradients",
    "PoissonBatches",
    "PrivacyReport",
    "PrivacySpec",
    "PublicView",
    "RecordGradients",
    "Redaction",
    "ResidualHead",
    "TailAverage",
    "TwoViews",
    "affordable_steps",
    "as_floats",
    "clip_rows",
    "epsilon",
    "full_view_loss",
    "noise_multiplier_for",
    "noisy_head_gradient",
    "record_gradients",
    "resample_mask",
    "residual_loss",
    "surrogate_views",
    "whitening",
]
