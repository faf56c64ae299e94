"""The vision transformer: timm's network by another name, cut where features are taken, loaded whole or not at all."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pvision.adapters import Bottleneck, LoRA, add_adapters, find_places
from pvision.errors import ConfigError, DataError
from pvision.models import VisionTransformer

SIZES = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 3}
TINY = {"width": 192, "depth": 12, "heads": 3}


def saved(path, network):
    save_file(network.state_dict(), path)
    return str(path)


@pytest.fixture
def network():
    return VisionTransformer(**SIZES)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def timm_network(**settings):
    """timm's network of the same sizes, with values that make every parameter count."""
    torch.manual_seed(0)
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, **{"num_classes": 0, **settings}
    )
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return network.eval()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_timm_state_dict_gives_what_timm_gives(dtype, bound):
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).to(dtype).eval()
    torch.nn.init.normal_(theirs.cls_token)
    ours = VisionTransformer(**TINY).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224, dtype=dtype)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() <= bound


def test_layer_scale_and_mlp_ratio_are_timms(images):
    theirs = timm_network(init_values=1e-5, mlp_ratio=2.5)
    ours = VisionTransformer(**SIZES, layer_scale=True, mlp_ratio=2.5)
    assert ours.state_dict()["blocks.0.ls1.gamma"].tolist() == pytest.approx([1e-5] * 24)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("feature_block", "built"), [(-1, 3), (-2, 2), (0, 1), (2, 3)])
def test_features_come_from_the_block_asked_for_and_later_ones_are_not_built(tmp_path, images, feature_block, built):
    theirs = timm_network()
    weights = saved(tmp_path / "timm.safetensors", theirs)
    ours = VisionTransformer(**SIZES, feature_block=feature_block, weights=weights)
    tokens = theirs.forward_intermediates(images, indices=[built - 1], norm=True, return_prefix_tokens=True)[1][0][1]
    assert len(ours.blocks) == built
    torch.testing.assert_close(ours(images), tokens[:, 0], rtol=0, atol=1e-5)


def test_a_network_without_its_last_block_loads_its_own_weights(tmp_path, images):
    first = VisionTransformer(**SIZES, feature_block=-2)
    again = VisionTransformer(**SIZES, feature_block=-2, weights=saved(tmp_path / "own.safetensors", first))
    assert torch.equal(first(images), again(images))


def test_prompts_after_the_class_token_change_the_features(network, images):
    tokens = network.embed(images)
    assert tokens.shape == (2, 17, 24)
    assert torch.equal(network.encode(tokens), network(images))
    prompts = torch.randn(2, 5, 24)
    prompted = network.encode(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1))
    assert prompted.shape == (2, 24)
    assert not torch.allclose(prompted, network(images), atol=1e-3)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16), batch=st.integers(1, 4), train=st.booleans())
def test_an_image_knows_nothing_of_the_others(seed, batch, train):
    torch.manual_seed(seed)
    network = VisionTransformer(**SIZES).train(train)
    images, others = torch.randn(2, batch, 3, 32, 32)
    others[0] = images[0]
    assert torch.equal(network(images)[0], network(others)[0])


def test_adapters_find_timms_places(network):
    theirs = find_places(timm_network())
    places = find_places(network)
    assert places == theirs
    assert {"q", "k", "v", "qkv", "o", "fc1", "fc2", "mlp", "attention"} <= {place.role for place in places}
    assert {place.block for place in places} >= {0, 1, 2}


def test_adapters_change_and_merge(network, images):
    before = network(images)
    adapted = add_adapters(network, LoRA(rank=2), targets=("q", "k", "v", "o", "fc1", "fc2"))
    assert torch.equal(adapted(images), before)
    torch.nn.init.normal_(next(layer for layer in adapted.layers if layer.place.role == "v").adapters["adapter"].up)
    changed = adapted(images)
    assert not torch.allclose(changed, before, atol=1e-4)
    torch.testing.assert_close(adapted.merge()(images), changed, rtol=0, atol=2e-5)


def test_a_bottleneck_sits_beside_each_mlp(network, images):
    adapted = add_adapters(network, Bottleneck(width=2))
    assert [layer.place.name for layer in adapted.layers] == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]
    torch.testing.assert_close(adapted(images), network(images))


def test_positions_of_another_grid_are_interpolated_as_timm_does(tmp_path):
    theirs = timm_network()
    weights = saved(tmp_path / "timm.safetensors", theirs)
    for size in (16, 48):
        theirs = timm_network()
        theirs.set_input_size((size, size))
        ours = VisionTransformer(**{**SIZES, "image_size": size}, weights=weights)
        images = torch.randn(2, 3, size, size)
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


def test_colour_weights_see_grey_images_as_three_equal_channels(tmp_path):
    colour = VisionTransformer(**SIZES)
    grey = VisionTransformer(**SIZES, channels=1, weights=saved(tmp_path / "colour.safetensors", colour))
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=0, atol=1e-5)


def test_a_classifier_in_the_file_is_left_out(tmp_path, images):
    weights = saved(tmp_path / "timm.safetensors", theirs := timm_network(num_classes=7))
    features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(VisionTransformer(**SIZES, weights=weights)(images), features, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 48}, "shapes differ"),
        ({"mlp_ratio": 2.0}, "blocks.0.mlp.fc1.bias (48,) (96,)"),
        ({"depth": 4}, "only the network has blocks.3.attn.proj.bias"),
        ({"depth": 2}, "blocks.2.attn.proj.bias"),
        ({"layer_scale": True}, "only the network has blocks.0.ls1.gamma"),
        ({"patch_size": 16}, "patch_embed.proj.weight (24, 3, 16, 16) (24, 3, 8, 8)"),
        ({"channels": 4}, "patch_embed.proj.weight (24, 4, 8, 8) (24, 3, 8, 8)"),
    ],
)
def test_weights_of_other_sizes_are_refused_with_what_differs(tmp_path, network, settings, says):
    weights = saved(tmp_path / "w.safetensors", network)
    with pytest.raises(ConfigError) as refusal:
        VisionTransformer(**{**SIZES, **settings}, weights=weights)
    assert says in str(refusal.value)


def test_a_misnamed_parameter_is_refused(tmp_path, network):
    state = network.state_dict()
    state["norm.gain"] = state.pop("norm.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"only the network has norm\.weight; only .* has norm\.gain"):
        VisionTransformer(**SIZES, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"])
def test_a_parameter_without_its_axes_is_refused(tmp_path, network, name):
    save_file(network.state_dict() | {name: torch.zeros(5)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=rf"shapes differ \(network, weights\) {name}"):
        VisionTransformer(**SIZES, channels=1, weights=str(tmp_path / "w.safetensors"))


def test_missing_and_damaged_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        VisionTransformer(**SIZES, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigError, match="weights must be None, 'glyphs' or the path"):
        VisionTransformer(**SIZES, weights="glyph")
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no readable safetensors"):
        VisionTransformer(**SIZES, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patch_size": 7}, "patch_size must divide image_size, but 7 does not divide 32. Resize the images to 28"),
        ({"image_size": 4}, "Resize the images to 8 pixels"),
        ({"heads": 5}, "heads must divide width"),
        ({"depth": 0}, "depth must be a whole number"),
        ({"width": True}, "width must be a whole number"),
        ({"mlp_ratio": 0}, "mlp_ratio must be a finite number above 0"),
        ({"feature_block": -4}, "feature_block must be a whole number from -3 to 2"),
        ({"feature_block": 3}, "feature_block must be a whole number from -3 to 2"),
        ({"feature_block": 1.0}, "feature_block must be a whole number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        VisionTransformer(**{**SIZES, **settings})


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(2, 3, 32, 40),
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    ],
    ids=["no_batch", "grey", "other_size", "uint8"],
)
def test_other_images_are_refused(network, image):
    with pytest.raises(DataError, match=r"image must be float \(B, 3, 32, 32\)"):
        network(image)


def test_attributes(network):
    assert (network.feature_dim, network.image_size) == (24, 32)
