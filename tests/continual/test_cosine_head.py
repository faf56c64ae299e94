"""A head that compares directions: lengths have no say, growing changes nothing, and it is rebuilt from its state."""

import pytest
import torch
from torch import Tensor, nn

from pvision.adapters.methods import Classifier, ContinualMethod
from pvision.continual.cosine_head import CosineHead
from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError


def grown(*steps: list[int], **settings: float) -> CosineHead:
    head = CosineHead(4, **settings)
    for classes in steps:
        head.grow(classes)
    return head


def features(count: int = 5) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(2))


def test_growing_leaves_the_logits_of_earlier_classes_as_they_were() -> None:
    head = grown([3, 1])
    before = head(features())
    head.grow([7])
    assert torch.equal(head(features())[:, :2], before)
    assert head(features()).shape == (5, 3)


def test_logits_are_scaled_cosines() -> None:
    head = grown([3, 1], [7], scale=16.0)
    weights = torch.cat([layer.weight for layer in head.layers])
    wanted = 16 * nn.functional.cosine_similarity(features()[:, None], weights[None], dim=2)
    torch.testing.assert_close(head(features()), wanted)


def test_no_logit_is_larger_than_the_scale_however_long_weights_and_features_are() -> None:
    head, linear = grown([0, 1], scale=16.0), IncrementalHead(4)
    linear.grow([0, 1])
    with torch.no_grad():
        for layer in (*head.layers, *linear.layers):
            layer.weight.mul_(1e4)
    aligned = torch.cat([features() * 1e3, head.layers[0].weight.detach()])  # the best that a feature can do
    assert head(aligned).abs().max() <= 16.0 * (1 + 1e-6)
    assert head(aligned).max() >= 16.0 * (1 - 1e-6)
    assert linear(aligned).abs().max() > 16.0
    assert torch.equal(head(torch.zeros(1, 4)), torch.zeros(1, 2))


def test_the_length_of_a_feature_says_nothing() -> None:
    head = grown([0, 1])
    torch.testing.assert_close(head(7 * features()), head(features()))


@pytest.mark.parametrize("train_scale", [True, False])
def test_the_scale_is_trained_where_it_is_wanted(train_scale: bool) -> None:
    head = grown([0, 1], train_scale=train_scale)
    head(features()).square().sum().backward()
    assert (head.scale.grad is not None) == train_scale
    assert all(parameter.grad is not None for parameter in head.layers.parameters())


def test_a_new_head_takes_all_of_a_grown_one() -> None:
    old = grown([3, 1], [7], train_scale=True)
    old.train_only([7])
    with torch.no_grad():
        old.scale.fill_(3.5)
    new = CosineHead(4, train_scale=True)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new(features()), old(features()))
    assert [one.requires_grad for one in new.parameters()] == [one.requires_grad for one in old.parameters()]


def test_a_classifier_makes_it() -> None:
    backbone = nn.Linear(6, 4, dtype=torch.float64)
    backbone.feature_dim = 4  # type: ignore[assignment]  # any attribute is allowed on a module
    method = ContinualMethod(backbone, classifier=Classifier(head="cosine", cosine_scale=8.0, train_scale=True))
    method.head.grow([0, 1])
    assert isinstance(method.head, CosineHead)
    assert method.head.scale.item() == 8.0
    assert method.head.scale.requires_grad
    assert method(torch.randn(3, 6, dtype=torch.float64)).dtype == torch.float64
    assert type(Classifier().new_head(4)) is IncrementalHead


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="scale must be a finite number above 0, but 0 came"):
        CosineHead(4, scale=0)
    with pytest.raises(ConfigError, match=r"classifier\.cosine_scale must be a finite number above 0"):
        Classifier(cosine_scale=-1.0)
    with pytest.raises(ConfigError, match=r"classifier\.head must be one of 'linear', 'cosine', but 'cos' came"):
        Classifier(head="cos")  # type: ignore[arg-type]  # what a config may say
