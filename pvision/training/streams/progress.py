"""Where in the stream training is, for the people who watch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from pvision.continual.experience import Experience
from pvision.training.trainer_parts import replaced

__all__ = ["announce", "announce_the_end", "shown_in_progress_bar"]


def announce(trainer: pl.Trainer, experience: Experience, stream: Any) -> None:
    """Print which experience begins, unless the Trainer shows no progress."""
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        return
    what = f"learns {experience.name}" if experience.kind == "learn" else experience.name
    print(f"experience {_number(experience, stream)}: {what}, {len(experience.train):,} images", file=sys.stderr)


def announce_the_end(trainer: pl.Trainer, path: Path | None) -> None:
    """Print that the run that wrote the checkpoint at ``path`` had learned everything."""
    if trainer.is_global_zero:
        print(f"pvision: {path} is of a run that has learned its whole stream; nothing is left to do.", file=sys.stderr)


@contextmanager
def shown_in_progress_bar(trainer: pl.Trainer, experience: Experience, stream: Any) -> Iterator[None]:
    """Show the experience's number among the progress bar's metrics."""
    bar = trainer.progress_bar_callback
    if bar is None:
        yield
        return
    original = bar.get_metrics

    def with_experience(*args: Any) -> dict[str, Any]:
        return {"experience": _number(experience, stream), **original(*args)}

    with replaced(bar, "get_metrics", with_experience):
        yield


def _number(experience: Experience, stream: Any) -> str:
    return f"{experience.index + 1}/{len(stream.experiences)}"
