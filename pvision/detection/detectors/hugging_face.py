"""Detectors of the DETR family in Hugging Face's transformers.

[0] N. Carion et al., "End-to-end object detection with transformers", ECCV 2020.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import one_of, positive_int
from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.hugging_face_files import stored_detector
from pvision.detection.detectors.image_preparation import ImagePreparation
from pvision.detection.detectors.inputs_checked import by_size, check_images, check_targets, sorted_by_score
from pvision.detection.detectors.training_flags import as_evaluation
from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError

__all__ = ["HuggingFaceDetector"]

_SOFTMAX = ("detr", "table-transformer", "yolos")
_UNNORMALISED = ("rt_detr", "rt_detr_v2", "d_fine")
_SIGMOID = ("conditional_detr", "deformable_detr", "dab-detr", *_UNNORMALISED)
_HEADS = ("class_labels_classifier", "bbox_predictor", "class_embed", "bbox_embed", "enc_score_head", "enc_bbox_head")


class HuggingFaceDetector(Detector):
    """DETR, its relatives, RT-DETR and YOLOS: ``*ForObjectDetection`` of transformers.

    No image processor is needed: images are resized, normalised and padded here, with gradients. The loss is the
    network's own, weighted as it is, under the one name ``"loss"``.

    Boxes go to the network as fractions of their own image, as in [0]. A network that takes no mask of the padding
    (YOLOS) cannot tell it from the image: there they are fractions of the padded one.

    The head, in `head_parameters`, is the layers that give classes and boxes, in all their copies.

    Args:
        network: with ``pixel_values``, ``labels`` and perhaps ``pixel_mask`` as arguments, and ``loss``, ``logits`` and
            ``pred_boxes`` in its output; or a folder that ``save_pretrained`` wrote; or a name on the hub.
        download: whether a name on the hub may be downloaded; else only what is in its cache is found.
        class_names: by label; None for ``config.id2label``, where "N/A" stands for nothing.
        preparation: of the images; None for what the folder says, or for that of this kind's published weights.
        scores: ``"softmax"`` if the last class means no object, ``"sigmoid"`` if each class is decided by itself,
            ``"auto"`` for what is known of this kind of network.
        detections: how many boxes an image has at most.

    Raises:
        ConfigError: if the network is of no known kind and ``scores`` or ``preparation`` is left open, or there are
            more or fewer names than labels, or the folder holds no detector.
        MissingExtraError: if a folder or name came, and transformers is not installed.
    """

    def __init__(
        self,
        network: nn.Module | str,
        *,
        download: bool = False,
        class_names: Sequence[str] | None = None,
        preparation: ImagePreparation | None = None,
        scores: str = "auto",
        detections: int = 100,
    ) -> None:
        if isinstance(network, str):
            network, stored = stored_detector(network, download=download)
            preparation = preparation or stored
        config: Any = getattr(network, "config", None)
        if config is None or not hasattr(config, "id2label") or "labels" not in _arguments(network):
            raise ConfigError(
                f"network must be a transformers model for object detection, but a {type(network).__name__} came. Load "
                "one with AutoModelForObjectDetection, or write a Detector for it."
            )
        one_of("scores", scores, ("auto", "softmax", "sigmoid"))
        super().__init__(network, _names(config) if class_names is None else class_names)
        if len(self.class_names) != config.num_labels:
            raise ConfigError(
                f"The network has {config.num_labels} labels, but class_names are {len(self.class_names)}. Name each, "
                "with empty strings for those that stand for nothing."
            )
        self.softmax = scores == "softmax" if scores != "auto" else _known_softmax(config)
        self.preparation = preparation or _known_preparation(config)
        self.detections = positive_int("detections", detections)
        self.takes_mask = "pixel_mask" in _arguments(network)

    @override
    def loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Mapping[str, Tensor]:
        check_images(images)
        check_targets(images, targets, self.class_names)
        values, mask = self.preparation(images)
        labels = []
        for image, target, kept in zip(images, targets, mask, strict=True):
            boxes = _fractions(target["boxes"], image)
            if not self.takes_mask:
                boxes = boxes * _kept(kept).to(boxes)
            labels.append({"class_labels": target["labels"], "boxes": boxes.to(values.dtype)})
        return {"loss": self._output(values, mask, labels=labels).loss}

    @override
    def predict(self, images: Sequence[Tensor]) -> list[Prediction]:
        check_images(images)
        with as_evaluation(self.network):
            return by_size(images, self._found)

    @override
    def head_parameters(self) -> list[nn.Parameter]:
        named = self.network.named_parameters()
        return [parameter for name, parameter in named if set(name.split(".")) & set(_HEADS)]

    def _output(self, values: Tensor, mask: Tensor, **arguments: Any) -> Any:
        if self.takes_mask:
            arguments["pixel_mask"] = mask
        return self.network(pixel_values=values, **arguments)

    def _found(self, images: list[Tensor]) -> list[Prediction]:
        output = self._output(*self.preparation(images))
        height, width = images[0].shape[-2:]
        found = []
        for logits, fractions in zip(output.logits, output.pred_boxes, strict=True):
            scores, labels, queries = self._best(logits)
            found.append(sorted_by_score(_pixels(fractions[queries], height, width), scores, labels))
        return found

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best scores with their labels and queries; with a softmax each query has one label."""
        if self.softmax:
            best, labels = logits.softmax(-1)[:, :-1].max(-1)
            scores, queries = best.topk(min(self.detections, len(best)))
            return scores, labels[queries], queries
        scores, places = logits.sigmoid().flatten().topk(min(self.detections, logits.numel()))
        return scores, places % logits.shape[1], places // logits.shape[1]


def _arguments(network: nn.Module) -> set[str]:
    return set(inspect.signature(network.forward).parameters)


def _names(config: Any) -> tuple[str, ...]:
    names = (config.id2label.get(label, "") for label in range(config.num_labels))
    return tuple("" if name == "N/A" else name for name in names)


def _known_softmax(config: Any) -> bool:
    if config.model_type in _SOFTMAX:
        return True
    if config.model_type in _SIGMOID:
        return not getattr(config, "use_focal_loss", True)
    raise ConfigError(
        f"How the scores of {config.model_type!r} are meant is not known. It is for: {', '.join(_SOFTMAX + _SIGMOID)}. "
        "Set scores to 'softmax' if its last class means no object, else to 'sigmoid'."
    )


def _known_preparation(config: Any) -> ImagePreparation:
    if config.model_type in _UNNORMALISED:
        return ImagePreparation(fixed_size=(640, 640), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if config.model_type in _SOFTMAX + _SIGMOID:
        return ImagePreparation()
    raise ConfigError(f"How images for {config.model_type!r} are prepared is not known. Give an ImagePreparation.")


def _fractions(boxes: Tensor, image: Tensor) -> Tensor:
    """Return centre, width and height as fractions of the image."""
    height, width = image.shape[-2:]
    corners = boxes.reshape(-1, 4) / boxes.new_tensor([width, height, width, height])
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)


def _kept(mask: Tensor) -> Tensor:
    """Return which fraction of the padded width and height is image, as a factor of centre, width and height."""
    height, width = mask.shape
    across, down = mask[0].sum() / width, mask[:, 0].sum() / height
    return torch.stack([across, down, across, down])


def _pixels(fractions: Tensor, height: int, width: int) -> Tensor:
    """Return corners in pixels, within the image."""
    centre, half = fractions[:, :2], fractions[:, 2:] / 2
    corners = torch.cat([centre - half, centre + half], dim=1).clamp(0, 1)
    return corners * corners.new_tensor([width, height, width, height])
