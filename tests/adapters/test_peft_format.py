"""The PEFT format, judged by PEFT itself."""

import copy
import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pvision.adapters import Bottleneck, GatedLoRA, LoRA, add_adapters, export_peft, import_peft
from pvision.errors import ConfigError, DataError

peft = pytest.importorskip("peft")


def in_peft(network: nn.Module, folder) -> nn.Module:
    """The network with the folder's adapter, as PEFT builds it; a warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return peft.PeftModel.from_pretrained(network, str(folder)).eval()


@pytest.fixture(scope="module")
def times() -> int:
    """How often the installed PEFT adds the change of an attention layer's out_proj: twice, up to 0.21.2."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True).double()

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.attention(tokens, tokens, tokens)[0]

    layer, tokens = Layer(), torch.randn(2, 3, 8, dtype=torch.float64)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["attention"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(layer), config).eval()
    inner = adapted.base_model.model.attention
    with torch.no_grad():
        layer.attention.in_proj_weight += inner.get_delta_weight("default")
        for count in (1, 2):
            layer.attention.out_proj.weight += inner.base_layer.out_proj.get_delta_weight("default")
            if torch.allclose(layer(tokens), adapted(tokens), atol=1e-12):
                return count
    raise RuntimeError("this PEFT computes something else")


TARGETS = [("q", "v"), ("q", "k", "v", "o", "fc1", "fc2"), ("o",), ("fc2",), ("k",)]


@pytest.mark.parametrize("targets", TARGETS, ids="_".join)
def test_peft_computes_the_same_and_hands_it_back(network, images, randomise, tmp_path, times, targets):
    network, images = network.double(), images.double()
    untouched = copy.deepcopy(network)
    adapted = randomise(add_adapters(network, LoRA(rank=3, alpha=6), targets=targets))
    with torch.no_grad():
        expected = adapted(images)
        export_peft(adapted, tmp_path / "ours", out_proj_times=times)
        assert (expected - untouched(images)).abs().max() > 1e-3
        theirs = in_peft(copy.deepcopy(untouched), tmp_path / "ours")
        assert (theirs(images) - expected).abs().max() <= 1e-12
        theirs.save_pretrained(str(tmp_path / "theirs"))
        back = import_peft(copy.deepcopy(untouched), tmp_path / "theirs", out_proj_times=times)
        assert (back(images) - expected).abs().max() <= 1e-12
        own = import_peft(untouched, tmp_path / "ours", out_proj_times=times)
        assert (own(images) - expected).abs().max() <= 1e-12
    assert [layer.name for layer in own.layers] == [layer.name for layer in adapted.layers]
    pairs = zip(own.trainable_parameters().items(), adapted.trainable_parameters().items(), strict=True)
    assert all(one == two and torch.equal(tensor, other) for (one, tensor), (two, other) in pairs)


def test_stacks_gates_ranks_and_factors_become_one_lora(network, images, randomise, tmp_path, times):
    untouched = copy.deepcopy(network.double())
    adapted = add_adapters(network, LoRA(rank=2, alpha=3), name="first", targets=("q", "o"))
    adapted.add(GatedLoRA(rank=3), name="second", targets=("q", "v", "fc1"), blocks=[0, 2])
    randomise(adapted).scale((0.5, 1.0, 1.5)).add_magnitude("second", start=0.7)
    with torch.no_grad():
        expected = adapted(images.double())
        adapted.merge()
        export_peft(adapted, tmp_path, out_proj_times=times)
        back = import_peft(copy.deepcopy(untouched), tmp_path, out_proj_times=times)
        assert (back(images.double()) - expected).abs().max() <= 1e-12
        assert (in_peft(untouched, tmp_path)(images.double()) - expected).abs().max() <= 1e-12
    assert {layer.adapters["adapter"].rank for layer in back.layers if layer.place.role == "q"} == {2, 2 + 3}


def test_named_adapters_only_are_exported(make_network, images, randomise, tmp_path):
    adapted = add_adapters(make_network(), LoRA(rank=2), name="first").add(LoRA(rank=2), name="second")
    randomise(adapted)
    export_peft(adapted, tmp_path, names=("second",))
    expected = adapted.activate("second")(images)
    assert (in_peft(make_network(), tmp_path)(images) - expected).abs().max() <= 2e-5


@pytest.mark.parametrize("settings", [{"use_rslora": True}, {"rank_pattern": 5, "alpha_pattern": 7}])
def test_what_peft_has_trained_can_be_imported(network, family, images, tmp_path, times, settings):
    network, images = network.double(), images.double()
    names = {
        "timm": ["qkv", "proj", "fc1"],
        "torchvision": ["self_attention", "mlp.0"],
        "hugging_face": ["q_proj", "o_proj", "fc1"],
    }[family]
    settings = {key: value if value is True else {names[-1]: value} for key, value in settings.items()}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, init_lora_weights=False, **settings)
    if family == "timm":
        config.exclude_modules = ["patch_embed.proj"]
    theirs = peft.get_peft_model(copy.deepcopy(network), config).eval()
    with torch.no_grad():
        expected = theirs(images)
        theirs.save_pretrained(str(tmp_path))
        assert (expected - network(images)).abs().max() > 1e-3
        adapted = import_peft(network, tmp_path, name="theirs", out_proj_times=times)
        assert (adapted(images) - expected).abs().max() <= 1e-12
    assert adapted.names == ("theirs",)
    assert adapted.trainable_parameters()


@pytest.fixture
def exported(make_network, randomise, tmp_path):
    folder = tmp_path / "exported"
    export_peft(randomise(add_adapters(make_network(), LoRA(rank=2))), folder)
    return folder


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "IA3"), ("use_dora", True), ("bias", "all"), ("modules_to_save", ["head"]), ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_4"), ("alora_invocation_tokens", [1]), ("kasa_config", {"beta": 1}),
    ],
)  # fmt: skip
def test_what_is_no_plain_lora_is_refused_by_its_setting(make_network, exported, setting, value):
    path = exported / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(ConfigError, match=f"{setting} is .*only plain LoRA"):
        import_peft(make_network(), exported)


def test_damaged_folders_are_refused(make_network, exported, tmp_path):
    network = make_network()
    weights, config = exported / "adapter_model.safetensors", exported / "adapter_config.json"
    tensors, settings = load_file(weights), json.loads(config.read_text())
    with pytest.raises(ConfigError, match="there is no file"):
        import_peft(network, tmp_path / "nothing")
    for change, message in (
        ({"base_model.model.head.bias": torch.ones(5)}, "nothing else"),
        ({"base_model.model.blocks.9.attn.qkv.lora_A.weight": torch.ones(4, 24),
          "base_model.model.blocks.9.attn.qkv.lora_B.weight": torch.ones(72, 4)}, "blocks.9.attn.qkv, which this"),
        ({"base_model.model.blocks.0.attn.qkv.lora_B.weight": torch.ones(48, 4)}, "must have A and B of"),
        ({"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(3, 24)}, "has rank 3 in the file and 4"),
    ):  # fmt: skip
        save_file(tensors | change, weights)
        with pytest.raises((ConfigError, DataError), match=message):
            import_peft(network, exported)
    weights.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="damaged"):
        import_peft(network, exported)
    weights.unlink()
    with pytest.raises(ConfigError, match="safe_serialization"):
        import_peft(network, exported)
    config.write_text("[]")
    with pytest.raises(DataError, match="no JSON object"):
        import_peft(network, exported)
    config.write_text(json.dumps({"peft_type": "LORA", **{k: v for k, v in settings.items() if k != "r"}}))
    with pytest.raises(DataError, match="numbers r and lora_alpha"):
        import_peft(network, exported)
    assert not any(module._forward_hooks for module in network.modules())


def test_what_is_not_of_low_rank_is_not_exported(make_network, tmp_path):
    adapted = add_adapters(make_network(), Bottleneck(width=2))
    with pytest.raises(ConfigError, match=r"BottleneckAdapter at blocks\.0\.mlp, and PEFT's format takes LoRA only"):
        export_peft(adapted, tmp_path / "folder")
    with pytest.raises(ConfigError, match="no adapter is active"):
        export_peft(adapted.activate(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_pefts_double_out_proj_has_to_be_spoken_of(make_network, randomise, tmp_path):
    adapted = randomise(add_adapters(make_network("torchvision"), LoRA(rank=2), targets=("q", "o")))
    with pytest.raises(ConfigError, match=r"adds twice .*self_attention\.out_proj, a known.*out_proj_times=2"):
        export_peft(adapted, tmp_path / "folder")
    with pytest.raises(ConfigError, match="out_proj_times must be 1 or 2, but 3"):
        export_peft(adapted, tmp_path / "folder", out_proj_times=3)
    export_peft(adapted, tmp_path / "folder", out_proj_times=2)
    with pytest.raises(ConfigError, match="a known defect"):
        import_peft(make_network("torchvision"), tmp_path / "folder")
    once = import_peft(make_network("torchvision"), tmp_path / "folder", out_proj_times=1)
    ours, theirs = ([layer.adapters["adapter"].delta_weight() for layer in one.layers] for one in (adapted, once))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], 2 * theirs[1])


def test_an_interrupted_export_is_no_adapter(make_network, exported, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(exported, half)
    (half / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="there is no file"):
        import_peft(make_network(), half)
