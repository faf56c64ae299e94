"""The translator's network that begins with the shipped detector's encoder."""

import pytest
import torch
from safetensors.torch import save_file

from pvision.detection import CompactFCOS, ModalityTranslator
from pvision.detection.pyramid_unet import PyramidUNet
from pvision.errors import ConfigError


def first_map(encoder, images):
    return next(iter(encoder((images - 0.5) / 0.25).values()))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_encoder_sees_grey_images_of_any_number_of_channels_as_the_detector_does(channels):
    grey = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    network = PyramidUNet(channels, 3, encoder_weights="rendered").eval()
    detector = CompactFCOS().network.backbone.eval()
    expected = first_map(detector, grey.expand(-1, 3, -1, -1))
    assert torch.allclose(first_map(network.encoder, grey.expand(-1, channels, -1, -1)), expected, atol=1e-4)
    other = PyramidUNet(channels, 3).eval()
    assert not torch.allclose(first_map(other.encoder, grey.expand(-1, channels, -1, -1)), expected, atol=1e-2)


def test_an_image_gets_the_same_output_in_any_batch_and_mode():
    torch.manual_seed(0)
    network = PyramidUNet(1, 3, encoder_weights="rendered")
    images = torch.rand(3, 1, 64, 64)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    alone, together = network.train()(images[:1]), network(images)[:1]
    assert torch.allclose(alone, together, atol=1e-5)
    assert torch.allclose(network.eval()(images[:1]), alone, atol=1e-5)
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())


def test_every_weight_of_it_learns():
    torch.manual_seed(0)
    network = PyramidUNet(1, 3, encoder_weights="rendered").train()
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_a_translator_with_it_is_rebuilt_from_its_description():
    torch.manual_seed(0)
    made = ModalityTranslator(2, network="pyramid", fusion="affine", encoder_weights="rendered").eval()
    images = torch.rand(1, 2, 50, 70)
    again = ModalityTranslator.from_description(made.describe()).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.translate(images), made.translate(images))
    assert made.translate(images).shape == (1, 3, 50, 70)


def test_weights_of_something_else_are_refused(tmp_path):
    save_file({"backbone.stem.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="width 32"):
        PyramidUNet(1, 3, encoder_weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match="no file"):
        PyramidUNet(1, 3, encoder_weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(ConfigError, match="pyramid"):
        ModalityTranslator(1, network="small", encoder_weights="rendered")
