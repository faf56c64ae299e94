"""Adaptation and detector of one modality in one file, which runs without pvision."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.detection.router import RGB, ModalityRouter
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

__all__ = ["export_detector"]

_OUTPUTS = ("boxes", "scores", "labels")
_KNOWN = "Known to work are torchvision's FCOS and RetinaNet and pvision's CompactFCOS. "
_BOX_TOLERANCE = 1e-4  # pixels, and as much of a hundred thousandth of the coordinate
_SCORE_TOLERANCE = 1e-5


def export_detector(
    router: ModalityRouter,
    modality: str,
    path: str | Path,
    *,
    image_size: Sequence[int],
    format: Literal["onnx", "torch_export"] = "onnx",
) -> None:
    """Write what `ModalityRouter.predict` does with one modality to a file that needs no pvision.

    The file takes one image of raw sensor values, float32 ``(C, H, W)``, and gives boxes ``(N, 4)``, scores ``(N,)``
    and labels ``(N,)`` of the detector. It computes on the CPU or wherever its runtime does. Before it gets its name it
    is run beside `ModalityRouter.predict` on two images: boxes agree to 1e-4 pixels, scores to 1e-5, or it is refused.

    Args:
        router: what to export; it stays as it is.
        modality: one of its modalities, ``"rgb"`` too.
        path: ends in ``.onnx`` or, for ``torch_export``, in ``.pt2``; replaced whole where it exists.
        image_size: height and width of the images in pixels; the file takes no others.
        format: ``onnx`` for ONNX runtimes, ``torch_export`` for ``torch.export.load``.

    Raises:
        ConfigError: if a setting is wrong, the detector cannot be exported, or the file finds other boxes.
        MissingExtraError: if a package for this format is not installed.
    """
    path = checked_target(path, format=format, image_size=image_size)
    height, width = image_size
    served = _Served(router, modality)
    examples = served.examples(height, width)
    with written_beside(path, suffix=path.suffix) as temporary:
        run = (_export_onnx if format == "onnx" else _export_program)(served, examples[0], temporary)
        for example in examples:
            _check_equal(run(example), served(example), path)


class _Served(nn.Module):
    """One modality of a router, on the CPU, without the others' weights."""

    def __init__(self, router: ModalityRouter, modality: str) -> None:
        super().__init__()
        if modality not in router.modalities:
            raise ConfigError(f"modality {modality!r} is unknown. Known are: {', '.join(router.modalities)}.")
        single = ModalityRouter(router.detector)
        if modality != RGB:
            # Not by `add`, which would freeze or thaw the detector.
            single.inputs[modality] = router.inputs[modality]
            single.adaptations[modality] = router.adaptations[modality]
        self.router = copy.deepcopy(single).cpu()
        self.modality = modality
        self.eval()

    @override
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.router.predict([image], self.modality)[0]
        return found["boxes"], found["scores"], found["labels"]

    def examples(self, height: int, width: int) -> list[Tensor]:
        """Return a random and a uniform image of raw values."""
        input: Any = self.router.inputs[self.modality]
        scaling = input.scaling.describe()
        # A percentile's low and high are no sensor values.
        low, high = (scaling["low"], scaling["high"]) if scaling["name"] == "FixedRange" else (0.0, 255.0)
        low, high = (torch.tensor(value).reshape(-1, 1, 1) for value in (low, high))
        noise = torch.rand(input.channels, height, width, generator=torch.Generator().manual_seed(0))
        return [low + (high - low) * part for part in (noise, torch.full_like(noise, 0.5))]


def _export_program(served: nn.Module, example: Tensor, path: Path) -> Run:
    with refused_clearly("detector", known=_KNOWN), _traceable_suppression(), torch.no_grad():
        torch.export.save(torch.export.export(served, (example,), strict=False), path)
    return torch.export.load(path).module()


def _export_onnx(served: nn.Module, example: Tensor, path: Path) -> Run:
    needed("onnx")
    operators = needed("onnxscript").opset18

    def stable_sort(values: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        # ONNX has no sort; equal values keep their order in TopK.
        count = operators.Gather(operators.Shape(values), operators.Constant(value_ints=[dim]))
        return operators.TopK(values, count, axis=dim, largest=int(descending), sorted=1)

    with refused_clearly("detector", known=_KNOWN), _traceable_suppression(), torch.no_grad():
        translations = {torch.ops.aten.sort.stable: stable_sort}
        write_onnx(served, example, path, outputs=_OUTPUTS, translations=translations)
        return run_onnx(path, outputs=_OUTPUTS)


@contextmanager
def _traceable_suppression() -> Iterator[None]:
    """Let exporters follow torchvision's suppression of boxes, while it lasts and in all threads.

    torchvision 0.29 asks whether there are any boxes, which a graph cannot answer beforehand, and announces that at
    least two will be left.
    """
    try:
        from torchvision.ops import boxes
    except ImportError:  # then no detector here needs it
        yield
        return
    with (
        torch.library._scoped_library("torchvision", "FRAGMENT") as library,
        mock.patch.object(boxes, "batched_nms", _suppress_by_class),
    ):
        torch.library.register_fake("torchvision::nms", _any_number, lib=library, allow_override=True)
        yield


def _suppress_by_class(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Keep boxes as ``torchvision.ops.batched_nms`` does, bit for bit up to 1000 of them, and none of none."""
    # Classes are moved apart, so that they do not suppress each other. Boxes lie within the image: 0 is no new maximum.
    beyond = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max() + 1
    kept: Tensor = torch.ops.torchvision.nms(boxes + (idxs.to(boxes) * beyond)[:, None], scores, iou_threshold)
    return kept


def _any_number(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _check_equal(found: Found, expected: Found, path: Path) -> None:
    if not _agree(found, expected):
        raise ConfigError(
            f"{path} was not written: the exported detector found {len(found[0])} boxes where this one found "
            f"{len(expected[0])}, or other ones. Try the other format, or serve it with `pvision predict`."
        )


def _agree(found: Found, expected: Found) -> bool:
    """Tell whether each box of one side is one of the other's; the order of equal scores may differ."""
    if len(found[0]) != len(expected[0]) or not len(found[0]):
        return len(found[0]) == len(expected[0])
    boxes, scores, labels = (here[:, None] for here in found)
    other_boxes, other_scores, other_labels = (there[None] for there in expected)
    close = torch.isclose(boxes, other_boxes, atol=_BOX_TOLERANCE, rtol=1e-5).all(dim=-1)
    close &= torch.isclose(scores, other_scores, atol=_SCORE_TOLERANCE, rtol=0) & (labels == other_labels)
    return bool(close.any(dim=0).all() and close.any(dim=1).all())
