"""One modality in one safetensors file: its weights, and in the header what they are and whose detector they need."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast, runtime_checkable

from torch import Tensor

from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.adaptations.equalisation import HistogramEqualisation, InvertedEqualisation
from pvision.detection.adaptations.inversion import Inversion
from pvision.detection.adaptations.visual_prompt import VisualPrompt
from pvision.detection.adaptations.zero_shot import ZeroShot
from pvision.detection.inputs import ImageInput
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.tensor_files import read_tensors, tensor_path, write_tensors
from pvision.weights_hash import weights_sha256

__all__ = ["TranslatorFile", "read_translator", "write_translator"]

_HEADER = "pvision_modality"
_VERSION = 1
_KNOWN: dict[str, type[Adaptation]] = {
    kind.__name__: kind
    for kind in (
        ModalityTranslator,
        ZeroShot,
        Inversion,
        HistogramEqualisation,
        InvertedEqualisation,
        VisualPrompt,
    )
}


class TranslatorFile(NamedTuple):
    """What a file holds.

    Attributes:
        modality: its name.
        input: what raw values mean.
        adaptation: what stands between them and the detector.
        detector_sha256: of the detector that it was trained with, as `pvision.weights_hash.weights_sha256` gives it.
        class_names: of that detector.
    """

    modality: str
    input: ImageInput
    adaptation: Adaptation
    detector_sha256: str
    class_names: tuple[str, ...]


@runtime_checkable
class _Described(Protocol):
    def describe(self) -> dict[str, Any]: ...

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self: ...


def write_translator(path: str | Path, content: TranslatorFile) -> None:
    """Write one modality so that ``path`` holds either all of it or what it held before.

    Args:
        path: ends in ``.safetensors``.
        content: what to write.

    Raises:
        ConfigError: if ``path`` ends otherwise, or this adaptation cannot be rebuilt from a file.
    """
    path = tensor_path(path)
    adaptation = content.adaptation
    kind = type(adaptation).__name__
    if _KNOWN.get(kind) is not type(adaptation) or not isinstance(adaptation, _Described):
        raise ConfigError(
            f"modality {content.modality!r} has the adaptation {kind}, which no file can hold. Use one of: "
            f"{', '.join(_KNOWN)}."
        )
    header = {
        "version": _VERSION,
        "modality": content.modality,
        "input": content.input.describe(),
        "adaptation": {"kind": kind, "settings": adaptation.describe()},
        "weights_sha256": weights_sha256(adaptation),
        "detector_sha256": content.detector_sha256,
        "class_names": list(content.class_names),
    }
    write_tensors(path, adaptation.state_dict(), header={_HEADER: json.dumps(header)})


def read_translator(path: str | Path) -> TranslatorFile:
    """Return what `write_translator` wrote, on the CPU and in evaluation mode; nothing in the file is run.

    Args:
        path: of the file.

    Raises:
        ConfigError: if there is no such file.
        DataError: if it is damaged, of another version, or something else wrote it.
        MissingExtraError: if its network needs a package that is not installed.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        content = _rebuilt(header)
        content.adaptation.load_state_dict(tensors)
    except MissingExtraError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged: its header and weights do not fit ({_short(error)}). Save it again."
        ) from None
    if weights_sha256(content.adaptation) != header.get("weights_sha256"):
        raise DataError(f"{path} is damaged: its weights are not those that were saved. Save it again.")
    return content


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found, tensors = read_tensors(path, writer="ModalityRouter.save", cure="Save it again.")
    try:
        header = json.loads(found.get(_HEADER, "null"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({_short(error)}). Save it again.") from None
    if not isinstance(header, dict):
        raise DataError(f"{path} holds no modality. Give a file that ModalityRouter.save wrote.")
    if header.get("version") != _VERSION:
        raise DataError(
            f"{path} has the version {header.get('version')!r}, but this pvision reads {_VERSION}. Install the pvision "
            "that wrote it, or save it again."
        )
    return header, tensors


def _rebuilt(header: Mapping[str, Any]) -> TranslatorFile:
    described = header["adaptation"]
    kind = cast("type[_Described]", _KNOWN[described["kind"]])
    adaptation = cast("Adaptation", kind.from_description(described["settings"]))
    return TranslatorFile(
        modality=str(header["modality"]),
        input=ImageInput.from_description(header["input"]),
        adaptation=adaptation.eval(),
        detector_sha256=str(header["detector_sha256"]),
        class_names=tuple(map(str, header["class_names"])),
    )


def _short(error: Exception) -> str:
    # Errors of load_state_dict run over pages.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
