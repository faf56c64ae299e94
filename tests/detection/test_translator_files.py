"""One modality in one file."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_detectors import boxes_and_images, small_fcos
from torch import nn

from pvision.detection.adaptations import (
    DetectorLoRA,
    FineTuning,
    HistogramEqualisation,
    Inversion,
    InvertedEqualisation,
    VisualPrompt,
    WiSEFineTuning,
    ZeroShot,
)
from pvision.detection.inputs import ImageInput
from pvision.detection.router import ModalityRouter
from pvision.detection.scaling import FixedRange, PercentileRange, PerImageRange
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError, DataError
from pvision.weights_hash import weights_sha256

IMAGES = [7000 + 2500 * image[:1] for image in boxes_and_images(2, seed=0)[0]]
DEFAULT = ImageInput(1, scaling=FixedRange(7000, 9500))


def router_with(adaptation, input=DEFAULT):
    router = ModalityRouter(small_fcos())
    router.add("lwir", input, adaptation)
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        for buffer in adaptation.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.25)
    return router


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["pvision_modality"]), load_file(path)


def files_in(folder):
    return [path for path in folder.iterdir() if path.is_file()]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "lwir.safetensors"
    router_with(ModalityTranslator(1, network="tiny")).save(path, "lwir")
    return path


@pytest.mark.parametrize(
    "input",
    [DEFAULT, ImageInput(1, scaling=PercentileRange(2, 98), dead_values=[0]), ImageInput(1, scaling=PerImageRange())],
    ids=["fixed", "percentile", "image"],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: ModalityTranslator(1, network="tiny", fusion="affine", resolution=0.5),
        lambda: VisualPrompt("padding", image_size=(64, 64), width=4),
        ZeroShot,
        Inversion,
        lambda: HistogramEqualisation(bins=16),
        InvertedEqualisation,
    ],
    ids=["translator", "prompt", "zero", "inversion", "equalisation", "inverted"],
)
def test_what_was_saved_finds_the_same_in_another_router(tmp_path, make, input):
    router = router_with(make(), input)
    router.save(tmp_path / "one.safetensors", "lwir")
    other = ModalityRouter(small_fcos())
    assert other.load(tmp_path / "one.safetensors") == "lwir"
    assert weights_sha256(other.adaptations) == weights_sha256(router.adaptations)
    assert other.inputs["lwir"].describe() == input.describe()
    for one, two in zip(router.predict(IMAGES, "lwir"), other.predict(IMAGES, "lwir"), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert files_in(tmp_path) == [tmp_path / "one.safetensors"]


def test_the_header_tells_what_is_inside(saved):
    header, _ = header_of(saved)
    assert header["version"] == 1
    assert header["modality"] == "lwir"
    assert header["class_names"] == ["person", "dog"]
    assert header["detector_sha256"] == weights_sha256(small_fcos())
    assert header["adaptation"]["kind"] == "ModalityTranslator"


def test_another_detector_is_refused_by_both_hashes(saved):
    router = ModalityRouter(small_fcos())
    right = weights_sha256(router.detector)
    # One bit of one buffer is enough.
    next(router.detector.buffers()).add_(1e-6)
    wrong = weights_sha256(router.detector)
    with pytest.raises(ConfigError, match=f"{right}.*{wrong}"):
        router.load(saved)
    assert router.modalities == ("rgb",)


def test_every_cut_is_noticed(saved):
    whole = saved.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            ModalityRouter(small_fcos()).load(saved)


def test_a_changed_bit_of_the_weights_is_noticed(saved):
    whole = bytearray(saved.read_bytes())
    whole[-1] ^= 1
    saved.write_bytes(whole)
    with pytest.raises(DataError, match="its weights are not those that were saved"):
        ModalityRouter(small_fcos()).load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, but this pvision reads 1"),
        ({"version": None}, "version None"),
        ({"adaptation": {"kind": "FineTuning", "settings": {}}}, "damaged"),
        ({"adaptation": {"kind": "os.system", "settings": {}}}, "damaged"),
        ({"adaptation": {"kind": "ZeroShot", "settings": {"out": 1}}}, "damaged"),
        ({"adaptation": {"kind": "ModalityTranslator", "settings": {"in_channels": 1}}}, "damaged"),
        ({"adaptation": None}, "damaged"),
        ({"input": {}}, "damaged"),
        ({"input": {"channels": 1, "scaling": {"name": "Nothing"}, "dead_values": []}}, "damaged"),
        ({"class_names": None}, "damaged"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(saved, change, message):
    header, tensors = header_of(saved)
    save_file(tensors, saved, metadata={"pvision_modality": json.dumps(header | change)})
    with pytest.raises(DataError, match=message):
        ModalityRouter(small_fcos()).load(saved)


@pytest.mark.parametrize("text", ["{", "[]", "null", '"lwir"'])
def test_a_header_that_is_no_description_is_refused(saved, text):
    save_file(header_of(saved)[1], saved, metadata={"pvision_modality": text})
    with pytest.raises(DataError, match=r"damaged|holds no modality"):
        ModalityRouter(small_fcos()).load(saved)


def test_missing_surplus_and_misshapen_weights_are_refused(saved):
    header, tensors = header_of(saved)
    name = next(iter(tensors))
    for wrong in (
        {key: value for key, value in tensors.items() if key != name},
        tensors | {"surplus": torch.zeros(1)},
        tensors | {name: tensors[name][:1].repeat(3, *[1] * (tensors[name].ndim - 1))},
    ):
        save_file(wrong, saved, metadata={"pvision_modality": json.dumps(header)})
        with pytest.raises(DataError, match="damaged: its header and weights do not fit"):
            ModalityRouter(small_fcos()).load(saved)


def test_foreign_files_are_refused_and_pickles_are_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("opened").touch, ())

    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="holds no modality"):
        ModalityRouter(small_fcos()).load(tmp_path / "foreign.safetensors")
    with pytest.raises(DataError, match="damaged"):
        ModalityRouter(small_fcos()).load(tmp_path / "evil.safetensors")
    assert not (tmp_path / "opened").exists()
    with pytest.raises(ConfigError, match="There is no file"):
        ModalityRouter(small_fcos()).load(tmp_path / "none.safetensors")


def test_a_modality_that_is_known_already_is_not_loaded_over(saved):
    router = router_with(ZeroShot())
    with pytest.raises(ConfigError, match="'lwir' is known already"):
        router.load(saved)
    assert isinstance(router.adaptations["lwir"], ZeroShot)


@pytest.mark.parametrize("make", [FineTuning, WiSEFineTuning, DetectorLoRA])
def test_a_changed_detector_is_in_no_such_file(tmp_path, make):
    with pytest.raises(ConfigError, match=r"changed the detector itself.*Keep the checkpoint"):
        router_with(make()).save(tmp_path / "one.safetensors", "lwir")
    assert not files_in(tmp_path)


def test_what_cannot_be_saved_is_refused(tmp_path):
    class Own(ZeroShot):
        pass

    path = tmp_path / "one.safetensors"
    with pytest.raises(ConfigError, match="'rgb' adds nothing"):
        router_with(ZeroShot()).save(path, "rgb")
    with pytest.raises(ConfigError, match="'depth' is unknown"):
        router_with(ZeroShot()).save(path, "depth")
    with pytest.raises(ConfigError, match="adaptation Own, which no file can hold"):
        router_with(Own()).save(path, "lwir")
    with pytest.raises(ConfigError, match="network of your own"):
        router_with(ModalityTranslator(1, network=nn.Conv2d(1, 3, 1))).save(path, "lwir")
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        router_with(ZeroShot()).save(tmp_path / "one.pt", "lwir")
    assert not files_in(tmp_path)


def test_a_write_that_fails_leaves_the_file_that_was_there(saved, monkeypatch):
    before = saved.read_bytes()

    def fails(path, data):
        with path.open("wb") as file:
            file.write(data[:50])
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fails)
    with pytest.raises(OSError, match="No space"):
        router_with(ZeroShot()).save(saved, "lwir")
    assert saved.read_bytes() == before
    assert files_in(saved.parent) == [saved]
