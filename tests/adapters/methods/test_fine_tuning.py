"""Fine-tuning, and with it what all methods have in common."""

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
from torch import nn

from pvision.adapters.methods import Classifier, ContinualMethod
from pvision.adapters.methods.fine_tuning import FineTuning
from pvision.adapters.methods.lines import Lines
from pvision.errors import ConfigError, DataError


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(FineTuning, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, FineTuning)


def test_a_state_dict_is_complete() -> None:
    check_state_round_trip(FineTuning)
    check_state_round_trip(lambda network: FineTuning(network, classifier=Classifier(loss_over="current")))


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(FineTuning, tmp_path)


def test_it_learns_and_forgets() -> None:
    method = FineTuning(small_vit())
    first = learn(method, 0, steps=60)
    correct = method.head.predictions(method(first.image)) == first.label
    assert correct.double().mean() > 0.9
    learn(method, 1, steps=60)
    correct = method.head.predictions(method(first.image)) == first.label
    assert correct.double().mean() < 0.5


def test_the_loss_over_current_classes_is_blind_to_the_others_and_freezes_them() -> None:
    method = FineTuning(small_vit(), classifier=Classifier(loss_over="current"))
    learn(method, 0)
    before = method.head.layers[0].weight.detach().clone()
    learn(method, 1)
    assert torch.equal(method.head.layers[0].weight, before)
    batch = SmallData(experience(1)).batch()
    logits = method.head(method.features(batch.image))
    shifted = logits.clone()
    shifted[:, :2] += 100
    assert torch.equal(method.cross_entropy(shifted, batch.label), method.cross_entropy(logits, batch.label))
    wanted = nn.functional.cross_entropy(logits[:, 2:], batch.label - 2)
    assert torch.equal(method.cross_entropy(logits, batch.label), wanted)
    with pytest.raises(DataError, match="loss_over: seen"):
        method.cross_entropy(logits, torch.zeros_like(batch.label))


def test_restart_goes_back() -> None:
    method = FineTuning(small_vit(), restart=True)
    initial = {name: one.clone() for name, one in method.backbone.state_dict().items()}
    learn(method, 0)
    assert any(not torch.equal(one, initial[name]) for name, one in method.backbone.state_dict().items())
    method.before_experience(experience(1), SmallData(experience(1)))
    assert all(torch.equal(one, initial[name]) for name, one in method.backbone.state_dict().items())


def scaled(network: nn.Module) -> FineTuning:
    return FineTuning(network, lines=Lines(alpha=0.25, beta=0.5))


def test_lines_scales_what_this_experience_changed_by_depth() -> None:
    method = scaled(small_vit())
    learn(method, 0)
    before = copy.deepcopy(method.backbone.state_dict())
    method.before_experience(experience(1), SmallData(experience(1)))
    train(method, SmallData(experience(1)))
    trained = copy.deepcopy(method.state_dict())
    method.after_experience(experience(1), SmallData(experience(1)))
    after = method.backbone.state_dict()
    for name, factor in {"pos_embed": 0.25, "blocks.0.mlp.fc1.weight": 0.25, "blocks.1.attn.qkv.bias": 0.75}.items():
        changed = trained[f"backbone.{name}"] - before[name]
        assert changed.abs().max() > 1e-4
        torch.testing.assert_close(after[name], before[name] + factor * changed)
    assert torch.equal(method.head.layers[1].weight, trained["head.layers.1.weight"])


@pytest.mark.parametrize(("alpha", "equal"), [(1.0, True), (0.9, False)])
def test_lines_of_one_is_the_identity(alpha: float, equal: bool) -> None:
    logits = []
    for lines in (None, Lines(alpha=alpha, beta=0.0)):
        torch.manual_seed(5)
        method = FineTuning(small_vit(), lines=lines)
        for index in range(2):
            learn(method, index)
        logits.append(method(images()))
    assert torch.equal(*logits) == equal


def test_a_state_dict_has_what_lines_compares_with() -> None:
    check_state_round_trip(scaled)


def test_lines_without_blocks_are_refused_before_anything_is_trained() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    network.feature_dim = 8  # type: ignore[assignment]  # any attribute is allowed on a module
    with pytest.raises(ConfigError, match="no transformer blocks were found in Sequential"):
        FineTuning(network, lines=Lines())


def test_learning_rates_of_the_head_are_a_multiple() -> None:
    method = FineTuning(small_vit(), classifier=Classifier(lr_factor=10.0))
    method.before_experience(experience(0), SmallData(experience(0)))
    groups = method.parameter_groups()
    assert [group["lr_factor"] for group in groups] == [1.0, 10.0]
    assert sum(len(group["params"]) for group in groups) == len(list(method.parameters()))


def test_a_state_of_another_method_is_refused() -> None:
    class Other(ContinualMethod):
        pass

    method = FineTuning(small_vit())
    learn(method, 0, steps=1)
    with pytest.raises(ConfigError, match="The checkpoint is of the method FineTuning, but Other is to take it"):
        Other(small_vit()).load_state_dict(method.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "method.label_smoothing must be below 1"),
        ({"label_smoothing": -0.1}, "method.label_smoothing"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FineTuning(small_vit(), **settings)


def test_a_network_that_does_not_say_its_feature_dim_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone \(Identity\) must have an integer feature_dim, but None"):
        FineTuning(nn.Identity())


def test_reading_leaves_the_modes_as_they_were() -> None:
    method = FineTuning(small_vit())
    method.backbone.blocks[0].eval()
    with method.reading():
        assert not method.backbone.blocks[1].training
        assert not method(images()).requires_grad
    assert method.backbone.blocks[1].training
    assert not method.backbone.blocks[0].training


def test_starting_anew_forgets_a_trained_scale_too() -> None:
    method = FineTuning(small_vit(), restart=True, classifier=Classifier(head="cosine", train_scale=True))
    learn(method, 0, steps=5, lr=0.1)
    assert method.head.scale != 20
    method.before_experience(experience(1), SmallData(experience(1)))
    assert method.head.scale == 20
