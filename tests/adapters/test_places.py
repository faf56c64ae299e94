"""Where adapters can sit, and how places are named and chosen."""

import pytest
import torch
from torch import nn

from pvision.adapters import Bottleneck, LoRA, Prefix, add_adapters, find_places
from pvision.adapters.places import Place
from pvision.adapters.targets import listed
from pvision.errors import ConfigError
from pvision.models.tubelet_vit import TubeletViT

BLOCK_ONE = {
    "timm": {
        "blocks.1.attn": "attention", "blocks.1.attn.qkv": "qkv", "blocks.1.attn.qkv.q": "q",
        "blocks.1.attn.qkv.k": "k", "blocks.1.attn.qkv.v": "v", "blocks.1.attn.proj": "o", "blocks.1.mlp": "mlp",
        "blocks.1.mlp.fc1": "fc1", "blocks.1.mlp.fc2": "fc2",
    },
    "torchvision": {
        f"encoder.layers.encoder_layer_1.{name}": role
        for name, role in {
            "self_attention": "attention", "self_attention.in_proj": "qkv", "self_attention.q": "q",
            "self_attention.k": "k", "self_attention.v": "v", "self_attention.out_proj": "o", "mlp": "mlp",
            "mlp.0": "fc1", "mlp.3": "fc2",
        }.items()
    },
    "hugging_face": {
        f"network.vit.layers.1.{name}": role
        for name, role in {
            "attention": "attention", "attention.q_proj": "q", "attention.k_proj": "k", "attention.v_proj": "v",
            "attention.o_proj": "o", "mlp": "mlp", "mlp.fc1": "fc1", "mlp.fc2": "fc2",
        }.items()
    },
}  # fmt: skip
HEADS = {"timm": "head", "torchvision": "heads.head", "hugging_face": "network.classifier"}


def test_every_layer_of_a_block_has_its_role(network, family):
    places = find_places(network)
    assert {place.name: place.role for place in places if place.block == 1} == BLOCK_ONE[family]
    assert [(place.name, place.role) for place in places if place.block is None] == [(HEADS[family], "linear")]


def test_thirds_lie_where_the_network_splits_them(network, family):
    first = {place.role: place.first_row for place in find_places(network) if place.block == 0}
    expected = (0, 0, 0) if family == "hugging_face" else (0, 24, 48)
    assert (first["q"], first["k"], first["v"]) == expected


def test_our_own_video_network_has_roles_too():
    places = find_places(TubeletViT(3, clip=(2, 8, 8), tubelet=(2, 4, 4), width=8, depth=1, heads=2))
    assert {place.role for place in places if place.block == 0} >= {"q", "k", "v", "o", "fc1", "fc2", "mlp"}


def test_a_projection_deep_inside_a_block_belongs_to_it():
    attention = nn.ModuleDict(
        {"attention": nn.ModuleDict({name: nn.Linear(4, 4) for name in ("query", "key", "value")})}
    )
    network = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"attention": attention})])})
    places = {place.name: (place.role, place.block) for place in find_places(network)}
    assert places["layer.0.attention.attention.query"] == ("q", 0)


@pytest.mark.parametrize(("name", "thirds"), [("swin", True), ("maxvit", False), ("foreign", False)])
def test_a_fused_matrix_is_divided_only_where_its_order_is_known(name, thirds):
    timm = pytest.importorskip("timm")
    if name == "swin":
        attention = timm.models.swin_transformer.WindowAttention(12, num_heads=3, window_size=2)
    elif name == "maxvit":
        attention = timm.models.maxxvit.AttentionCl(12, dim_head=4, head_first=True)
    else:
        attention = nn.ModuleDict({"qkv": nn.Linear(12, 36), "proj": nn.Linear(12, 12)})
    places = find_places(nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": attention})])}))
    assert {place.role for place in places} >= {"qkv", "o"}
    assert ("q" in {place.role for place in places}) == thirds


def test_a_layer_that_the_network_never_calls_is_refused():
    torchvision = pytest.importorskip("torchvision")
    swin = torchvision.models.swin_transformer.SwinTransformer([4, 4], 12, [2], [3], [2, 2], num_classes=5)
    adapted, images = add_adapters(swin, LoRA(rank=2)), torch.randn(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"computes with the weights of features\.1\.0\.attn\.qkv without calling it"):
        adapted(images)
    adapted.remove("adapter").add(LoRA(rank=2), name="other", targets=("fc1",))(images)


def test_roles_count_inside_blocks_only():
    timm = pytest.importorskip("timm")
    pooling = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=5, global_pool="map"
    )
    outside = [place for place in find_places(pooling) if place.role == "q" and place.block is None]
    assert outside, "the pooling layer has queries, or nothing is tested"
    adapted = add_adapters(pooling, LoRA(rank=2), targets=("q", "fc1"))
    assert [layer.name for layer in adapted.layers] == ["blocks.0.attn.qkv.q", "blocks.0.mlp.fc1"]


@pytest.mark.parametrize(
    ("targets", "blocks", "names"),
    [
        ("q", None, [f"blocks.{block}.attn.qkv.q" for block in range(3)]),
        (("v", "q"), [2], ["blocks.2.attn.qkv.q", "blocks.2.attn.qkv.v"]),
        (r"blocks\.[01]\.mlp\.fc\d", None, [f"blocks.{block}.mlp.fc{n}" for block in (0, 1) for n in (1, 2)]),
        (("head",), None, ["head"]),
        (("qkv",), [0], ["blocks.0.attn.qkv"]),
        (("blocks.1.attn.proj", "o"), [1, 2], ["blocks.1.attn.proj", "blocks.2.attn.proj"]),
    ],
)
def test_places_are_chosen_by_role_name_or_expression(make_network, targets, blocks, names):
    adapted = add_adapters(make_network(), LoRA(rank=2), targets=targets, blocks=blocks)
    assert [layer.name for layer in adapted.layers] == names


@pytest.mark.parametrize(
    ("targets", "blocks", "message"),
    [
        ("query", None, r"no linear layer meets 'query'\. There are: blocks\.\*\.attn\.qkv \(qkv, 3 of.*head \(lin"),
        (("q", "fc3"), None, "meets 'fc3'"),
        ("mlp", None, "no linear layer meets 'mlp'"),
        ("head", [0], r"in the blocks \[0\]"),
        ("(", None, "no regular expression"),
        ((), None, "targets must be roles"),
        (("q", 3), None, "targets must be roles"),
        ("q", [3], r"\(0 to 2\), but \[3\] came"),
        ("q", [], "blocks must name"),
        ("q", [-1], "blocks must be a whole number"),
    ],
)  # fmt: skip
def test_a_target_without_a_layer_is_refused_with_those_that_exist(make_network, targets, blocks, message):
    network = make_network()
    with pytest.raises(ConfigError, match=message):
        add_adapters(network, LoRA(rank=2), targets=targets, blocks=blocks)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("network", "method", "message"),
    [
        (nn.Conv2d(3, 3, 3), LoRA(rank=2), "no linear layer"),
        (nn.Sequential(nn.Linear(4, 4)), Bottleneck(width=2), "no whole MLP"),
        (TubeletViT(3, clip=(2, 8, 8), tubelet=(2, 4, 4), width=8, depth=1, heads=2), Prefix(length=2), "no attention"),
    ],
)
def test_a_network_without_any_fitting_layer_is_refused(network, method, message):
    with pytest.raises(ConfigError, match=message):
        add_adapters(network, method)


def test_a_linear_layer_anywhere_can_be_adapted():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    adapted = add_adapters(network, LoRA(rank=2), targets=".*")
    assert [layer.name for layer in adapted.layers] == ["0", "2"]
    assert adapted(torch.ones(1, 6)).shape == (1, 2)


def test_a_long_listing_stays_short():
    places = [Place(f"layer{chr(97 + n % 26)}{n}x", "linear", None, "m", 1, 1) for n in range(100)]
    assert listed(places).endswith("and 60 more")


def test_timms_beit_says_which_switch_lets_it_be_adapted():
    timm = pytest.importorskip("timm")
    beit = timm.models.beit.Beit(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, use_rel_pos_bias=False
    ).eval()
    adapted, images = add_adapters(beit, LoRA(rank=2)), torch.randn(2, 3, 16, 16)
    with pytest.raises(ConfigError, match="set its qkv_bias_separate to True"):
        adapted(images)
    for block in beit.blocks:
        block.attn.qkv_bias_separate = True
    torch.nn.init.normal_(beit.head.weight)
    for layer in adapted.layers:
        torch.nn.init.normal_(layer.adapters["adapter"].up)
    with torch.no_grad():
        unmerged = adapted(images)
        with adapted.disabled():
            assert (adapted(images) - unmerged).abs().max() > 1e-3
        assert (adapted.merge()(images) - unmerged).abs().max() <= 2e-5


def test_keys_and_values_alone_are_no_three_thirds():
    timm = pytest.importorskip("timm")
    attention = timm.models.gcvit.WindowAttentionGlobal(12, num_heads=3, window_size=(2, 2), use_global=True)
    assert attention.qkv.out_features == 24, "two thirds, and yet divisible by three"
    places = find_places(nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": attention})])}))
    assert not {"q", "k", "v"} & {place.role for place in places}
