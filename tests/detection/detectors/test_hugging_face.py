"""Detectors of transformers: their loss, their boxes, and folders that hold them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import boxes_and_images
from small_transformers import small_deformable_detr, small_detr, small_rt_detr, small_yolos, yolos_network
from torch import nn

from pvision.detection.detectors.hugging_face import HuggingFaceDetector, _fractions, _pixels
from pvision.detection.detectors.image_preparation import ImagePreparation
from pvision.errors import ConfigError


def test_the_loss_is_transformers_own() -> None:
    detector = small_detr()
    images, targets = boxes_and_images(2, 0)

    ours = detector.loss(images, targets)["loss"]
    values, mask = detector.preparation(images)
    labels = [
        {"class_labels": target["labels"], "boxes": _fractions(target["boxes"], image)}
        for image, target in zip(images, targets, strict=True)
    ]

    assert torch.equal(ours, detector.network(pixel_values=values, pixel_mask=mask, labels=labels).loss)


def test_boxes_are_those_of_the_processor_of_transformers() -> None:
    from transformers import DeformableDetrImageProcessor, DetrImageProcessor

    image = torch.rand(3, 48, 80)
    for detector, processor in (
        (small_detr(), DetrImageProcessor()),
        (small_deformable_detr(), DeformableDetrImageProcessor()),
    ):
        with torch.no_grad():
            output = detector.network(
                **dict(zip(("pixel_values", "pixel_mask"), detector.preparation([image]), strict=True))
            )
        (theirs,) = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(48, 80)])
        (ours,) = detector.predict([image])

        order = theirs["scores"].argsort(descending=True, stable=True)
        limit = torch.tensor([80.0, 48, 80, 48])
        torch.testing.assert_close(ours["scores"], theirs["scores"][order])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"][order].clamp(min=0).minimum(limit))
        assert ours["labels"].tolist() == theirs["labels"][order].tolist()


@given(
    height=st.integers(8, 2000),
    width=st.integers(8, 2000),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_survive_the_way_there_and_back(height: int, width: int, corners: list[float]) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    boxes = torch.tensor([[left * width, top * height, right * width, bottom * height]], dtype=torch.float64)

    back = _pixels(_fractions(boxes, torch.zeros(3, 1, 1).expand(3, height, width)), height, width)

    torch.testing.assert_close(back, boxes, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("build", "same"), [(small_detr, True), (small_yolos, False)], ids=["mask", "no_mask"])
def test_boxes_of_a_padded_image_refer_to_what_the_network_can_tell(
    build: Any, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = build()
    (wide, square), targets = boxes_and_images(2, 0)
    wide, box = wide[:, :32], torch.tensor([[16.0, 8.0, 32.0, 24.0]])
    detector.preparation = ImagePreparation(min_size=64, max_size=64)
    seen: list[Any] = []
    forward = detector._output
    monkeypatch.setattr(detector, "_output", lambda *given, **named: seen.append(named) or forward(*given, **named))

    detector.loss([wide, square], [{"boxes": box, "labels": torch.tensor([0])}, targets[1]])

    expected = [0.375, 0.5, 0.25, 0.5] if same else [0.375, 0.25, 0.25, 0.25]
    assert seen[0]["labels"][0]["boxes"].tolist() == [expected]


def test_scores_of_a_softmax_leave_out_no_object() -> None:
    detector = small_detr()
    logits = torch.tensor([[0.0, 0.0, 50.0], [9.0, 0.0, 0.0]])

    scores, labels, queries = detector._best(logits)

    assert queries.tolist() == [1, 0]
    assert labels.tolist()[0] == 0
    assert scores[0] > 0.99
    assert scores[1] < 1e-6


def test_each_class_of_a_query_can_be_found_where_they_are_decided_by_themselves() -> None:
    detector = small_rt_detr()
    logits = torch.tensor([[-9.0, 5.0], [4.0, 3.0]])
    detector.detections = 3

    scores, labels, queries = detector._best(logits)

    assert labels.tolist() == [1, 0, 1]
    assert queries.tolist() == [0, 1, 1]
    torch.testing.assert_close(scores, torch.tensor([5.0, 4.0, 3.0]).sigmoid())


def test_a_folder_comes_back_with_its_preparation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = yolos_network().eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 48}}))
    images, _ = boxes_and_images(1, 0)

    detector = HuggingFaceDetector(str(tmp_path))

    assert detector.preparation == ImagePreparation(fixed_size=(32, 48))
    assert detector.class_names == ("person", "dog")
    expected = HuggingFaceDetector(network, preparation=detector.preparation)
    assert torch.equal(detector.predict(images)[0]["boxes"], expected.predict(images)[0]["boxes"])


def test_nothing_is_looked_for_outside_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*given: Any, **named: Any) -> None:
        asked.append(given)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)

    for name in ("nobody/no-such-detector", "no folder at all"):
        with pytest.raises(ConfigError, match=r"holds no detector of transformers: .* Set download to true"):
            HuggingFaceDetector(name)
    with pytest.raises(ConfigError, match="holds no detector"):
        HuggingFaceDetector(str(tmp_path))
    assert asked == []


def test_names_come_from_the_network_and_nothing_is_called_nothing() -> None:
    network = yolos_network()
    network.config.id2label = {0: "N/A", 1: "dog"}

    assert HuggingFaceDetector(network).class_names == ("", "dog")
    assert HuggingFaceDetector(network, class_names=("cat", "dog")).label_of("cat") == 0
    with pytest.raises(ConfigError, match="has 2 labels, but class_names are 1"):
        HuggingFaceDetector(network, class_names=("cat",))


def test_an_unknown_kind_must_be_told_how_it_is_meant() -> None:
    network = yolos_network()
    network.config.model_type = "own"

    with pytest.raises(ConfigError, match="Set scores to 'softmax'"):
        HuggingFaceDetector(network)
    with pytest.raises(ConfigError, match="Give an ImagePreparation"):
        HuggingFaceDetector(network, scores="softmax")
    assert HuggingFaceDetector(network, scores="softmax", preparation=ImagePreparation()).softmax


def test_networks_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="but a Linear came"):
        HuggingFaceDetector(nn.Linear(2, 2))
