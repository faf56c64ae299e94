"""PEFT's ``adapter_config.json``: what to write, and what of it can be read."""

import json
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from pvision.errors import ConfigError, DataError

__all__ = ["CONFIG", "peft_config", "read_config", "scaling_of"]

CONFIG = "adapter_config.json"

# Initialisations after which PEFT keeps other weights in the network than those it was given.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of PEFT's nested configurations, those that only choose initial values.
_INITIAL = ("eva_config", "corda_config", "loftq_config", "lora_ga_config", "megatron_config")


def peft_config(ranks: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """Return the configuration of a LoRA with these ranks and scalings, by module.

    PEFT takes names in ``target_modules`` as they are and the keys of patterns as regular expressions.
    """
    commonest = max(list(ranks.values()), key=list(ranks.values()).count)
    rank, alpha = commonest[0], commonest[0] * commonest[1]
    others = {
        re.escape(name): (own, own * scaling) for name, (own, scaling) in ranks.items() if (own, scaling) != commonest
    }
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, (own, _) in others.items()},
        "alpha_pattern": {name: own for name, (_, own) in others.items()},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a PEFT folder if it is that of a plain LoRA.

    Raises:
        ConfigError: if there is none, or it asks for something else; the message names the setting.
        DataError: if it cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}. Give the folder that PEFT's save_pretrained wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise DataError(f"{path} is no JSON object. Save or export the adapter again.")
    if odd := _beyond_lora(config):
        raise ConfigError(f"{path}: {odd} is {config[odd]!r}, and only plain LoRA can be imported.")
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise DataError(f"{path} must have the numbers r and lora_alpha. Save or export the adapter again.")
    return config


def _beyond_lora(config: Mapping[str, Any]) -> str | None:
    """Return the setting that asks for more than plain LoRA, None if there is none."""
    if config.get("peft_type") != "LORA":
        return "peft_type" if "peft_type" in config else next(iter(config), None)
    for key, value in config.items():
        switch = key.startswith("use_") and key != "use_rslora"
        nested = key.endswith("_config") and key not in _INITIAL
        more = key in {"lora_bias", "fan_in_fan_out", "alora_invocation_tokens", "modules_to_save", "target_parameters"}
        if (switch or nested or more) and value:
            return key
        if key == "bias" and value != "none":
            return key
        if key == "init_lora_weights" and str(value).startswith(_CHANGES_BASE):
            return key
    return None


def scaling_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what PEFT multiplies B A with in a module."""
    alpha = float(_of_module(config.get("alpha_pattern") or {}, module, config["lora_alpha"]))
    nominal = int(_of_module(config.get("rank_pattern") or {}, module, config["r"]))
    if nominal != rank:
        raise DataError(
            f"{module} has rank {rank} in the file and {nominal} in {CONFIG}. Save or export the adapter again."
        )
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _of_module(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
