"""Every network that ships, tiny, and privacy statements."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pvision.models import MotionNet, TubeletViT, list_video_models, video_model
from pvision.privacy import PrivacySpec

CLASSES = 3
SHIPPED: dict[str, tuple[tuple[int, int, int], Callable[[], nn.Module]]] = {
    "motion_net": ((3, 16, 16), lambda: MotionNet(CLASSES, init="random")),
    "tubelet_vit": ((4, 16, 16), lambda: TubeletViT(CLASSES, clip=(4, 16, 16), width=16, depth=2)),
    "x3d_tiny": ((4, 32, 32), lambda: video_model("x3d_tiny", num_classes=CLASSES)),
    "slowfast_tiny": ((8, 32, 32), lambda: video_model("slowfast_tiny", num_classes=CLASSES)),
    "mvit_tiny": ((4, 32, 32), lambda: video_model("mvit_tiny", num_classes=CLASSES)),
    "swin3d_tiny": ((4, 32, 32), lambda: video_model("swin3d_tiny", num_classes=CLASSES)),
}


@pytest.fixture(params=sorted(SHIPPED))
def shipped_name(request):
    """The name of a network that ships."""
    return request.param


@pytest.fixture
def shipped(shipped_name):
    """A network with a head that is not zero, and the size of its clips."""
    clip, build = SHIPPED[shipped_name]
    torch.manual_seed(0)
    network = build()
    nn.init.normal_(network.head.weight, std=0.5)
    return network, clip


@pytest.fixture(scope="session")
def shipped_names():
    """What `shipped` runs through; a tiny network that is missing here fails a test."""
    return {"motion_net", "tubelet_vit", *list_video_models("*_tiny")}, set(SHIPPED)


@pytest.fixture
def statement():
    """Make a privacy statement; every argument can be replaced."""

    def make(**changes):
        values = {
            "mechanism": "residual",
            "unit": "clip",
            "mask": "public",
            "polarity": "inside",
            "label": "public",
            "relation": "zero_out",
            "delta": 1e-5,
            "max_grad_norm": 1.0,
            "sample_rate": 0.1,
            "steps": 10,
            "noise_multiplier": 2.0,
        }
        if "target_epsilon" in changes:
            del values["noise_multiplier"]
        return PrivacySpec(**{**values, **changes})

    return make
