"""Attention layers that are written out compute what the library's own do."""

import pytest
import torch
from torch import nn

from pvision.adapters import LoRA, Prefix, add_adapters
from pvision.errors import ConfigError
from pvision.models import VisionTransformer


class OneLayer(nn.Module):
    """A block with torch's attention layer, which hands all arguments through."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"attention": nn.MultiheadAttention(12, 3, **settings)})])

    def forward(self, *args, **kwargs):
        return self.blocks[0]["attention"](*args, **kwargs)


def calls():
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    yield (tokens, tokens, tokens), {}
    yield (tokens, tokens, tokens), {"need_weights": False}
    yield (tokens, tokens, tokens), {"average_attn_weights": False}
    yield (tokens, other, other), {}
    yield (tokens, tokens, tokens), {"attn_mask": causal, "is_causal": True, "need_weights": False}
    yield (tokens, tokens, tokens), {"attn_mask": causal.float() * -3, "key_padding_mask": padding.float() * -2}
    yield (tokens, tokens, tokens), {"key_padding_mask": padding}
    yield (tokens, tokens, tokens), {"attn_mask": torch.randn(6, 5, 5)}
    yield (tokens[0], tokens[0], tokens[0]), {}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("number", range(9))
def test_torchs_attention_is_computed_as_torch_does(randomise, number, batch_first, bias):
    args, kwargs = list(calls())[number]
    if not batch_first and args[0].ndim == 3:
        args = tuple(one.transpose(0, 1) for one in args)
    adapted = add_adapters(OneLayer(batch_first=batch_first, bias=bias).double(), LoRA(rank=2), targets=("q", "v", "o"))
    randomise(adapted)
    args = tuple({id(one): one.double() for one in args}[id(one)] for one in args)
    kwargs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in kwargs.items()
    }
    ours = adapted(*args, **kwargs)
    theirs = adapted.merge()(*args, **kwargs)
    assert torch.allclose(ours[0], theirs[0], atol=1e-12)
    assert (ours[1] is None) == (theirs[1] is None)
    assert ours[1] is None or torch.allclose(ours[1], theirs[1], atol=1e-12)


def test_the_output_projection_alone_is_seen(make_network, images, randomise):
    network = make_network("torchvision")
    plain = network(images)
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=("o",)))
    unmerged = adapted(images)
    assert (unmerged - plain).abs().max() > 1e-3
    assert (adapted.merge()(images) - unmerged).abs().max() <= 2e-5


@pytest.mark.parametrize("targets", [("q",), ("o",), r".*linear\d"])
def test_torchs_fused_encoder_layer_does_not_pass_the_adapters_by(randomise, targets):
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True).eval()
    network, tokens = nn.Sequential(layer), torch.randn(2, 5, 12)
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=targets))
    with torch.no_grad():
        evaluated = adapted(tokens)
        with adapted.disabled():
            plain = adapted(tokens)
    assert (evaluated - plain).abs().max() > 1e-3
    assert torch.allclose(evaluated, adapted(tokens), atol=1e-5)


def test_attention_dropout_still_drops(make_network, images, randomise):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=3, hidden_dim=24, mlp_dim=48, attention_dropout=0.5
    )
    nn.init.normal_(network.heads.head.weight)
    adapted = randomise(add_adapters(network, LoRA(rank=2)))
    assert not torch.equal(adapted.train()(images), adapted(images))
    assert torch.equal(adapted.eval()(images), adapted(images))


def _slow_attention(layer, tokens, keys, values, family):
    """Attention with a prefix, one image and one head at a time."""
    if family == "timm":
        packed = layer.qkv(tokens).chunk(3, -1)
        out = layer.proj
    elif family == "torchvision":
        packed = nn.functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        out = layer.out_proj
    else:
        packed = (layer.q_proj(tokens), layer.k_proj(tokens), layer.v_proj(tokens))
        out = layer.o_proj
    images = []
    for q, k, v in zip(*packed, strict=True):
        heads = []
        for rows in torch.arange(24).split(8):
            scores = q[:, rows] @ torch.cat([keys[:, rows], k[:, rows]]).T / 8**0.5
            heads.append(scores.softmax(-1) @ torch.cat([values[:, rows], v[:, rows]]))
        images.append(torch.cat(heads, -1))
    return out(torch.stack(images))


def test_a_prefix_is_attended_to_by_every_token(network, family, randomise):
    adapted = randomise(add_adapters(network.double(), Prefix(length=3), blocks=[1]))
    (layer,) = adapted.layers
    prefix, tokens = layer.adapters["adapter"], torch.randn(2, 5, 24, dtype=torch.float64)
    arguments = (tokens, tokens, tokens) if family == "torchvision" else (tokens,)
    output = layer.module(*arguments)
    output = output if torch.is_tensor(output) else output[0]
    expected = _slow_attention(layer.module, tokens, prefix.keys, prefix.values, family)
    assert torch.allclose(output, expected, atol=1e-12)


def test_a_prefix_and_lora_share_a_layer(network, images, randomise):
    adapted = add_adapters(network, LoRA(rank=2), name="low", targets=("q", "v")).add(Prefix(length=2), name="prefix")
    randomise(adapted)
    both = adapted(images)
    outputs = [adapted.activate(*names)(images) for names in (("low",), ("prefix",), ())]
    assert all(not torch.allclose(both, one, atol=1e-4) for one in outputs)


def test_a_prefix_takes_no_mask(randomise):
    tokens = torch.randn(2, 5, 12)
    adapted = add_adapters(OneLayer(batch_first=True), Prefix(length=2))
    with pytest.raises(ConfigError, match="no attention mask"):
        adapted(tokens, tokens, tokens, attn_mask=torch.zeros(5, 5))


def test_a_forward_that_someone_replaced_is_left_alone(make_network):
    network = make_network("torchvision")
    layer = network.encoder.layers[1].self_attention
    layer.forward = layer.forward
    with pytest.raises(ConfigError, match=r"encoder_layer_1\.self_attention: its forward was replaced"):
        add_adapters(network, LoRA(rank=2))
    assert not any("forward" in vars(module) for module in network.modules() if module is not layer)


def test_attention_layouts_with_keys_of_their_own_have_no_thirds():
    for settings in ({"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6}):
        with pytest.raises(ConfigError, match="meets 'q'"):
            add_adapters(OneLayer(**settings), LoRA(rank=2))


def test_a_prefix_does_the_same_in_our_network_as_in_timms():
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    torch.manual_seed(0)
    ours = VisionTransformer(image_size=16, patch_size=8, width=24, depth=2, heads=3).double()
    theirs = TimmViT(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0).double()
    theirs.load_state_dict(ours.state_dict())
    adapted = [add_adapters(network, Prefix(length=3)) for network in (ours, theirs)]
    for parameters in zip(*(one.trainable_parameters().values() for one in adapted), strict=True):
        value = torch.randn_like(parameters[0])
        for parameter in parameters:
            parameter.data.copy_(value)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    features = [one(images) for one in adapted]
    assert (features[0] - features[1]).abs().max() <= 1e-12
    with adapted[0].disabled():
        assert (features[0] - ours(images)).abs().max() > 1e-3
