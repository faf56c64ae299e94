"""What each pixel sees of a stored scene, before any sensor: materials, light, temperature, distance, angle."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.rendered.camera import FOCAL, Camera, ray_lengths
from pvision.datamodules.rendered.geometry import SHADES, Geometry, decode_depth, owners
from pvision.datamodules.rendered.objects import decode_temperature
from pvision.datamodules.rendered.weather import Building, Weather

__all__ = ["View", "see"]

_LIT = 0.8  # share of the directed light that the floor and the walls get
_TEXELS = 64

Array = NDArray[np.float32]


class View(NamedTuple):
    """What each pixel sees, all ``(H, W)`` in float32 unless said otherwise.

    Attributes:
        objects: number of the object, from 1; 0 for floor, buildings and sky, uint8.
        sky: whether it is the sky, bool.
        distance: along the ray in metres; infinite in the sky.
        cosine: of the angle between the ray and the surface's normal.
        elevation: sine of the ray's angle above the horizon.
        lit: share of the directed light, 0 to 1.
        color: albedo, ``(H, W, 3)``; the sky's colour in the sky.
        infrared: albedo in the near infrared; 0 in the sky.
        temperature: K; that of the air in the sky, whose own temperature the sensor works out.
        emissivity: in the long-wave infrared, straight on; 1 in the sky.
        weather: light and heat of the scene.
    """

    objects: NDArray[np.uint8]
    sky: NDArray[np.bool_]
    distance: Array
    cosine: Array
    elevation: Array
    lit: Array
    color: Array
    infrared: Array
    temperature: Array
    emissivity: Array
    weather: Weather


def see(
    geometry: Geometry,
    table: NDArray[np.uint8],
    kinds: list[int],
    camera: Camera,
    weather: Weather,
    rng: np.random.Generator,
) -> View:
    """Return what each pixel sees.

    Args:
        geometry: of the objects.
        table: surfaces of the objects, six bytes each as `Surface.row` gives them, uint8, ``(S, 6)``.
        kinds: of the objects.
        camera: where it stands.
        weather: light, heat, floor and buildings.
        rng: for the floor's texture.
    """
    scenery = _scenery(camera, weather, rng)
    belongs = owners(kinds)[geometry.map]
    solid = belongs > 0
    places = np.flatnonzero(solid)
    depth = decode_depth(geometry.depths, geometry.anchors, belongs)
    ray = ray_lengths()
    rows = table[geometry.map.ravel()[places] - 1].astype(np.float32)
    lit = (geometry.shades.astype(np.float32) + 0.5) / SHADES
    distance, cosine = scenery.distance.copy(), scenery.cosine.copy()
    np.copyto(distance, depth * ray, where=solid)
    np.copyto(cosine, _cosine(depth, belongs), where=solid)
    view = scenery._replace(objects=belongs, sky=scenery.sky & ~solid, distance=distance, cosine=cosine)
    for field, values in (
        (view.lit, lit),
        (view.infrared, rows[:, 3] / 255),
        (view.temperature, decode_temperature(rows[:, 4])),
        (view.emissivity, rows[:, 5] / 255),
    ):
        field.ravel()[places] = values
    view.color.reshape(-1, 3)[places] = rows[:, :3] / 255
    return view


def _scenery(camera: Camera, weather: Weather, rng: np.random.Generator) -> View:
    """Return the view of the floor, the buildings and the sky."""
    right, ahead, up = camera.rays()
    length = ray_lengths()
    floor = up < -1e-3
    reach = np.where(floor, np.float32(camera.height) / np.where(floor, -up, 1), 0)
    along = np.where(floor, reach, np.float32(np.inf))
    elevation = up / length
    # Far away a texture averages out.
    pattern = _texture(weather, right * reach, ahead * reach, rng) / (1 + (reach / 12) ** 2)
    first, second = (np.array(color, np.float32) for color in weather.floor)
    share = (0.5 + pattern)[..., None]
    color = np.where(floor[..., None], first + (second - first) * share, np.array(weather.sky, np.float32))
    near, other = weather.infrared
    view = View(
        objects=np.zeros(up.shape, np.uint8),
        sky=~floor,
        distance=along * length,
        cosine=np.where(floor, np.abs(elevation), 1).astype(np.float32),
        elevation=elevation,
        lit=np.where(floor, np.float32(_LIT), 1).astype(np.float32),
        color=color.astype(np.float32),
        infrared=np.where(floor, near + (other - near) * share[..., 0], 0).astype(np.float32),
        temperature=(weather.air + np.where(floor, weather.ground + 2 * weather.patches * pattern, 0)).astype(
            np.float32
        ),
        emissivity=np.where(floor, np.float32(0.95), 1).astype(np.float32),
        weather=weather,
    )
    for building in weather.buildings:
        _build(view, building, camera, (right, ahead, up), along)
    return view


def _build(view: View, wall: Building, camera: Camera, rays: tuple[Array, Array, Array], along: Array) -> None:
    """Put a building into the view."""
    right, ahead, up = rays
    reach = np.float32(wall.distance) / ahead
    across, height = right * reach - np.float32(wall.left), up * reach + np.float32(camera.height)
    hit = (across > 0) & (across < wall.width) & (height > 0) & (height < wall.height) & (reach < along)
    places = np.flatnonzero(hit)
    if not len(places):
        return
    across, height, reach = (values.ravel()[places] for values in (across, height, reach))
    window = ((across / wall.pitch) % 1 > 0.45) & ((height / wall.pitch) % 1 > 0.5)
    length = ray_lengths().ravel()[places]
    for field, values in (
        (view.sky, False),
        (view.distance, reach * length),
        (view.cosine, ahead.ravel()[places] / length),
        (view.lit, _LIT),
        (view.infrared, 0.4),
        (view.temperature, view.weather.air + wall.warmth + wall.leak * window),
        (view.emissivity, np.where(window, 0.85, 0.93)),
    ):
        field.ravel()[places] = values
    colors = np.where(window[:, None], np.array(wall.windows), np.array(wall.color))
    view.color.reshape(-1, 3)[places] = colors


def _texture(weather: Weather, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Return the floor's texture at points on it, from -0.5 to 0.5."""
    sine, cosine = math.sin(weather.turn), math.cos(weather.turn)
    u = (x * np.float32(cosine) + y * np.float32(sine)) / np.float32(weather.grain)
    v = (y * np.float32(cosine) - x * np.float32(sine)) / np.float32(weather.grain)
    if weather.texture == 1:
        pattern = ((_cell(u) + _cell(v)) & 1) - np.float32(0.5)
    elif weather.texture == 2:
        pattern = (_cell(u) & 1) - np.float32(0.5)
    texels = rng.random(_TEXELS * _TEXELS, dtype=np.float32) - np.float32(0.5)
    fine = texels[_cell(3 * v) % _TEXELS * _TEXELS + _cell(3 * u) % _TEXELS]
    coarse = texels[_cell(v) % _TEXELS * _TEXELS + _cell(u) % _TEXELS]
    blotches = (fine + coarse) / 2
    mixed = blotches if weather.texture == 0 else np.float32(0.6) * pattern + np.float32(0.4) * blotches
    return np.asarray(mixed, np.float32)


def _cell(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.floor(values), np.int32)


def _cosine(depth: Array, belongs: NDArray[np.uint8]) -> Array:
    """Return the cosine between ray and normal from the slope of the depth, which is flat across an object's edge."""
    logarithm = np.log(np.where(belongs > 0, depth, 1))
    slope = np.zeros_like(logarithm)
    for axis in (0, 1):
        ahead = np.diff(logarithm, axis=axis)
        same = np.diff(belongs.astype(np.int16), axis=axis) == 0
        ahead = np.where(same, ahead, 0)
        total = np.zeros_like(logarithm)
        inner = (slice(None, -1), slice(1, None))
        low, high = (inner[0], inner[1]) if axis == 0 else ((slice(None), inner[0]), (slice(None), inner[1]))
        total[low] += ahead
        total[high] += ahead
        slope += (np.float32(FOCAL / 2) * total) ** 2  # central differences
    return np.asarray(1 / np.sqrt(1 + slope), np.float32)
