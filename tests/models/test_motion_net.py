import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from pvision.errors import ConfigError, DataError
from pvision.models import MotionEncoder, MotionNet, motion_net
from pvision.models.motion_net import MOCAP_ENCODER, MotionTrunk, motion_channels


@pytest.fixture
def videos():
    return torch.rand(2, 3, 4, 32, 48)


def obvious_trunk(trunk, video):
    """One frame and one pixel after the other."""
    clips = []
    for clip in video:
        grey = torch.stack([0.299 * f[0] + 0.587 * f[1] + 0.114 * f[2] - 0.5 for f in clip.unbind(1)])
        steps = [torch.zeros_like(grey[0])] + [3 * (grey[t] - grey[t - 1]) for t in range(1, len(grey))]
        frames = [torch.stack([2 * g, d, d.abs()]) for g, d in zip(grey, steps, strict=True)]
        maps = []
        for stages, mixing in (((trunk.stage1, trunk.stage2, trunk.stage3), trunk.mix3), ((trunk.stage4,), trunk.mix4)):
            for stage in stages:
                frames = [F.relu(stage.norm(stage.conv(frame[None])))[0] for frame in frames]
            series = torch.stack(frames)  # (T, C, H, W)
            mixed = torch.empty_like(series)
            for row in range(series.shape[2]):
                for column in range(series.shape[3]):
                    line = series[:, :, row, column].T
                    kernel = mixing.conv.weight[..., 0]
                    mixed[:, :, row, column] = F.conv1d(line, kernel, mixing.conv.bias, padding=1).T
            frames = [f + F.relu(mixing.norm(m[None]))[0] for f, m in zip(frames, mixed, strict=True)]
            maps.append(torch.stack(frames))
        clips.append(maps)
    return [torch.stack(kind) for kind in zip(*clips, strict=True)]


def test_the_trunk_equals_its_obvious_twin(videos):
    trunk, video = MotionTrunk().double(), videos.double()
    with torch.no_grad():
        maps, expected = trunk(video), obvious_trunk(trunk, video)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_features_are_mean_maximum_and_deviation_over_time(videos):
    encoder, net = MotionEncoder(), MotionNet(3)
    maps = encoder.trunk(videos)
    last, middle = maps.last.mean((3, 4)), maps.middle.mean((3, 4))
    expected = torch.cat([last.mean(1), last.amax(1), middle.mean(1), middle.std(1, correction=0)], 1)
    torch.testing.assert_close(encoder(videos), expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(net.features(videos), encoder(videos)[:, : net.feature_dim])


def test_a_still_clip_has_no_difference_channels():
    still = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 5, 8, 8)
    channels = motion_channels(still)
    assert not channels[:, 1:].any()
    assert channels[:, 0].any()


def test_channels_lie_last_in_memory(videos):
    assert motion_channels(videos).is_contiguous(memory_format=torch.channels_last)


def test_a_clip_of_one_frame_has_finite_features_and_gradients():
    video = torch.rand(2, 3, 1, 16, 16, requires_grad=True)
    features = MotionEncoder()(video)
    features.sum().backward()
    assert features.isfinite().all()
    assert video.grad.isfinite().all()


def test_the_head_starts_at_zero(videos):
    assert not MotionNet(4)(videos).any()


def test_the_encoder_is_frozen(videos):
    encoder = MotionEncoder.pretrained()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(videos).requires_grad


def test_both_networks_start_from_the_shipped_weights():
    shipped = load_file(MOCAP_ENCODER)
    for network in (MotionNet(3), MotionEncoder.pretrained()):
        state = network.trunk.state_dict()
        assert state.keys() == shipped.keys()
        assert all(torch.equal(state[name], shipped[name]) for name in shipped)
    assert not torch.equal(MotionNet(3, init="random").trunk.stage1.conv.weight, shipped["stage1.conv.weight"])


def test_the_shipped_weights_know_motion_from_stillness():
    still = torch.rand(1, 3, 1, 48, 48).expand(1, 3, 8, 48, 48)
    moving = torch.stack([still[:, :, 0].roll(shift, -1) for shift in range(8)], 2)
    encoder = MotionEncoder.pretrained()
    assert (encoder(still) - encoder(moving)).norm() > 0.1 * encoder(still).norm()


def test_weights_can_come_from_a_file(tmp_path):
    trunk, path = MotionTrunk(), tmp_path / "trunk.safetensors"
    save_file(trunk.state_dict(), path)
    loaded = MotionNet(3, init=str(path)).trunk
    assert all(torch.equal(value, trunk.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_shipped_weights_are_refused(tmp_path, monkeypatch, damage):
    content = bytearray(MOCAP_ENCODER.read_bytes())
    content[len(content) // 2] ^= 1
    content = {"flip": content, "cut": MOCAP_ENCODER.read_bytes()[:-1], "empty": b""}[damage]
    path = tmp_path / MOCAP_ENCODER.name
    path.write_bytes(content)
    monkeypatch.setattr(motion_net, "MOCAP_ENCODER", path)
    with pytest.raises(DataError, match="Install pvision again"):
        MotionEncoder.pretrained()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
        ({"num_classes": True}, "num_classes"),
        ({"num_classes": 3, "init": "imagenet"}, "no file 'imagenet'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MotionNet(arguments.pop("num_classes"), **arguments)
