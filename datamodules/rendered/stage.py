"""The renderer: bodies before a camera in pybullet's CPU renderer, which needs neither a display nor a GPU."""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import JOINTS, LINK_OFFSET, SHIRT
from pvision.datamodules.mocap.bullet import bullet_data, new_world
from pvision.datamodules.mocap.motions import load_motion
from pvision.datamodules.mocap.quaternions import from_rotation_vector, multiply
from pvision.datamodules.rendered.camera import FIELD_OF_VIEW, HEIGHT, WIDTH, Camera
from pvision.datamodules.rendered.geometry import SHADES, Geometry, encode_depth, owners
from pvision.datamodules.rendered.objects import CLUTTER, KINDS, SURFACES
from pvision.datamodules.rendered.scenes import CLUTTER_SHAPES, MODELS, Object, Scene

__all__ = ["Stage", "stage"]

_NEAR, _FAR = 0.2, 60.0  # metres
_AMBIENT, _DIFFUSE = 0.2, 0.7  # of the renderer; a lit surface then shows 0.2 to 0.9, so nothing is cut off
_AWAY = (0.0, -50.0, 0.0)  # behind the camera
_SCALES = {"person": (0.25,) * 6, "quadruped": (1.2, 1.45, 1.7), "vehicle": (1.4, 1.8, 2.2)}
_FILES = {"person": "humanoid/humanoid.urdf", "quadruped": "laikago/laikago_toes.urdf", "vehicle": "husky/husky.urdf"}
_SHOES, _TROUSERS = (7, 13), (5, 6, 11, 12)  # parts of the body
_LEG_SWING = (0.12, 0.45, 0.4)  # radians by which hip, thigh and shin swing at most

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


@cache
def stage() -> "Stage":
    """Return the one stage of this process: a second one would draw old bodies into new scenes."""
    return Stage()


class Stage:
    """All bodies and a camera. Get it from `stage`.

    Raises:
        MissingExtraError: if pybullet is not installed.
    """

    def __init__(self) -> None:
        self._bullet = new_world()
        self._bullet.setAdditionalSearchPath(str(bullet_data()))
        self._bodies = [[self._load(kind, model) for model in range(MODELS[kind])] for kind in range(len(KINDS))]
        self._surfaces = [_surface_of_link(self._bullet, kind, self._bodies[kind][0]) for kind in range(len(KINDS))]
        self._standing: list[int] = []

    def render(self, scene: Scene) -> Geometry:
        """Render a scene."""
        for body in self._standing:
            self._move(body, _AWAY, (0, 0, 0, 1))
        bodies = [self._place(item) for item in scene.objects]
        self._standing = bodies
        ids, light, depth = self._photograph(scene)
        kinds = [item.kind for item in scene.objects]
        surfaces = self._map(ids, bodies, kinds)
        belongs = owners(kinds)[surfaces]
        depths, anchors = encode_depth(depth, belongs, len(bodies))
        shades = np.clip((light - _AMBIENT) / _DIFFUSE * SHADES, 0, SHADES - 1).astype(np.uint8)[surfaces > 0]
        shares = [self._share(scene, belongs, depth, number, bodies) for number in range(len(bodies))]
        return Geometry(surfaces, shades, depths, anchors, shares)

    def _share(self, scene: Scene, belongs: NDArray[np.uint8], depth: Array, number: int, bodies: list[int]) -> float:
        """Return which share of an object is visible, by a picture of the object alone where that is not clear."""
        own = belongs == number + 1
        visible = int(own.sum())
        if not visible or scene.objects[number].kind == CLUTTER:
            return 1.0 if visible else 0.0
        around = _around(own)
        others = (belongs[around] > 0) & ~own[around]
        if (others & (depth[around] < depth[own].max())).any():
            alone = self._alone(scene, bodies, number)
            return round(visible / max(visible, alone), 3)
        return 1.0

    def _alone(self, scene: Scene, bodies: list[int], number: int) -> int:
        """Return how many pixels an object shows if nothing else is there."""
        others = [body for body in bodies if body != bodies[number]]
        places = [self._bullet.getBasePositionAndOrientation(body) for body in others]
        for body in others:
            self._move(body, _AWAY, (0, 0, 0, 1))
        ids, _, _ = self._photograph(scene)
        for body, (position, rotation) in zip(others, places, strict=True):
            self._move(body, position, rotation)
        return int(((ids >= 0) & ((ids & 0xFFFFFF) == bodies[number])).sum())

    def _load(self, kind: int, model: int) -> int:
        engine = self._bullet
        if kind == CLUTTER:
            body = engine.createMultiBody(0, -1, _clutter(engine, model), _AWAY)
        else:
            name = KINDS[kind]
            flags = engine.URDF_MAINTAIN_LINK_ORDER if name == "person" else 0
            body = engine.loadURDF(
                _FILES[name], _AWAY, globalScaling=_SCALES[name][model], useFixedBase=True, flags=flags
            )
        for link in range(-1, engine.getNumJoints(body)):
            engine.changeVisualShape(body, link, rgbaColor=[1, 1, 1, 1], textureUniqueId=-1)
        return int(body)

    def _place(self, item: Object) -> int:
        body = self._bodies[item.kind][item.model]
        yaw = from_rotation_vector(np.array([0, 0, math.radians(item.yaw)]))
        if KINDS[item.kind] == "person":
            self._place_person(body, item, yaw)
        elif item.kind == CLUTTER:
            self._move(body, (item.x, item.y, CLUTTER_SHAPES[item.model].size[2]), yaw)
        else:
            self._place_machine(body, item, yaw)
        return body

    def _place_person(self, body: int, item: Object, yaw: Array) -> None:
        motion = load_motion(item.performance)
        poses = motion.poses(np.array([item.phase * motion.duration]))
        self._move(body, (item.x, item.y, float(poses.position[0, 2])), multiply(yaw, poses.rotation[0]))
        for joint in JOINTS:
            value = poses.joints[0, joint.columns]
            if joint.size == 4:
                self._bullet.resetJointStateMultiDof(body, joint.link, value)
            else:
                self._bullet.resetJointState(body, joint.link, float(value[0]))

    def _place_machine(self, body: int, item: Object, yaw: Array) -> None:
        turn = yaw
        if KINDS[item.kind] == "quadruped":
            turn = multiply(yaw, from_rotation_vector(np.array([np.pi / 2, 0, 0])))  # its model is y up
            for number, swing in enumerate(item.joints):
                leg, part = divmod(number, 3)
                self._bullet.resetJointState(body, 4 * leg + part, swing * _LEG_SWING[part])
        self._move(body, (item.x, item.y, 0.0), turn)
        links = range(-1, self._bullet.getNumJoints(body))
        lowest = min(self._bullet.getAABB(body, link)[0][2] for link in links)
        self._move(body, (item.x, item.y, -lowest), turn)

    def _move(self, body: int, position: Any, rotation: Any) -> None:
        self._bullet.resetBasePositionAndOrientation(body, position, rotation)

    def _photograph(self, scene: Scene) -> tuple[Ids, Array, Array]:
        """Return for each pixel which link is seen (-1 for none), its light from 0 to 1, and its depth in metres."""
        engine = self._bullet
        _, _, colors, depth, ids = engine.getCameraImage(
            WIDTH,
            HEIGHT,
            _view(engine, scene.camera),
            engine.computeProjectionMatrixFOV(FIELD_OF_VIEW, WIDTH / HEIGHT, _NEAR, _FAR),
            lightDirection=scene.light,
            lightColor=[1, 1, 1],
            lightAmbientCoeff=_AMBIENT,
            lightDiffuseCoeff=_DIFFUSE,
            lightSpecularCoeff=0,
            shadow=0,
            renderer=engine.ER_TINY_RENDERER,
            flags=engine.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
        )
        light = np.reshape(colors, (HEIGHT, WIDTH, 4))[..., 0] / 255
        buffer = np.reshape(depth, (HEIGHT, WIDTH)).astype(np.float64)
        metres = _FAR * _NEAR / (_FAR - (_FAR - _NEAR) * buffer)
        return np.reshape(ids, (HEIGHT, WIDTH)).astype(np.int64), light, metres

    def _map(self, ids: Ids, bodies: list[int], kinds: list[int]) -> NDArray[np.uint8]:
        # Low 24 bits: the object; above: link + 1. Nothing there: -1.
        body, link = np.where(ids >= 0, ids & 0xFFFFFF, -1), ids >> 24
        surfaces = np.zeros(ids.shape, np.uint8)
        first = 1
        for number, kind in zip(bodies, kinds, strict=True):
            seen = body == number
            surfaces[seen] = first + self._surfaces[kind][link[seen]]
            first += len(SURFACES[KINDS[kind]])
        return surfaces


def _view(engine: Any, camera: Camera) -> Any:
    down = math.radians(camera.pitch)
    target = [0, math.cos(down), camera.height - math.sin(down)]
    return engine.computeViewMatrix([0, 0, camera.height], target, [0, 0, 1])


def _clutter(engine: Any, model: int) -> int:
    form, (x, y, z) = CLUTTER_SHAPES[model]
    if form == "box":
        return int(engine.createVisualShape(engine.GEOM_BOX, halfExtents=[x, y, z]))
    if form == "cylinder":
        return int(engine.createVisualShape(engine.GEOM_CYLINDER, radius=x, length=2 * z))
    return int(engine.createVisualShape(engine.GEOM_SPHERE, radius=z))


def _surface_of_link(engine: Any, kind: int, body: int) -> NDArray[np.uint8]:
    """Return the place in `SURFACES` of the link before each number: of the base first."""
    name = KINDS[kind]
    if name == "person":
        parts = range(LINK_OFFSET - 1, LINK_OFFSET + engine.getNumJoints(body))
        return np.array([_garment(part) for part in parts], np.uint8)
    if name == "quadruped":
        return np.array([0, *[(1, 1, 2, 2)[link % 4] for link in range(16)]], np.uint8)
    if name == "vehicle":
        links = [engine.getJointInfo(body, link)[12].decode() for link in range(engine.getNumJoints(body))]
        return np.array([0, *[1 if "wheel" in link else 0 if link == "base_link" else 2 for link in links]], np.uint8)
    return np.zeros(1, np.uint8)


def _garment(part: int) -> int:
    worn = SURFACES["person"]
    if part in _SHOES:
        return worn.index("shoes")
    if part in _TROUSERS:
        return worn.index("trousers")
    return worn.index("shirt") if part in SHIRT else worn.index("skin")


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rectangle around a mask, a little wider: an object behind another can show on both of its sides."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    margin = 3
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )
