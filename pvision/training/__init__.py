"""What training under Lightning needs besides an algorithm: guards of private training, and the loop along a stream."""

from pvision.training.guards import (
    GUARDS,
    refuse_unsafe_loader,
    refuse_unsafe_network,
    refuse_unsafe_optimizers,
    refuse_unsafe_trainer,
)
from pvision.training.record_mixing import mixes_records
from pvision.training.streams import fit_stream
from pvision.training.unnoised_logging import refuse_unnoised_logging

__all__ = [
    "GUARDS",
    "fit_stream",
    "mixes_records",
    "refuse_unnoised_logging",
    "refuse_unsafe_loader",
    "refuse_unsafe_network",
    "refuse_unsafe_optimizers",
    "refuse_unsafe_trainer",
]
