"""What the variant adds to BARM, and that it adds nothing else."""

import pytest
import torch
from small_segmentation import FIRST, SECOND, batch, first_learned, in_second, step

from pvision.errors import ConfigError
from pvision.segmentation.methods import BARM, PlasticBARM, SegmentationMethod
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.method import resized


def with_the_weights_of(other: SegmentationMethod, **settings: float) -> SegmentationMethod:
    made = in_second(PlasticBARM, **settings)
    state = {name: value for name, value in other.state_dict().items() if isinstance(value, torch.Tensor)}
    made.load_state_dict(state, strict=False)
    return made


def test_the_first_experience_is_barms() -> None:
    assert set(first_learned(PlasticBARM).losses(batch(0, *FIRST))) == {"bce"}


def test_the_overlap_is_the_only_further_term() -> None:
    barm = in_second(BARM, group_weight=4.0)
    plastic = with_the_weights_of(barm, dice_weight=2.0)
    one, other = barm.losses(batch(0, *SECOND)), plastic.losses(batch(0, *SECOND))
    assert other.keys() - one.keys() == {"dice"}
    assert all(torch.equal(other[name], value) for name, value in one.items())
    once = with_the_weights_of(barm).losses(batch(0, *SECOND))["dice"]
    assert torch.allclose(other["dice"], 2 * once)
    assert with_the_weights_of(barm, dice_weight=0.0).losses(batch(0, *SECOND))["dice"] == 0


def test_the_overlap_reaches_new_classes_only() -> None:
    method = in_second(PlasticBARM)
    method.losses(batch(0, *SECOND))["dice"].backward()
    assert not any(one.grad is not None and one.grad.any() for one in method.head.layers[0].parameters())
    weight = method.head.layers[1].get_parameter("weight").grad
    assert weight is not None
    assert not weight[0].any()  # the residual
    assert weight[1:].flatten(1).any(1).all()


def test_shared_layers_learn_three_times_as_fast_as_barms() -> None:
    rates = [{group["lr_factor"] for group in in_second(kind).parameter_groups()} for kind in (BARM, PlasticBARM)]
    assert rates == [{0.1, 1.0}, {0.3, 1.0}]


def test_new_classes_overlap_more_with_the_term_than_without() -> None:
    data = batch(0, 0, 0, 0, 0, 0, *SECOND)
    found = {}
    for weight in (0.0, 4.0):
        method = in_second(PlasticBARM, dice_weight=weight)
        for _ in range(80):
            step(method, data, lr=0.1)
        logits = resized(method.logits(method.network(data.image)), data.image)
        found[weight] = float(terms.soft_dice(logits, method.targets(data.mask), first=3).detach())
    assert found[4.0] < found[0.0] - 0.1


@pytest.mark.parametrize("settings", [{"dice_weight": -1.0}, {"group_weight": -1.0}])
def test_a_weight_below_zero_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        in_second(PlasticBARM, **settings)
