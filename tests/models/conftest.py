"""Every network that ships, tiny."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pvision.models import MotionNet, TubeletViT, list_video_models, video_model

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "motion_net": lambda: MotionNet(5),
    "motion_net_random": lambda: MotionNet(5, init="random"),
    "tubelet_vit": lambda: TubeletViT(5, clip=(4, 32, 32), tubelet=(2, 8, 8), width=32, depth=2),
    **{name: lambda name=name: video_model(name, num_classes=5) for name in list_video_models("*_tiny")},
}


@pytest.fixture(params=sorted(BUILDERS))
def network(request):
    """A network with 5 classes whose head is not zero."""
    torch.manual_seed(0)
    network = BUILDERS[request.param]()
    nn.init.normal_(network.head.weight, std=0.1)
    return network


@pytest.fixture
def videos(network):
    """Three clips of the size that `network` takes."""
    clip = getattr(network, "clip", (4, 32, 32))
    return torch.rand(3, 3, *clip, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
