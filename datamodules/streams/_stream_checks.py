"""What a stream refuses."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from pvision.checks import at_least, positive_int
from pvision.continual.manifest import StreamManifest
from pvision.continual.replay import ReplayMemory
from pvision.errors import ConfigError, DataError

__all__ = [
    "checked_fraction",
    "checked_replay",
    "refuse_another_run",
    "refuse_disagreement",
]


def checked_fraction(name: str, value: float) -> float:
    """Return a number of at least 0 and below 1."""
    if at_least(name, value, 0) >= 1:
        raise ConfigError(f"{name} must be at least 0 and below 1, but {value} came.")
    return float(value)


def checked_replay(replay: ReplayMemory | None, size: int | None, batch_size: int, training_set: str) -> int:
    """Return how many replayed images come with a batch.

    Raises:
        ConfigError: if the settings of replay contradict each other.
    """
    if replay is None and size is not None:
        raise ConfigError(f"data.replay_batch_size is {size}, but data.replay is not set. Set both, or neither.")
    if replay is None:
        return 0
    if training_set == "seen":
        raise ConfigError(
            "data.training_set 'seen' trains on all earlier records, so data.replay would add none. Leave one out."
        )
    return batch_size if size is None else positive_int("data.replay_batch_size", size)


def refuse_another_run(state: Mapping[str, Any], manifest: StreamManifest, replay: ReplayMemory | None) -> None:
    """Raise an error if a checkpoint's state of a stream does not go with the stream that is to take it.

    Raises:
        DataError: if it was taken from another stream.
        ConfigError: if one of the two has a replay memory and the other has none.
    """
    saved = StreamManifest.from_dict(state.get("manifest"), "The stream in the checkpoint")
    if found := saved.difference(manifest):
        more = f", and {len(found) - 3} more differences" if len(found) > 3 else ""
        raise DataError(
            f"The stream is not the one of the run: {'; '.join(found[:3])}{more}. Give the settings and the data of "
            "the run."
        )
    without = state.get("memory") is None
    if without != (replay is None):
        raise ConfigError(
            f"The run was saved {'without' if without else 'with'} a replay memory, but data.replay is "
            f"{'set' if without else 'not set'}. Give the settings of the run."
        )


def refuse_disagreement(trainer: pl.Trainer, manifest: StreamManifest) -> None:
    """Raise `DataError` if the processes of a run found different streams. A collective."""
    mine, strategy = manifest.digest, trainer.strategy
    if not strategy.reduce_boolean_decision(strategy.broadcast(mine) == mine, all=True):
        count = sum(entry.train for entry in manifest.experiences if entry.kind == "learn")
        raise DataError(
            f"The {trainer.world_size} processes of this run found different streams, here one of {count} training "
            f"images with seed {manifest.seed}. Give every machine the same files and settings."
        )
