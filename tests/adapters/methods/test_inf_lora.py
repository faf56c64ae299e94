"""InfLoRA leaves what earlier experiences gave where it was; what only seems to do so moves it."""

import math
from collections.abc import Callable
from functools import cache
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
from torchvision.models import VisionTransformer as TorchvisionViT

from pvision.adapters.lora import LowRank
from pvision.adapters.methods import ContinualMethod
from pvision.adapters.methods.inf_lora import InfLoRA
from pvision.continual.cost import forward_cost
from pvision.continual.experience import ImageBatch
from pvision.continual.feature_recorder import InputRecorder
from pvision.errors import ConfigError


def make(network: nn.Module) -> InfLoRA:
    return InfLoRA(network, rank=4)


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(make, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, make)


def test_a_state_dict_is_complete() -> None:
    check_state_round_trip(make)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(make, tmp_path)


# What it promises: images that are memorised whole keep their outputs.


class FreeDown(InfLoRA):
    """What the promise needs is switched off: A starts in the same directions, but is trained."""

    projects = False

    def designed(self, place: Any, directions: Tensor) -> LowRank:
        adapter = super().designed(place, directions)
        matrix, subspace = adapter.down, self.subspace_memory[place.module]
        del adapter.down
        adapter.down = nn.Parameter(matrix)
        if self.projects:
            adapter.down.register_hook(subspace.outside)
        return adapter


class ProjectedGradient(FreeDown):
    """Directions and gradients are free of the memory; then AdamW steps."""

    projects = True


class FreeLoRA(FreeDown):
    """A is drawn at random and trained."""

    def designed(self, place: Any, directions: Tensor) -> LowRank:
        adapter = super().designed(place, directions)
        nn.init.kaiming_uniform_(adapter.down, a=math.sqrt(5))
        return adapter


@cache
def moved(kind: Callable[..., InfLoRA], energy: float = 1.0) -> tuple[float, float, float]:
    """Return how far old images' features, their logits, and features of other old images move, at most."""
    torch.manual_seed(0)
    method = kind(small_vit(), rank=8, energy=energy)
    old, other = SmallData(experience(0), size=8), SmallData(experience(0), size=16)
    method.before_experience(old.experience, old)
    train(method, old, steps=20)
    method.after_experience(old.experience, old)
    unseen = other.image[8:]
    method.eval()
    with torch.no_grad():
        features, logits, others = method.features(old.image), method(old.image), method.features(unseen)
    new = SmallData(experience(1))
    method.before_experience(new.experience, new)
    loss = train(method, new, steps=150, lr=3e-3, weight_decay=1e-2)
    assert loss < 0.1  # it learned what is new
    method.after_experience(new.experience, new)
    method.eval()
    with torch.no_grad():
        return (
            float((method.features(old.image) - features).abs().max()),
            float((method(old.image)[:, :2] - logits).abs().max()),
            float((method.features(unseen) - others).abs().max()),
        )


def test_memorised_images_keep_their_outputs_under_adamw() -> None:
    features, logits, _ = moved(InfLoRA)
    assert features <= 1e-12
    assert logits <= 1e-12


@pytest.mark.parametrize("kind", [ProjectedGradient, FreeLoRA])
def test_other_ways_move_them(kind: Callable[..., InfLoRA]) -> None:
    features, logits, _ = moved(kind)
    assert features >= 1e-2
    assert logits >= 1e-2


def test_images_that_are_not_memorised_move_but_no_more_than_under_free_lora() -> None:
    assert 1e-6 < moved(InfLoRA)[2] <= moved(FreeLoRA)[2]


def test_less_energy_promises_less() -> None:
    assert moved(InfLoRA, 0.9)[0] >= 1e-2


def test_every_experience_before_is_remembered() -> None:
    method = InfLoRA(small_vit(width=192), rank=8, energy=1.0)
    kept = []
    for index in range(4):
        data = SmallData(experience(index), size=6)
        method.before_experience(data.experience, data)
        train(method, data, steps=20)
        method.after_experience(data.experience, data)
        method.eval()
        with torch.no_grad():
            kept.append((data.image, method.features(data.image)))
    with torch.no_grad():
        assert max(float((method.features(image) - before).abs().max()) for image, before in kept) <= 1e-12


# How it is made.


def test_a_is_designed_from_inputs_outside_the_memory() -> None:
    method = InfLoRA(small_vit(), rank=5, energy=0.9)
    learn(method, 0, steps=5)
    data = SmallData(experience(1))
    layers = {name: method.adapted.base.get_submodule(name) for name in method.subspace_memory}
    with InputRecorder(layers) as recorder, torch.no_grad():
        for batch in data.batches(""):
            method.features(batch.image)
    method.before_experience(data.experience, data)
    assert {layer.place.role for layer in method.adapted.layers} == {"k", "v"}
    for layer in method.adapted.layers:
        adapter = layer.adapters["experience_1"]
        tokens = torch.cat([one.reshape(-1, 64) for one in recorder.inputs[layer.place.module]])
        memory = method.subspace_memory[layer.place.module].basis()
        gram = tokens.T @ tokens
        wanted = torch.linalg.svd(gram - memory @ memory.T @ gram).U[:, :5]
        # the same directions, each up to its sign
        assert torch.allclose((adapter.down @ wanted * math.sqrt(3)).abs(), torch.eye(5).double(), atol=1e-8)
        assert (adapter.down @ memory).abs().max() <= 1e-14


def test_only_b_and_the_current_head_are_trained() -> None:
    method = InfLoRA(small_vit(), rank=4)
    learn(method, 0)
    method.before_experience(experience(1), SmallData(experience(1)))
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    assert {name.rpartition(".")[2] for name in trained if "adapters" in name or "slots" in name} == {"up"}
    assert sorted(name for name in trained if "head" in name) == ["head.layers.1.bias", "head.layers.1.weight"]
    assert len(trained) == 2 + 4
    fixed = {layer.name: layer.adapters["experience_1"].down.clone() for layer in method.adapted.layers}
    train(method, SmallData(experience(1)), steps=3)
    for layer in method.adapted.layers:
        assert torch.equal(layer.adapters["experience_1"].down, fixed[layer.name])
        assert layer.adapters["experience_1"].up.abs().max() > 0


def test_the_memory_holds_the_energy_of_features_not_of_their_gram_matrix() -> None:
    method = InfLoRA(small_vit(), rank=4, energy=0.9)
    data = learn(method, 0, steps=3)
    (name, module) = next((name, method.adapted.base.get_submodule(name)) for name in method.subspace_memory)
    with InputRecorder({name: module}) as recorder, torch.no_grad():
        method.features(data.image)
    strengths = torch.linalg.svdvals(torch.cat([one.reshape(-1, 64) for one in recorder.inputs[name]]))

    def needed(energies: Tensor) -> int:
        return int((energies.cumsum(0) / energies.sum() < 0.9).sum()) + 1

    assert method.subspace_memory[name].rank == needed(strengths**2)
    assert needed(strengths**4) < needed(strengths**2)


def test_the_share_of_energy_rises_to_one() -> None:
    method = InfLoRA(small_vit(), energy=0.9)
    assert [method.energy_at(index, 5) for index in (0, 1, 4)] == pytest.approx([0.9, 0.92, 0.98])
    assert method.energy_at(9, 5) == 1.0


def test_what_was_learned_is_part_of_the_network_and_costs_nothing() -> None:
    method = InfLoRA(small_vit(), rank=4)
    alone = forward_cost(method.backbone, images(1)).gmacs
    learn(method, 0)
    assert method.adapted.names == ()
    assert forward_cost(method.backbone, images(1)) == (alone, pytest.approx(float("nan"), nan_ok=True))
    method.before_experience(experience(1), SmallData(experience(1)))
    assert forward_cost(method.backbone, images(1)).gmacs > alone


@pytest.mark.parametrize("free", [0, 2])
def test_where_few_directions_are_free_adapters_are_smaller_or_none(free: int) -> None:
    method = InfLoRA(small_vit(), rank=4)
    learn(method, 0, steps=2)
    for name in method.subspace_memory:
        method.subspace_memory[name].update(torch.eye(64)[: 64 - free].double(), energy=1.0)
    left = {name: method.subspace_memory[name].complement().shape[1] for name in method.subspace_memory}
    assert max(left.values()) <= free
    data = learn(method, 1, steps=3)
    assert method(data.image).isfinite().all()
    method.before_experience(experience(2), SmallData(experience(2)))
    ranks = {layer.place.module: layer.adapters["experience_2"].rank for layer in method.adapted.layers}
    assert ranks == {name: rank for name, rank in left.items() if rank}
    assert all(one.requires_grad for one in method.head.layers[2].parameters())


def test_it_trains_as_it_evaluates() -> None:
    network = small_vit()
    network.blocks[0].ls1 = nn.Dropout(0.5)
    method = InfLoRA(network, rank=4)
    method.before_experience(experience(0), SmallData(experience(0)))
    method.train()
    assert method.head.training
    assert torch.equal(method(images()), method.eval()(images()))


def test_it_learns_and_forgets_less_than_fine_tuning() -> None:
    accuracies = []
    for kind in (InfLoRA, ContinualMethod):
        torch.manual_seed(0)
        method = kind(small_vit())
        streams = [learn(method, index, steps=60) for index in (0, 1)]
        correct = [method.head.predictions(method(one.image)) == one.label for one in streams]
        accuracies.append([float(one.double().mean()) for one in correct])
    assert accuracies[0][0] > accuracies[1][0] + 0.3
    assert sum(accuracies[0]) / 2 > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"method\.rank must be a whole number of at least 1"),
        ({"rank": 65}, r"method\.rank must be at most 64 at blocks\.0\.attn\.qkv\.k"),
        ({"energy": 0.0}, r"method\.energy must be a number above 0 and at most 1"),
        ({"energy": 1.1}, r"method\.energy"),
        ({"targets": ("query",)}, r"method\.targets: no linear layer meets 'query'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InfLoRA(small_vit(), **settings)


def test_images_of_other_experiences_are_refused() -> None:
    method = InfLoRA(small_vit(), rank=4)
    learn(method, 0, steps=1)
    method.before_experience(experience(1), SmallData(experience(1)))
    old = SmallData(experience(0)).batch()
    with pytest.raises(Exception, match="loss_over: seen"):
        method.loss(ImageBatch(*old))


class Torchvision(nn.Module):
    """torchvision's transformer, whose keys and values are rows of a matrix inside the attention layer."""

    feature_dim = 48

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = TorchvisionViT(
            image_size=8, patch_size=4, num_layers=2, num_heads=4, hidden_dim=48, mlp_dim=96, num_classes=1
        )
        self.network.heads = nn.Identity()
        for module in self.network.modules():
            if isinstance(module, nn.MultiheadAttention):
                nn.init.normal_(module.in_proj_weight, std=0.2)
        self.double()

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.expand(-1, 3, -1, -1))


def test_inputs_of_attention_layers_are_read_and_memorised_images_stay() -> None:
    method = InfLoRA(Torchvision(), rank=6, energy=1.0)
    old = SmallData(experience(0), size=4)
    method.before_experience(old.experience, old)
    train(method, old, steps=5)
    method.after_experience(old.experience, old)
    attention = method.adapted.base.network.encoder.layers[0].self_attention
    with InputRecorder({"it": attention}) as recorder, torch.no_grad():
        before = method.features(old.image)
    name = next(iter(method.subspace_memory))
    assert method.subspace_memory[name].rank == int(torch.linalg.matrix_rank(recorder.inputs["it"][0].flatten(0, 1)))
    new = SmallData(experience(1), size=4)
    method.before_experience(new.experience, new)
    train(method, new, steps=20)
    assert all(layer.adapters["experience_1"].up.abs().max() > 0 for layer in method.adapted.layers)
    method.after_experience(new.experience, new)
    with torch.no_grad():
        assert (method.features(old.image) - before).abs().max() <= 1e-12


def test_a_layer_that_torch_never_calls_is_refused() -> None:
    method = InfLoRA(Torchvision(), rank=4, targets=("o",))
    with pytest.raises(ConfigError, match="were never called"):
        method.before_experience(experience(0), SmallData(experience(0)))
