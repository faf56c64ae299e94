"""Many modalities, one detector."""

import pytest
import torch
from small_detectors import boxes_and_images, small_fcos

from pvision.detection.adaptations import FineTuning, Inversion, ZeroShot
from pvision.detection.inputs import ImageInput
from pvision.detection.router import ModalityRouter
from pvision.detection.scaling import FixedRange
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError, DataError
from pvision.weights_hash import weights_sha256

COLOUR, TARGETS = boxes_and_images(4, seed=0)
#: Each modality has its own transfer function and unit.
RAW = {
    "rgb": [255 * image for image in COLOUR],
    "lwir": [7000 + 2500 * (1 - image[:1]) for image in COLOUR],
    "depth": [4000 * image[:2].sqrt() for image in COLOUR],
}
INPUTS = {
    "lwir": ImageInput(1, scaling=FixedRange(7000, 9500)),
    "depth": ImageInput(2, scaling=FixedRange(0, 4000), dead_values=[0]),
}


def translator(channels, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ModalityTranslator(channels, network="tiny", fusion="none")


def trained(router, modality, steps=3):
    router.train()
    parameters = [parameter for parameter in router.adaptations[modality].parameters() if parameter.requires_grad]
    parameters += [parameter for parameter in router.detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(router.loss(RAW[modality], TARGETS, modality).values()).backward()
        optimizer.step()
    return router


def same(found, others):
    return all(torch.equal(one[key], other[key]) for one, other in zip(found, others, strict=True) for key in one)


def test_rgb_images_meet_nothing_but_the_detector():
    bare = small_fcos().freeze().predict([image / 255 for image in RAW["rgb"]])
    router = ModalityRouter(small_fcos())
    assert same(router.predict(RAW["rgb"], "rgb"), bare)
    sha256 = weights_sha256(router.detector)
    for seed, name in enumerate(("lwir", "depth")):
        router.add(name, INPUTS[name], translator(INPUTS[name].channels, seed))
        trained(router, name)
        assert same(router.predict(RAW["rgb"], "rgb"), bare)
    assert weights_sha256(router.detector) == sha256
    assert all(parameter.grad is None for parameter in router.detector.parameters())


def test_a_second_translator_leaves_the_first_alone_and_does_another_thing():
    router = ModalityRouter(small_fcos())
    router.add("lwir", INPUTS["lwir"], translator(1))
    trained(router, "lwir")
    sha256, found = weights_sha256(router.adaptations["lwir"]), router.predict(RAW["lwir"], "lwir")
    router.add("depth", INPUTS["depth"], translator(2, seed=1))
    trained(router, "depth")
    assert weights_sha256(router.adaptations["lwir"]) == sha256
    assert same(router.predict(RAW["lwir"], "lwir"), found)
    # Two channels do not fit one; and the wrong translator of as many finds other boxes.
    with pytest.raises(DataError, match="channels"):
        router.predict(RAW["lwir"], "depth")
    router.add("other", INPUTS["lwir"], translator(1, seed=2))
    assert not same(router.predict(RAW["lwir"], "other"), found)


def test_fine_tuning_for_one_modality_changes_all():
    # The naive baseline, and the control of the tests above.
    router = ModalityRouter(small_fcos())
    before = router.predict(RAW["rgb"], "rgb")
    router.add("lwir", INPUTS["lwir"], FineTuning(1))
    trained(router, "lwir")
    assert not same(router.predict(RAW["rgb"], "rgb"), before)


def test_predicting_neither_trains_nor_changes_modes():
    router = ModalityRouter(small_fcos())
    router.add("lwir", INPUTS["lwir"], translator(1))
    before = weights_sha256(router)
    router.train()
    found = router.predict(RAW["lwir"], "lwir")
    assert router.adaptations["lwir"].training
    assert not found[0]["boxes"].requires_grad
    assert same(router.eval().predict(RAW["lwir"], "lwir"), found)
    assert weights_sha256(router) == before


def test_gradients_reach_the_translator_through_what_the_detector_sees():
    router = ModalityRouter(small_fcos())
    router.add("depth", INPUTS["depth"], translator(2))
    seen = router.images(RAW["depth"], "depth")
    assert [image.shape for image in seen] == [(3, 64, 64)] * 4
    assert min(image.min() for image in seen) >= 0
    assert max(image.max() for image in seen) <= 1
    sum(image.sum() for image in seen).backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in router.adaptations["depth"].parameters())


def test_images_of_several_sizes_keep_their_order():
    router = ModalityRouter(small_fcos())
    router.add("lwir", INPUTS["lwir"], ZeroShot(1))
    images = [RAW["lwir"][0], RAW["lwir"][1][:, :48], RAW["lwir"][2]]
    assert [image.shape[-2:] for image in router.images(images, "lwir")] == [(64, 64), (48, 64), (64, 64)]
    together = router.predict(images, "lwir")
    assert same(together[1:2], router.predict(images[1:2], "lwir"))


@pytest.mark.parametrize("method", ["images", "predict"])
def test_an_unknown_modality_is_refused_with_the_known_ones(method):
    router = ModalityRouter(small_fcos())
    router.add("lwir", INPUTS["lwir"], ZeroShot(1))
    with pytest.raises(ConfigError, match=r"'sonar' is unknown\. Known are: rgb, lwir"):
        getattr(router, method)(RAW["lwir"], "sonar")
    with pytest.raises(ConfigError, match="'sonar' is unknown"):
        router.loss(RAW["lwir"], TARGETS, "sonar")


@pytest.mark.parametrize("name", ["rgb", "lwir"])
def test_a_name_is_taken_once(name):
    router = ModalityRouter(small_fcos())
    router.add("lwir", INPUTS["lwir"], ZeroShot(1))
    with pytest.raises(ConfigError, match=rf"'{name}' is known already \(rgb, lwir\)"):
        router.add(name, INPUTS["lwir"], ZeroShot(1))


@pytest.mark.parametrize("name", ["", "LWIR", "lw ir", "lw.ir", "1st", "keys", "train"])
def test_what_is_no_word_is_refused(name):
    with pytest.raises(ConfigError, match="lower-case word"):
        ModalityRouter(small_fcos()).add(name, INPUTS["lwir"], ZeroShot(1))


def test_other_channels_of_input_and_adaptation_are_refused_before_anything_is_attached():
    router = ModalityRouter(small_fcos())
    with pytest.raises(ConfigError, match=r"channels: 1.*'lwir' in_channels: 2"):
        router.add("lwir", INPUTS["lwir"], Inversion(2))
    assert router.modalities == ("rgb",)
    assert not router.detector.frozen
