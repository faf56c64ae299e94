"""Where in the stream training is, for the people who watch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from pvision.continual.experience import Experience
from pvision.training.trainer_parts import replaced

__all__ = ["announce", "shown_in_progress_bar"]


def announce(trainer: pl.Trainer, experience: Experience, stream: Any) -> None:
    """Print which experience begins, unless the Trainer shows no progress."""
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        return
    what = "learns" if experience.kind == "learn" else "forgets"
    records = len(experience.train)
    print(f"experience {_number(experience, stream)} {what} {experience.name}: {records:,} images", file=sys.stderr)


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
