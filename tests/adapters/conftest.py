"""One tiny vision transformer of each family, with random weights."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

FAMILIES = ("timm", "torchvision", "hugging_face")


class FirstOutput(nn.Module):
    """A Hugging Face network that returns logits only, as the other families do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image).logits


def _network(family: str) -> nn.Module:
    if family == "timm":
        timm = pytest.importorskip("timm")
        return timm.models.vision_transformer.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2, num_classes=5
        )
    if family == "torchvision":
        torchvision = pytest.importorskip("torchvision")
        return torchvision.models.VisionTransformer(
            image_size=16, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5
        )
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48,
        num_labels=5,
    )  # fmt: skip
    return FirstOutput(transformers.ViTForImageClassification(config))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_network() -> Callable[..., nn.Module]:
    """A factory: the same weights for the same seed, none of them zero, so that every change is seen."""

    def make(family: str = "timm", *, seed: int = 0) -> nn.Module:
        network = _network(family).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
        return network

    return make


@pytest.fixture
def network(family: str, make_network: Callable[..., nn.Module]) -> nn.Module:
    return make_network(family)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Give all adapters of a model random tensors, as if they had been trained."""

    def fill(adapted: nn.Module, seed: int = 1) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapted.sites.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(noise.to(parameter.dtype) * 0.4)
        return adapted

    return fill


@pytest.fixture
def train() -> Callable[..., float]:
    """Take AdamW steps with weight decay over all parameters, frozen ones included, and return the last loss."""

    def steps(adapted: nn.Module, images: torch.Tensor, *, count: int = 5, lr: float = 0.01) -> float:
        optimizer = torch.optim.AdamW(adapted.parameters(), lr=lr, weight_decay=0.1)
        labels = torch.arange(len(images)) % 5
        for _ in range(count):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(adapted(images), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    return steps
