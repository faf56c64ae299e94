import re
import subprocess
import sys
import warnings
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.models import VideoBackbone, list_video_models, require_privately_trainable, video_model
from pvision.models.parts import two_pathways
from pvision.models.zoo import build_parts, entry


def _layers(network):
    """The settings of each layer, but for rates of dropout, which are 0 here, and the average, which equals ours."""
    return [
        (name, type(module).__name__, re.sub(r"p=[0-9.]+", "", module.extra_repr()))
        for name, module in network.named_modules()
        if name != "avgpool"
    ]


TINY = list_video_models("*_tiny")
TORCHVISION = ["mvit_v1_b", "mvit_v2_s", "swin3d_b", "swin3d_s", "swin3d_t"]
PYTORCHVIDEO = {  # millions of parameters with 400 classes, as its model zoo documents them
    "slowfast_r101": "62.83",
    "slowfast_r50": "34.57",
    "x3d_m": "3.79",
    "x3d_s": "3.79",
    "x3d_xs": "3.79",
}
PUBLISHED = [*TORCHVISION, *PYTORCHVIDEO]


def test_every_name_is_listed_and_patterns_select():
    assert set(list_video_models()) == {*PUBLISHED, *TINY}
    assert list_video_models("x3d_*") == ["x3d_m", "x3d_s", "x3d_tiny", "x3d_xs"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_of_torchvision_would_fit(name):
    from torchvision.models import get_model

    with torch.device("meta"):
        network = entry(name).build(num_classes=400, clip=entry(name).clip).network
        original = get_model(name)
    ours, theirs = ({key: value.shape for key, value in n.state_dict().items()} for n in (network, original))
    assert ours == theirs
    # What the parameters do not tell: strides, padding, the order of layers.
    assert _layers(network) == _layers(original)


@pytest.mark.parametrize("name", PYTORCHVIDEO)
def test_the_networks_of_pytorchvideo_have_their_published_size(name):
    with torch.device("meta"):
        network = video_model(name, num_classes=400, norm="batch")
    assert f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f}" == PYTORCHVIDEO[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_can_be_trained_privately(name):
    with torch.device("meta"):
        require_privately_trainable(video_model(name, num_classes=7))


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("x3d_tiny", (3, 24, 40)),
        ("slowfast_tiny", (4, 40, 24)),
        ("mvit_tiny", (2, 16, 24)),
        ("swin3d_tiny", (3, 10, 18)),
    ],
)
def test_other_clip_sizes_can_be_asked_for(name, clip):
    network = video_model(name, num_classes=3, clip=clip)
    assert network(torch.rand(2, 3, *clip)).shape == (2, 3)


def test_colours_are_normalised_inside():
    network = video_model("swin3d_tiny", num_classes=3)
    seen = []
    network.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1).expand(1, 3, *network.clip))
    assert seen[0].abs().max() < 1e-6


def test_importing_loads_neither_the_libraries_nor_lightning():
    loaded = "import sys, pvision.models; print(*{name.split('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in names
    assert not {"torchvision", "pytorchvideo", "lightning", "mlflow"} & set(names)


def test_building_makes_no_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in TINY:
            video_model(name, num_classes=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x3d"}, "name must be one of .*'x3d_s'.* but 'x3d' came"),
        ({"num_classes": 0}, "num_classes must be a whole number"),
        ({"clip": (4, 32)}, r"clip must be \(frames, height, width\)"),
        ({"clip": (0, 32, 32)}, "clip frames must be a whole number"),
        (
            {"name": "mvit_tiny", "clip": (4, 36, 32)},
            "clip height must be a multiple of 8 for this network, but 36 came",
        ),
        ({"name": "slowfast_tiny", "clip": (6, 32, 32)}, "clip frames must be a multiple of 4"),
        ({"norm": "layer"}, "norm must be one of 'group', 'batch'"),
        ({"name": "swin3d_tiny", "norm": "batch"}, "has layer norms only"),
        ({"weights": "KINETICS400_V1"}, "Only torchvision's networks have weights by name"),
        (
            {"name": "swin3d_t", "weights": "IMAGENET"},
            "one of KINETICS400_V1, DEFAULT for swin3d_t, but 'IMAGENET' came",
        ),
        ({"weights": "nowhere/x.pth"}, "there is no file 'nowhere/x.pth'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        VideoBackbone(**{"name": "x3d_tiny", "num_classes": 3, **arguments})


@pytest.mark.parametrize(("package", "name"), [("torchvision", "swin3d_tiny"), ("pytorchvideo", "x3d_tiny")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, name):
    for module in [module for module in sys.modules if module.startswith(f"{package}.models")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pvision\[video\]"):
        video_model(name, num_classes=3)


class TestWeights:
    @pytest.mark.parametrize("name", TINY)
    def test_saved_weights_come_back(self, name, tmp_path):
        network, path = video_model(name, num_classes=3), tmp_path / "own.safetensors"
        save_file(network.state_dict(), path)
        video = torch.rand(2, 3, *network.clip)
        assert torch.equal(video_model(name, num_classes=3, weights=str(path))(video), network(video))

    def test_another_number_of_classes_keeps_the_trunk_and_makes_a_new_head(self, tmp_path):
        network, path = video_model("x3d_tiny", num_classes=3), tmp_path / "own.safetensors"
        save_file(network.state_dict(), path)
        other = video_model("x3d_tiny", num_classes=4, weights=str(path))
        video = torch.rand(2, 3, *network.clip)
        assert torch.equal(other.features(video), network.features(video))
        assert other(video).shape == (2, 4)

    @pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict"])
    def test_weights_named_as_the_library_names_them_load(self, wrapper, tmp_path):
        parts, path = (
            build_parts("swin3d_tiny", num_classes=3, clip=(4, 32, 32), norm="group"),
            tmp_path / "library.pth",
        )
        state = parts.network.state_dict()
        torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
        network = video_model("swin3d_tiny", num_classes=3, weights=str(path))
        video = torch.rand(1, 3, 4, 32, 32)
        expected = parts.network((video - network.mean) / network.deviation)
        assert torch.equal(network(video), expected)

    def test_weights_that_do_not_fit_are_refused_with_both_sides(self, tmp_path):
        path = tmp_path / "batch.safetensors"
        save_file(video_model("x3d_tiny", num_classes=3, norm="batch").state_dict(), path)
        with pytest.raises(ConfigError, match=r"does not fit.*only .*batch\.safetensors has .*running_mean.*norm"):
            video_model("x3d_tiny", num_classes=3, weights=str(path))
        with pytest.raises(ConfigError, match=r"only the network has .*; only .* has "):
            video_model("mvit_tiny", num_classes=3, weights=str(path))

    def test_weights_by_name_are_fetched_with_their_checksum(self, monkeypatch):
        from torchvision.models.video import Swin3D_T_Weights

        asked = []
        published = build_parts("swin3d_t", num_classes=400, clip=(8, 32, 32), norm="group").network.state_dict()
        monkeypatch.setattr(
            Swin3D_T_Weights, "get_state_dict", lambda self, **how: asked.append((self, how)) or published
        )
        network = video_model("swin3d_t", num_classes=3, weights="KINETICS400_V1", clip=(8, 32, 32))
        assert asked[0][0].name == "KINETICS400_V1"
        assert asked[0][1]["check_hash"]
        assert asked[0][1]["weights_only"]
        assert torch.equal(network.trunk.patch_embed.proj.weight, published["patch_embed.proj.weight"])
        assert network.head.out_features == 3

    @pytest.mark.parametrize("failure", [URLError("no route"), RuntimeError("invalid hash value")])
    def test_a_failed_download_says_what_to_do(self, monkeypatch, failure):
        from torchvision.models.video import MViT_V2_S_Weights

        def fail(self, **how):
            raise failure

        monkeypatch.setattr(MViT_V2_S_Weights, "get_state_dict", fail)
        with torch.device("meta"), pytest.raises(DataError, match=r"could not be fetched from https.*give its path"):
            video_model("mvit_v2_s", num_classes=3, weights="KINETICS400_V1")


class TestFrozen:
    @pytest.fixture
    def frozen(self):
        return VideoBackbone("x3d_tiny", num_classes=3, norm="batch", frozen=True)

    def test_training_mode_and_gradients_stay_off(self, frozen):
        parent = nn.Sequential(frozen).train()
        assert parent.training
        assert not any(module.training for module in frozen.modules())
        assert not any(parameter.requires_grad for parameter in frozen.parameters())

    def test_a_forward_pass_changes_nothing(self, frozen):
        before = {name: value.clone() for name, value in frozen.state_dict().items()}
        frozen.train()(torch.rand(2, 3, *frozen.clip))
        assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())

    def test_batch_norm_is_then_no_problem(self, frozen):
        require_privately_trainable(frozen, sample=torch.rand(2, 3, *frozen.clip))

    def test_a_trainable_network_does_switch(self):
        network = video_model("x3d_tiny", num_classes=3)
        assert all(module.training for module in network.train().modules())
        assert not any(module.training for module in network.eval().modules())


class TestPathways:
    def test_the_slow_pathway_sees_a_quarter_of_the_frames_evenly_spread(self):
        video = torch.arange(16.0).view(1, 1, 16, 1, 1).expand(1, 3, 16, 2, 2)
        slow, fast = two_pathways(video)
        assert slow[0, 0, :, 0, 0].tolist() == [0, 5, 10, 15]
        assert fast is video

    def test_slowfast_leaves_the_callers_clips_alone(self):
        network, video = video_model("slowfast_tiny", num_classes=3), torch.rand(2, 3, 8, 32, 32)
        before = video.clone()
        first, second = network(video), network(video)
        assert torch.equal(video, before)
        assert torch.equal(first, second)
