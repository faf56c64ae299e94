"""What adapting a network refuses, and that nothing has changed then."""

import pytest
import torch
from torch import nn

from pvision.adapters import AdaptedModel, Bottleneck, GatedLoRA, LoRA, Masked, Prefix, add_adapters
from pvision.errors import ConfigError

EVERYWHERE = ("q", "k", "v", "o", "fc1", "fc2")
METHODS = [LoRA(rank=3, alpha=6), GatedLoRA(rank=3), Masked(density=0.1)]
ALL_METHODS = [*METHODS, Bottleneck(width=4), Prefix(length=2)]


def _twice(adapted: AdaptedModel):
    layer = adapted.layers[0]
    return [(layer.place, LoRA(rank=2).build(layer.place, layer.weight)) for _ in range(2)]


def _refusals(adapted: AdaptedModel):
    yield "Call unmerge", lambda: adapted.merge().add(LoRA(rank=2), name="other")
    yield "Call unmerge", lambda: adapted.activate("adapter")
    yield "Call unmerge", lambda: adapted.scale(0.5)
    yield "Call unmerge", lambda: adapted.prune()
    yield "Call unmerge", lambda: adapted.merge()
    yield "no adapter 'other'. There are: adapter", lambda: adapted.unmerge().activate("other")
    yield "name must be letters", lambda: adapted.add(LoRA(rank=2), name="a.b")
    yield "name must be letters", lambda: adapted.add(LoRA(rank=2), name="keys")
    yield "name must be letters", lambda: adapted.add(LoRA(rank=2), name="training")
    yield "two adapters for one place", lambda: adapted.stack("other", _twice(adapted))
    yield "exists. Choose another", lambda: adapted.add(LoRA(rank=2))
    yield "method must be the settings", lambda: adapted.add(LoRA, name="other")
    yield "method must be the settings", lambda: adapted.add("lora", name="other")
    yield "at most 24 at blocks.0.attn.qkv.q", lambda: adapted.add(LoRA(rank=25), name="other")
    yield "dtype must be a floating-point", lambda: adapted.add(LoRA(rank=2), name="other", dtype=torch.int8)
    yield "BottleneckAdapter at blocks.0.mlp", lambda: adapted.add(Bottleneck(width=2), name="narrow").merge()
    yield "one value for each of the 3 blocks, but 2", lambda: adapted.scale([1.0, 0.5])
    yield "factors must be a finite number of at least 0", lambda: adapted.scale(-1.0)
    yield "cannot be scaled", lambda: adapted.add(Prefix(length=2), name="prefix").scale(0.5)


def test_refusals_name_what_is_wrong_and_change_nothing(make_network):
    adapted = add_adapters(make_network(), LoRA(rank=2))
    for message, attempt in _refusals(adapted):
        with pytest.raises(ConfigError, match=message):
            attempt()
    assert adapted.names == ("adapter", "narrow", "prefix")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "rank must be a whole number of at least 1"),
        (lambda: LoRA(rank=True), "rank must be a whole number"),
        (lambda: LoRA(alpha=float("nan")), "alpha must be a finite number"),
        (lambda: Bottleneck(width=0), "width must be"),
        (lambda: Bottleneck(scaling=0.0), "scaling must be"),
        (lambda: Prefix(length=0), "length must be"),
        (lambda: Masked(), "exactly one"),
        (lambda: Masked(density=1.5), "density must be"),
    ],
)
def test_settings_are_refused_when_they_are_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_network_is_adapted_by_one_model_only(network):
    adapted = add_adapters(network, LoRA(rank=2))
    with pytest.raises(ConfigError, match="Add to the AdaptedModel"):
        add_adapters(network, LoRA(rank=2), name="other")
    adapted.remove("adapter")
    other = AdaptedModel(network)
    assert add_adapters(network, LoRA(rank=2)).names == ("adapter",)
    with pytest.raises(ConfigError, match="Add to the AdaptedModel"):
        other.add(LoRA(rank=2))


def test_integer_weights_are_refused_by_name(make_network):
    network = make_network()
    network.blocks[1].attn.qkv.weight = nn.Parameter(torch.zeros(72, 24, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"blocks\.1\.attn\.qkv\.q has weights of torch\.int8"):
        add_adapters(network, LoRA(rank=2))
    assert not any(module._forward_hooks for module in network.modules())
