"""AveragePrecision: COCO's own numbers, whatever the order, the batches and the number of processes."""

import contextlib
import io
import math
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.detection.records import Prediction, Target, no_boxes
from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.training.average_precision import AveragePrecision

CLASSES = ("person", "dog", "garbage bin")
SUMMARY = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


def found(*rows: tuple[float, float, float, float, float, int]) -> Prediction:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


def true(*rows: tuple[float, float, float, float, int]) -> Target:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


Images = list[tuple[Prediction, Target]]


def random_images(seed: int, *, ties: bool, count: int | None = None) -> Images:
    """Boxes on whole pixels, many of them near an object; with ties, only four scores, the same in all images."""
    draw = random.Random(seed)
    images: Images = []
    scores = iter(draw.sample(range(1, 4096), 400))
    for _ in range(count or draw.randint(1, 6)):
        objects = [random_box(draw) for _ in range(draw.choice([0, 0, 1, 2, 4]))]
        guesses = [shaken(draw, draw.choice(objects)) if objects and draw.random() < 0.8 else random_box(draw)
                   for _ in range(draw.choice([0, 1, 3, 8]))]  # fmt: skip
        rows = [(*box[:4], draw.choice([0.25, 0.5, 0.75]) if ties else next(scores) / 4096, box[4]) for box in guesses]
        images.append((found(*rows), true(*objects)))
    return images


def random_box(draw: random.Random) -> tuple[float, float, float, float, int]:
    left, top, size = draw.randrange(100), draw.randrange(100), draw.choice([5, 20, 60, 150])
    return left, top, left + size, top + draw.choice([size, 2 * size]), draw.randrange(2)


def shaken(draw: random.Random, box: tuple[float, float, float, float, int]) -> tuple[float, float, float, float, int]:
    size = int(box[2] - box[0])
    left, top = (value + draw.randint(-size // 4, size // 4) for value in box[:2])
    label = box[4] if draw.random() < 0.9 else 1 - box[4]
    return left, top, left + size, top + int(box[3] - box[1]), label


def measured(images: Images, *, batch: int = 3) -> dict[str, float]:
    metric = AveragePrecision(CLASSES)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        metric.update([one for one, _ in part], [one for _, one in part])
    return metric.compute()


def reference(images: Images) -> dict[str, float]:
    """The same by pycocotools, from lists of annotations."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, detections = [], []
    for index, (prediction, target) in enumerate(images):
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            sides = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {"image_id": index, "category_id": label, "bbox": [*box[:2], *sides], "area": sides[0] * sides[1],
                 "iscrowd": 0, "id": len(annotations) + 1}
            )  # fmt: skip
        for box, score, label in zip(*(prediction[key].tolist() for key in ("boxes", "scores", "labels")), strict=True):
            sides = [box[2] - box[0], box[3] - box[1]]
            detections.append({"image_id": index, "category_id": label, "bbox": [*box[:2], *sides], "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": index} for index in range(len(images))],
            "categories": [{"id": label} for label in range(len(CLASSES))],
            "annotations": annotations,
        }
        data.createIndex()
        if not detections:
            return dict.fromkeys(("map", "map_50", "map_75"), 0.0 if annotations else math.nan)
        evaluation = COCOeval(data, data.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(SUMMARY, evaluation.stats[:6], strict=True))
    for label, name in enumerate(("map_person", "map_dog", "map_garbage_bin")):
        precision = evaluation.eval["precision"][:, :, label, 0, -1]
        values[name] = precision.mean() if (precision > -1).all() else -1
    return {name: math.nan if value < 0 else float(value) for name, value in values.items()}


def test_200_random_cases_agree_with_pycocotools() -> None:
    for seed in range(200):
        images = random_images(seed, ties=False)
        mine, theirs = measured(images), reference(images)
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (seed, name)


def test_the_random_cases_are_neither_trivial_nor_undefined() -> None:
    values = [measured(random_images(seed, ties=False))["map"] for seed in range(40)]
    assert sum(0.05 < value < 0.95 for value in values) > 20


def test_an_overlap_on_the_threshold_counts() -> None:
    # 6 of 10 pixels: in float32 thresholds it would miss 0.6.
    values = measured([(found((0, 0, 6, 1, 0.5, 0)), true((0, 0, 10, 1, 0)))])
    assert values["map"] == pytest.approx(0.3)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False), batch=st.integers(1, 7))
def test_neither_order_nor_batches_matter_with_equal_scores(seed: int, order: random.Random, batch: int) -> None:
    images = random_images(seed, ties=True)
    moved = [shuffled(order, prediction, target) for prediction, target in images]
    order.shuffle(moved)
    np.testing.assert_equal(measured(moved, batch=batch), measured(images))


def shuffled(order: random.Random, prediction: Prediction, target: Target) -> tuple[Prediction, Target]:
    of_found, of_true = list(range(len(prediction["labels"]))), list(range(len(target["labels"])))
    order.shuffle(of_found)
    order.shuffle(of_true)
    return (
        {"boxes": prediction["boxes"][of_found], "scores": prediction["scores"][of_found],
         "labels": prediction["labels"][of_found]},
        {"boxes": target["boxes"][of_true], "labels": target["labels"][of_true]},
    )  # fmt: skip


def test_without_the_canonical_order_equal_scores_would_matter() -> None:
    right = (found((0, 0, 10, 10, 0.5, 0)), true((0, 0, 10, 10, 0)))
    wrong = (found((50, 50, 60, 60, 0.5, 0)), true((0, 0, 10, 10, 0)))
    one, other = reference([right, wrong])["map"], reference([wrong, right])["map"]
    assert one != other
    assert measured([right, wrong])["map"] == measured([wrong, right])["map"]


def test_a_class_only_in_the_ground_truth_is_not_found() -> None:
    values = measured([(found((0, 0, 9, 9, 0.9, 0)), true((0, 0, 9, 9, 0), (20, 20, 40, 40, 1)))])
    assert (values["map_person"], values["map_dog"]) == (pytest.approx(1.0), 0.0)
    assert values["map"] == pytest.approx(0.5)


def test_a_class_only_predicted_is_undefined_and_leaves_the_mean_alone() -> None:
    values = measured([(found((0, 0, 9, 9, 0.9, 0), (0, 0, 9, 9, 0.9, 1)), true((0, 0, 9, 9, 0)))])
    assert values["map"] == pytest.approx(1.0)
    assert math.isnan(values["map_dog"])
    assert math.isnan(values["map_garbage_bin"])


@pytest.mark.parametrize("prediction", [found(), found((0, 0, 9, 9, 0.9, 0))], ids=["nothing", "something"])
def test_data_without_objects_is_undefined_never_minus_one(prediction: Prediction) -> None:
    values = measured([(prediction, no_boxes())] * 3)
    assert values.keys() == {*SUMMARY, "map_person", "map_dog", "map_garbage_bin"}
    assert all(math.isnan(value) for value in values.values())


def test_no_images_at_all_are_undefined() -> None:
    metric = AveragePrecision(CLASSES)
    metric.update([], [])
    assert all(math.isnan(value) for value in metric.compute().values())


def test_no_detections_of_existing_objects_are_zero() -> None:
    assert measured([(found(), true((0, 0, 9, 9, 0)))])["map"] == 0


def test_false_alarms_in_empty_images_cost_and_their_place_does_not_matter() -> None:
    image = (found((0, 0, 9, 9, 0.5, 0)), true((0, 0, 9, 9, 0)))
    alarm = (found((0, 0, 9, 9, 0.9, 0)), no_boxes())
    assert measured([alarm, image]) == pytest.approx(measured([image, alarm]), nan_ok=True)
    assert measured([alarm, image])["map"] < measured([image])["map"] == pytest.approx(1.0)


def test_a_duplicate_is_a_false_alarm() -> None:
    two = true((0, 0, 9, 9, 0), (30, 30, 60, 60, 0))
    once = found((0, 0, 9, 9, 0.9, 0), (30, 30, 60, 60, 0.5, 0))
    twice = found((0, 0, 9, 9, 0.9, 0), (0, 0, 9, 9, 0.8, 0), (30, 30, 60, 60, 0.5, 0))
    assert measured([(twice, two)])["map"] < measured([(once, two)])["map"]


def test_reset_forgets() -> None:
    metric = AveragePrecision(CLASSES)
    metric.update([found()], [true((0, 0, 9, 9, 0))])
    metric.reset()
    metric.update([found((0, 0, 9, 9, 0.9, 0))], [true((0, 0, 9, 9, 0))])
    assert metric.compute()["map"] == pytest.approx(1.0)


def test_half_precision_and_its_state_are_kept_in_float32() -> None:
    metric = AveragePrecision(CLASSES).half()
    prediction = found((0, 0, 2049, 9, 0.5, 0))
    metric.update([{**prediction, "scores": prediction["scores"].half()}], [true((0, 0, 2049, 9, 0))])
    assert metric.images[0].dtype == torch.float32
    assert metric.compute()["map"] == pytest.approx(1.0)


def test_names_become_words_and_stay_apart() -> None:
    metric = AveragePrecision(["a b", "a_b", "50", "", "人"])
    metric.update([], [])
    assert metric.compute().keys() - set(SUMMARY) == {"map_a_b", "map_class_1", "map_class_2", "map__"}


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (found((0, 0, 9, 9, math.nan, 0)), true(), "not finite"),
        (found((0, 0, math.inf, 9, 0.5, 0)), true(), "not finite"),
        (found((0, 0, 9, 9, 0.5, 7)), true(), "the label 7, but the classes are 0 person"),
        (found(), true((0, 0, 9, 9, -1)), "the label -1"),
        ({**found((0, 0, 9, 9, 0.5, 0)), "scores": torch.zeros(2)}, true(), "1 boxes, 2 scores"),
    ],
    ids=["score", "box", "label", "negative", "lengths"],
)
def test_what_cannot_be_ranked_is_refused(prediction: Prediction, target: Target, message: str) -> None:
    with pytest.raises(DataError, match=message):
        AveragePrecision(CLASSES).update([prediction], [target])


def test_each_image_needs_both_sides() -> None:
    with pytest.raises(DataError, match="2 predictions came for 1 targets"):
        AveragePrecision(CLASSES).update([found(), found()], [true()])


@pytest.mark.parametrize("names", [[], "person"], ids=["none", "text"])
def test_class_names_must_be_a_list(names: object) -> None:
    with pytest.raises(ConfigError, match="class_names"):
        AveragePrecision(names)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r"faster_coco_eval.*pvision\[detection\]"):
        AveragePrecision(CLASSES)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    measured(random_images(1, ties=False))
    assert capfd.readouterr() == ("", "")


def share(rank: int, bounds: list[int]) -> dict[str, float]:
    metric = AveragePrecision(CLASSES)
    images = random_images(3, ties=True, count=6)[bounds[rank] : bounds[rank + 1]]
    for prediction, target in images:
        metric.update([prediction], [target])
    return metric.compute()


@pytest.mark.parametrize("first", [1, 4, 6], ids=["one first", "four first", "all first"])
def test_two_processes_are_one(ranks, first: int) -> None:
    images = random_images(3, ties=True, count=6)
    answers = ranks(share, 2, bounds=[0, first, 6])
    whole = measured(images)
    for how, values in answers:
        assert how == "returned", values
        np.testing.assert_equal(values, whole)
