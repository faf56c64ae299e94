"""LiNeS: scaling by depth."""

import copy

import pytest
import torch
from torch import nn

from pvision.adapters import Bottleneck, LoRA, add_adapters, lines_factors, scale_training
from pvision.errors import ConfigError


def test_the_schedule_of_twelve_blocks_is_the_published_one():
    golden = [0.1, 0.1818, 0.2636, 0.3455, 0.4273, 0.5091, 0.5909, 0.6727, 0.7545, 0.8364, 0.9182, 1.0]
    assert [round(factor, 4) for factor in lines_factors(12, alpha=0.1, beta=0.9)] == golden


def test_one_block_is_the_last_one():
    assert lines_factors(1, alpha=0.25, beta=0.5) == (0.75,)


@pytest.mark.parametrize("values", [(0, 0.1, 0.9), (12, -0.1, 0.9), (12, 0.1, float("inf")), (12, True, 0.0)])
def test_wrong_numbers_are_refused(values):
    depth, alpha, beta = values
    with pytest.raises(ConfigError):
        lines_factors(depth, alpha=alpha, beta=beta)


def test_factors_of_one_are_the_identity(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=("q", "fc1")))
    before = adapted(images)
    adapted.scale(lines_factors(adapted.depth, alpha=1.0, beta=0.0))
    assert torch.equal(adapted(images), before)


def test_factors_of_zero_leave_the_network(network, images, randomise):
    with torch.no_grad():
        plain = network(images)
        adapted = randomise(add_adapters(network, Bottleneck(width=4)))
        assert not torch.equal(adapted(images), plain)
        assert torch.allclose(adapted.scale(0.0)(images), plain, atol=1e-6)


def test_each_block_gets_its_factor(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2, alpha=4), targets=("q", "v")))
    adapted.add(LoRA(rank=2), name="head", targets=".*(head|classifier)")
    before = {layer.name: layer.adapters.get("adapter") for layer in adapted.layers}
    adapted.scale((0.5, 0.25, 2.0), outside=0.125)
    for layer in adapted.layers:
        factor = 0.125 if layer.place.block is None else (0.5, 0.25, 2.0)[layer.place.block]
        assert {adapter.factor for adapter in layer.adapters.values()} == {factor}
        assert layer.adapters.get("adapter") is before[layer.name]
    scaled = adapted(images)
    assert torch.allclose(adapted.merge()(images), scaled, atol=2e-5), "merging uses the factors"
    weight = adapted.layers[0].site.weight[: adapted.layers[0].place.out_features]
    change = adapted.layers[0].adapters["adapter"].delta_weight() * 0.5
    assert torch.allclose(weight, adapted.layers[0].weight + change, atol=1e-6)


def tuned(network: nn.Module) -> dict[str, torch.Tensor]:
    after = copy.deepcopy(network.state_dict())
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in after.items()}


def test_full_fine_tuning_is_scaled_by_the_depth_of_each_parameter(network, family):
    before, after = network.state_dict(), tuned(network)
    scaled = scale_training(network, before=before, after=after, alpha=0.5, beta=0.5)
    blocks = {"timm": "blocks.{}.", "torchvision": "layers.encoder_layer_{}.", "hugging_face": "vit.layers.{}."}[family]
    for name, tensor in scaled.items():
        inside = [factor for block, factor in enumerate((0.5, 0.75, 1.0)) if blocks.format(block) in name]
        expected = inside[0] if inside else 0.5
        assert torch.allclose(tensor - before[name], torch.full_like(tensor, expected), atol=1e-6), name


def test_scaling_a_fine_tuning_by_one_returns_its_bits(network):
    after = tuned(network)
    scaled = scale_training(network, before=network.state_dict(), after=after, alpha=1.0, beta=0.0)
    assert all(torch.equal(tensor, after[name]) for name, tensor in scaled.items())


def test_other_weights_and_networks_without_blocks_are_refused(make_network):
    network = make_network()
    state = network.state_dict()
    with pytest.raises(ConfigError, match=r"differ in \['head.bias'\]"):
        scale_training(
            network, before=state, after={k: v for k, v in state.items() if k != "head.bias"}, alpha=1, beta=0
        )
    line = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no transformer blocks"):
        scale_training(line, before=line.state_dict(), after=line.state_dict(), alpha=1, beta=0)
