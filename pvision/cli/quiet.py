"""Fewer lines that tell the user nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["less_noise"]

_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch.loggers.mlflow",
)
_TOLD_ELSEWHERE = (
    "💡 Tip:",  # advertising
    "Seed set to",  # stands in summary.json
    "Experiment with name",  # "… not found. Creating it." is no event
    "TPU available",  # who has one knows
)
_WARNINGS = (
    # Lightning calls methods of jsonargparse that go in its next major version; the dependency is capped there.
    r"(?s).*(skip_none|add_instantiator|instantiate_classes|JsonargparseDeprecationWarning)",
    # Between Lightning and a newer torch; no user can do anything about it.
    r".*isinstance\(treespec, LeafSpec\)",
    # A resumed run says one of these: it goes on in the folder of the run that was cut off, or has one of its own.
    r"Checkpoint directory .* exists and is not empty",
    r"The dirpath has changed",
    # Data in memory needs no loader processes; who has other data knows data.num_workers.
    r".*does not have many workers",
    # What is frozen is meant to be in evaluation mode.
    r"Found .* module.s. in eval mode at the start of training",
)


@contextmanager
def less_noise() -> Iterator[None]:
    """Hold back advertising, and warnings about things that are meant as they are, until the block ends."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_tells_something)
    try:
        with warnings.catch_warnings():
            for pattern in _WARNINGS:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_tells_something)


def _tells_something(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(words in message for words in _TOLD_ELSEWHERE)
