"""Adaptation and detector in one file that needs no pvision."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from small_detectors import boxes_and_images, small_fcos

from pvision.detection import export
from pvision.detection.adaptations import Inversion
from pvision.detection.export import export_detector
from pvision.detection.inputs import ImageInput
from pvision.detection.router import ModalityRouter
from pvision.detection.scaling import FixedRange
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError
from pvision.weights_hash import weights_sha256

SIZE = (48, 64)
KEYS = ("boxes", "scores", "labels")
INPUT = ImageInput(1, scaling=FixedRange(7000, 9500), dead_values=[0])


@pytest.fixture(scope="module")
def images():
    noise, _ = boxes_and_images(3, seed=1)
    made = [7000 + 2500 * image[:1, :48] for image in noise]
    made[0][:, 5:9, 5:9] = 0  # dead pixels
    return made + [torch.full((1, *SIZE), 7000 + 2500 * part) for part in (0.0, 0.5, 1.0)]


@pytest.fixture(scope="module")
def router(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ModalityRouter(small_fcos())
        made.add("lwir", INPUT, ModalityTranslator(1, network="tiny"))
        made.add("other", INPUT, Inversion(1))
    # So that one of the images has no boxes.
    best = sorted(float(found["scores"].max()) for found in made.predict(images, "lwir"))
    made.detector.network.score_thresh = (best[0] + best[1]) / 2
    counts = sorted(len(found["boxes"]) for found in made.predict(images, "lwir"))
    assert counts[0] == 0 < counts[1]
    return made


def files_in(folder):
    return [path for path in folder.iterdir() if path.is_file()]


@pytest.fixture(scope="module")
def program(router, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "lwir.pt2"
    export_detector(router, "lwir", path, image_size=SIZE, format="torch_export")
    return path


@pytest.mark.slow
def test_a_program_finds_the_same_to_the_last_bit_without_pvision(router, images, program, tmp_path):
    script = (
        "import sys, torch, torchvision\n"
        "run = torch.export.load(sys.argv[1]).module()\n"
        "torch.save([run(image) for image in torch.load(sys.argv[2])], sys.argv[3])\n"
        "assert 'pvision' not in sys.modules\n"
    )
    torch.save(images, tmp_path / "images.pt")
    command = [sys.executable, "-c", script, str(program), str(tmp_path / "images.pt"), str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "found.pt")
    for image, one in zip(images, found, strict=True):
        expected = router.predict([image], "lwir")[0]
        assert all(torch.equal(value, expected[key]) for value, key in zip(one, KEYS, strict=True))


@pytest.mark.slow
def test_onnx_finds_the_same(router, images, tmp_path):
    before, modes = weights_sha256(router), [part.training for part in router.modules()]
    export_detector(router, "lwir", tmp_path / "lwir.onnx", image_size=SIZE)
    assert files_in(tmp_path) == [tmp_path / "lwir.onnx"]
    assert weights_sha256(router) == before
    assert [part.training for part in router.modules()] == modes
    session = onnxruntime.InferenceSession(tmp_path / "lwir.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(KEYS)
    for image, expected in zip(images, router.predict(images, "lwir"), strict=True):
        found = dict(zip(KEYS, session.run(KEYS, {"image": image.numpy()}), strict=True))
        np.testing.assert_allclose(found["boxes"], expected["boxes"].numpy(), atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(found["scores"], expected["scores"].numpy(), atol=1e-5)
        np.testing.assert_array_equal(found["labels"], expected["labels"].numpy())


def test_a_file_that_finds_other_boxes_is_not_written(router, tmp_path, monkeypatch):
    def wrong(*_):
        return lambda image: (torch.zeros(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.int64))

    monkeypatch.setattr(export, "_export_program", wrong)
    with pytest.raises(ConfigError, match="was not written"):
        export_detector(router, "lwir", tmp_path / "lwir.pt2", image_size=SIZE, format="torch_export")
    assert not files_in(tmp_path)


def found(boxes, scores, labels):
    return torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)


@pytest.mark.parametrize(
    ("other", "agree"),
    [
        (found([0, 0, 8, 8, 1, 1, 9, 9.0], [0.5, 0.5], [0, 1]), True),
        (found([1, 1, 9, 9, 0, 0, 8, 8.0], [0.5, 0.5], [1, 0]), True),
        (found([0, 0, 8, 8.001, 1, 1, 9, 9.0], [0.5, 0.5], [0, 1]), False),
        (found([0, 0, 8, 8, 1, 1, 9, 9.0], [0.5, 0.5001], [0, 1]), False),
        (found([0, 0, 8, 8, 1, 1, 9, 9.0], [0.5, 0.5], [0, 0]), False),
        (found([0, 0, 8, 8, 0, 0, 8, 8.0], [0.5, 0.5], [0, 0]), False),
        (found([0, 0, 8, 8.0], [0.5], [0]), False),
        (found([], [], []), False),
    ],
)
def test_what_agrees_and_what_does_not(other, agree):
    expected = found([0, 0, 8, 8, 1, 1, 9, 9.0], [0.5, 0.5], [0, 1])
    assert export._agree(other, expected) is agree
    assert export._agree(found([], [], []), found([], [], []))


def test_what_cannot_be_followed_is_refused_in_one_sentence(router, tmp_path, monkeypatch):
    def asks(self, images):
        return [{"boxes": images[0][0, :, :4], "scores": images[0][0, 0], "labels": images[0].sum().item() > 0}]

    monkeypatch.setattr(type(router.detector), "predict", asks)
    with pytest.raises(ConfigError, match="The detector cannot be exported in this format"):
        export_detector(router, "lwir", tmp_path / "lwir.pt2", image_size=SIZE, format="torch_export")
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "torchscript"}, "format must be one of 'onnx', 'torch_export'"),
        ({"format": "torch_export"}, r"path must end in \.pt2"),
        ({"image_size": (48, 64, 1)}, "image_size must be height and width"),
        ({"image_size": (48, 0)}, "image_size must be a whole number"),
        ({"modality": "depth"}, "'depth' is unknown"),
    ],
)
def test_wrong_settings_are_refused_at_once(router, tmp_path, settings, message):
    settings = {"modality": "lwir", "path": tmp_path / "a.onnx", "image_size": SIZE} | settings
    with pytest.raises(ConfigError, match=message):
        export_detector(router, **settings)
    assert not files_in(tmp_path)
