"""The two ends of the scale: training that never sees sensitive content, and training without privacy."""

from collections.abc import Iterable
from typing import Any

from pvision.modules.video_classifier import TrainingData, VideoClassifier
from pvision.privacy import PrivacyReport, TwoViews

__all__ = ["DropOnly", "NonPrivate"]


class DropOnly(VideoClassifier):
    """Train on redacted clips alone: ε = 0 for the masked content.

    Every private method has to beat this on the redacted view, or on the full one; see docs/methods/maskdp.md.
    Arguments as for `VideoClassifier`.

    Guarantee:
        The model is a function of the redacted clips, their masks and labels; nothing masked can leak through it.
    """

    def privacy_report(self) -> PrivacyReport:
        """Return ε = 0 for both masked relations."""
        return PrivacyReport.drop_only()


class NonPrivate(VideoClassifier):
    """Train on the full view without noise: the reference that gives no privacy at all.

    Arguments as for `VideoClassifier`; ``public_epochs`` counts epochs on the full view.
    """

    def privacy_report(self) -> PrivacyReport:
        """Return infinite ε."""
        return PrivacyReport.no_privacy()

    def public_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return shuffled batches of both views."""
        return data.full_loader()

    def private_step(self, batch: TwoViews) -> None:
        """Take an un-noised step on the full view."""
        self.unnoised_step(self.classification_loss(batch.full, batch.label), len(batch.label))
