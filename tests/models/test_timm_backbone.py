"""timm's networks as feature extractors, without a connection."""

import socket
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.models import TimmBackbone

TINY = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("this test has no connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def published():
    """A network with a classifier, in place of published weights."""
    torch.manual_seed(5)
    network = timm.create_model(TINY, pretrained=False, num_classes=9).eval()
    torch.nn.init.normal_(network.cls_token)
    return network


@pytest.fixture(scope="module")
def weights(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(published.state_dict(), path)
    return str(path)


def test_random_weights_need_no_connection():
    backbone = TimmBackbone(TINY, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    assert backbone(images).shape == (2, backbone.feature_dim) == (2, 192)
    assert backbone.image_size == 32
    assert torch.equal(backbone.encode(backbone.embed(images)), backbone(images))


def test_the_size_is_the_networks_own_unless_given():
    assert TimmBackbone(TINY).image_size == 224


def test_pretrained_alone_reaches_for_the_web(monkeypatch):
    asked = []

    def create(name, *, pretrained, num_classes, **_):
        asked.append(pretrained)
        return real(name, pretrained=False, num_classes=num_classes)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    TimmBackbone(TINY)
    TimmBackbone(TINY, pretrained=True)
    assert asked == [False, True]


def test_a_failed_download_says_what_to_do(monkeypatch):
    def create(*args, **kwargs):
        raise ConnectionError("no route to host.")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        ConfigError, match=r"no route to host\. Check the name and the connection, or give a local file"
    ):
        TimmBackbone(TINY, pretrained=True)


def test_a_local_file_is_loaded_without_its_classifier(published, weights):
    images = torch.randn(1, 3, 224, 224)
    features = published.forward_head(published.forward_features(images), pre_logits=True)
    torch.testing.assert_close(TimmBackbone(TINY, weights=weights).eval()(images), features)


def test_a_pickle_of_tensors_is_loaded(published, tmp_path):
    torch.save(published.state_dict(), tmp_path / "tiny.pth")
    backbone = TimmBackbone(TINY, weights=str(tmp_path / "tiny.pth"))
    assert torch.equal(backbone.network.cls_token, published.cls_token)


def test_a_pickle_with_code_is_refused(published, tmp_path):
    torch.save(published, tmp_path / "tiny.pth")
    with pytest.raises(DataError, match="holds code, which is never run"):
        TimmBackbone(TINY, weights=str(tmp_path / "tiny.pth"))


def test_positions_follow_the_image_size(published, weights):
    smaller = timm.create_model(TINY, pretrained=False, num_classes=9).eval()
    smaller.load_state_dict(published.state_dict())
    smaller.set_input_size((64, 64))
    backbone = TimmBackbone(TINY, weights=weights, image_size=64)
    torch.testing.assert_close(backbone.network.pos_embed, smaller.pos_embed)


def test_prompts_after_the_class_token_change_the_features():
    backbone = TimmBackbone(TINY, image_size=32).eval()
    tokens = backbone.embed(torch.randn(2, 3, 32, 32))
    assert tokens.shape == (2, 5, 192)
    prompted = torch.cat([tokens[:, :1], torch.randn(2, 3, 192), tokens[:, 1:]], 1)
    assert not torch.allclose(backbone.encode(prompted), backbone.encode(tokens), atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "vit_base_patch16_siglip_224"])
def test_networks_without_a_class_token_have_no_place_for_prompts(name, monkeypatch):
    small = {"embed_dim": 12, "depth": 1, "num_heads": 1} if name.startswith("vit") else {"layers": [1, 1, 1, 1]}
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: real(name, **settings, **small))
    backbone = TimmBackbone(name).eval()
    with pytest.raises(ConfigError, match="has no class token"):
        backbone.embed(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ConfigError, match="has no class token"):
        backbone.encode(torch.zeros(1, 5, 12))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "vit_tiny_patch16_225"}, "Did you mean vit_tiny_patch16_224"),
        ({"name": "qqqq"}, "timm.list_models"),
        ({"name": "hf-hub:some/model"}, "must be one of timm's networks"),
        ({"name": "vit_tiny_patch16_224.none"}, "Invalid pretrained tag"),
        ({"name": TINY, "pretrained": True, "weights": "x.pth"}, "Give one of them"),
        ({"name": TINY, "image_size": 0}, "image_size must be a whole number"),
        ({"name": TINY, "weights": "none.safetensors"}, "there is no file"),
        ({"name": "resnet18", "image_size": 64}, "image_size: resnet18 takes images of any size"),
    ],
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        TimmBackbone(**settings)


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(ConfigError, match="shapes differ"):
        TimmBackbone("vit_small_patch16_224", weights=weights)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pvision\[adapters\]'"):
        TimmBackbone(TINY)
