"""SD-LoRA trains magnitudes of frozen directions, and costs nothing once it is merged, which it is by itself."""

import copy
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

from pvision.adapters.methods.sd_lora import SDLoRA
from pvision.continual.cost import forward_cost
from pvision.errors import ConfigError


def make(network: nn.Module) -> SDLoRA:
    return SDLoRA(network, rank={0: 4, 1: 3}, drop_below=1e-6)


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(make, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, make)


def test_a_state_dict_is_complete() -> None:
    check_state_round_trip(make)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(make, tmp_path)


def learned(experiences: int, *, steps: int = 6, **settings: Any) -> SDLoRA:
    torch.manual_seed(0)
    method = SDLoRA(small_vit(), **({"rank": 4} | settings))
    for index in range(experiences):
        learn(method, index, steps=steps, lr=3e-2)
    return method


def begin(method: SDLoRA, index: int) -> SmallData:
    data = SmallData(experience(index))
    method.before_experience(data.experience, data)
    return data


def tensors(method: SDLoRA, name: str) -> dict[str, Tensor]:
    """Return copies of A and B of one experience, by layer."""
    return {
        f"{layer.name} {key}": one.detach().clone()
        for layer in method.adapted.layers
        for key, one in layer.adapters[name].named_parameters()
    }


# Merged and unmerged.


def test_merged_it_gives_what_the_formula_says_and_costs_nothing() -> None:
    method = learned(3)
    merged, macs = method(images()), forward_cost(method.backbone, images(1)).gmacs
    assert method.adapted.merged == ("experience_0", "experience_1", "experience_2")
    method.adapted.unmerge()
    assert (method(images()) - merged).abs().max() <= 1e-10
    assert not torch.equal(method(images()), merged)
    assert forward_cost(method.backbone, images(1)).gmacs > macs
    assert macs == forward_cost(small_vit(), images(1)).gmacs


def test_the_formula() -> None:
    method = learned(3)
    alone = small_vit()
    with torch.no_grad():
        for layer in method.adapted.layers:
            rows = slice(layer.place.first_row, layer.place.first_row + 64)
            weight = alone.get_submodule(layer.place.module).weight[rows]
            assert torch.equal(weight, layer.weight)
            for name, magnitude in method.adapted.magnitudes.items():
                matrices = layer.adapters[name].up, layer.adapters[name].down
                norm = 1.0 if name == "experience_2" else matrices[0].norm() * matrices[1].norm()
                weight += magnitude * matrices[0] @ matrices[1] / norm
    assert (method.features(images()) - alone(images())).abs().max() <= 1e-10


def test_unmerging_restores_every_bit_and_happens_before_training() -> None:
    initial = small_vit().state_dict()
    method = learned(2)
    assert not all(torch.equal(one, initial[name]) for name, one in method.adapted.base.state_dict().items())
    begin(method, 2)
    assert method.adapted.merged == ()
    assert all(torch.equal(one, initial[name]) for name, one in method.adapted.base.state_dict().items())


def test_a_state_dict_is_unmerged_and_loads_merged() -> None:
    method = learned(2)
    state = copy.deepcopy(method.state_dict())
    for name, one in small_vit().state_dict().items():
        assert torch.equal(state[f"backbone.base.{name}"], one)
    again = SDLoRA(small_vit(seed=1), rank=4)
    for _ in range(2):  # into a new one, and into one that is merged
        again.load_state_dict(state)
        assert again.adapted.merged == method.adapted.merged
        assert torch.equal(again.eval()(images()), method(images()))
    begin(method, 2)
    again.load_state_dict(method.state_dict())
    assert again.adapted.merged == ()
    begin(again, 3)


# What is trained.


def test_old_directions_are_frozen_and_all_magnitudes_are_trained() -> None:
    method = learned(2)
    data = begin(method, 2)
    old = tensors(method, "experience_0") | {f"1 {key}": one for key, one in tensors(method, "experience_1").items()}
    new = tensors(method, "experience_2")
    magnitudes = {name: one.item() for name, one in method.adapted.magnitudes.items()}
    method.loss(data.batch()).backward()
    for layer in method.adapted.layers:
        for name, adapter in layer.adapters.items():
            current = name == "experience_2"
            assert [one.requires_grad for one in adapter.parameters()] == [current, current]
            assert all((one.grad is not None) == current for one in adapter.parameters())
    assert all(one.grad is not None for one in method.adapted.magnitudes.values())
    method.zero_grad()
    train(method, data, steps=5, weight_decay=0.5)
    after = tensors(method, "experience_0") | {f"1 {key}": one for key, one in tensors(method, "experience_1").items()}
    assert all(torch.equal(after[key], one) for key, one in old.items())
    assert not any(torch.equal(tensors(method, "experience_2")[key], one) for key, one in new.items())
    assert all(one.item() != magnitudes[name] for name, one in method.adapted.magnitudes.items())
    frozen = [one for name, one in method.adapted.base.named_parameters()]
    assert not any(one.requires_grad for one in frozen)


def test_directions_have_norm_one_and_keep_their_bits_from_then_on() -> None:
    method = learned(1)
    current = tensors(method, "experience_0")
    assert any(abs(float(one.norm()) - 1) > 1e-2 for one in current.values())
    begin(method, 1)
    frozen = tensors(method, "experience_0")
    for key, one in frozen.items():
        assert float(one.norm()) == pytest.approx(1, abs=1e-14)
        assert torch.allclose(one, current[key] / current[key].norm(), rtol=1e-14)
    begin(method, 2)
    assert all(torch.equal(one, tensors(method, "experience_0")[key]) for key, one in frozen.items())


def test_an_experience_without_training_leaves_no_nan() -> None:
    method = SDLoRA(small_vit(), rank=4)
    for index in range(3):
        learn(method, index, steps=0)
    assert torch.equal(method.features(images()), small_vit()(images()))


# The variants.


def test_ranks_follow_the_schedule() -> None:
    method = learned(4, steps=1, rank={0: 5, 2: 3, 3: 1})
    for layer in method.adapted.layers:
        assert [adapter.rank for adapter in layer.adapters.values()] == [5, 5, 3, 1]
    assert SDLoRA(small_vit(), rank={0: 10, 4: 8, 8: 6}).rank_at(20) == 6


def test_a_direction_that_is_explained_is_dropped_and_nothing_is_lost() -> None:
    method = learned(3, rank={0: 4, 3: 8})
    begin(method, 3)
    with torch.no_grad():  # what a fourth experience might learn: 2 · the first direction - the third
        for layer in method.adapted.layers:
            first, third, new = (layer.adapters[f"experience_{index}"] for index in (0, 2, 3))
            new.up.copy_(torch.cat([2 * first.up, -third.up], dim=1))
            new.down.copy_(torch.cat([first.down, third.down]))
    factors, left = method.explained()
    assert left <= 1e-7
    assert torch.allclose(factors, torch.tensor([2.0, 0, -1]).double(), atol=1e-7)
    method.drop_below = 1e-6
    before = method(images())
    method.after_experience(experience(3), SmallData(experience(3)))
    assert method.adapted.names == ("experience_0", "experience_1", "experience_2")
    assert (method(images()) - before).abs().max() <= 1e-6


def test_what_is_explained_is_the_least_squares_fit_of_all_layers_together() -> None:
    method = learned(4)
    flat = [
        torch.cat([layer.adapters[name].delta_weight().detach().flatten() for layer in method.adapted.layers])
        for name in method.adapted.names
    ]
    among, new = torch.stack(flat[:-1], 1), flat[-1]
    wanted = torch.linalg.lstsq(among, new[:, None]).solution[:, 0]
    factors, left = method.explained()
    assert torch.allclose(factors, wanted, rtol=1e-8)
    assert left == pytest.approx(float((new - among @ wanted).norm() / new.norm()), rel=1e-8)
    assert 0.01 < left < 1


@pytest.mark.parametrize(("share", "names"), [(None, 3), (1e-3, 3), (1.0, 1)])
def test_the_threshold_decides(share: float | None, names: int) -> None:
    method = learned(3, drop_below=share)
    assert len(method.adapted.names) == len(method.adapted.magnitudes) == names
    assert method.adapted.merged == method.adapted.names
    data = begin(method, 3)
    train(method, data, steps=2)
    assert method(images()).isfinite().all()


def test_it_learns() -> None:
    method = learned(3, steps=30)
    for index in range(3):
        data = SmallData(experience(index))
        predicted = method.head.predictions(method(data.image), among=data.experience.classes)
        assert (predicted == data.label).double().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"method\.rank must be a whole number of at least 1"),
        ({"rank": {0: 4, 2: 0}}, r"method\.rank must be a whole number of at least 1"),
        ({"rank": {1: 4}}, r"method\.rank must say the rank of the first experience"),
        ({"rank": {}}, r"method\.rank must say the rank of the first experience"),
        ({"rank": {0: 4, 3: 65}}, r"method\.rank must be at most 64 at blocks\.0\.attn\.qkv\.q"),
        ({"magnitude": -1.0}, r"method\.magnitude must be a finite number of at least 0"),
        ({"drop_below": 0.0}, r"method\.drop_below must be a number above 0 and at most 1"),
        ({"targets": ("query",)}, r"method\.targets: no linear layer meets 'query'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SDLoRA(small_vit(), **settings)
