"""What `continual_adapters.py` compares: each method with its settings, as plain values that a JSON file can hold."""

import ast
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

__all__ = ["FAMILIES", "METHODS", "Contender", "build", "code_digest", "digest"]

_METHODS = "pvision.adapters.methods"
_COMMON = ("adapting", "classifier", "data", "method")
FAMILIES = ("reference", "sequential", "prompts", "low-rank, separate", "closed form", "DualLoRA")


def _of(path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": init_args}


def _method(path: str, **init_args: Any) -> dict[str, Any]:
    return _of(f"{_METHODS}.{path}", **init_args)


def _classifier(**init_args: Any) -> dict[str, Any]:
    return _method("classifier.Classifier", **init_args)


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Args:
        label: its name for a reader.
        family: one of `FAMILIES`; decides on the colour.
        method: class and settings.
        optimizer: class and settings but for the learning rate; its kind is the published one.
        rates: learning rates to choose among, on a seed that is not reported; one alone is taken as it is.
        rate_of: the method whose choice is taken over instead.
        training: "stream", or "joint" for all classes as one experience.
        epochs: how often each image is seen.
        unlike: what differs from the published settings, for a reader.
    """

    label: str
    family: Literal["reference", "sequential", "prompts", "low-rank, separate", "closed form", "DualLoRA"]
    method: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    rates: tuple[float, ...]
    rate_of: str | None = None
    training: Literal["stream", "joint"] = "stream"
    epochs: int = 1
    unlike: str = ""


ADAM = _of("torch.optim.Adam")
ADAMW = _of("torch.optim.AdamW", weight_decay=0.01)
CODYRA_ADAMW = _of("torch.optim.AdamW", betas=[0.9, 0.9999])
SGD = _of("torch.optim.SGD", momentum=0.9)

_FINE_TUNING = "fine_tuning.FineTuning"
_LORA = "lora.SequentialLoRA"
_PER_TASK, _JOINT_HEAD = _classifier(loss_over="current"), _classifier(loss_over="seen")
_COSINE = _classifier(loss_over="current", head="cosine")
_LOW_RANK_RATES = (3e-4, 1e-3)
STEPS = 30  # of an experience; the schedule of CoDyRA's gates has to know

METHODS: dict[str, Contender] = {
    "finetune": Contender("full fine-tuning", "reference", _method(_FINE_TUNING), ADAMW, (1e-5, 3e-5)),
    "joint": Contender(
        "joint, full fine-tuning", "reference", _method(_FINE_TUNING), ADAMW, (1e-4,), training="joint", epochs=4
    ),
    "joint_lora": Contender(
        "joint, LoRA", "reference", _method(_LORA, rank=10), ADAM, (1e-3,), training="joint", epochs=4
    ),
    "lora": Contender(
        "LoRA, head per experience",
        "sequential",
        _method(_LORA, rank=10, classifier=_PER_TASK),
        ADAM,
        _LOW_RANK_RATES,
    ),
    "lora_joint_head": Contender(
        "LoRA, joint head",
        "sequential",
        _method(_LORA, rank=10, classifier=_JOINT_HEAD),
        ADAM,
        _LOW_RANK_RATES,
        rate_of="lora",
    ),
    "lora_cosine_head": Contender(
        "LoRA, cosine head",
        "sequential",
        _method(_LORA, rank=10, classifier=_COSINE),
        ADAM,
        _LOW_RANK_RATES,
        rate_of="lora",
    ),
    "lora_lines": Contender(
        "LoRA + LiNeS",
        "sequential",
        _method(_LORA, rank=10, fresh=True, lines=_method("lines.Lines", alpha=0.1, beta=0.9), classifier=_PER_TASK),
        ADAM,
        _LOW_RANK_RATES,
        rate_of="lora",
    ),
    "wa": Contender(
        "WA, without images kept",
        "sequential",
        _method("weight_aligning.WeightAligning"),
        ADAMW,
        (1e-5, 3e-5),
        rate_of="finetune",
        unlike="published with images kept, from scratch, SGD",
    ),
    "inf_lora": Contender(
        "InfLoRA", "low-rank, separate", _method("inf_lora.InfLoRA", rank=10, energy=0.95), ADAM, (3e-3, 1e-2)
    ),
    "sd_lora": Contender("SD-LoRA", "low-rank, separate", _method("sd_lora.SDLoRA", rank=10), SGD, (1e-3, 5e-3, 1e-2)),
    "sd_lora_rr": Contender(
        "SD-LoRA-RR",
        "low-rank, separate",
        _method("sd_lora.SDLoRA", rank={0: 10, 4: 8, 8: 6}),
        SGD,
        (1e-3, 5e-3, 1e-2),
        rate_of="sd_lora",
    ),
    "sd_lora_kd": Contender(
        "SD-LoRA-KD",
        "low-rank, separate",
        _method("sd_lora.SDLoRA", rank=10, drop_below=0.5),
        SGD,
        (1e-3, 5e-3, 1e-2),
        rate_of="sd_lora",
    ),
    "codyra": Contender(
        "CoDyRA", "low-rank, separate", _method("codyra.CoDyRA", steps=STEPS, rank=16), CODYRA_ADAMW, (5e-4, 2e-3)
    ),
    "dual_lora": Contender("DualLoRA", "DualLoRA", _method("dual_lora.DualLoRA"), ADAM, (1e-3, 3e-3)),
    "dual_lora_pure": Contender(
        "DualLoRA, reconstruction alone",
        "DualLoRA",
        _method("dual_lora.DualLoRA", identity="energy", alignment=None),
        ADAM,
        (1e-3, 3e-3),
        rate_of="dual_lora",
        unlike="without what pvision adds: no alignment of the head, and the energy of the tokens tells the experience",
    ),
    "dual_lora_frozen": Contender(
        "DualLoRA's classifier, network frozen",
        "DualLoRA",
        _method("dual_lora.DualLoRA", rank=1, residual_space="none"),
        ADAM,
        (1e-9,),
        unlike="a learning rate at which nothing moves, so that what the adapters add can be seen",
    ),
    "coda_prompt": Contender(
        "CODA-Prompt", "prompts", _method("coda_prompt.CODAPrompt", pool=100, length=8), ADAM, (3e-3, 1e-2)
    ),
    "l2p": Contender(
        "L2P",
        "prompts",
        _method("l2p.L2P", pool=30, length=1, top_k=4),
        ADAM,
        (1e-2, 3e-2),
        unlike="4 prompts of 1 token each, not 5 of 5: an image has 10 tokens here, not 197",
    ),
    "ranpac": Contender(
        "RanPAC",
        "closed form",
        _method("ranpac.RanPAC", projection=2000),
        ADAM,
        _LOW_RANK_RATES,
        rate_of="lora",
        unlike="2,000 random features, not 10,000",
    ),
}


def build(spec: Any, *args: Any, **further: Any) -> Any:
    """Return the object that a mapping with ``class_path`` and ``init_args`` describes; other values as they are."""
    if isinstance(spec, Mapping) and "class_path" in spec:
        settings = {name: build(value) for name, value in spec.get("init_args", {}).items()}
        return _named(spec["class_path"])(*args, **settings, **further)
    if isinstance(spec, Mapping):
        return {name: build(value) for name, value in spec.items()}
    return [build(one) for one in spec] if isinstance(spec, list | tuple) else spec


def digest(settings: Any) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@cache
def _source(path: str) -> str:
    """Return a source file without comments, layout and docstrings: what it does."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[:] = body[1:]
    return ast.dump(tree)


def code_digest(spec: Any) -> str:
    """Return the SHA-256 of the code of pvision's classes that a description names, and of what these are made of.

    What all methods have in common does not count: it changes with every method that is added.
    """
    waiting = [inspect.getfile(one) for one in _classes(spec) if one.__module__.startswith("pvision.")]
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = _source(path)
            waiting += _parts(path)
    return hashlib.sha256("\n".join(found[path] for path in sorted(found)).encode()).hexdigest()


def _parts(path: str) -> list[str]:
    """Return the files in `pvision.adapters.methods` that a file imports, but for those that all methods import."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [module for module in modules if module.startswith(f"{_METHODS}.") and module.split(".")[-1] not in _COMMON]
    return [str(import_module(module).__file__) for module in own]


def _classes(spec: Any) -> list[type]:
    if isinstance(spec, Mapping):
        own = [_named(spec["class_path"])] if "class_path" in spec else []
        return own + [found for value in spec.values() for found in _classes(value)]
    return [found for one in spec for found in _classes(one)] if isinstance(spec, list | tuple) else []


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
