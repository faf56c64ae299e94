"""A segmenter as it is after some experience in one file, which runs without pvision."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.continual.masks import BACKGROUND
from pvision.errors import ConfigError
from pvision.files import written_beside
from pvision.graph_files import (
    Found,
    Run,
    checked_target,
    needed,
    refused_clearly,
    run_onnx,
    write_onnx,
)
from pvision.segmentation.methods.method import SegmentationMethod, frozen_copy

__all__ = ["METADATA", "export_segmenter"]

METADATA = "pvision.json"
"""Where the file says what its labels are: an extra file of a ``.pt2``, a property of an ONNX model."""

_OUTPUTS = ("labels", "scores")
_TOLERANCE = 1e-4


def export_segmenter(
    method: SegmentationMethod,
    path: str | Path,
    *,
    image_size: Sequence[int],
    class_names: Sequence[str],
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    format: Literal["onnx", "torch_export"] = "onnx",
) -> None:
    """Write what a method predicts now to a file that needs no pvision, no stream and no teacher.

    The file takes one image, float32 ``(C, H, W)`` from 0 to 1, and gives the label of each pixel, int64 ``(H, W)``,
    and the scores that were compared, float32 ``(1 + classes, H, W)``. Its metadata says which label and name each row
    of the scores has; see `METADATA`. Before it gets its name it is run beside the method on two images: scores agree
    to 1e-4, labels wherever the two best scores are further apart, or it is refused.

    Args:
        method: what to export; it stays as it is.
        path: ends in ``.onnx`` or, for ``torch_export``, in ``.pt2``; replaced whole where it exists.
        image_size: height and width of the images in pixels; the file takes no others.
        class_names: of the classes from 1 on.
        mean: what the stream subtracted from each channel, of values from 0 to 1.
        std: what it divided by.
        format: ``onnx`` for ONNX runtimes, ``torch_export`` for ``torch.export.load``.

    Raises:
        ConfigError: if a setting is wrong, the method has learned nothing, cannot be exported, or the file gives
            something else.
        MissingExtraError: if a package for this format is not installed.
    """
    path = checked_target(path, format=format, image_size=image_size)
    if not method.head.groups:
        raise ConfigError("The method has learned no class, so there is nothing to export. Train it first.")
    if not 0 < len(mean) == len(std):
        raise ConfigError(f"mean and std must have one number for each channel, but {mean} and {std} came.")
    served = _Served(method, mean, std)
    shape = (len(mean), *image_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    metadata = _metadata(method, class_names)
    with written_beside(path, suffix=path.suffix) as temporary, torch.no_grad():
        run = (_export_onnx if format == "onnx" else _export_program)(served, noise, temporary, metadata)
        for example in (noise, torch.full_like(noise, 0.5)):
            _check_equal(run(example), served(example), path)


class _Served(nn.Module):
    """A method on the CPU, for one image."""

    mean: Tensor
    std: Tensor
    labels: Tensor

    def __init__(self, method: SegmentationMethod, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.method = frozen_copy(method).cpu()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("labels", torch.tensor([BACKGROUND, *method.head.classes]))
        self.eval()

    @override
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.method.scores(((image - self.mean) / self.std)[None])[0]
        return self.labels[scores.argmax(0)], scores


def _metadata(method: SegmentationMethod, class_names: Sequence[str]) -> str:
    labels = [BACKGROUND, *method.head.classes]
    names = [
        "background" if label == BACKGROUND else class_names[label - 1] if label <= len(class_names) else str(label)
        for label in labels
    ]
    return json.dumps({"labels": labels, "names": names}, ensure_ascii=False)


def _export_program(served: nn.Module, example: Tensor, path: Path, metadata: str) -> Run:
    with refused_clearly("segmenter"), torch.no_grad():
        torch.export.save(torch.export.export(served, (example,), strict=False), path, extra_files={METADATA: metadata})
    return torch.export.load(path).module()


def _export_onnx(served: nn.Module, example: Tensor, path: Path, metadata: str) -> Run:
    onnx: Any = needed("onnx")
    needed("onnxscript")
    with refused_clearly("segmenter"), torch.no_grad():
        write_onnx(served, example, path, outputs=_OUTPUTS)
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {METADATA: metadata})
        onnx.save(model, path)
        return run_onnx(path, outputs=_OUTPUTS)


def _check_equal(found: Found, expected: Found, path: Path) -> None:
    (labels, scores), (own_labels, own_scores) = found, expected
    close = scores.shape == own_scores.shape and torch.allclose(scores, own_scores, atol=_TOLERANCE, rtol=_TOLERANCE)
    if close:
        best = own_scores.topk(2, dim=0).values
        clear = best[0] - best[1] > 2 * _TOLERANCE * (1 + best[0].abs())
        close = bool((labels == own_labels)[clear].all())
    if not close:
        raise ConfigError(
            f"{path} was not written: what was exported gives other scores or labels than the method. Try the other "
            "format, or serve it with `pvision predict`."
        )
