"""Masked updates: chosen entries and no others."""

import pytest
import torch
from torch import nn

from pvision.adapters import Masked, add_adapters
from pvision.errors import ConfigError


def test_only_chosen_weights_move_whatever_the_optimizer(make_network, images, train):
    network = make_network()
    mask = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.2
    adapted = add_adapters(network, Masked(masks={"blocks.0.attn.qkv.v": mask}), targets=r"blocks\.0\.attn\.qkv\.v")
    before = adapted.layers[0].weight.clone()
    train(adapted, images)
    after = adapted.merge().layers[0].module.weight[48:].detach()
    assert torch.equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).all()


def test_experiences_with_disjoint_masks_keep_their_weights(make_network, images, train):
    first = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.3
    second = ~first & (torch.rand(24, 24, generator=torch.Generator().manual_seed(1)) < 0.3)
    place = "blocks.0.attn.qkv.v"
    adapted = add_adapters(make_network(), Masked(masks={place: first}), name="first", targets=place)
    train(adapted, images)
    with torch.no_grad():
        old = adapted(images)
        kept = adapted.layers[0].adapters["first"].delta_weight()
        adapted.add(Masked(masks={place: second}), name="second", targets=place)
    train(adapted, images)
    stack = adapted.layers[0].adapters
    assert torch.equal(stack["first"].delta_weight(), kept)
    assert stack["second"].delta_weight()[first].eq(0).all()
    assert torch.equal(adapted.activate("first")(images), old)


def test_density_chooses_the_greatest_weights():
    network = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.1, -5.0, 0.2], [3.0, 0.0, -0.3]]))
    adapter = add_adapters(network, Masked(density=1 / 3), targets="0").layers[0].adapters["adapter"]
    assert adapter.index.tolist() == [1, 3]


def test_density_one_is_the_whole_matrix():
    adapted = add_adapters(nn.Sequential(nn.Linear(3, 2)), Masked(density=1.0), targets="0")
    assert len(adapted.trainable_parameters()["0/adapter/values"]) == 6


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "masks has none for 0"),
        ({"0": torch.ones(2, 2, dtype=torch.bool)}, r"shape \(2, 3\), but torch.bool of shape \(2, 2\)"),
        ({"0": torch.ones(2, 3)}, "but torch.float32"),
    ],
)  # fmt: skip
def test_a_mask_that_does_not_fit_is_refused(masks, message):
    with pytest.raises(ConfigError, match=message):
        add_adapters(nn.Sequential(nn.Linear(3, 2)), Masked(masks=masks), targets="0")


def test_pruning_forgets_entries_that_are_zero():
    adapted = add_adapters(nn.Sequential(nn.Linear(3, 2)), Masked(density=1.0), targets="0")
    adapter = adapted.layers[0].adapters["adapter"]
    with torch.no_grad():
        adapter.values[[1, 4]] = 2.0
    before = adapter.delta_weight()
    adapted.prune()
    assert len(adapter.values) == 2
    assert torch.equal(adapter.delta_weight(), before)
