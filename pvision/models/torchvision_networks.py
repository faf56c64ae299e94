"""MViT and Swin3D of torchvision; the only file that knows that package.

Dropout and stochastic depth are 0, because their noise would differ between the two views of a record.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from urllib.error import URLError

from torch import Tensor

from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.models.parts import Clip, GlobalMean, Parts

__all__ = ["MViTSize", "Swin3DSize", "build_mvit", "build_swin3d", "published_weights"]

_KERNEL = [3, 3, 3]
_KEEP, _HALVE = [1, 1, 1], [1, 2, 2]


@dataclass(frozen=True)
class MViTSize:
    """What tells the MViT networks apart.

    Args:
        version: 1, or 2 with relative positions and pooling residuals.
        width: channels of a token in the first block; doubled with each stage, as are the heads.
        depth: how many blocks.
        stages: the blocks at which a further stage begins.
        key_stride: by how much height and width of the first keys are pooled; halved with each stage.
    """

    version: int
    width: int = 96
    depth: int = 16
    stages: tuple[int, ...] = (1, 3, 14)
    key_stride: int = 8


@dataclass(frozen=True)
class Swin3DSize:
    """What tells the Swin3D networks apart.

    Args:
        width: channels of a token in the first stage; doubled with each.
        depths: blocks of each stage.
        head_width: channels of an attention head.
        window: frames, height and width of an attention window, in tokens.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    head_width: int = 32
    window: Clip = (8, 7, 7)


def build_mvit(size: MViTSize, *, num_classes: int, clip: Clip) -> Parts:
    """Return an MViT for clips of frames, height and width ``clip``.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    # The builders of torchvision fix the clip's size, hence its class. Parameters are named and shaped alike.
    models = _video_models()
    second = size.version == 2
    network = models.MViT(
        spatial_size=clip[1:],
        temporal_size=clip[0],
        block_setting=[models.mvit.MSBlockConfig(**block) for block in _mvit_blocks(size)],
        residual_pool=second,
        residual_with_cls_embed=False,
        rel_pos_embed=second,
        proj_after_attn=second,
        dropout=0.0,
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
    )
    return Parts(network, head="head.1")


def build_swin3d(size: Swin3DSize, *, num_classes: int, clip: Clip) -> Parts:
    """Return a Swin3D; it pads clips of any size.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    del clip
    # The builders of torchvision fix the stochastic depth, hence its class.
    network = _video_models().SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=size.width,
        depths=list(size.depths),
        num_heads=[size.width * 2**stage // size.head_width for stage in range(len(size.depths))],
        window_size=list(size.window),
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
    )
    network.avgpool = GlobalMean()
    return Parts(network, head="head")


def published_weights(builder: str, name: str) -> dict[str, Tensor]:
    """Download the weights called ``name`` of torchvision's ``builder``, or take them from torch's cache.

    torchvision compares the file with the checksum in its name.

    Args:
        builder: ``"mvit_v2_s"`` and the like.
        name: ``"KINETICS400_V1"`` and the like, as torchvision calls them.

    Raises:
        ConfigError: if ``builder`` has no weights of that name.
        DataError: if they cannot be fetched, or arrive damaged.
        MissingExtraError: if torchvision is not installed.
    """
    _video_models()
    from torchvision.models import get_model_weights

    known = get_model_weights(builder)
    if name not in known.__members__:
        raise ConfigError(
            f"weights must be the path of a .safetensors or .pth file, or one of {', '.join(known.__members__)} "
            f"for {builder}, but {name!r} came."
        )
    try:
        state: dict[str, Tensor] = known[name].get_state_dict(
            check_hash=True, progress=True, map_location="cpu", weights_only=True
        )
    except (URLError, RuntimeError, OSError) as error:
        raise DataError(
            f"weights {name} of {builder} could not be fetched from {known[name].url} ({error}). "
            "Fetch that file elsewhere and give its path as `weights`."
        ) from error
    return state


def _mvit_blocks(size: MViTSize) -> Iterator[dict[str, object]]:
    """Describe each block: version 1 widens in the MLP before a stage, version 2 in the stage's first attention."""
    second = size.version == 2
    channels, heads, stride = size.width, 1, size.key_stride
    for block in range(size.depth):
        begins = block in size.stages
        incoming = channels
        if begins if second else block + 1 in size.stages:
            channels *= 2
        if begins:
            heads, stride = 2 * heads, stride // 2
        yield {
            "num_heads": heads,
            "input_channels": incoming,
            "output_channels": channels,
            "kernel_q": _KERNEL if second or begins else [],
            "stride_q": _HALVE if begins else _KEEP if second else [],
            "kernel_kv": _KERNEL,
            "stride_kv": [1, stride, stride],
        }


def _video_models() -> ModuleType:
    try:
        return import_module("torchvision.models.video")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise MissingExtraError("torchvision", "video", "MViT and Swin3D") from error
