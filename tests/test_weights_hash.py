"""The number that tells two networks' weights apart."""

import copy
import hashlib

import pytest
import torch
from torch import nn

from pvision.models import weights_sha256


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_copies_have_the_same_and_modes_do_not_count(network):
    other = copy.deepcopy(network).eval().requires_grad_(False)
    assert weights_sha256(other) == weights_sha256(network)


def test_order_of_construction_does_not_count():
    class Pair(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.tensor(float(ord(name)))))

    assert weights_sha256(Pair("ab")) == weights_sha256(Pair("ba"))


def smallest_change(network):
    with torch.no_grad():
        network[0].weight[0, 0] = torch.nextafter(network[0].weight[0, 0], torch.tensor(9.0))
    return network


@pytest.mark.parametrize(
    "change",
    [
        smallest_change,
        lambda network: network[1].running_mean.add_(1) is None or network,
        lambda network: network[1].num_batches_tracked.add_(1) is None or network,
        lambda network: nn.Sequential(network),
        lambda network: network.double(),
        lambda network: network.bfloat16(),
    ],
    ids=["one_bit", "buffer", "counter", "names", "double", "bfloat16"],
)
def test_any_change_counts(network, change):
    before = weights_sha256(network)
    assert weights_sha256(change(network)) != before


def test_a_reshaped_parameter_counts():
    flat, tall = (nn.ParameterDict({"w": torch.zeros(*shape)}) for shape in ((2, 3), (3, 2)))
    assert weights_sha256(flat) != weights_sha256(tall)


def test_it_is_what_the_docstring_says():
    module = nn.ParameterDict({"b": torch.tensor([1.0]), "a": torch.tensor(2.0)})
    text = b"a torch.float32 ()\n" + b"\0\0\0\x40" + b"b torch.float32 (1,)\n" + b"\0\0\x80\x3f"
    assert weights_sha256(module) == hashlib.sha256(text).hexdigest()
