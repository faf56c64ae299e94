"""The renderer: one body on a floor in pybullet's CPU renderer, which needs neither a display nor a GPU."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import JOINTS, LINK_OFFSET, Poses
from pvision.datamodules.mocap.bullet import bullet_data, new_world
from pvision.datamodules.mocap.palette import IndexedClip, garments, posterize
from pvision.datamodules.mocap.scenes import Scene

__all__ = ["Stage", "stage"]

_EYE_HEIGHT = 0.75  # metres; the camera looks at this height
_FOLLOW = 0.3  # how fast the camera follows the body, per frame


@cache
def stage() -> "Stage":
    """Return the one stage of this process: a second one would draw old bodies into new scenes."""
    return Stage()


class Stage:
    """The body, the floor and a camera. Get it from `stage`.

    Raises:
        MissingExtraError: if pybullet is not installed.
    """

    def __init__(self) -> None:
        self._bullet = new_world()
        self._bullet.setAdditionalSearchPath(str(bullet_data()))
        self._floor = self._bullet.loadURDF("plane.urdf")
        self._body = self._bullet.loadURDF(
            "humanoid/humanoid.urdf",
            globalScaling=0.25,
            useFixedBase=True,
            flags=self._bullet.URDF_MAINTAIN_LINK_ORDER,
        )

    def render(self, scene: Scene, *, frames: int, size: int) -> IndexedClip:
        """Render a clip.

        Args:
            scene: what it shows.
            frames: its length.
            size: its height and width in pixels.
        """
        self._dress(scene)
        poses = scene.poses(frames)
        target = poses.position[0]
        video = np.empty((frames, size, size, 3), np.uint8)
        parts = np.empty((frames, size, size), np.uint8)
        for frame in range(frames):
            self._pose(poses, frame)
            target = (1 - _FOLLOW) * target + _FOLLOW * poses.position[frame]
            target[2] = _EYE_HEIGHT
            video[frame], parts[frame] = self._photograph(scene, target, size)
        return posterize(video, parts, scene)

    def _dress(self, scene: Scene) -> None:
        for part, color in enumerate(garments(scene)):
            if part:
                self._bullet.changeVisualShape(self._body, part - LINK_OFFSET, rgbaColor=[*color, 1])
        self._bullet.changeVisualShape(self._floor, -1, rgbaColor=[*scene.floor, 1])

    def _pose(self, poses: Poses, frame: int) -> None:
        self._bullet.resetBasePositionAndOrientation(self._body, poses.position[frame], poses.rotation[frame])
        for joint in JOINTS:
            value = poses.joints[frame, joint.columns]
            if joint.size == 4:
                self._bullet.resetJointStateMultiDof(self._body, joint.link, value)
            else:
                self._bullet.resetJointState(self._body, joint.link, float(value[0]))

    def _photograph(
        self, scene: Scene, target: NDArray[np.float64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        engine = self._bullet
        _, _, colors, _, objects = engine.getCameraImage(
            size,
            size,
            engine.computeViewMatrixFromYawPitchRoll(
                target.tolist(), scene.distance, scene.azimuth, scene.elevation, 0, upAxisIndex=2
            ),
            engine.computeProjectionMatrixFOV(fov=50, aspect=1, nearVal=0.1, farVal=20),
            lightDirection=scene.light,
            shadow=0,  # a shadow on the floor would show, outside every mask, what the mask hides
            renderer=engine.ER_TINY_RENDERER,
            flags=engine.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
        )
        picture = np.reshape(colors, (size, size, 4))[..., :3].astype(np.uint8)
        ids = np.reshape(objects, (size, size))
        # Low 24 bits: the object; above: link + 1. Nothing there: -1.
        on_body = (ids >= 0) & ((ids & 0xFFFFFF) == self._body)
        return picture, np.where(on_body, (ids >> 24) - 1 + LINK_OFFSET, 0).astype(np.uint8)
