"""The two questions of the demo: what is sensitive."""

from dataclasses import dataclass

from pvision.datamodules import MocapActions
from pvision.privacy import Redaction

__all__ = ["REGIONS", "Region"]


@dataclass(frozen=True)
class Region:
    """A sensitive region of MocapActions.

    Attributes:
        name: in words.
        slug: for file names.
        body: the annotated body region.
        redaction: which side of it is sensitive, and how it is hidden.
    """

    name: str
    slug: str
    body: str
    redaction: Redaction

    def data(self, *, train_clips: int | None, eval_clips: int | None) -> MocapActions:
        """Return the shipped clips with this region redacted."""
        return MocapActions(
            region=self.body, redaction=self.redaction, train_clips=train_clips, eval_clips=eval_clips, batch_size=64
        )


REGIONS = (
    Region("head, arms and upper body", "upper_body", "upper_body", Redaction(sensitive="inside", shape="box", grid=6)),
    Region("background", "background", "person", Redaction(sensitive="outside")),
)
