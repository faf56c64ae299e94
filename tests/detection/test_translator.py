import io
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_detectors import boxes_and_images, small_fcos
from torch import nn

from pvision.detection.fusions import FUSIONS
from pvision.detection.small_unet import SmallUNet
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError, DataError
from pvision.weights_hash import weights_sha256


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Own(nn.Module):
    """A network of the user's, of stride 4."""

    stride = 4

    def __init__(self, out_channels=3):
        super().__init__()
        self.seen = None
        self.layer = nn.Conv2d(1, out_channels, 3, padding=1)

    def forward(self, images):
        self.seen = images
        return self.layer(images)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(FUSIONS)),
    st.integers(1, 5),
    st.integers(9, 40),
    st.integers(9, 40),
    st.sampled_from([1.0, 0.5]),
)
def test_any_channels_and_size_become_three_channels_of_that_size(fusion, channels, height, width, resolution):
    translator = ModalityTranslator(channels, network="tiny", fusion=fusion, resolution=resolution)
    result = translator.translate(noise(2, channels, height, width))
    assert result.shape == (2, 3, height, width)
    assert result.min() >= 0
    assert result.max() <= 1


def test_images_of_several_sizes_keep_their_order():
    translator = ModalityTranslator(1, network="tiny")
    images = [noise(1, 20, 24, seed=1), noise(1, 63, 65, seed=2), noise(1, 20, 24, seed=3)]
    results = translator(images)
    for image, result in zip(images, results, strict=True):
        torch.testing.assert_close(result, translator.translate(image[None])[0])


@pytest.mark.parametrize("network", ["tiny", "medium"])
@pytest.mark.parametrize("training", [True, False])
def test_the_rest_of_the_batch_and_the_mode_do_not_matter(network, training):
    translator = ModalityTranslator(1, network=network).train(training)
    batch = noise(3, 1, 24, 24)
    alone = translator.eval().translate(batch[:1])
    torch.testing.assert_close(translator.train(training).translate(batch)[:1], alone)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_residual_translators_begin_as_the_identity_and_others_do_not(fusion, channels):
    images = noise(1, channels, 18, 22)
    same = torch.equal(
        ModalityTranslator(channels, network="tiny", fusion=fusion).translate(images), images.expand(1, 3, -1, -1)
    )
    assert same is FUSIONS[fusion].begins_as_identity


def test_two_or_more_channels_begin_as_their_mean():
    images = noise(1, 4, 18, 22)
    result = ModalityTranslator(4, network="tiny", fusion="residual_product").translate(images)
    torch.testing.assert_close(result, images.mean(dim=1, keepdim=True).expand(1, 3, -1, -1))


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_detectors_loss_reaches_every_weight_of_the_translator(fusion, channels):
    detector = small_fcos()
    translator = ModalityTranslator(channels, network="tiny", fusion=fusion)
    translator.attach(detector)
    if FUSIONS[fusion].begins_as_identity:  # behind a head of zeros nothing gets a gradient in the first step
        nn.init.normal_(translator.network.head.weight, std=0.1)
    images, targets = boxes_and_images(2, 0)
    sum(detector.loss(translator([image[:channels] for image in images]), targets).values()).backward()
    gradients = {name: parameter.grad for name, parameter in translator.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in detector.parameters())


@pytest.mark.parametrize("fusion", ["product", "affine"])
def test_training_lowers_the_loss_and_leaves_the_detector_its_bits(fusion):
    torch.manual_seed(0)
    detector = small_fcos()
    translator = ModalityTranslator(1, network="tiny", fusion=fusion)
    translator.attach(detector)
    before = weights_sha256(detector)
    images, targets = boxes_and_images(2, 0)
    images = [image[:1] for image in images]
    optimizer = torch.optim.AdamW(translator.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = sum(detector.loss(translator(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert weights_sha256(detector) == before


def test_a_network_of_the_users_own_is_padded_to_its_stride_by_repeating_the_border():
    own = Own()
    ModalityTranslator(1, network=own).translate(noise(1, 1, 21, 24))
    assert own.seen.shape == (1, 1, 24, 24)
    assert torch.equal(own.seen[:, :, 21:], own.seen[:, :, 20:21].expand(-1, -1, 3, -1))


def test_resolution_shrinks_what_the_network_sees_and_not_the_image():
    own = Own()
    nn.init.zeros_(own.layer.weight)
    nn.init.constant_(own.layer.bias, 100.0)  # an output of ones: the product is the identity
    images = noise(1, 1, 30, 34)
    result = ModalityTranslator(1, network=own, resolution=0.5).translate(images)
    assert own.seen.shape == (1, 1, 16, 20)
    torch.testing.assert_close(own.seen[0, 0, 0, 0], images[0, 0, :2, :2].mean())
    assert torch.equal(result, images.expand(1, 3, -1, -1))


def test_a_third_is_a_resolution():
    assert ModalityTranslator(1, network="tiny", resolution=0.33).resolution == 1 / 3


def test_a_network_of_the_users_own_with_the_wrong_output_is_refused():
    with pytest.raises(ConfigError, match=r"\(1, 6, 24, 24\) for the fusion affine, but \(1, 3, 24, 24\)"):
        ModalityTranslator(1, network=Own(), fusion="affine").translate(noise(1, 1, 24, 24))
    with pytest.raises(ConfigError, match=r"\(1, 3, 24, 24\).*\(1, 3, 12, 12\)"):
        ModalityTranslator(1, network=nn.Conv2d(1, 3, 3, stride=2, padding=1)).translate(noise(1, 1, 24, 24))


@pytest.mark.parametrize("settings", [{}, {"fusion": "affine", "resolution": 1 / 3}, {"network": "unet:resnet18"}])
def test_description_and_state_make_an_equal_translator(settings):
    made = ModalityTranslator(2, **settings)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    again = ModalityTranslator.from_description(json.loads(json.dumps(made.describe())))
    assert weights_sha256(again) != weights_sha256(made)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert again.describe() == made.describe()
    images = noise(1, 2, 70, 66)
    assert torch.equal(again.eval().translate(images), made.eval().translate(images))


def test_a_translator_can_be_sent_to_another_process():
    made = ModalityTranslator(1, network="tiny")
    assert weights_sha256(pickle.loads(pickle.dumps(made))) == weights_sha256(made)


def test_a_network_of_the_users_own_cannot_be_described():
    with pytest.raises(ConfigError, match=r"Own.*Save its state dict"):
        ModalityTranslator(1, network=Own()).describe()


@pytest.mark.parametrize("network", ["unet:resnet18", "fpn:resnet18"])
def test_networks_of_the_library_by_name(network):
    translator = ModalityTranslator(1, network=network, fusion="affine").eval()
    images = noise(1, 1, 63, 65)
    assert torch.equal(translator.translate(images), images.expand(1, 3, -1, -1))  # their head begins at zero too


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=r"pvision\[translators\]"):
        ModalityTranslator(1, network="unet:resnet18")


def test_weights_that_cannot_be_fetched(monkeypatch):
    import segmentation_models_pytorch as smp

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(DataError, match=r"'imagenet'.*no route to host.*encoder_weights: null"):
        ModalityTranslator(1, network="unet:resnet18", encoder_weights="imagenet")


@pytest.mark.parametrize("network", ["unet:resnet18", "unet:tu-resnet18"])
def test_weights_are_fetched_only_when_asked_for(network, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
    ModalityTranslator(1, network=network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"network": "smal"}, "tiny, small, medium, large.*unet:resnet34.*'smal'"),
        ({"network": 3}, "network must be one of"),
        ({"network": "vnet:resnet34"}, "Known are unet, unetplusplus"),
        ({"network": "unet:resnet35"}, "Near ones: .*resnet34"),
        ({"network": "unet:"}, "names no encoder"),
        ({"network": "unet:tu-no_such_network"}, "cannot be built"),
        ({"network": "unet:resnet18", "encoder_weights": "cats"}, "cats.*imagenet"),
        ({"encoder_weights": "imagenet"}, "encoder_weights: imagenet is for"),
        ({"fusion": "times"}, "fusion must be one of"),
        ({"resolution": 0.0}, "resolution"),
        ({"resolution": 0.4}, "1/2, 1/3"),
        ({"resolution": 2}, "resolution"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ModalityTranslator(**settings)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 1, 1), "1 x 1 pixels is too small to translate: the network needs more than 8"),
        (torch.zeros(1, 1, 30, 8), "30 x 8 pixels"),
        (torch.zeros(1, 2, 30, 30), r"in_channels: 1.*\(1, 2, 30, 30\)"),
        (torch.zeros(1, 30, 30), r"\(B, 1, H, W\)"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        ModalityTranslator(1, network="tiny", resolution=0.5).translate(images)


def test_an_incomplete_description_is_refused():
    with pytest.raises(ConfigError, match="in_channels, network, fusion and resolution, but fusion came"):
        ModalityTranslator.from_description({"fusion": "sum"})


@pytest.mark.parametrize("settings", [{"width": 6}, {"width": 0}, {"depth": 0}])
def test_wrong_sizes_of_our_network_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SmallUNet(1, 3, **settings)
