"""Training along a stream of experiences with plain Lightning fits."""

from pvision.training.streams.checkpoints import latest_checkpoint
from pvision.training.streams.fit import fit_stream

__all__ = ["fit_stream", "latest_checkpoint"]
