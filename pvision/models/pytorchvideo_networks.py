"""X3D and SlowFast of pytorchvideo; the only file that knows that package.

Its `Swish` is an `autograd.Function` without `setup_context`, which `torch.func.vmap` refuses: SiLU is the same
function. Dropout is left out, because its noise would differ between the two views of a record.
"""

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from torch import nn

from pvision.errors import MissingExtraError
from pvision.models.norms import group_norm
from pvision.models.parts import Clip, GlobalMean, Parts, two_pathways

__all__ = ["SlowFastSize", "X3DSize", "build_slowfast", "build_x3d"]

_NORMS: dict[str, Callable[..., nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm3d}
_X3D_STRIDE = 32


@dataclass(frozen=True)
class X3DSize:
    """What tells the X3D networks apart.

    Args:
        depth_factor: multiplies the blocks of each stage.
        stem_width: channels of the stem before widening.
        feature_dim: channels after the last pooling.
    """

    depth_factor: float = 2.2
    stem_width: int = 12
    feature_dim: int = 2048


@dataclass(frozen=True)
class SlowFastSize:
    """What tells the SlowFast networks apart.

    Args:
        depth: layers of the ResNet, 18, 50 or 101.
        stem_widths: channels of the slow and the fast stem.
        fusion_frames: frames that the fusion from fast to slow looks at.
    """

    depth: int = 50
    stem_widths: tuple[int, int] = (64, 8)
    fusion_frames: int = 7


def build_x3d(size: X3DSize, *, num_classes: int, clip: Clip, norm: str) -> Parts:
    """Return an X3D network.

    Args:
        size: which one.
        num_classes: classes of its head.
        clip: frames, height and width.
        norm: ``"group"`` or ``"batch"``.

    Raises:
        MissingExtraError: if pytorchvideo is not installed.
    """
    network = _pytorchvideo("x3d").create_x3d(
        input_clip_length=clip[0],
        input_crop_size=max(_X3D_STRIDE, *clip[1:]),
        model_num_class=num_classes,
        dropout_rate=0.0,
        depth_factor=size.depth_factor,
        stem_dim_in=size.stem_width,
        head_dim_out=size.feature_dim,
        norm=_NORMS[norm],
        inner_act=nn.SiLU,
        head_activation=None,
    )
    for module in network.modules():
        if hasattr(module, "branch_fusion"):
            module.branch_fusion = operator.add  # a lambda, which cannot be pickled
    # The fixed pooling window would want square clips of the size given above; this takes whatever comes.
    network.blocks[-1].pool.pool = GlobalMean()
    return Parts(network, head="blocks.5.proj")


def build_slowfast(size: SlowFastSize, *, num_classes: int, clip: Clip, norm: str) -> Parts:
    """Return a SlowFast network that makes its two pathways from one clip.

    Args:
        size: which one.
        num_classes: classes of its head.
        clip: frames, height and width.
        norm: ``"group"`` or ``"batch"``.

    Raises:
        MissingExtraError: if pytorchvideo is not installed.
    """
    del clip  # adaptive pooling: no layer depends on the size
    network = _pytorchvideo("slowfast").create_slowfast(
        slowfast_fusion_conv_kernel_size=(size.fusion_frames, 1, 1),
        model_depth=size.depth,
        model_num_class=num_classes,
        dropout_rate=0.0,
        norm=_NORMS[norm],
        stem_dim_outs=size.stem_widths,
        head_pool=nn.AdaptiveAvgPool3d,
    )
    return Parts(network, head="blocks.6.proj", prepare=two_pathways)


def _pytorchvideo(module: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            # It decorates functions with torch.jit.script, which torch 2.15 deprecates; users can do nothing about it.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
            return import_module(f"pytorchvideo.models.{module}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision was built for another torch
        raise MissingExtraError("pytorchvideo", "video", "X3D and SlowFast") from error
