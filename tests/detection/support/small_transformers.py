"""Detectors of transformers that several test files use: random, tiny, the same each time."""

from typing import Any

from small_detectors import seeded
from torch import nn

from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.hugging_face import HuggingFaceDetector
from pvision.detection.detectors.image_preparation import ImagePreparation

__all__ = ["small_deformable_detr", "small_detr", "small_rt_detr", "small_yolos", "yolos_network"]

_NAMES = {0: "person", 1: "dog"}
_SMALL = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 12,
    "id2label": _NAMES,
}


def yolos_network() -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=(64, 64),
        num_detection_tokens=12,
        id2label=_NAMES,
    )
    return YolosForObjectDetection(config)


def small_yolos() -> Detector:
    return seeded(lambda: _prepared(yolos_network()))


def small_detr() -> Detector:
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(backbone_config=_resnet(["stage4"]), d_model=16, **_SMALL)
    return seeded(lambda: _prepared(DetrForObjectDetection(config)))


def small_deformable_detr() -> Detector:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    stages = _resnet(["stage3", "stage4"])
    config = DeformableDetrConfig(backbone_config=stages, d_model=32, num_feature_levels=2, **_SMALL)
    return seeded(lambda: _prepared(DeformableDetrForObjectDetection(config)))


def small_rt_detr() -> Detector:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    stages = ["stage2", "stage3", "stage4"]
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    config = RTDetrConfig(
        backbone_config=RTDetrResNetConfig(**shape, out_features=stages),
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        id2label=_NAMES,
    )
    return seeded(lambda: _prepared(RTDetrForObjectDetection(config), fixed_size=(64, 64)))


def _resnet(features: list[str]) -> Any:
    from transformers import ResNetConfig

    shape = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(**shape, out_features=features)


def _prepared(network: nn.Module, fixed_size: tuple[int, int] | None = None) -> Detector:
    return HuggingFaceDetector(network, preparation=ImagePreparation(min_size=64, max_size=96, fixed_size=fixed_size))
