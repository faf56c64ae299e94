"""Rendering of whole splits on several processes."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

from pvision.checks import one_of, positive_int
from pvision.datamodules.mocap.bullet import require_bullet
from pvision.datamodules.mocap.palette import IndexedClip
from pvision.datamodules.mocap.scenes import SPLITS, Scene, draw_scene
from pvision.datamodules.mocap.stage import stage

__all__ = ["render_clip", "render_split"]

_CHUNK = 20


class _Job(NamedTuple):
    split: str
    indices: range
    seed: int
    frames: int
    size: int


def render_clip(split: str, index: int, *, seed: int, frames: int = 8, size: int = 48) -> tuple[Scene, IndexedClip]:
    """Render one clip in this process.

    Args:
        split: ``"train"``, ``"test"`` or ``"synthetic"``.
        index: number of the clip in its split.
        seed: of the whole set, at least 0.
        frames: its length.
        size: its height and width in pixels.

    Raises:
        MissingExtraError: if pybullet is not installed.
        ConfigError: if an argument is outside its range.
    """
    one_of("split", split, SPLITS)
    positive_int("index", index, low=0)
    positive_int("seed", seed, low=0)
    scene = draw_scene(split, index, seed)
    return scene, stage().render(scene, frames=positive_int("frames", frames), size=positive_int("size", size))


def render_split(
    split: str, count: int, *, seed: int, frames: int = 8, size: int = 48, processes: int = 1
) -> Iterator[tuple[Scene, IndexedClip]]:
    """Render the clips 0 to ``count - 1`` of a split, in order.

    Args:
        split: ``"train"``, ``"test"`` or ``"synthetic"``.
        count: how many clips.
        seed: of the whole set, at least 0.
        frames: length of a clip.
        size: height and width in pixels.
        processes: how many work at it; with 1, this process does.

    Raises:
        MissingExtraError: if pybullet is not installed.
        ConfigError: if an argument is outside its range.
    """
    positive_int("processes", processes)
    # Here, not only in the workers: the error would not survive its way from there.
    require_bullet()
    starts = range(0, positive_int("count", count, low=0), _CHUNK)
    jobs = [_Job(split, range(start, min(start + _CHUNK, count)), seed, frames, size) for start in starts]
    if processes == 1:
        for job in jobs:
            yield from _work(job)
        return
    # Spawned, not forked: a fork would share the parent's stage, if it has one.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_prepare_worker) as pool:
        for clips in pool.imap(_work, jobs):
            yield from clips


def _work(job: _Job) -> list[tuple[Scene, IndexedClip]]:
    return [render_clip(job.split, index, seed=job.seed, frames=job.frames, size=job.size) for index in job.indices]


def _prepare_worker() -> None:
    # pybullet greets on standard output and remarks on every model it loads.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Ctrl-C reaches the whole process group; the parent answers it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
