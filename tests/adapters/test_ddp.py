"""Two processes train adapters as one does. ``on_rank_train`` runs in each process of a gloo group."""

import pytest
import torch
from torch import nn

from pvision.adapters import AdaptedModel, Bottleneck, EnergyGatedLoRA, GatedLoRA, Prefix, add_adapters, shrink_gates


class Block(nn.Module):
    """A block of a vision transformer; one of timm's would be imported by each process, which takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(24, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(tokens, tokens, tokens, need_weights=False)[0]
        return tokens + self.mlp(tokens)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(tokens)[:, 0])


def adapted_network() -> AdaptedModel:
    torch.manual_seed(0)
    network = Network().double()
    adapted = add_adapters(network, GatedLoRA(rank=3), name="low").add(Bottleneck(width=4), name="narrow")
    bases = {f"blocks.{block}.attn.v": torch.eye(24)[:, :6] for block in range(2)}
    adapted.add(Prefix(length=2), name="prefix").add(EnergyGatedLoRA(rank=2, bases=bases), name="open", targets="v")
    return adapted.add_magnitude("low", start=0.8).train_only(*adapted.names, magnitudes=["low"])


def steps(
    adapted: AdaptedModel, model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(adapted.trainable_parameters().values(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), labels).backward()
        optimizer.step()
        shrink_gates(adapted, threshold=0.001)
    return {name: parameter.detach() for name, parameter in adapted.trainable_parameters().items()}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(8, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(8) % 5


def on_rank_train(rank: int) -> list[dict[str, list[float]]]:
    """Return what is learned with the other rank, and without it."""
    (tokens, labels), answers = batch(), []
    for share in (True, False):
        adapted = adapted_network()
        model = nn.parallel.DistributedDataParallel(adapted) if share else adapted
        trained = steps(adapted, model, tokens[rank::2], labels[rank::2])
        answers.append({name: parameter.flatten().tolist() for name, parameter in trained.items()})
    return answers


def distance(one: dict[str, torch.Tensor], other: dict[str, list[float]]) -> float:
    assert one.keys() == other.keys()
    return max(
        (one[name].flatten() - torch.tensor(other[name], dtype=torch.float64)).abs().max().item() for name in one
    )


@pytest.mark.slow
def test_two_ranks_are_one_where_they_share_their_gradients(ranks):
    adapted = adapted_network()
    alone = steps(adapted, adapted, *batch())
    assert "magnitudes/low" in alone
    answers = ranks(on_rank_train, 2)
    assert [answer[0] for answer in answers] == ["returned"] * 2, answers
    (shared, apart), (other_shared, _) = (answer[1] for answer in answers)
    assert shared == other_shared
    assert distance(alone, shared) <= 1e-12
    assert distance(alone, apart) > 1e-4, "a rank by itself learns something else, or nothing is tested"
