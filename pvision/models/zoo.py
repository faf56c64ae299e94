"""Video networks of pytorchvideo and torchvision by name, under one convention and privately trainable."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial

from pvision.checks import one_of, positive_int
from pvision.errors import ConfigError
from pvision.models import pytorchvideo_networks as pytorchvideo
from pvision.models import torchvision_networks as torchvision
from pvision.models.parts import FRAMES_PER_SLOW_FRAME, Clip, Parts

__all__ = ["Entry", "build_parts", "entry", "list_video_models"]

_AXES = ("frames", "height", "width")
Colour = tuple[float, float, float]

_KINETICS: tuple[Colour, Colour] = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Entry:
    """A network that can be had by name.

    Args:
        build: makes it; takes ``num_classes``, ``clip`` and, if it has convolutions, ``norm``.
        clip: the frames, height and width for which it was published.
        multiple: what frames, height and width must be multiples of.
        colour: mean and deviation of the colours with which it was published.
        norms: the normalisations that it can be built with; none for transformers.
        torchvision_name: what torchvision calls it, if that has weights for it.
    """

    build: Callable[..., Parts]
    clip: Clip
    multiple: Clip = (1, 1, 1)
    colour: tuple[Colour, Colour] = _KINETICS
    norms: tuple[str, ...] = ()
    torchvision_name: str | None = None

    def checked_clip(self, clip: Clip) -> Clip:
        """Return ``clip`` as a tuple if the network can be built for it.

        Raises:
            ConfigError: if it has not three sizes above 0, or one of them is no multiple of what it must be.
        """
        if len(clip) != len(_AXES):
            raise ConfigError(f"clip must be (frames, height, width), but {clip!r} came.")
        for axis, size, factor in zip(_AXES, clip, self.multiple, strict=True):
            if positive_int(f"clip {axis}", size) % factor:
                raise ConfigError(f"clip {axis} must be a multiple of {factor} for this network, but {size} came.")
        return (clip[0], clip[1], clip[2])


def list_video_models(pattern: str = "*") -> list[str]:
    """Return the names that `VideoBackbone` takes.

    Args:
        pattern: only those that match it, as in ``"swin3d_*"``.

    Example:
        >>> list_video_models("mvit_*")
        ['mvit_tiny', 'mvit_v1_b', 'mvit_v2_s']
    """
    return sorted(name for name in _ENTRIES if fnmatch(name, pattern))


def entry(name: str) -> Entry:
    """Return what is known about the network called ``name``.

    Raises:
        ConfigError: if there is none; it lists those that exist.
    """
    return _ENTRIES[one_of("name", name, list_video_models())]


def build_parts(name: str, *, num_classes: int, clip: Clip, norm: str) -> Parts:
    """Build the network called ``name``, with random weights.

    Args:
        name: one of `list_video_models`.
        num_classes: classes of its head.
        clip: frames, height and width of its clips.
        norm: ``"group"`` or ``"batch"``.

    Raises:
        ConfigError: if an argument is wrong, or the network cannot be built for such clips.
        MissingExtraError: if the package that brings it is not installed.
    """
    known = entry(name)
    clip = known.checked_clip(clip)
    one_of("norm", norm, ("group", "batch"))
    if known.norms:
        return known.build(num_classes=num_classes, clip=clip, norm=norm)
    if norm != "group":
        raise ConfigError(f"norm='batch' came for {name}, which has layer norms only. Leave `norm` out.")
    return known.build(num_classes=num_classes, clip=clip)


def _x3d(clip: Clip, size: pytorchvideo.X3DSize) -> Entry:
    return Entry(partial(pytorchvideo.build_x3d, size), clip, norms=_NORMS)


def _slowfast(clip: Clip, size: pytorchvideo.SlowFastSize) -> Entry:
    build = partial(pytorchvideo.build_slowfast, size)
    return Entry(build, clip, multiple=(FRAMES_PER_SLOW_FRAME, 1, 1), norms=_NORMS)


def _mvit(size: torchvision.MViTSize, name: str) -> Entry:
    return Entry(partial(torchvision.build_mvit, size), (16, 224, 224), multiple=(2, 32, 32), torchvision_name=name)


def _swin3d(size: torchvision.Swin3DSize, name: str) -> Entry:
    return Entry(partial(torchvision.build_swin3d, size), (32, 224, 224), colour=_IMAGENET, torchvision_name=name)


_NORMS = ("group", "batch")
_ENTRIES: dict[str, Entry] = {
    "x3d_xs": _x3d((4, 160, 160), pytorchvideo.X3DSize()),
    "x3d_s": _x3d((13, 160, 160), pytorchvideo.X3DSize()),
    "x3d_m": _x3d((16, 224, 224), pytorchvideo.X3DSize()),
    "x3d_tiny": _x3d((4, 32, 32), pytorchvideo.X3DSize(depth_factor=0.2, stem_width=4, feature_dim=32)),
    "slowfast_r50": _slowfast((32, 224, 224), pytorchvideo.SlowFastSize()),
    "slowfast_r101": _slowfast((32, 224, 224), pytorchvideo.SlowFastSize(depth=101, fusion_frames=5)),
    "slowfast_tiny": _slowfast((8, 32, 32), pytorchvideo.SlowFastSize(depth=18, stem_widths=(8, 1), fusion_frames=3)),
    "mvit_v1_b": _mvit(torchvision.MViTSize(version=1), "mvit_v1_b"),
    "mvit_v2_s": _mvit(torchvision.MViTSize(version=2), "mvit_v2_s"),
    "mvit_tiny": Entry(
        partial(torchvision.build_mvit, torchvision.MViTSize(version=2, width=16, depth=2, stages=(1,), key_stride=2)),
        clip=(4, 32, 32),
        multiple=(2, 8, 8),
    ),
    "swin3d_t": _swin3d(torchvision.Swin3DSize(), "swin3d_t"),
    "swin3d_s": _swin3d(torchvision.Swin3DSize(depths=(2, 2, 18, 2)), "swin3d_s"),
    "swin3d_b": _swin3d(torchvision.Swin3DSize(width=128, depths=(2, 2, 18, 2)), "swin3d_b"),
    "swin3d_tiny": Entry(
        partial(
            torchvision.build_swin3d,
            torchvision.Swin3DSize(width=16, depths=(2, 2), head_width=8, window=(2, 2, 2)),
        ),
        clip=(4, 32, 32),
        colour=_IMAGENET,
    ),
}
