"""The un-noised gradient does not depend on masked content: not one bit, for any network that ships.

The path is the real one: raw clip and mask -> `Redaction` -> `TensorRecords` -> `PublicView` -> gradient.
"""

import pytest
import torch
from torch.nn import functional as F

from pvision.datamodules.records import PublicOnly, TensorRecords
from pvision.models import TubeletViT
from pvision.privacy import Redaction, as_floats, resample_mask

REDACTIONS = (Redaction(sensitive="inside", dilate=1), Redaction(sensitive="outside"))
LABEL = torch.tensor([1])


def scene(clip, redaction):
    """A clip, its mask (a moving blob with a ragged border) and what is sensitive."""
    generator = torch.Generator().manual_seed(3)
    video = torch.randint(0, 256, (1, *clip, 3), dtype=torch.uint8, generator=generator)
    frames, height, width = clip
    mask = torch.zeros(1, *clip, dtype=torch.bool)
    for frame in range(frames):
        left = frame + width // 8
        mask[0, frame, height // 4 : 3 * height // 4, left : left + width // 2] = True
    mask ^= F.max_pool3d(mask.float(), 3, 1, 1).bool() & (torch.rand(mask.shape, generator=generator) < 0.2)
    return video, mask, redaction.region(mask)


def replacements(video, region):
    """700 random and extreme contents for the sensitive pixels of one clip."""
    generator = torch.Generator().manual_seed(4)

    def noise(count):
        return torch.randint(0, 256, (count, *video.shape[1:]), dtype=torch.uint8, generator=generator)

    border = F.max_pool3d((~region).float().unsqueeze(1), (1, 3, 3), 1, (0, 1, 1)).squeeze(1).bool() & region
    steps = torch.arange(0, 256, 2, dtype=torch.uint8).view(-1, 1, 1, 1, 1)
    kinds = [
        noise(300),
        noise(100) // 128 * 255,  # every value 0 or 255
        steps.expand(-1, *video.shape[1:]),  # one grey
        torch.where(border.unsqueeze(-1), 255, noise(61) // 2).to(torch.uint8),  # a bright rim
        torch.where(border.unsqueeze(-1), 0, noise(60) // 2 + 128).to(torch.uint8),  # a dark rim
        torch.cat([video.roll(shift, -2) for shift in range(1, 12)]),  # the public scene, displaced
        torch.cat([video ^ bit for bit in (1, 2, 4, 8, 16, 32, 64, 128)]),  # one bit flipped
        noise(32) * region.unsqueeze(-1).roll(1, -2),  # only in part
    ]
    contents = torch.cat(kinds)
    return torch.where(region.unsqueeze(-1), contents, video)


def adversarial(network, video, region, *, starts=10, iterations=30):
    """300 contents on a climb of the full view's loss, by signed gradients."""
    generator = torch.Generator().manual_seed(5)
    content = torch.randint(0, 256, (starts, *video.shape[1:]), dtype=torch.uint8, generator=generator)
    current = torch.where(region.unsqueeze(-1), content, video)
    visited = []
    for _ in range(iterations):
        clip = as_floats(current.permute(0, 4, 1, 2, 3)).requires_grad_()
        loss = F.cross_entropy(network(clip), LABEL.expand(starts))
        uphill = torch.autograd.grad(loss, clip)[0].sign().permute(0, 2, 3, 4, 1)
        moved = (current.int() + 24 * uphill.int()).clamp(0, 255).to(torch.uint8)
        current = torch.where(region.unsqueeze(-1), moved, video)
        visited.append(current)
    return torch.cat(visited)


def public_view(video, mask, redaction):
    return PublicOnly(TensorRecords(video, mask, LABEL, redaction))[[0]]


def gradient(network, video, label=LABEL):
    """The gradient of an un-noised step."""
    loss = F.cross_entropy(network(as_floats(video)), label, label_smoothing=0.05)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, network.parameters())])


def same_bits(one, other):
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.slow
def test_a_thousand_replacements_change_no_bit_of_the_gradient(shipped):
    network, clip = shipped
    tried = 0
    for redaction, share in zip(REDACTIONS, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        video, mask, region = scene(clip, redaction)
        reference = public_view(video, mask, redaction)
        expected = gradient(network, reference.video)
        assert expected.any()
        contents = torch.cat([replacements(video, region), adversarial(network, video, region)])
        for content in contents[share].split(1):
            view = public_view(content, mask, redaction)
            assert torch.equal(view.video, reference.video)
            assert torch.equal(view.mask, reference.mask)
            assert same_bits(gradient(network, view.video), expected)
            tried += 1
    assert tried >= 1000


@pytest.mark.parametrize("redaction", REDACTIONS, ids=["inside", "outside"])
def test_the_replacements_replace(shipped, redaction):
    network, clip = shipped
    video, _, region = scene(clip, redaction)
    assert 0.1 < region.float().mean() < 0.9
    contents = torch.cat([replacements(video, region), adversarial(network, video, region, iterations=2)])
    assert torch.equal(contents[:, ~region[0]], video[:, ~region[0]].expand(len(contents), -1, -1))
    assert (contents[:, region[0]] != video[:, region[0]]).flatten(1).any(1).all()


def test_climbing_raises_the_loss_of_the_full_view(shipped):
    network, clip = shipped
    video, _, region = scene(clip, REDACTIONS[0])
    climb = adversarial(network, video, region, starts=2, iterations=8)
    losses = F.cross_entropy(network(as_floats(climb.permute(0, 4, 1, 2, 3))), LABEL.expand(16), reduction="none")
    assert losses[-2:].mean() > losses[:2].mean()


# Negative controls: ways to make a public gradient that are wrong, and that the comparison above convicts.


def unredacted(video, mask, redaction):
    return video


def blurred(video, mask, redaction):
    planes = video.permute(0, 1, 4, 2, 3).flatten(0, 1).float()
    smooth = F.avg_pool2d(planes, 7, 1, 3, count_include_pad=False).unflatten(0, video.shape[:2])
    smooth = smooth.permute(0, 1, 3, 4, 2).to(torch.uint8)
    return torch.where(redaction.region(mask).unsqueeze(-1), smooth, video)


def resized_first(video, mask, redaction):
    height, width = video.shape[2] // 2, video.shape[3] // 2
    planes = video.permute(0, 1, 4, 2, 3).flatten(0, 1).float()
    small = F.interpolate(planes, (height, width), mode="bilinear", antialias=True).round().to(torch.uint8)
    redacted = redaction.redact(
        small.unflatten(0, video.shape[:2]).permute(0, 1, 3, 4, 2),
        resample_mask(redaction.region(mask), (height, width)),
    )
    return redacted.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("path", [unredacted, blurred, resized_first])
def test_a_wrong_path_is_convicted(shipped, path):
    network, clip = shipped
    redaction = Redaction(sensitive="inside")
    video, mask, region = scene(clip, redaction)
    one, other = (path(content, mask, redaction) for content in replacements(video, region)[[0, 305]].split(1))
    gradients = [gradient(network, clips.permute(0, 4, 1, 2, 3)) for clips in (one, other)]
    assert not same_bits(*gradients)


def test_the_token_split_is_convicted():
    """Keeping the public tokens' share of a full forward pass un-noised leaks what the others show."""
    network = TubeletViT(3, clip=(4, 16, 16), width=16, depth=2)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    redaction = Redaction(sensitive="inside", grid=8)
    video, mask, _ = scene((4, 16, 16), redaction)
    mask[..., 8:] = False  # the right half is public, tubelet by tubelet
    region = redaction.region(mask)
    sensitive = F.max_pool3d(region.float(), (2, 8, 8)).flatten().bool().view(1, -1, 1)
    assert sensitive.any()
    assert not sensitive.all()
    network.embed.register_forward_hook(lambda *call: torch.where(sensitive, call[-1].detach(), call[-1]))
    one, other = replacements(video, region)[[0, 305]].permute(0, 4, 1, 2, 3).split(1)
    assert not same_bits(gradient(network, one), gradient(network, other))
    views = [public_view(clip.permute(0, 2, 3, 4, 1), mask, redaction).video for clip in (one, other)]
    assert same_bits(gradient(network, views[0]), gradient(network, views[1]))
