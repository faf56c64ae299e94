"""Rendering of whole splits on several processes."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

from pvision.checks import one_of, positive_int
from pvision.datamodules.mocap.bullet import require_bullet
from pvision.datamodules.rendered.geometry import Geometry
from pvision.datamodules.rendered.scenes import Scene, draw_scene
from pvision.datamodules.rendered.stage import stage
from pvision.datamodules.rendered.weather import SPLITS

__all__ = ["render_scene", "render_split"]

_CHUNK = 20


class _Job(NamedTuple):
    split: str
    indices: range
    seed: int


def render_scene(split: str, index: int, *, seed: int) -> tuple[Scene, Geometry]:
    """Render one scene in this process.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"detector"``.
        index: number of the scene in its split.
        seed: of the whole set, at least 0.

    Raises:
        MissingExtraError: if pybullet is not installed.
        ConfigError: if an argument is outside its range.
    """
    one_of("split", split, SPLITS)
    positive_int("index", index, low=0)
    positive_int("seed", seed, low=0)
    scene = draw_scene(split, index, seed)
    return scene, stage().render(scene)


def render_split(split: str, count: int, *, seed: int, processes: int = 1) -> Iterator[tuple[Scene, Geometry]]:
    """Render the scenes 0 to ``count - 1`` of a split, in order.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"detector"``.
        count: how many scenes.
        seed: of the whole set, at least 0.
        processes: how many work at it; with 1, this process does.

    Raises:
        MissingExtraError: if pybullet is not installed.
        ConfigError: if an argument is outside its range.
    """
    positive_int("processes", processes)
    # Here, not only in the workers: the error would not survive its way from there.
    require_bullet()
    starts = range(0, positive_int("count", count, low=0), _CHUNK)
    jobs = [_Job(split, range(start, min(start + _CHUNK, count)), seed) for start in starts]
    if processes == 1:
        for job in jobs:
            yield from _work(job)
        return
    # Spawned, not forked: a fork would share the parent's stage, if it has one.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_prepare_worker) as pool:
        for scenes in pool.imap(_work, jobs):
            yield from scenes


def _work(job: _Job) -> list[tuple[Scene, Geometry]]:
    return [render_scene(job.split, index, seed=job.seed) for index in job.indices]


def _prepare_worker() -> None:
    # pybullet greets on standard output and remarks on every model it loads.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Ctrl-C reaches the whole process group; the parent answers it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
