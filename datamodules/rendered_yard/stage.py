"""The renderer: objects before a camera in pybullet's CPU renderer, which needs neither a display nor a GPU."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import JOINTS, LINK_OFFSET, SHIRT, SKIN
from pvision.datamodules.mocap.bullet import bullet_data, new_world
from pvision.datamodules.mocap.motions import load_motion
from pvision.datamodules.mocap.quaternions import from_rotation_vector, multiply
from pvision.datamodules.rendered_yard.camera import FIELD_OF_VIEW, SIZE, Camera
from pvision.datamodules.rendered_yard.labels import KINDS, label_of
from pvision.datamodules.rendered_yard.painting import SHADES
from pvision.datamodules.rendered_yard.scenes import SIZES, Object, Scene

__all__ = ["Picture", "Stage", "stage"]

_NEAR, _FAR = 0.2, 60.0  # metres
_AMBIENT, _DIFFUSE = 0.2, 0.7  # of the renderer; a lit surface then shows 0.2 to 0.9, so nothing is cut off
_AWAY = (0.0, -50.0, 0.0)  # behind the camera
_FILES = {
    "person": "humanoid/humanoid.urdf",
    "quadruped": "laikago/laikago_toes.urdf",
    "vehicle": "husky/husky.urdf",
    "table": "table_square/table_square.urdf",
    "arm": "kuka_iiwa/model.urdf",
}
_SCALES = {
    "person": (0.25,),
    "quadruped": (1.3, 1.5, 1.7),
    "vehicle": (1.0, 1.2, 1.4),
    "table": (1.2, 1.5, 1.8),
    "arm": (1.0, 1.15, 1.3),
}
_BALLS = (0.25, 0.35, 0.45)  # radius, metres
_DRUMS = ((0.2, 0.9), (0.3, 0.7), (0.38, 0.95))  # radius and length, metres
_UPRIGHT = from_rotation_vector(np.array([np.pi / 2, 0, 0]))  # from y up to z up; lays down what is z up
_LEG_SWING = (0.12, 0.45, 0.4)  # radians by which hip, thigh and shin swing at most
_ARM_SWING = (0.9, 0.5)  # radians by which an arm's joints bend and twist at most, in turns

Array = NDArray[np.float64]


class Picture(NamedTuple):
    """What the camera sees of a scene's objects.

    Attributes:
        labels: class of each pixel, 0 for the background, uint8, ``(H, W)``.
        shades: light on each pixel of an object, row by row, uint8 below `SHADES`, ``(P,)``.
    """

    labels: NDArray[np.uint8]
    shades: NDArray[np.uint8]


@cache
def stage() -> "Stage":
    """Return the one stage of this process: a second one would load every body again."""
    return Stage()


class Stage:
    """All bodies and a camera. Get it from `stage`.

    Raises:
        MissingExtraError: if pybullet is not installed.
    """

    def __init__(self) -> None:
        self._bullet = new_world()
        self._bullet.setAdditionalSearchPath(str(bullet_data()))
        self._bodies = {
            (kind, size): self._load(kind, size) for kind in KINDS for size in range(1 if kind == "person" else SIZES)
        }
        self._labels = {kind: self._labels_of_links(kind) for kind in KINDS}

    def render(self, scene: Scene) -> Picture:
        """Render a scene."""
        bodies = {item.kind: self._place(item) for item in scene.objects}
        seen, light = self._photograph(scene.camera, scene.light)
        for body in bodies.values():
            self._move(body, _AWAY, (0, 0, 0, 1))
        labels = np.zeros(seen.shape, np.uint8)
        # Low 24 bits: the object; above: link + 1. Nothing there: -1.
        number, link = np.where(seen >= 0, seen & 0xFFFFFF, -1), seen >> 24
        for kind, body in bodies.items():
            own = number == body
            labels[own] = self._labels[kind][link[own]]
        shades = np.clip((light - _AMBIENT) / _DIFFUSE * SHADES, 0, SHADES - 1).astype(np.uint8)
        return Picture(labels, shades[labels > 0])

    def _load(self, kind: str, size: int) -> int:
        engine = self._bullet
        if kind in _FILES:
            # Fixed joints are not merged, and a person's links are numbered as `LINK_OFFSET` says.
            flags = engine.URDF_MAINTAIN_LINK_ORDER if kind == "person" else 0
            scale = _SCALES[kind][size]
            body = engine.loadURDF(_FILES[kind], _AWAY, globalScaling=scale, useFixedBase=True, flags=flags)
        else:
            body = engine.createMultiBody(0, -1, self._shape(kind, size), _AWAY)
        for link in range(-1, engine.getNumJoints(body)):
            engine.changeVisualShape(body, link, rgbaColor=[1, 1, 1, 1], textureUniqueId=-1)
        return int(body)

    def _shape(self, kind: str, size: int) -> int:
        engine = self._bullet
        if kind == "ball":
            return int(engine.createVisualShape(engine.GEOM_SPHERE, radius=_BALLS[size]))
        radius, length = _DRUMS[size]
        return int(engine.createVisualShape(engine.GEOM_CYLINDER, radius=radius, length=length))

    def _labels_of_links(self, kind: str) -> NDArray[np.uint8]:
        """Return the label of the link before each number: of the base first."""
        body = self._bodies[kind, 0]
        links = range(-1, self._bullet.getNumJoints(body))
        if kind == "person":
            return np.array([label_of(_garment(link + LINK_OFFSET)) for link in links], np.uint8)
        if kind == "vehicle":
            names = ["", *[self._bullet.getJointInfo(body, link)[12].decode() for link in links[1:]]]
            return np.array([label_of("wheel" if "wheel" in name else kind) for name in names], np.uint8)
        return np.full(len(links), label_of(kind), np.uint8)

    def _place(self, item: Object) -> int:
        """Stand an object on the floor and return its body."""
        body = self._bodies[item.kind, item.size]
        turn = from_rotation_vector(np.array([0, 0, math.radians(item.yaw)]))
        if item.kind == "person":
            turn = multiply(turn, self._pose_person(body, item))
        elif item.kind == "quadruped":
            turn = multiply(turn, _UPRIGHT)
            for number, swing in enumerate(item.joints):
                leg, part = divmod(number, 3)
                self._bullet.resetJointState(body, 4 * leg + part, swing * _LEG_SWING[part])
        elif item.kind == "arm":
            # Not its first joint, which only turns it about the vertical, as the yaw does.
            for number, swing in enumerate(item.joints):
                self._bullet.resetJointState(body, number + 1, swing * _ARM_SWING[number % 2])
        elif item.lying:
            turn = multiply(turn, _UPRIGHT)
        self._move(body, (item.x, item.y, 0.0), turn)
        self._move(body, (item.x, item.y, -self._lowest(body, item)), turn)
        return body

    def _pose_person(self, body: int, item: Object) -> Array:
        """Pose a person and return how the pelvis is turned."""
        motion = load_motion(item.performance)
        poses = motion.poses(np.array([item.phase * motion.duration]))
        for joint in JOINTS:
            value = poses.joints[0, joint.columns]
            if joint.size == 4:
                self._bullet.resetJointStateMultiDof(body, joint.link, value)
            else:
                self._bullet.resetJointState(body, joint.link, float(value[0]))
        return np.asarray(poses.rotation[0])

    def _lowest(self, body: int, item: Object) -> float:
        """Return how high above its origin a body begins, metres."""
        if item.kind == "ball":
            return -_BALLS[item.size]
        if item.kind == "drum":
            radius, length = _DRUMS[item.size]
            return -radius if item.lying else -length / 2
        links = range(-1, self._bullet.getNumJoints(body))
        return min(float(self._bullet.getAABB(body, link)[0][2]) for link in links)

    def _move(self, body: int, position: Any, rotation: Any) -> None:
        self._bullet.resetBasePositionAndOrientation(body, position, rotation)

    def _photograph(self, camera: Camera, light: tuple[float, float, float]) -> tuple[NDArray[np.int64], Array]:
        """Return for each pixel which link is seen (-1 for none), and its light from 0 to 1."""
        engine = self._bullet
        down = math.radians(camera.pitch)
        target = [0, math.cos(down), camera.height - math.sin(down)]
        _, _, colors, _, ids = engine.getCameraImage(
            SIZE,
            SIZE,
            engine.computeViewMatrix([0, 0, camera.height], target, [0, 0, 1]),
            engine.computeProjectionMatrixFOV(FIELD_OF_VIEW, 1, _NEAR, _FAR),
            lightDirection=light,
            lightColor=[1, 1, 1],
            lightAmbientCoeff=_AMBIENT,
            lightDiffuseCoeff=_DIFFUSE,
            lightSpecularCoeff=0,
            shadow=0,
            renderer=engine.ER_TINY_RENDERER,
            flags=engine.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
        )
        return (
            np.reshape(ids, (SIZE, SIZE)).astype(np.int64),
            np.reshape(colors, (SIZE, SIZE, 4))[..., 0] / 255,
        )


def _garment(part: int) -> str:
    if part in SHIRT:
        return "shirt"
    return "skin" if part in SKIN else "trousers"
