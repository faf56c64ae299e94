"""Ready networks of torchvision: their own loss, their own boxes, and no truth in a prediction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from small_detectors import boxes_and_images, small_faster_rcnn, small_fcos, small_retinanet, small_ssd
from torch import Tensor, nn

from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.torchvision_network import TorchvisionNetwork
from pvision.errors import ConfigError

BUILDERS = {"retinanet": small_retinanet, "faster_rcnn": small_faster_rcnn, "ssd": small_ssd}


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[..., Detector]:
    return BUILDERS[request.param]


def _doubles(detector: Detector) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images, targets = boxes_and_images(3, 0)
    labels = torch.tensor([detector.label_of("person"), detector.label_of("dog")])
    return [image.double() for image in images], [
        {"boxes": target["boxes"].double(), "labels": labels} for target in targets
    ]


@contextmanager
def _proposals(detector: Detector) -> Iterator[list[list[Tensor]]]:
    """Record the boxes that the second stage looks at."""
    seen: list[list[Tensor]] = []
    pool = detector.network.roi_heads.box_roi_pool
    handle = pool.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    yield seen
    handle.remove()


def test_the_loss_in_evaluation_mode_is_torchvisions_own(build: Callable[..., Detector]) -> None:
    # Group normalisation does the same in both modes, so the modes may be compared.
    detector = build(norm=partial(nn.GroupNorm, 2)).double()
    images, targets = _doubles(detector)

    torch.manual_seed(5)
    ours = detector.loss(images, targets)
    network = detector.network.train()
    network.transform.eval()  # it draws a size in training, which would move the generator
    torch.manual_seed(5)
    theirs = network(images, targets)

    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-12)
        assert value > 0


def test_the_loss_in_training_mode_is_torchvisions_own(build: Callable[..., Detector]) -> None:
    detector = build().train()
    images, targets = boxes_and_images(2, 0)
    labels = torch.tensor([detector.label_of("person"), detector.label_of("dog")])
    targets = [{"boxes": target["boxes"], "labels": labels} for target in targets]

    torch.manual_seed(5)
    ours = detector.loss(images, targets)
    torch.manual_seed(5)
    theirs = detector.network(images, targets)

    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_batch_normalisation_does_not_see_the_batch_in_the_loss() -> None:
    detector = small_fcos()
    images, targets = boxes_and_images(1, 0)
    frozen = detector.loss(images, targets)["classification"]

    assert torch.equal(frozen, detector.loss(images, targets)["classification"])
    assert not torch.isclose(frozen, detector.train().loss(images, targets)["classification"])


def test_a_prediction_is_torchvisions_own(build: Callable[..., Detector]) -> None:
    detector = build()
    images, _ = boxes_and_images(1, 0)

    (ours,) = detector.predict(images)
    with torch.no_grad():
        (theirs,) = detector.network.eval()(images)

    order = theirs["scores"].argsort(descending=True, stable=True)
    assert all(torch.equal(ours[key], theirs[key][order]) for key in ("boxes", "scores", "labels"))


def test_the_loss_of_faster_rcnn_looks_at_as_many_regions_as_in_training() -> None:
    detector = small_faster_rcnn()
    rpn = detector.network.rpn
    rpn._post_nms_top_n = {"training": 40, "testing": 7}
    detector.network.roi_heads.fg_bg_sampler.batch_size_per_image = 1000
    images, targets = boxes_and_images(1, 0)
    targets[0]["labels"] += 1

    with _proposals(detector) as seen:
        detector.loss(images, targets)
        detector.predict(images)

    assert [len(boxes) for (boxes,) in seen] == [40 + 2, 7]


def test_the_truth_is_among_the_regions_of_the_loss_and_never_of_a_prediction() -> None:
    detector = small_faster_rcnn()
    images, targets = boxes_and_images(1, 0)
    targets[0]["labels"] += 1

    with _proposals(detector) as seen:
        detector.loss(images, targets)
        detector.predict(images)

    in_loss, in_prediction = (_contains(boxes, targets[0]["boxes"]) for (boxes,) in seen)
    assert in_loss
    assert not in_prediction


def _contains(boxes: Tensor, wanted: Tensor) -> bool:
    return bool((boxes[:, None] == wanted[None]).all(-1).any(0).all())


def test_flags_come_back_when_the_network_fails() -> None:
    detector = small_faster_rcnn()
    images, targets = boxes_and_images(1, 0)
    targets[0]["labels"] += 1

    def fail(*arguments: Any) -> None:
        raise RuntimeError("no memory")

    detector.network.roi_heads.box_head.register_forward_pre_hook(fail)
    for call in (lambda: detector.loss(images, targets), lambda: detector.predict(images)):
        with pytest.raises(RuntimeError, match="no memory"):
            call()
        assert not any(module.training for module in detector.modules())


@pytest.mark.parametrize(("build", "names"), [(small_fcos, 2), (small_ssd, 3), (small_faster_rcnn, 3)])
def test_label_0_is_the_background_where_torchvision_has_one(build: Callable[[], Detector], names: int) -> None:
    detector = build()
    images, targets = boxes_and_images(1, 0)

    assert len(detector.class_names) == names
    assert detector.label_of("dog") == names - 1
    if names == 3:
        with pytest.raises(ConfigError, match=r"no class of label 0\. It has: 1 person, 2 dog"):
            detector.loss(images, targets)


def test_names_with_a_background_are_taken_as_they_are() -> None:
    network = small_faster_rcnn().network

    assert TorchvisionNetwork(network, ("", "person", "dog")).class_names == ("", "person", "dog")


def test_the_head_of_faster_rcnn_is_all_that_follows_the_features() -> None:
    detector = small_faster_rcnn()
    head = {id(parameter) for parameter in detector.head_parameters()}

    named = [name for name, parameter in detector.network.named_parameters() if id(parameter) in head]
    rest = [name for name, parameter in detector.network.named_parameters() if id(parameter) not in head]

    assert {name.split(".")[0] for name in named} == {"rpn", "roi_heads"}
    assert {name.split(".")[0] for name in rest} == {"backbone"}


def test_another_number_of_names_than_of_classes_is_refused() -> None:
    network = small_fcos().network

    with pytest.raises(ConfigError, match="FCOS has 2 classes, but class_names make 3"):
        TorchvisionNetwork(network, ("person", "dog", "car"))
    with pytest.raises(ConfigError, match="3 classes with the background, but class_names make 2"):
        TorchvisionNetwork(small_ssd().network, ("person",))


def test_networks_of_other_classes_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="but a Conv2d came"):
        TorchvisionNetwork(nn.Conv2d(3, 3, 1), ("person",))


def test_a_head_that_does_not_count_its_classes_is_refused() -> None:
    network = small_faster_rcnn().network
    network.roi_heads.box_predictor = nn.Linear(16, 3)

    with pytest.raises(ConfigError, match="does not say how many classes"):
        TorchvisionNetwork(network, ("person", "dog"))
