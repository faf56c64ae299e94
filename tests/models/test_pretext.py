"""Losses without labels: what they see, what they never see, and that networks learn by them."""

import inspect

import pytest
import torch
from torch import nn

from pvision.errors import ConfigError, DataError
from pvision.models import MaskedReconstruction, MotionEncoder, MotionNet, PublicPretext, RotationPretext, TubeletViT
from pvision.models.pretext import _block, _choose

CLIP = (4, 16, 16)


def vit(**settings):
    return TubeletViT(3, **{"clip": CLIP, "tubelet": (2, 4, 4), "width": 16, "depth": 2, "heads": 2, **settings})


def clips(count=4, seed=1):
    """Clips with a slope from dark to bright, so that up and down differ, and a redacted box."""
    generator = torch.Generator().manual_seed(seed)
    video = 0.3 * torch.rand(count, 3, *CLIP, generator=generator)
    video += torch.linspace(0, 0.7, CLIP[1]).view(-1, 1) * torch.linspace(0.5, 1, CLIP[2])
    mask = torch.zeros(count, *CLIP, dtype=torch.bool)
    mask[:, :, 5:9, 6:11] = True
    return video.masked_fill(mask.unsqueeze(1), 0.5), mask


def trained(pretext, video, mask, steps=60, rate=3e-3):
    """The mean loss of the first and of the last ten steps."""
    optimizer = torch.optim.Adam([p for p in pretext.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        loss = pretext(video, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[:10]) / 10, sum(losses[-10:]) / 10


PRETEXTS = {"rotation": RotationPretext, "reconstruction": MaskedReconstruction}


@pytest.fixture(params=sorted(PRETEXTS))
def pretext(request):
    return PRETEXTS[request.param](vit())


# Both


def test_a_pretext_cannot_be_given_labels(pretext):
    assert isinstance(pretext, PublicPretext)
    assert list(inspect.signature(pretext.forward).parameters) == ["video", "mask"]
    with pytest.raises(TypeError):
        pretext(*clips(), torch.zeros(4, dtype=torch.int64))


def test_training_it_trains_the_network_that_was_given(pretext):
    network = pretext.network
    before = {name: value.clone() for name, value in network.named_parameters()}
    first, last = trained(pretext, *clips())
    assert last < 0.9 * first
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    # The bias of the keys has no effect under a softmax, and queries come with them; the classifier is not used.
    assert set(before) - changed == {"head.weight", "head.bias"}


def test_a_clip_gets_the_loss_that_it_gets_alone(pretext):
    video, mask = clips()
    pretext, video = pretext.double(), video.double()
    mask[1], mask[2] = False, True  # nothing redacted in one, everything in another
    alone = []
    for index in range(4):
        torch.manual_seed(3)  # the same draws for each clip: the draws of a batch are its rows
        draws = torch.rand(4, 32)[index]
        alone.append(with_draws(pretext, video[index : index + 1], mask[index : index + 1], draws[None]))
    torch.manual_seed(3)
    together = with_draws(pretext, video, mask, torch.rand(4, 32))
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-10, atol=0)


def with_draws(pretext, video, mask, draws):
    """The loss for given lots of the tubelets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **_: draws)
        return pretext(video, mask)


def test_no_clips_have_no_loss_and_can_be_stepped(pretext):
    video, mask = clips()
    loss = pretext(video[:0], mask[:0])
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in pretext.parameters())


def test_what_does_not_fit_is_refused(pretext):
    video, mask = clips()
    with pytest.raises(DataError, match="mask must be bool"):
        pretext(video, mask.float())
    with pytest.raises(DataError, match="mask must be bool"):
        pretext(video, mask[:, 1:])
    with pytest.raises(DataError, match=r"video.float\(\) / 255"):
        pretext((video * 255).to(torch.uint8), mask)
    with pytest.raises(DataError, match="this network was built"):
        pretext(video[:, :, 2:], mask[:, 2:])


# Rotation


def test_every_network_learns_by_rotation(network, videos):
    pretext = RotationPretext(network)
    loss = pretext(videos, torch.zeros(videos.shape[0], *videos.shape[2:], dtype=torch.bool))
    assert loss.shape == ()
    loss.backward()
    trunk = [p for name, p in network.named_parameters() if not name.startswith("head.")]
    assert sum(p.grad is not None and bool(p.grad.any()) for p in trunk) > 0.7 * len(trunk)


def test_rotation_is_learned():
    pretext = RotationPretext(MotionNet(2, init="random"))
    nn.init.zeros_(pretext.head.weight)
    assert pretext(*clips(8)).item() > 1.2, "four answers are equally likely at first: log 4 is 1.39"
    assert trained(pretext, *clips(8), steps=40)[1] < 0.2


def test_the_answer_is_the_turn_that_was_made():
    """A network that sees in which corner a bright square is; its head is set by hand, so the loss is 0."""

    class Corners(nn.Module):
        feature_dim = 4

        def features(self, video):
            half = video.mean((1, 2))[:, [0, 0, -1, -1], [0, -1, 0, -1]]
            return 100 * half

    pretext = RotationPretext(Corners())
    video = torch.zeros(2, 3, 2, 8, 8)
    video[..., 0, 0] = 1
    # A quarter turn counter-clockwise takes the corner at the top left to the bottom left, bottom right, top right.
    order = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    pretext.head.weight.data, pretext.head.bias.data = order.float(), torch.zeros(4)
    assert pretext(video, torch.zeros(2, 2, 8, 8, dtype=torch.bool)).item() < 1e-6
    pretext.head.weight.data = order.flip(0).float()
    assert pretext(video, torch.zeros(2, 2, 8, 8, dtype=torch.bool)).item() > 10


def test_clips_that_are_not_square_are_turned_upside_down_only():
    seen = []

    class Shapes(nn.Module):
        feature_dim = 1

        def features(self, video):
            seen.append(video)
            return video.flatten(1)[:, :1]

    pretext = RotationPretext(Shapes())
    pretext.head.weight.data.zero_()
    pretext.head.bias.data.zero_()
    video = torch.rand(2, 3, 2, 4, 6)
    loss = pretext(video, torch.zeros(2, 2, 4, 6, dtype=torch.bool))
    assert [part.shape for part in seen] == [video.shape] * 2
    assert torch.equal(seen[1], video.flip(-1, -2))
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())


@pytest.mark.parametrize("network", [nn.Linear(3, 3), nn.Identity()])
def test_a_network_without_features_is_refused(network):
    with pytest.raises(ConfigError, match="features"):
        RotationPretext(network)


def test_a_frozen_trunk_stays_frozen():
    encoder = MotionEncoder(init="random")
    video, mask = clips()
    RotationPretext(encoder)(video, mask).backward()
    assert all(p.grad is None for p in encoder.parameters())


# Reconstruction


def adversarial():
    """Contents behind the mask: noise, extremes, and what no arithmetic survives."""
    noise = [torch.rand(4, 3, *CLIP, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    return [*noise, *(torch.full((4, 3, *CLIP), value) for value in (0.0, 1.0, 1e30, float("inf"), float("nan")))]


def run(pretext, video, mask):
    torch.manual_seed(5)
    pretext.zero_grad()
    loss = pretext(video, mask)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in pretext.parameters() if p.grad is not None)]


def test_loss_and_gradients_depend_on_no_redacted_pixel():
    pretext = MaskedReconstruction(vit())
    video, mask = clips()
    expected = run(pretext, video, mask)
    for content in adversarial():
        other = torch.where(mask.unsqueeze(1), content, video)
        assert all(torch.equal(a, b) for a, b in zip(run(pretext, other, mask), expected, strict=True))


def test_the_comparison_can_fail():
    pretext = MaskedReconstruction(vit())
    video, mask = clips()
    other = video.clone()
    other[:, :, 0, 0, 0] = 0.9
    assert not torch.equal(run(pretext, other, mask)[0], run(pretext, video, mask)[0])


def test_a_tubelet_with_one_redacted_pixel_is_not_public():
    pretext = MaskedReconstruction(vit())
    mask = torch.zeros(1, *CLIP, dtype=torch.bool)
    assert pretext.public_tubelets(mask).all()
    mask[0, 3, 15, 15] = True
    assert (~pretext.public_tubelets(mask)).nonzero().tolist() == [[0, 31]]


def test_the_places_of_public_tubelets_are_those_of_the_network():
    network = vit()
    mask = torch.rand(5, *CLIP, generator=torch.Generator().manual_seed(2)) < 0.02
    cut = network._tubelets(mask.unsqueeze(1).expand(-1, 3, -1, -1, -1).float())
    assert torch.equal(MaskedReconstruction(network).public_tubelets(mask), cut.sum(-1) == 0)


@pytest.mark.parametrize(
    ("public", "kept"), [(32, 8), (31, 8), (4, 1), (3, 1), (2, 1), (1, 1), (0, 0)], ids=lambda value: str(value)
)
def test_a_part_of_the_public_tubelets_is_shown(public, kept):
    allowed = torch.zeros(3, 32, dtype=torch.bool)
    allowed[:, :public] = True
    chosen = _choose(allowed[:, torch.randperm(32)], 0.75)
    assert chosen.visible.sum(1).tolist() == [kept] * 3


def test_the_choice_differs_from_clip_to_clip_and_takes_every_tubelet_in_turn():
    chosen = _choose(torch.ones(2000, 8, dtype=torch.bool), 0.5).visible
    assert torch.allclose(chosen.float().mean(0), torch.tensor(0.5), atol=0.06)
    assert len(chosen.unique(dim=0)) == 70


def test_a_clip_without_two_public_tubelets_teaches_nothing():
    pretext = MaskedReconstruction(vit())
    video, _ = clips()
    mask = torch.ones(4, *CLIP, dtype=torch.bool)
    mask[1, :2, :4, :4] = False
    loss = pretext(video, mask)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in pretext.parameters())


def test_blocks_without_padding_are_the_networks_own():
    network = vit().double()
    tokens = torch.rand(2, 7, 16, dtype=torch.double)
    own = network.blocks[0](tokens)
    torch.testing.assert_close(_block(network.blocks[0], tokens, torch.ones(2, 7, dtype=torch.bool)), own)
    padded = torch.cat([tokens, torch.rand(2, 3, 16, dtype=torch.double)], 1)
    real = torch.arange(10).expand(2, -1) < 7
    torch.testing.assert_close(_block(network.blocks[0], padded, real)[:, :7], own)


def test_the_encoder_sees_the_visible_tubelets_alone():
    """Against a twin that cuts out the visible tubelets clip by clip."""
    pretext = MaskedReconstruction(vit()).double()
    network = pretext.network
    video, mask = clips()
    mask[2] = False
    tubelets = network._tubelets(2 * video.double() - 1)
    chosen = _choose(pretext.public_tubelets(mask), 0.6)
    encoded = pretext._encoded(tubelets, chosen)
    for index in range(4):
        places = chosen.visible[index].nonzero().flatten()
        tokens = (network.embed(tubelets[index, places]) + network.positions[places]).unsqueeze(0)
        for block in network.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(encoded[index, places], pretext.hand_over(network.norm(tokens))[0])


def test_the_target_is_the_normalised_tubelet():
    pretext = MaskedReconstruction(vit())
    nn.init.zeros_(pretext.pixels.weight)
    nn.init.zeros_(pretext.pixels.bias)
    video, mask = clips()
    # A prediction of nothing is off by the variance of the target, which is 1, less what keeps flat ones finite.
    assert pretext(video, mask).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MaskedReconstruction(MotionNet(2, init="random")), "needs a TubeletViT.*MotionNet.*RotationPretext"),
        (lambda: MaskedReconstruction(vit(), drop=1.0), "drop must be a number strictly between 0 and 1"),
        (lambda: MaskedReconstruction(vit(), drop=0), "drop must be"),
        (lambda: MaskedReconstruction(vit(), depth=0), "depth must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
