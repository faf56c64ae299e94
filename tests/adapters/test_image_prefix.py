"""Prefixes of each image's own reach its attention and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pvision.adapters import LoRA, add_adapters
from pvision.adapters.image_prefix import PrefixedNetwork
from pvision.errors import ConfigError


def drawn(prefixed, *, images=6, length=3):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(prefixed.places), 2, images, length, prefixed.width, generator=generator).double()


def test_without_prefixes_the_network_is_bit_by_bit_itself(network, images):
    plain = network(images)
    prefixed = PrefixedNetwork(network)
    assert torch.equal(prefixed(images), plain)
    assert not torch.allclose(prefixed(images, drawn(prefixed).float()), plain, atol=1e-4)
    assert torch.equal(prefixed(images), plain)
    assert torch.equal(network(images), plain)


def _slow_attention(layer, tokens, keys, values, family):
    """Attention with a prefix, one head at a time."""
    if family == "timm":
        packed, out = layer.qkv(tokens).chunk(3, -1), layer.proj
    elif family == "torchvision":
        packed = nn.functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        out = layer.out_proj
    else:
        packed, out = (layer.q_proj(tokens), layer.k_proj(tokens), layer.v_proj(tokens)), layer.o_proj
    q, k, v = packed
    k, v = torch.cat([keys, k]), torch.cat([values, v])
    heads = [(q[:, rows] @ k[:, rows].T / 8**0.5).softmax(-1) @ v[:, rows] for rows in torch.arange(24).split(8)]
    return out(torch.cat(heads, -1))


def test_each_image_attends_to_its_own_prefix(network, family, images):
    prefixed = PrefixedNetwork(network.double(), blocks=[0, 2])
    assert [place.block for place in prefixed.places] == [0, 2]
    prefixes, seen = drawn(prefixed), []
    for place in prefixed.places:
        layer = network.get_submodule(place.module)
        layer.register_forward_hook(
            lambda module, args, kwargs, out: seen.append((module, (args or tuple(kwargs.values()))[0], out)),
            with_kwargs=True,
        )
    prefixed(images.double(), prefixes)
    assert len(seen) == 2
    for (layer, tokens, output), (keys, values) in zip(seen, prefixes, strict=True):
        output = output if torch.is_tensor(output) else output[0]
        for row in range(6):
            expected = _slow_attention(layer, tokens[row], keys[row], values[row], family)
            assert torch.allclose(output[row], expected, atol=1e-12)


def test_what_an_image_gets_does_not_reach_the_others(network, images):
    prefixed, images = PrefixedNetwork(network.double()), images.double()
    prefixes = drawn(prefixed)
    before = prefixed(images, prefixes)
    prefixes[:, :, 2] += 1
    after = prefixed(images, prefixes)
    others = torch.arange(6) != 2
    assert torch.allclose(after[others], before[others], atol=1e-12)
    assert not torch.allclose(after[2], before[2], atol=1e-3)


def test_gradients_reach_the_prefixes_and_no_weight_of_the_network(network, images):
    prefixed = PrefixedNetwork(network)
    prefixes = drawn(prefixed).float().requires_grad_()
    prefixed(images, prefixes).square().sum().backward()
    assert (prefixes.grad.flatten(1).abs().amax(1) > 0).all()
    assert all(one.grad is None for one in network.parameters())


def test_it_adds_nothing_to_a_state_dict(network):
    names = list(network.state_dict())
    prefixed = PrefixedNetwork(network)
    assert list(prefixed.state_dict()) == [f"base.{name}" for name in names]


def test_the_network_stays_in_evaluation_mode(network):
    prefixed = PrefixedNetwork(network).train()
    assert prefixed.training
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_whole_and_on_its_own(make_network, images, again):
    prefixed = PrefixedNetwork(make_network())
    prefixes = drawn(prefixed).float()
    expected, copied = prefixed(images, prefixes), again(prefixed)
    with torch.no_grad():
        next(prefixed.base.blocks.parameters()).add_(1)
    assert torch.equal(copied(images, prefixes), expected)


def test_after_an_error_in_the_network_no_prefix_is_left(make_network, images):
    network = make_network()
    plain, prefixed = network(images), PrefixedNetwork(network)
    with pytest.raises(AssertionError):
        prefixed(images[:, :, :8], drawn(prefixed).float())  # timm refuses the size
    assert torch.equal(network(images), plain)


@pytest.mark.parametrize(
    "shape", [(3, 2, 6, 1, 23), (2, 2, 6, 1, 24), (3, 1, 6, 1, 24), (3, 2, 1, 1, 24), (3, 2, 6, 24)]
)
def test_prefixes_of_another_shape_are_refused(make_network, images, shape):
    with pytest.raises(ConfigError, match=r"prefixes must be \(3, 2, 6, length, 24\)"):
        PrefixedNetwork(make_network())(images, torch.zeros(shape))


def test_networks_that_cannot_take_prefixes_are_refused(make_network):
    with pytest.raises(ConfigError, match="no attention layer"):
        PrefixedNetwork(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="has adapters already"):
        PrefixedNetwork(add_adapters(make_network(), LoRA(rank=2)).base)
    network = make_network()
    network.blocks[1].attn.forward = network.blocks[1].attn.forward
    with pytest.raises(ConfigError, match=r"blocks\.1\.attn: its forward was replaced"):
        PrefixedNetwork(network)
    assert not any("forward" in vars(block.attn) for block in network.blocks if block is not network.blocks[1])


def test_layers_of_different_widths_are_refused():
    blocks = [nn.ModuleDict({"attention": nn.MultiheadAttention(width, 2)}) for width in (8, 16)]
    with pytest.raises(ConfigError, match=r"attention layers of one width, but these have \[8, 16\]"):
        PrefixedNetwork(nn.ModuleDict({"blocks": nn.ModuleList(blocks)}))
