"""MViT and Swin3D of torchvision; the only file that knows that package.

Dropout and stochastic depth are 0, because their noise would differ between the two views of a record.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from urllib.error import URLError

from torch import Tensor, nn

from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.models.parts import Clip, GlobalMean, Parts

__all__ = ["build_mvit", "build_swin3d", "build_tiny_mvit", "build_tiny_swin3d", "published_weights"]


def build_mvit(builder: str, *, num_classes: int, clip: Clip) -> Parts:
    """Return torchvision's MViT called ``builder``, for clips of size ``clip``.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    build: Callable[..., nn.Module] = getattr(_video_models(), builder)
    network = build(
        num_classes=num_classes, temporal_size=clip[0], spatial_size=clip[1:], stochastic_depth_prob=0.0, dropout=0.0
    )
    return Parts(network, head="head.1")


def build_tiny_mvit(*, num_classes: int, clip: Clip) -> Parts:
    """Return an MViT of two blocks, with the pooling and the relative positions of ``mvit_v2_s``.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    models = _video_models()
    kernel = [3, 3, 3]
    blocks = [
        models.mvit.MSBlockConfig(2, 16, 16, kernel, kernel, [1, 1, 1], [1, 2, 2]),
        models.mvit.MSBlockConfig(2, 16, 32, kernel, kernel, [1, 2, 2], [1, 1, 1]),
    ]
    network = models.MViT(
        spatial_size=clip[1:],
        temporal_size=clip[0],
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=0.0,
        num_classes=num_classes,
    )
    return Parts(network, head="head.1")


def build_swin3d(builder: str, *, num_classes: int, clip: Clip) -> Parts:
    """Return torchvision's Swin3D called ``builder``; it pads clips of any size.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    del clip
    build: Callable[..., nn.Module] = getattr(_video_models(), builder)
    network = build(num_classes=num_classes, stochastic_depth_prob=0.0)
    network.avgpool = GlobalMean()
    return Parts(network, head="head")


def build_tiny_swin3d(*, num_classes: int, clip: Clip) -> Parts:
    """Return a Swin3D of two stages of two blocks, so that windows are shifted and patches merged.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    del clip
    network = _video_models().SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[2, 2, 2],
        mlp_ratio=2.0,
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


def _video_models() -> ModuleType:
    try:
        return import_module("torchvision.models.video")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise MissingExtraError("torchvision", "video", "MViT and Swin3D") from error
