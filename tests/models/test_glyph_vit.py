"""The small vision transformer that ships with weights: what it was made from, and what they are worth."""

import json
from importlib.resources import files

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from pvision.adapters import LoRA, add_adapters
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream, Preprocessing
from pvision.errors import DataError
from pvision.models import GlyphViT, VisionTransformer, _vit_weights, weights_sha256

FILE = files("pvision.models").joinpath("glyphs.safetensors")


@pytest.fixture(scope="module")
def digits():
    """Training and test images as DigitsStream serves them, with labels."""
    stream = DigitsStream(
        scenario=ClassIncremental(experiences=1),
        preprocessing=Preprocessing(resize=16, mean=(0.5,), std=(0.5,)),
    )
    stream.prepare_sources()
    return [
        (torch.stack([stream.preprocessing.eval(source.image(at)) for at in range(len(source))]), source.labels)
        for source in (stream.train_source, stream.test_source)
    ]


def accuracy_by_class_means(network, digits):
    """How many test digits lie next to their class's mean feature."""
    network.eval()
    with torch.no_grad():
        (train, labels), (test, truth) = ((network(images), torch.as_tensor(names)) for images, names in digits)
    centre = train.mean(0)
    means = torch.stack([train[labels == digit].mean(0) for digit in range(10)]) - centre
    nearest = (F.normalize(test - centre) @ F.normalize(means).T).argmax(1)
    return (nearest == truth).float().mean().item()


def test_its_features_tell_digits_that_it_never_saw(digits):
    trained = accuracy_by_class_means(GlyphViT(), digits)
    random = accuracy_by_class_means(GlyphViT(weights=None), digits)
    assert trained > 0.8
    assert trained > random + 0.2


def test_it_is_the_vision_transformer_of_its_sizes():
    sizes = {"image_size": 16, "patch_size": 4, "channels": 1, "width": 64, "depth": 4, "heads": 4}
    network = VisionTransformer(**sizes, weights="glyphs")
    assert weights_sha256(network) == weights_sha256(GlyphViT()) != weights_sha256(GlyphViT(weights=None))
    assert network.norm.weight.dtype == torch.float32
    assert (GlyphViT().feature_dim, GlyphViT().image_size) == (64, 16)


def test_it_takes_adapters():
    images = torch.rand(2, 1, 16, 16)
    adapted = add_adapters(GlyphViT(), LoRA(rank=2))
    assert len(adapted.layers) == 8
    assert torch.equal(adapted(images), GlyphViT()(images))


def test_the_file_says_where_it_comes_from():
    with safe_open(str(FILE), "pt") as file:
        facts = json.loads(file.metadata()["pvision"])
    assert facts["made_by"] == "benchmarks/pretrain_glyphs.py"
    assert "Apache-2.0" in facts["licence"]
    assert VisionTransformer(**facts["network"], weights="glyphs").feature_dim == 64
    assert (facts["mean"], facts["std"]) == (0.5, 0.5)
    assert len(FILE.read_bytes()) < 600_000


def test_a_damaged_file_is_refused(monkeypatch):
    monkeypatch.setitem(_vit_weights.SHIPPED, "glyphs", ("glyphs.safetensors", "0" * 64))
    with pytest.raises(DataError, match="is damaged"):
        GlyphViT()
