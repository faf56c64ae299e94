"""Two processes train adapters as one does. ``on_rank_train`` runs in each process of a gloo group."""

import pytest
import torch
from torch import nn

from pvision.adapters import Bottleneck, GatedLoRA, Prefix, add_adapters, shrink_gates

pytest.importorskip("timm")


def adapted_network() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5).double()
    adapted = add_adapters(network, GatedLoRA(rank=3), name="low").add(Bottleneck(width=4), name="narrow")
    adapted.add(Prefix(length=2), name="prefix").train_only("low", "narrow", "prefix")
    return adapted


def steps(adapted: nn.Module, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(adapted.trainable_parameters().values(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        shrink_gates(adapted, threshold=0.001)
    return {name: parameter.detach() for name, parameter in adapted.trainable_parameters().items()}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(8) % 5


def on_rank_train(rank: int, share: bool) -> dict[str, list[float]]:
    adapted, (images, labels) = adapted_network(), batch()
    model = nn.parallel.DistributedDataParallel(adapted) if share else adapted
    trained = steps(adapted, model, images[rank::2], labels[rank::2])
    return {name: parameter.flatten().tolist() for name, parameter in trained.items()}


def distance(one: dict[str, torch.Tensor], other: dict[str, list[float]]) -> float:
    assert one.keys() == other.keys()
    return max(
        (one[name].flatten() - torch.tensor(other[name], dtype=torch.float64)).abs().max().item() for name in one
    )


@pytest.mark.slow
def test_two_ranks_are_one(ranks):
    adapted = adapted_network()
    alone = steps(adapted, adapted, *batch())
    answers = ranks(on_rank_train, 2, share=True)
    assert [answer[0] for answer in answers] == ["returned"] * 2, answers
    assert answers[0][1] == answers[1][1]
    assert distance(alone, answers[0][1]) <= 1e-12


@pytest.mark.slow
def test_two_ranks_that_do_not_share_are_not(ranks):
    adapted = adapted_network()
    alone = steps(adapted, adapted, *batch())
    assert distance(alone, ranks(on_rank_train, 2, share=False)[0][1]) > 1e-4
