"""LoRA adapters in the format of Hugging Face's PEFT: a folder with a configuration and a safetensors file.

PEFT adapts whole modules only. Where a network fuses queries, keys and values, adapters on thirds of the matrix become
one on the whole, whose A stacks theirs and whose B holds theirs as blocks: the same map, with the sum of their ranks. A
note in the file's header says which ranks belong to which third, so that `import_peft` takes them apart again; PEFT
does not read it. In a `torch.nn.MultiheadAttention` PEFT adapts ``in_proj_weight`` and ``out_proj`` together and with
one rank, so the one that has fewer gets zeros.

[0] https://huggingface.co/docs/peft/main/en/developer_guides/checkpoint
[1] https://github.com/huggingface/peft/pull/3774
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.lora import LowRank
from pvision.adapters.peft_config import CONFIG, peft_config, read_config, scaling_of
from pvision.adapters.peft_matrices import Matrix, Part, peft_matrices, peft_target, taken_apart
from pvision.errors import ConfigError, DataError
from pvision.files import write_whole
from pvision.tensor_files import read_tensors, write_tensors

__all__ = ["export_peft", "import_peft"]

_WEIGHTS = "adapter_model.safetensors"
_NOTE = "pvision_thirds"
_PREFIX = "base_model.model."
_ENDS = (".lora_A.weight", ".lora_B.weight")


def export_peft(
    adapted: AdaptedModel,
    folder: str | Path,
    *,
    names: Sequence[str] | None = None,
    out_proj_times: int | None = None,
) -> None:
    """Write LoRA adapters so that ``peft.PeftModel.from_pretrained(network, folder)`` computes the same.

    Several adapters at one place become one, with the sum of their ranks; gates and factors go into B and the scaling.

    Args:
        adapted: what holds them, merged or not.
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go; made if it does not exist.
        names: which ones; None for the active ones.
        out_proj_times: how often the PEFT that will read the folder adds what is learned at the ``out_proj`` of a
            `torch.nn.MultiheadAttention`: 2 up to PEFT 0.21.2, which is a defect [1], 1 where it is mended. Needed only
            where an adapter sits there.

    Raises:
        ConfigError: if there are none, one of them is not of low rank, or ``out_proj_times`` is needed.
    """
    matrices = peft_matrices(
        adapted, adapted.active if names is None else adapted.known(names), out_proj_times=out_proj_times
    )
    if not matrices:
        raise ConfigError("export_peft: no adapter is active. Activate one, or give names.")
    tensors = {}
    for matrix in matrices:
        for end, tensor in zip(_ENDS, (matrix.down, matrix.up), strict=True):
            tensors[f"{_PREFIX}{matrix.key}{end}"] = tensor
    note = {matrix.key: matrix.thirds for matrix in matrices}
    # The configuration comes last: a folder without it is refused, so a half-written one is too.
    write_tensors(Path(folder) / _WEIGHTS, tensors, header={"format": "pt", _NOTE: json.dumps(note)})
    ranks = {matrix.target: (len(matrix.down), matrix.scaling) for matrix in matrices}
    write_whole(Path(folder) / CONFIG, json.dumps(peft_config(ranks), indent=2) + "\n")


def import_peft(
    model: nn.Module, folder: str | Path, *, name: str = "adapter", out_proj_times: int | None = None
) -> AdaptedModel:
    """Return ``model`` with the LoRA adapter of a PEFT folder, trainable, on top of those it has.

    Args:
        model: the network that it was trained in, or an `AdaptedModel` around it; changed in place.
        folder: what PEFT's ``save_pretrained`` or `export_peft` wrote.
        name: what to call it.
        out_proj_times: as in `export_peft`, of the PEFT in which the adapter was trained.

    Raises:
        ConfigError: if a file is missing, the configuration asks for more than plain LoRA, the network lacks a module,
            the name is taken, or ``out_proj_times`` is needed.
        DataError: if the tensors are damaged, or do not fit the network.
    """
    config = read_config(Path(folder))
    pairs, note = _read(Path(folder) / _WEIGHTS)
    adapted = model if isinstance(model, AdaptedModel) else AdaptedModel(model)
    parts: list[Part] = []
    for key, pair in pairs.items():
        target = peft_target(key)
        matrix = Matrix(key, target, *pair, scaling_of(config, target, len(pair[0])), note.get(key))
        parts += taken_apart(adapted, matrix, out_proj_times=out_proj_times)
    made = [(part.place, _adapter(part, adapted.sites.weight_at(part.place))) for part in parts]
    return adapted.stack(name, made)


def _adapter(part: Part, weight: Tensor) -> LowRank:
    place, rank = part.place, len(part.down)
    wanted = [(rank, place.in_features), (place.out_features, rank)]
    came = [tuple(part.down.shape), tuple(part.up.shape)]
    if came != wanted:
        raise DataError(f"the adapter for {place.name} must have A and B of shapes {wanted}, but {came} came.")
    dtype = torch.promote_types(part.up.dtype, weight.dtype)
    adapter = LowRank(place, rank=rank, scaling=part.scaling, like=weight.to(dtype))
    with torch.no_grad():
        adapter.down.copy_(part.down)
        adapter.up.copy_(part.up)
    return adapter


def _read(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], Mapping[str, Any]]:
    """Return A and B by what their names begin with, and the note of `export_peft` if there is one."""
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}. Let PEFT save with safe_serialization=True.")
    header, tensors = read_tensors(path, writer="export_peft", cure="Save or export the adapter again.")
    note = json.loads(header.get(_NOTE, "{}"))
    keys = dict.fromkeys(key.removeprefix(_PREFIX).removesuffix(_ENDS[0]).removesuffix(_ENDS[1]) for key in tensors)
    expected = {f"{_PREFIX}{key}{end}" for key in keys for end in _ENDS}
    if odd := sorted(expected ^ tensors.keys()):
        raise DataError(
            f"{path} must hold pairs of lora_A.weight and lora_B.weight and nothing else, but see {odd[0]}."
        )
    return {key: (tensors[f"{_PREFIX}{key}{_ENDS[0]}"], tensors[f"{_PREFIX}{key}{_ENDS[1]}"]) for key in keys}, note
