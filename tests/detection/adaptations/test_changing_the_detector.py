"""Fine-tuning, its interpolation, and LoRA: the detector itself is trained."""

import copy

import pytest
import torch
from small_detectors import boxes_and_images, small_fcos
from torch import nn

from pvision.detection.adaptations import (
    DetectorLoRA,
    FineTuning,
    WiSEFineTuning,
    added_bytes,
    trainable_parameters,
)
from pvision.errors import ConfigError
from pvision.weights_hash import weights_sha256

IMAGES, TARGETS = boxes_and_images(2, seed=0)
GREY = [image[:1] for image in IMAGES]


class Both(nn.Module):
    """As a LightningModule holds them."""

    def __init__(self, adaptation):
        super().__init__()
        self.detector = small_fcos()
        self.adaptation = adaptation
        adaptation.attach(self.detector)

    def step(self, count=2, rate=0.01):
        self.train()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, rate)
        for _ in range(count):
            optimizer.zero_grad()
            sum(self.detector.loss(self.adaptation(GREY), TARGETS).values()).backward()
            optimizer.step()
        return self

    def found(self):
        return self.detector.predict(self.adaptation(GREY))

    def finish(self):
        self.adaptation.after_training(self.detector)
        return self


def same(found, others):
    return all(torch.equal(one[key], other[key]) for one, other in zip(found, others, strict=True) for key in one)


def buffers(detector):
    return {name: buffer.clone() for name, buffer in detector.named_buffers()}


def unchanged(before, now):
    return {name for name in before if torch.equal(before[name], now[name])}


ALL = [
    pytest.param(FineTuning, id="all"),
    pytest.param(lambda: FineTuning(part="head"), id="head"),
    pytest.param(lambda: FineTuning(norm="train"), id="all-statistics"),
    pytest.param(WiSEFineTuning, id="wise"),
    pytest.param(lambda: WiSEFineTuning(part="head", norm="train"), id="wise-head"),
    pytest.param(lambda: WiSEFineTuning(norm="train"), id="wise-statistics"),
    pytest.param(DetectorLoRA, id="lora"),
    pytest.param(lambda: DetectorLoRA(rank=2, alpha=4), id="lora-scaled"),
]


@pytest.mark.parametrize("make", ALL)
def test_training_changes_what_it_says_and_nothing_else(make):
    both = Both(make())
    names = set(both.adaptation.changed_state(both.detector))
    before = copy.deepcopy(dict(both.detector.named_parameters()) | dict(both.detector.named_buffers()))
    both.step()
    now = dict(both.detector.named_parameters()) | dict(both.detector.named_buffers())
    changed = set(before) - unchanged(before, now)
    assert changed
    assert changed <= names


def test_statistics_stand_still_unless_asked_to_move():
    # Hashes of the buffers alone, which weights do not influence.
    for norm, moves in [("frozen", False), ("train", True)]:
        both = Both(FineTuning(norm=norm))
        before = buffers(both.detector)
        both.step()
        assert (len(unchanged(before, buffers(both.detector))) < len(before)) is moves


def test_head_only_leaves_the_statistics_of_the_backbone_even_if_others_move():
    both = Both(FineTuning(part="head", norm="train"))
    before = buffers(both.detector)
    both.step()
    assert unchanged(before, buffers(both.detector)) == set(before)


def test_head_only_trains_exactly_the_head():
    both = Both(FineTuning(part="head"))
    trained = {id(parameter) for parameter in both.detector.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in both.detector.head_parameters()}


def test_costs_are_those_of_what_is_trained():
    full, head, lora = (Both(make()) for make in (FineTuning, lambda: FineTuning(part="head"), DetectorLoRA))
    total = sum(parameter.numel() for parameter in full.detector.parameters())
    assert trainable_parameters(full.detector, full.adaptation) == total
    assert added_bytes(full.detector, full.adaptation) == 4 * total
    assert trainable_parameters(head.detector, head.adaptation) < total
    assert trainable_parameters(lora.detector, lora.adaptation) < total
    moving = Both(FineTuning(norm="train"))
    assert added_bytes(moving.detector, moving.adaptation) > 4 * total
    # What interpolation remembers is the RGB detector, which is kept anyway.
    wise = Both(WiSEFineTuning())
    assert added_bytes(wise.detector, wise.adaptation) == 4 * total


def test_lora_starts_as_the_detector_and_trains_small_factors_alone():
    bare = small_fcos().freeze()
    both = Both(DetectorLoRA(rank=2))
    assert same(both.found(), bare.predict(both.adaptation(GREY)))
    for name, parameter in both.detector.named_parameters():
        assert parameter.requires_grad == name.endswith((".up", ".down"))
        assert not parameter.requires_grad or min(parameter.shape) <= 2


def test_merging_lora_changes_no_bit_of_any_prediction():
    both = Both(DetectorLoRA()).step()
    found = both.found()
    weights = weights_sha256(both.finish().detector)
    assert same(both.found(), found)
    assert set(both.detector.state_dict()) == set(small_fcos().state_dict())
    assert weights != weights_sha256(small_fcos())
    assert weights_sha256(both.finish().detector) == weights


def test_alpha_scales_the_update():
    update = {}
    for alpha in (None, 8):
        torch.manual_seed(0)
        both = Both(DetectorLoRA(rank=2, alpha=alpha))
        with torch.no_grad():
            for name, parameter in both.detector.named_parameters():
                if name.endswith(".up"):
                    parameter.fill_(1.0)
        before = small_fcos().state_dict()
        now = both.finish().detector.state_dict()
        update[alpha] = {name: now[name] - before[name] for name in before}
    for name, change in update[None].items():
        torch.testing.assert_close(update[8][name], 4 * change, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_interpolation_ends_where_it_should(share):
    before = small_fcos().state_dict()
    both = Both(WiSEFineTuning(interpolation=share, norm="train")).step()
    tuned = copy.deepcopy(both.detector.state_dict())
    now = both.finish().detector.state_dict()
    for name, value in now.items():
        if not value.is_floating_point() or share == 1:
            assert torch.equal(value, tuned[name])
        elif share == 0:
            assert torch.equal(value, before[name])
        else:
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * tuned[name])
    assert any(not torch.equal(before[name], tuned[name]) for name in before)


def test_interpolation_happens_once_for_each_training():
    both = Both(WiSEFineTuning()).step().finish()
    once = weights_sha256(both.detector)
    assert weights_sha256(both.finish().detector) == once
    # Training goes on, and ends by another interpolation with where all began.
    tuned = copy.deepcopy(both.step().detector.state_dict())
    before = small_fcos().state_dict()
    for name, value in both.finish().detector.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (before[name] + tuned[name]) / 2)
    assert weights_sha256(both.detector) != once


@pytest.mark.parametrize("make", ALL)
def test_a_training_that_was_stopped_ends_as_one_that_was_not(make):
    torch.manual_seed(0)
    whole = Both(make()).step(2)
    checkpoint = copy.deepcopy(whole.state_dict())
    whole.step(2).finish()
    torch.manual_seed(1)
    resumed = Both(make())
    resumed.load_state_dict(checkpoint)
    resumed.step(2).finish()
    assert weights_sha256(resumed.detector) == weights_sha256(whole.detector)


@pytest.mark.parametrize("make", ALL)
def test_checkpoints_from_before_and_after_the_end_load_before_and_after_it(make):
    both = Both(make()).step()
    during = copy.deepcopy(both.state_dict())
    result = both.finish().found()
    after = copy.deepcopy(both.state_dict())
    for checkpoint in (during, after):
        for other in (Both(make()), Both(make()).step().finish()):
            other.load_state_dict(checkpoint)
            assert same(other.finish().found(), result)


def test_a_detector_that_was_not_attached_is_refused():
    with pytest.raises(ConfigError, match="was not there when `attach` was called"):
        WiSEFineTuning().after_training(small_fcos())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FineTuning(part="neck"), "part must be one of 'all', 'head', but 'neck' came"),
        (lambda: FineTuning(norm="eval"), "norm must be one of"),
        (lambda: WiSEFineTuning(interpolation=1.5), "interpolation must lie from 0 to 1, but 1.5 came"),
        (lambda: WiSEFineTuning(interpolation=-0.1), "interpolation must be a finite number of at least 0"),
        (lambda: DetectorLoRA(rank=0), "rank must be a whole number"),
        (lambda: DetectorLoRA(alpha=0), "alpha must be a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_statistics_that_stood_still_for_one_modality_can_move_for_the_next():
    both = Both(FineTuning())
    FineTuning(norm="train").attach(both.detector)
    before = buffers(both.detector)
    both.step()
    assert len(unchanged(before, buffers(both.detector))) < len(before)
