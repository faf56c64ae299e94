"""WA: the distillation, and an alignment that changes how new classes compare with old ones and nothing among them."""

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

from pvision.adapters.methods import Classifier
from pvision.adapters.methods.weight_aligning import WeightAligning
from pvision.continual.experience import Experience
from pvision.errors import ConfigError


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(WeightAligning, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, WeightAligning)


def clipping(network: nn.Module) -> WeightAligning:
    return WeightAligning(network, nonnegative=True)


@pytest.mark.parametrize("make", [WeightAligning, clipping])
def test_a_state_dict_is_complete(make: Any) -> None:
    check_state_round_trip(make)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(WeightAligning, tmp_path)


def begun(classes: int = 2) -> tuple[WeightAligning, SmallData]:
    """Return a method that has learned one experience and begun a second, and the second's records."""
    method = WeightAligning(small_vit())
    learn(method, 0, steps=20)
    data = SmallData(experience(1, classes=classes))
    method.before_experience(experience(1, classes=classes), data)
    return method, data


def lengths(layer: nn.Module) -> Tensor:
    return layer.weight.detach().norm(dim=1)


def test_after_an_experience_new_and_old_weights_have_the_same_mean_length() -> None:
    method, data = begun()
    train(method, data, steps=40, lr=1e-2)
    old, new = method.head.layers
    assert abs(float(lengths(new).mean() / lengths(old).mean()) - 1) > 1e-3
    kept = old.weight.detach().clone()
    method.after_experience(experience(1), data)
    assert float(lengths(new).mean() / lengths(old).mean()) == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(old.weight, kept)
    learn(method, 2)
    *old_layers, newest = method.head.layers
    assert float(lengths(newest).mean()) == pytest.approx(float(torch.cat([*map(lengths, old_layers)]).mean()))


def biased_towards_new(*, bias: bool) -> tuple[WeightAligning, Tensor]:
    """Return a method whose new classes have far too long weights, and features on which that shows."""
    method, _ = begun(classes=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer, size in zip(method.head.layers, (1.0, 8.0), strict=True):
            layer.weight.copy_(size * torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
            layer.bias.copy_(40.0 * bias * torch.randn(layer.bias.shape, generator=generator, dtype=torch.float64))
    return method, torch.randn(400, 64, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
def test_predictions_among_new_classes_stay_and_those_among_all_change(bias: bool) -> None:
    method, features = biased_towards_new(bias=bias)
    new = method.classes_of[1]
    assert len(new) == 3
    before, before_among_all = (method.head.predictions(method.head(features), among=one) for one in (new, None))
    assert min(torch.bincount(before - min(new)).tolist()) > 20  # each of the new classes is predicted
    factor = method.align()
    assert 0.05 < factor < 0.3
    after, after_among_all = (method.head.predictions(method.head(features), among=one) for one in (new, None))
    assert torch.equal(after, before)
    assert (after_among_all != before_among_all).double().mean() > 0.1
    assert (after_among_all < min(new)).double().mean() > (before_among_all < min(new)).double().mean() + 0.1


def test_scaling_weights_alone_would_change_predictions_among_new_classes_that_have_biases() -> None:
    method, features = biased_towards_new(bias=True)
    new = method.classes_of[1]
    before = method.head.predictions(method.head(features), among=new)
    kept = method.head.layers[1].bias.detach().clone()
    method.align()
    with torch.no_grad():
        method.head.layers[1].bias.copy_(kept)
    assert not torch.equal(method.head.predictions(method.head(features), among=new), before)


def test_the_loss_is_that_of_the_paper() -> None:
    method, data = begun()
    batch = data.batch()
    with torch.no_grad():
        for layer in method.head.layers:
            layer.weight.add_(0.3 * torch.randn_like(layer.weight))
        teacher = method.teacher(batch.image)
        logits = method.head(method.features(batch.image))
    assert teacher.shape == (24, 2)
    assert not torch.allclose(teacher, logits[:, :2])
    log_student = torch.log_softmax(logits[:, :2] / 2, 1)
    distillation = -(torch.softmax(teacher / 2, 1) * log_student).sum(1).mean()
    wanted = 0.5 * nn.functional.cross_entropy(logits, batch.label) + 0.5 * distillation
    torch.testing.assert_close(method.loss(batch), wanted)


def test_the_teacher_stays_as_it_was_and_goes_when_the_experience_is_over() -> None:
    method = WeightAligning(small_vit())
    first = learn(method, 0, steps=20)
    before = method(first.image).detach()
    method.before_experience(experience(1), SmallData(experience(1)))
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    train(method, SmallData(experience(1)), steps=10)
    assert torch.equal(method.teacher(first.image), before)
    assert not torch.equal(method(first.image)[:, :2], before)
    method.after_experience(experience(1), SmallData(experience(1)))
    assert method.teacher is None


def test_distillation_keeps_the_old_outputs_closer() -> None:
    distances = []
    for with_teacher in (True, False):
        method, data = begun()
        old = SmallData(experience(0)).image
        before = method.head(method.features(old))[:, :2].softmax(1).detach()
        if not with_teacher:
            method.teacher = None
        train(method, data, steps=20)
        distances.append((method.head(method.features(old))[:, :2].softmax(1) - before).abs().mean().item())
    assert distances[0] < 0.8 * distances[1]


def test_experiences_without_new_classes_are_not_aligned() -> None:
    method, data = begun()
    train(method, data)
    method.after_experience(experience(1), data)
    again = Experience(index=2, kind="learn", name="again", classes=(2, 3))
    method.before_experience(again, data)
    train(method, data)
    before = method(images()).detach()
    method.after_experience(again, data)
    assert torch.equal(method(images()), before)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_weights_are_clipped_where_that_is_wanted(nonnegative: bool) -> None:
    method = WeightAligning(small_vit(), nonnegative=nonnegative)
    learn(method, 0)
    assert bool((method.head.layers[0].weight >= 0).all()) == nonnegative
    assert bool((method.head.layers[0].weight > 0).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"method\.temperature must be a finite number above 0"),
        ({"classifier": Classifier(head="cosine")}, r"Set classifier\.head: linear"),
        ({"classifier": Classifier(loss_over="current")}, r"classifier\.loss_over: seen"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightAligning(small_vit(), **settings)


def test_classes_that_come_again_are_learned() -> None:
    method = WeightAligning(small_vit())
    learn(method, 0, steps=20)
    again = Experience(index=1, kind="learn", name="other labels", classes=(0, 1))
    data = SmallData(experience(0))
    data.label = 1 - data.label
    method.before_experience(again, data)
    train(method, data, steps=40)
    assert method.eval()(data.image).argmax(1).eq(data.label).double().mean() > 0.9
