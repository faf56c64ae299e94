"""Rendering of scenes and splits. A scene takes about a twentieth of a second, so one process does it."""

from collections.abc import Iterator

from pvision.checks import one_of, positive_int
from pvision.datamodules.rendered_yard.scenes import SPLITS, Scene, draw_scene
from pvision.datamodules.rendered_yard.stage import Picture, stage

__all__ = ["render_scene", "render_split"]


def render_scene(split: str, index: int, *, seed: int) -> tuple[Scene, Picture]:
    """Render one scene.

    Args:
        split: ``"train"`` or ``"test"``.
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


def render_split(split: str, count: int, *, seed: int) -> Iterator[tuple[Scene, Picture]]:
    """Render the scenes 0 to ``count - 1`` of a split, in order.

    Args:
        split: ``"train"`` or ``"test"``.
        count: how many scenes.
        seed: of the whole set, at least 0.

    Raises:
        MissingExtraError: if pybullet is not installed.
        ConfigError: if an argument is outside its range.
    """
    for index in range(positive_int("count", count, low=0)):
        yield render_scene(split, index, seed=seed)
