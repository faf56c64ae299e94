"""DFT*: outputs in reserve are negatives from the start, and nothing else is trained later."""

import pytest
import torch
from small_segmentation import (
    FIRST,
    SECOND,
    THIRD,
    TinyNetwork,
    batch,
    begin,
    experience,
    first_learned,
    in_second,
    step,
)
from torch.nn import functional as F

from pvision.segmentation.methods import DFT
from pvision.segmentation.reserved_head import ReservedHead


def test_outputs_in_reserve_are_in_the_softmax_and_trained_down() -> None:
    method = DFT(TinyNetwork())
    begin(method, 0, FIRST, upcoming=3)
    data = batch(0, *FIRST)
    features = method.network(data.image)
    logits = torch.cat([method.head(features), method.head.reserve[0](features)], dim=1)
    wanted = F.cross_entropy(F.interpolate(logits, (8, 8), mode="bilinear"), data.mask)
    torch.testing.assert_close(method.losses(data)["cross_entropy"], wanted)
    before = method.head.reserve[0].bias.clone()
    step(method, data, lr=1.0)
    assert (method.head.reserve[0].bias < before).all()


def test_outputs_in_reserve_are_never_chosen() -> None:
    method = DFT(TinyNetwork())
    begin(method, 0, FIRST, upcoming=3)
    with torch.no_grad():
        method.head.reserve[0].bias.fill_(50.0)
    assert method.scores(batch(0).image).shape[1] == 3


def test_an_experience_takes_the_next_outputs() -> None:
    method = first_learned(DFT)
    weight, bias = (one.detach().clone() for one in method.head.reserve[0].parameters())
    method.before_experience(experience(1, SECOND), upcoming=1)
    assert torch.equal(method.head.layers[1].weight, weight[:2])
    assert torch.equal(method.head.layers[1].bias, bias[:2])
    assert torch.equal(method.head.reserve[0].weight, weight[2:])
    method.before_experience(experience(2, THIRD))
    assert torch.equal(method.head.layers[2].weight, weight[2:])
    assert method.head.reserved == 0


def test_new_and_reserved_outputs_are_all_that_is_trained() -> None:
    method = in_second(DFT)
    names = {name for name, one in method.named_parameters() if one.requires_grad}
    assert names == {f"head.{part}.{name}" for part in ("layers.1", "reserve.0") for name in ("weight", "bias")}
    assert not method.network.training
    old = method.scores(batch(0).image)[:, :3].detach()
    step(method, batch(0, *SECOND), lr=1.0)
    assert torch.equal(method.scores(batch(0).image)[:, :3], old), "old logits, the background's too, stay as they are"


@pytest.mark.parametrize(("room", "taken"), [(0, 2), (1, 2), (5, 2)])
def test_a_reserve_of_another_size_will_do(room: int, taken: int) -> None:
    head = ReservedHead(4)
    head.grow([1])
    head.make_room(room)
    rows = [layer.weight.clone() for layer in head.reserve]
    head.grow(range(2, 2 + taken))
    assert head.layers[1].weight.shape[0] == taken
    assert head.reserved == max(room - taken, 0)
    if room:
        assert torch.equal(head.layers[1].weight[:1], rows[0][:1])
    head.make_room(4)
    assert head.with_reserve(torch.zeros(1, 4, 2, 2)).shape[1] == 2 + taken + 4
