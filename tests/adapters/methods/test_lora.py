"""Plain LoRA, and LiNeS: the network is frozen, and what an experience changed is scaled by depth, exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_methods import (
    SmallData,
    check_resumes,
    check_state_round_trip,
    check_two_ranks,
    experience,
    images,
    learn,
    on_one_of,
    small_vit,
    train,
)
from torch import Tensor, nn

from pvision.adapters.methods.lines import Lines
from pvision.adapters.methods.lora import SequentialLoRA
from pvision.errors import ConfigError

LINES = Lines(alpha=0.25, beta=0.5)


def plain(network: nn.Module) -> SequentialLoRA:
    return SequentialLoRA(network, rank=4)


def fresh(network: nn.Module) -> SequentialLoRA:
    return SequentialLoRA(network, rank=4, fresh=True, targets=("q", "fc1"))


def scaled(network: nn.Module) -> SequentialLoRA:
    return SequentialLoRA(network, rank=4, alpha=8.0, lines=LINES)


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(scaled, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, scaled)


@pytest.mark.parametrize("make", [plain, fresh, scaled])
def test_a_state_dict_is_complete(make: Any) -> None:
    check_state_round_trip(make)


@pytest.mark.slow
@pytest.mark.parametrize("make", [fresh, scaled])
def test_an_interrupted_run_goes_on(make: Any, tmp_path: Path) -> None:
    check_resumes(make, tmp_path)


def effective(method: SequentialLoRA) -> dict[str, Tensor]:
    """Return what each adapted layer multiplies with."""
    return {
        layer.name: layer.weight.clone() + sum(one.delta_weight().detach() for one in layer.adapters.values())
        for layer in method.adapted.layers
    }


def test_it_trains_adapters_and_head_and_nothing_else() -> None:
    method = plain(small_vit())
    learn(method, 0)
    network = {name: one.clone() for name, one in method.adapted.base.state_dict().items()}
    adapters = {name: one.detach().clone() for name, one in method.adapted.trainable_parameters().items()}
    data = learn(method, 1, steps=60)
    assert all(torch.equal(one, network[name]) for name, one in method.adapted.base.state_dict().items())
    assert len(adapters) == 8
    assert not any(torch.equal(one, adapters[name]) for name, one in method.adapted.trainable_parameters().items())
    assert method.head.predictions(method(data.image)).eq(data.label).double().mean() > 0.9


def test_one_adapter_is_trained_on_and_on_and_a_fresh_one_becomes_part_of_the_weights() -> None:
    method, other = plain(small_vit()), fresh(small_vit())
    for one in (method, other):
        learn(one, 0)
        learn(one, 1)
    assert method.adapted.names == ("lora",)
    assert other.adapted.names == ()
    changes = [
        layer_now - layer_then
        for layer_now, layer_then in zip(
            (block.attn.qkv.weight for block in other.adapted.base.blocks),
            (block.attn.qkv.weight for block in small_vit().blocks),
            strict=True,
        )
    ]
    assert [int(torch.linalg.matrix_rank(change.detach())) for change in changes] == [8, 8]  # 4 of each experience


def test_absorbing_leaves_the_predictions_as_they_were() -> None:
    method = fresh(small_vit())
    learn(method, 0)
    method.before_experience(experience(1), SmallData(experience(1)))
    train(method, SmallData(experience(1)))
    method.eval()
    before = method(images())
    method.after_experience(experience(1), SmallData(experience(1)))
    assert (method(images()) - before).abs().max() <= 1e-12


@pytest.mark.parametrize("is_fresh", [True, False])
def test_lines_scales_what_this_experience_changed_and_nothing_before(is_fresh: bool) -> None:
    method = SequentialLoRA(small_vit(), rank=4, alpha=8.0, lines=LINES, fresh=is_fresh, targets=("q", "fc2"))
    learn(method, 0)
    method.before_experience(experience(1), SmallData(experience(1)))
    before = effective(method)
    train(method, SmallData(experience(1)), steps=20)
    trained = effective(method)
    layers = {layer.name: layer for layer in method.adapted.layers}
    method.after_experience(experience(1), SmallData(experience(1)))
    after = {name: layer.weight for name, layer in layers.items()} if is_fresh else effective(method)
    for name, factor in {"blocks.0.attn.qkv.q": 0.25, "blocks.1.attn.qkv.q": 0.75, "blocks.1.mlp.fc2": 0.75}.items():
        wanted = before[name] + factor * (trained[name] - before[name])
        assert (trained[name] - before[name]).abs().max() > 1e-3
        assert (after[name] - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("is_fresh", [True, False])
@pytest.mark.parametrize(("lines", "equal"), [(Lines(alpha=1.0, beta=0.0), True), (Lines(alpha=0.9, beta=0.0), False)])
def test_lines_of_one_is_the_identity(is_fresh: bool, lines: Lines, equal: bool) -> None:
    logits = []
    for setting in (None, lines):
        torch.manual_seed(5)
        method = SequentialLoRA(small_vit(), rank=4, lines=setting, fresh=is_fresh)
        for index in range(2):
            learn(method, index)
        logits.append(method(images()))
    assert torch.equal(*logits) == equal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"method\.rank must be a whole number of at least 1"),
        ({"rank": 65}, r"method\.rank must be at most 64 at blocks"),
        ({"targets": "query"}, r"method\.targets: no linear layer meets"),
        ({"alpha": 0.0}, r"method\.alpha must be a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SequentialLoRA(small_vit(), **settings)


def test_lines_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lines\.beta must be a finite number of at least 0, but -0\.1 came"):
        Lines(alpha=1.0, beta=-0.1)
