"""What every detector promises, whichever library it comes from."""

import inspect
from collections.abc import Callable

import pytest
import torch
from small_detectors import boxes_and_images, small_faster_rcnn, small_fcos, small_retinanet, small_ssd
from small_transformers import small_deformable_detr, small_detr, small_rt_detr, small_yolos
from torch import nn

from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.torchvision_style import TorchvisionStyleDetector
from pvision.detection.records import Target, no_boxes
from pvision.errors import ConfigError, DataError
from pvision.weights_hash import weights_sha256


def _style() -> Detector:
    return TorchvisionStyleDetector(small_fcos().network, ("person", "dog"), head="head")


KINDS = {
    "fcos": small_fcos,
    "retinanet": small_retinanet,
    "faster_rcnn": small_faster_rcnn,
    "ssd": small_ssd,
    "style": _style,
    "detr": small_detr,
    "deformable_detr": small_deformable_detr,
    "rt_detr": small_rt_detr,
    "yolos": small_yolos,
}
# Those of DETR's descent fix the statistics of their backbones themselves; RT-DETR has others besides.
WITH_STATISTICS = ("fcos", "retinanet", "faster_rcnn", "ssd", "style", "rt_detr")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(kind: str) -> Detector:
    return KINDS[kind]()


def _batch(detector: Detector, count: int = 2, seed: int = 0) -> tuple[list[torch.Tensor], list[Target]]:
    images, targets = boxes_and_images(count, seed)
    labels = torch.tensor([detector.label_of("person"), detector.label_of("dog")])
    return images, [{"boxes": target["boxes"], "labels": labels} for target in targets]


def _flags(detector: Detector) -> list[bool]:
    return [module.training for module in detector.modules()]


@pytest.mark.parametrize("empty", [(), (1,), (0, 1)], ids=["boxes", "one_empty", "all_empty"])
def test_gradients_reach_what_stands_in_front_of_a_frozen_detector(
    kind: str, detector: Detector, empty: tuple[int, ...]
) -> None:
    detector.freeze().train()
    translator = nn.Conv2d(3, 3, 1)
    images, targets = _batch(detector)
    targets = [no_boxes() if place in empty else target for place, target in enumerate(targets)]

    losses = detector.loss([translator(image[None])[0].sigmoid() for image in images], targets)
    sum(losses.values()).backward()

    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    assert translator.weight.grad.isfinite().all()
    # SSD draws three negatives for each object, so it learns nothing where there is none.
    assert bool(translator.weight.grad.any()) == (kind != "ssd" or len(empty) < 2)
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_a_frozen_detector_keeps_every_bit(detector: Detector) -> None:
    detector.freeze()
    before = weights_sha256(detector)
    images, targets = _batch(detector)

    nn.ModuleList([detector]).train()  # as a Trainer does with all it holds
    sum(detector.loss([image.requires_grad_() for image in images], targets).values()).backward()
    detector.predict(images)

    assert not any(_flags(detector))
    assert weights_sha256(detector) == before


@pytest.mark.parametrize("kind", WITH_STATISTICS)
def test_without_evaluation_mode_freezing_parameters_is_not_enough(detector: Detector) -> None:
    detector.requires_grad_(False)
    before = weights_sha256(detector)

    detector.train()
    detector.loss(*_batch(detector))

    assert weights_sha256(detector) != before


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_loss_and_a_prediction_leave_every_flag_as_it_was(detector: Detector, training: bool) -> None:
    images, targets = _batch(detector)
    detector.train(training)
    next(detector.network.children()).train(not training)  # a mixture must come back too
    before = _flags(detector)

    detector.predict(images)
    assert _flags(detector) == before
    detector.loss(images, targets)
    assert _flags(detector) == before


def test_a_prediction_knows_no_targets(detector: Detector) -> None:
    images, targets = _batch(detector)
    before = detector.predict(images)

    detector.loss(images, targets[::-1])

    assert list(inspect.signature(detector.predict).parameters) == ["images"]
    _assert_same(detector.predict(images), before, tolerance=0.0)


def test_what_is_found_in_an_image_does_not_depend_on_the_others(detector: Detector) -> None:
    images = [torch.rand(3, height, 64, generator=torch.Generator().manual_seed(height)) for height in (64, 48, 64)]

    together = detector.predict(images)

    _assert_same(together, [detector.predict([image])[0] for image in images], tolerance=1e-3)
    assert detector.predict([]) == []


def test_a_prediction_is_sorted_within_the_image_and_without_gradients(detector: Detector) -> None:
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    (found,) = detector.train().predict([image])

    assert len(found["boxes"]) > 0
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert 0 <= found["scores"].min() <= found["scores"].max() <= 1
    assert found["boxes"].min() >= 0
    assert (found["boxes"].max(0).values <= torch.tensor([64, 48, 64, 48]) + 1e-3).all()
    assert found["labels"].dtype == torch.int64
    assert not any(value.requires_grad for value in found.values())


def test_an_unfrozen_detector_learns(kind: str, detector: Detector) -> None:
    detector.freeze().unfreeze().train()
    before = weights_sha256(detector)

    sum(detector.loss(*_batch(detector)).values()).backward()

    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in detector.parameters())
    assert (weights_sha256(detector) != before) == (kind in WITH_STATISTICS)


def test_the_head_is_some_of_the_parameters_and_gets_gradients(detector: Detector) -> None:
    head = detector.head_parameters()

    sum(detector.loss(*_batch(detector)).values()).backward()

    assert 0 < len(head) < len(list(detector.parameters()))
    assert len({id(parameter) for parameter in head}) == len(head)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in head)


@pytest.mark.parametrize("label", [-1, 7], ids=["negative", "too_high"])
def test_a_label_outside_the_head_is_refused_by_its_number(detector: Detector, label: int) -> None:
    images, targets = _batch(detector)
    targets[1]["labels"] = torch.tensor([detector.label_of("dog"), label])

    with pytest.raises(ConfigError, match=rf"no class of label {label}\. It has: .*person, .*dog"):
        detector.loss(images, targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, targets: (images, targets[:1]), "2 images and 1 targets"),
        (lambda images, targets: ([], []), "0 images"),
        (lambda images, targets: ([images[0], images[1][:1]], targets), "image 1 is torch.float32 of shape"),
        (lambda images, targets: ([images[0], images[1].int()], targets), "image 1 is torch.int32"),
    ],
    ids=["fewer_targets", "no_images", "one_channel", "integers"],
)
def test_a_wrong_batch_is_refused(change: Callable, message: str) -> None:
    detector = small_fcos()

    with pytest.raises(DataError, match=message):
        detector.loss(*change(*_batch(detector)))


def test_boxes_without_area_or_of_other_shape_are_refused() -> None:
    detector = small_fcos()
    images, targets = _batch(detector, count=1)

    with pytest.raises(DataError, match="without area"):
        detector.loss(images, [{"boxes": targets[0]["boxes"][:, [2, 1, 0, 3]], "labels": targets[0]["labels"]}])
    with pytest.raises(DataError, match=r"\(2, 4\) and \(1,\) came"):
        detector.loss(images, [{"boxes": targets[0]["boxes"], "labels": targets[0]["labels"][:1]}])


def _assert_same(found: list, expected: list, *, tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[key], other[key], atol=tolerance, rtol=tolerance)
