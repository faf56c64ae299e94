import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pvision.models import private_training_problems, replace_batch_norm
from pvision.models.norms import groups_for


@given(st.integers(1, 4096))
def test_groups_divide_the_channels_and_are_never_single_channels(channels):
    groups = groups_for(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert channels // groups >= min(4, channels)


@pytest.fixture
def network():
    block = nn.Sequential(nn.Conv3d(3, 12, 3), nn.BatchNorm3d(12, eps=1e-3))
    return nn.Sequential(block, nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.BatchNorm1d(96), nn.Linear(96, 2))


def test_every_batch_norm_is_replaced_in_place(network):
    assert replace_batch_norm(network) is network
    assert isinstance(network[0][1], nn.GroupNorm)
    assert isinstance(network[4], nn.GroupNorm)
    video = torch.rand(2, 3, 6, 8, 8)
    assert network(video).shape == (2, 2)
    assert private_training_problems(network, sample=video) == []


def test_scale_shift_epsilon_and_mode_are_kept(network):
    nn.init.normal_(network[0][1].weight)
    before = network[0][1]
    after = replace_batch_norm(network.eval())[0][1]
    assert torch.equal(after.weight, before.weight)
    assert torch.equal(after.bias, before.bias)
    assert after.eps == 1e-3
    assert not after.training


def test_a_batch_norm_alone_or_without_scale_is_replaced_too():
    replaced = replace_batch_norm(nn.BatchNorm2d(8, affine=False))
    assert isinstance(replaced, nn.GroupNorm)
    assert list(replaced.parameters()) == []
    assert replaced(torch.rand(2, 8, 3, 3)).shape == (2, 8, 3, 3)


def test_other_layers_are_left_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    layers = list(network)
    assert list(replace_batch_norm(network)) == layers
