"""Detectors of torchvision by name."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pvision.checks import one_of, positive_int
from pvision.detection.detectors.torchvision_network import TorchvisionNetwork, torchvision_detection
from pvision.errors import ConfigError
from pvision.network_weights import load_exactly, read_weights

__all__ = ["TorchvisionDetector"]

_KINDS = ("fasterrcnn_", "fcos_", "retinanet_", "ssd")
_DOWNLOADED = ("DEFAULT", "COCO_V1")
_NAMELESS = ("__background__", "N/A")


class TorchvisionDetector(TorchvisionNetwork):
    """A detector of ``torchvision.models.detection`` by name: FCOS, RetinaNet, Faster R-CNN, SSD or SSDlite.

    Nothing is downloaded unless ``weights`` says so, weights of the backbone never.

    A file without counted batches (torchvision's `FrozenBatchNorm2d`, as in most of its own files) gets a network whose
    batch normalisation has fixed statistics. What no file holds: ``fasterrcnn_resnet50_fpn`` and
    ``retinanet_resnet50_fpn`` of COCO_V1 add nothing to the variance. Torchvision's own files are known by their hash;
    load what was fine-tuned from them into the network of ``weights="COCO_V1"``.

    Args:
        name: as torchvision spells it, for example ``"retinanet_resnet50_fpn_v2"``.
        weights: ``"COCO_V1"`` or ``"DEFAULT"`` for torchvision's own, which are downloaded once and checked against
            their hash; a ``.safetensors`` or ``.pth`` file with a state dict; None for random ones.
        class_names: of the objects, in the order of their labels; None for the 91 labels of COCO. The empty name of the
            background is added where it belongs.
        min_size: short side that images are resized to in pixels; None for torchvision's.
        max_size: limit of the long side in pixels; None for torchvision's.

    Raises:
        ConfigError: if torchvision knows no such detector, the weights do not fit, or a setting does not apply.
        MissingExtraError: if torchvision is not installed.
    """

    def __init__(
        self,
        name: str = "fcos_resnet50_fpn",
        *,
        weights: str | None = None,
        class_names: Sequence[str] | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> None:
        _check_settings(name, weights, class_names)
        sizes = _sizes(name, min_size, max_size)
        if weights in _DOWNLOADED or class_names is None:
            categories = _official(name).meta["categories"]
            names = tuple("" if category in _NAMELESS else category for category in categories)
        else:
            names = _with_background(name, class_names)
        official = _official(name, weights) if weights in _DOWNLOADED else None
        build = getattr(torchvision_detection(), name)
        network = build(weights=official, weights_backbone=None, num_classes=len(names), **sizes)
        super().__init__(network, names)
        if weights is not None and official is None:
            _load(self.network, Path(weights), name)


def _names() -> list[str]:
    from torchvision.models import list_models

    return [name for name in list_models(module=torchvision_detection()) if name.startswith(_KINDS)]


def _check_settings(name: str, weights: str | None, class_names: Sequence[str] | None) -> None:
    torchvision_detection()
    one_of("name", name, _names())
    if weights in _DOWNLOADED and class_names is not None:
        raise ConfigError(
            f"weights {weights!r} bring the class names of COCO with them, but class_names came too. Leave class_names "
            "out, or give a file of weights that knows your classes."
        )
    if isinstance(class_names, str) or (class_names is not None and not any(class_names)):
        raise ConfigError(f"class_names must be a list of at least one name, but {class_names!r} came.")


def _sizes(name: str, min_size: int | None, max_size: int | None) -> dict[str, int]:
    given = {"min_size": min_size, "max_size": max_size}
    sizes = {key: positive_int(key, value) for key, value in given.items() if value is not None}
    if sizes and name.startswith("ssd"):
        raise ConfigError(f"{name} resizes all images to one fixed size. Leave {' and '.join(sizes)} out.")
    return sizes


def _official(name: str, weights: str = "DEFAULT") -> Any:
    from torchvision.models import get_model_weights

    known = get_model_weights(name)
    one_of("weights", weights, known.__members__)
    return known[weights]


def _with_background(name: str, class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    background = name.startswith(("fasterrcnn_", "ssd"))
    return ("", *names) if background and names[0] else names


def _load(network: nn.Module, path: Path, name: str) -> None:
    state = read_weights(path)
    if not any(key.endswith("num_batches_tracked") for key in state):
        _fix_statistics(network, eps=0.0 if _adds_nothing(path, name) else None)
    load_exactly(network, state, source=str(path))


def _adds_nothing(path: Path, name: str) -> bool:
    """Return whether a file is one of those whose training divided by the bare deviation (pytorch/vision #2933)."""
    if name not in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"):
        return False
    known = _official(name, "COCO_V1").url.rpartition("-")[2].removesuffix(".pth")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(known)


def _fix_statistics(module: nn.Module, *, eps: float | None) -> None:
    """Exchange each batch normalisation for one of fixed statistics; None keeps what it adds to the variance."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=child.eps if eps is None else eps))
        else:
            _fix_statistics(child, eps=eps)
