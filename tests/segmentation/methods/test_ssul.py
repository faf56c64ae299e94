"""SSUL: what is unknown, what is frozen, what new classes begin from, and the stand-in for a saliency network."""

import pytest
import torch
from small_segmentation import FIRST, SECOND, TinyNetwork, batch, begin, first_learned, in_second
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.methods import SSUL
from pvision.segmentation.methods._sigmoid_terms import bce
from pvision.segmentation.saliency import FrequencyTunedSaliency
from pvision.segmentation.unknown_head import UnknownHead


class LeftHalf(nn.Module):
    """Everything on the left is salient; has a weight, as a network would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        salient = torch.zeros(len(image), *image.shape[-2:], dtype=torch.bool)
        salient[:, :, : image.shape[-1] // 2] = True
        return salient


def all_logits(method: SSUL, image: Tensor) -> Tensor:
    features = method.network(image)
    joined = torch.cat([method.head(features), method.head.unknown(features)], dim=1)
    return F.interpolate(joined, image.shape[-2:], mode="bilinear")


def test_salient_background_is_the_unknown() -> None:
    method = SSUL(TinyNetwork(), saliency=LeftHalf())
    begin(method, 0, FIRST)
    data = batch(0, *FIRST, VOID)
    wanted = data.mask.clone()
    wanted[:, :, :4][wanted[:, :, :4] == 0] = 3
    assert (wanted == 3).any()
    torch.testing.assert_close(method.losses(data)["bce"], bce(all_logits(method, data.image), wanted))


@pytest.mark.parametrize("winner", ["class", "background", "unknown"])
def test_only_a_class_is_a_pseudo_label(winner: str) -> None:
    method, data = in_second(SSUL, saliency=LeftHalf()), batch(0, *SECOND, VOID)
    old = method.teacher.head
    with torch.no_grad():
        for output in (old.background[1], old.unknown[1], old.layers[0][1]):
            output.weight.zero_()
            output.bias.fill_(2.0)
        old.layers[0][1].bias[-1] = 3.0  # probable enough
        {"class": old.layers[0][1], "background": old.background[1], "unknown": old.unknown[1]}[winner].bias[-1] = 4.0
    wanted = torch.where(data.mask == 5, 3, torch.where(data.mask == 3, 4, data.mask))
    if winner == "class":
        wanted[wanted == 0] = 2
    else:
        wanted[:, :, :4][wanted[:, :, :4] == 0] = 5
    torch.testing.assert_close(method.losses(data)["bce"], bce(all_logits(method, data.image), wanted))


def test_new_classes_begin_as_the_unknown() -> None:
    head = in_second(SSUL).head
    (branch, output), (new_branch, new_output) = head.unknown, head.layers[1]
    for name, tensor in branch.state_dict().items():
        assert torch.equal(tensor, new_branch.state_dict()[name]), name
    assert branch.state_dict()["1.running_mean"].any()
    assert torch.equal(new_output.weight, output.weight.expand_as(new_output.weight))
    assert torch.equal(new_output.bias, output.bias.expand_as(new_output.bias))


def test_network_and_old_classes_are_frozen_and_the_background_is_slow() -> None:
    method = in_second(SSUL, saliency=LeftHalf())
    fast, slow = method.parameter_groups()
    names = {id(one): name for name, one in method.named_parameters()}
    assert {names[id(one)].split(".")[:2][1] for one in slow["params"]} == {"background"}
    assert {".".join(names[id(one)].split(".")[:3]) for one in fast["params"]} == {
        "head.layers.1", "head.unknown.0", "head.unknown.1",
    }  # fmt: skip
    assert (fast["lr_factor"], slow["lr_factor"]) == (1.0, 1e-4)


def test_in_the_first_experience_all_is_trained_but_the_saliency() -> None:
    method = SSUL(TinyNetwork(), saliency=LeftHalf())
    begin(method, 0, FIRST)
    (group,) = method.parameter_groups()
    assert len(group["params"]) == len(list(method.parameters())) - 1
    assert not method.saliency.training


def test_the_unknown_counts_as_background_where_it_comes_to_a_choice() -> None:
    method = first_learned(SSUL).eval()
    image = batch(0).image
    features = method.network(image)
    known, unknown = method.head(features).sigmoid(), method.head.unknown(features).sigmoid()
    wanted = torch.cat([known[:, :1] + unknown, known[:, 1:]], dim=1)
    torch.testing.assert_close(method.scores(image), F.interpolate(wanted, (8, 8), mode="bilinear"))


def test_the_stand_in_finds_a_spot_and_misses_a_plain_image() -> None:
    image = torch.zeros(2, 3, 20, 20)
    image[0, :, 8:12, 8:12] = 1.0
    salient = FrequencyTunedSaliency()(image)
    assert salient[0, 9:11, 9:11].all()
    assert not salient[0, :5].any()
    assert not salient[1].any()
    with pytest.raises(ConfigError, match="times_mean"):
        FrequencyTunedSaliency(times_mean=0)


def test_the_head_keeps_a_column_for_the_unknown_below_void() -> None:
    head = UnknownHead(2)
    head.grow(range(1, 254))
    with pytest.raises(ConfigError, match="room for 253"):
        head.grow([254])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold"):
        SSUL(TinyNetwork(), threshold=0.0)
    with pytest.raises(ConfigError, match="background_lr_factor"):
        SSUL(TinyNetwork(), background_lr_factor=-1.0)
