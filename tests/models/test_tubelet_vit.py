import pytest
import torch
from torch.nn import functional as F

from pvision.errors import ConfigError
from pvision.models import TubeletViT


def test_a_token_is_one_tubelet_of_one_place():
    vit = TubeletViT(2, clip=(4, 8, 12), tubelet=(2, 4, 3), width=8, heads=2, depth=1)
    video = torch.rand(2, 3, 4, 8, 12)
    tokens = [
        video[:, :, t : t + 2, h : h + 4, w : w + 3].flatten(1)
        for t in range(0, 4, 2)
        for h in range(0, 8, 4)
        for w in range(0, 12, 3)
    ]
    assert torch.equal(vit._tubelets(video), torch.stack(tokens, 1))


def test_attention_equals_the_fused_kernel():
    attention = TubeletViT(2, width=24, heads=3, depth=1).double().blocks[0].attention
    tokens = torch.rand(2, 10, 24, dtype=torch.double)
    queries, keys, values = (
        part.reshape(2, 10, 3, 8).transpose(1, 2) for part in attention.queries_keys_values(tokens).split(24, -1)
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(2, 10, 24)
    torch.testing.assert_close(attention(tokens), attention.project(mixed))


def test_the_place_of_a_tubelet_matters():
    vit = TubeletViT(2, clip=(4, 16, 16), tubelet=(2, 8, 8), width=16, depth=1)
    video = torch.rand(1, 3, 4, 16, 16)
    assert not torch.allclose(vit.features(video), vit.features(video.roll(8, -1)), atol=1e-4)


def test_the_head_starts_at_zero():
    assert not TubeletViT(2, clip=(2, 8, 8), depth=1)(torch.rand(1, 3, 2, 8, 8)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": (7, 48, 48)}, r"tubelet frames must divide clip frames, but 2 does not divide 7.*Choose one of 1, 7"),
        ({"clip": (8, 50, 48)}, "tubelet height must divide clip height, but 8 does not divide 50"),
        ({"clip": (8, 48, 50)}, "tubelet width must divide clip width"),
        ({"tubelet": (2, 0, 8)}, "tubelet height must be a whole number of at least 1, but 0 came"),
        ({"clip": (8, 48)}, r"clip must be \(frames, height, width\)"),
        ({"width": 90}, "width must be a multiple of heads, but width 90 and heads 4 came"),
        ({"heads": 0}, "heads must be a whole number"),
        ({"depth": -1}, "depth must be a whole number"),
        ({"mlp_ratio": 1.5}, "mlp_ratio must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TubeletViT(2, **arguments)
