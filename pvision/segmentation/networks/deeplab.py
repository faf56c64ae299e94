"""DeepLabV3 without its classifier, the network that most of the field is measured with.

[0] Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv 1706.05587.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import at_least, one_of, positive_int
from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.network_weights import load_exactly, read_weights, without_head
from pvision.segmentation.networks.network import SegmentationNetwork

__all__ = ["DeepLabV3Features"]

_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # [0], section 4.1
_DILATED = {16: (False, False, True), 8: (False, True, True)}
_WITHOUT_BOTTLENECKS = ("resnet18", "resnet34")  # torchvision cannot dilate their blocks
_BACKBONE_MOMENTUM = 0.01  # statistics of ImageNet change slowly, as the field's code bases have it


class DeepLabV3Features(SegmentationNetwork):
    """A dilated ResNet of torchvision as the backbone, atrous spatial pyramid pooling (ASPP) as the neck.

    Needs torchvision: ``pip install 'pvision[continual]'``.

    Args:
        backbone: torchvision's name of a ResNet with bottlenecks, such as ``"resnet50"`` or ``"resnext101_32x8d"``.
        output_stride: 16 or 8, the image's side divided by the map's; 8 costs about three times as much.
        weights: of the backbone: ``"imagenet"`` for torchvision's IMAGENET1K_V1, which are downloaded once; a
            ``.safetensors`` or ``.pth`` file under torchvision's names, a classifier in it is left out; None for random
            ones.
        dropout: share of the map's values that training drops, from 0 to below 1.

    Attributes:
        feature_dim: channels of the map, 256.

    Raises:
        ConfigError: if a setting is none of those, or the file does not fit the backbone.
        DataError: if weights cannot be downloaded.
        MissingExtraError: if torchvision is not installed.
    """

    def __init__(
        self,
        backbone: str = "resnet101",
        *,
        output_stride: int = 16,
        weights: str | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if positive_int("output_stride", output_stride) not in _RATES:
            raise ConfigError(f"output_stride must be 16 or 8, but {output_stride!r} came.")
        if at_least("dropout", dropout, 0) >= 1:
            raise ConfigError(f"dropout must be below 1, but {dropout!r} came. 0 switches it off.")
        network = _resnet(backbone, _DILATED[output_stride], weights)
        wide = network.layer4[-1].conv3.out_channels
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])
        self.neck = _aspp(wide, _RATES[output_stride], dropout)
        self.feature_dim = 256

    @override
    def levels(self, image: Tensor) -> list[Tensor]:
        maps = []
        features = self.stem(image)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return [*maps, self.neck(features)]

    @override
    def backbone_parameters(self) -> list[nn.Parameter]:
        return [*self.stem.parameters(), *self.stages.parameters()]


def _resnet(name: str, dilated: tuple[bool, bool, bool], weights: str | None) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError("torchvision", "continual", "DeepLabV3Features") from error
    found = models.list_models(module=models, include=["resnet*", "resnext*", "wide_resnet*"])
    known = [one for one in found if one not in _WITHOUT_BOTTLENECKS]
    one_of("backbone", name, known)
    published = models.get_model_weights(name).IMAGENET1K_V1 if weights == "imagenet" else None
    try:
        network = models.get_model(name, weights=published, replace_stride_with_dilation=list(dilated))
    except OSError as error:
        raise DataError(
            f"The weights of {name} could not be fetched ({error}). Connect to the network once, or give a file as "
            "weights."
        ) from error
    network.fc = nn.Identity()
    if weights is not None and published is None:
        load_exactly(network, without_head(read_weights(weights), "fc"), source=weights)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = _BACKBONE_MOMENTUM
    return network


def _aspp(channels: int, rates: tuple[int, ...], dropout: float) -> nn.Module:
    from torchvision.models.segmentation.deeplabv3 import ASPP

    neck: nn.Module = ASPP(channels, rates, 256)
    for layer in neck.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    neck.get_submodule("convs.4").register_module("2", _PooledNorm(256))
    return neck


class _PooledNorm(nn.BatchNorm2d):
    """BatchNorm of one value per image; a batch of one image has no variance and takes what earlier ones left."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
