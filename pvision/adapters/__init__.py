"""Parameter-efficient adapters for vision transformers, in plain PyTorch: `add_adapters` is where to begin."""

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.adapter import Adapter, AdapterMethod
from pvision.adapters.adding import add_adapters
from pvision.adapters.bottleneck import Bottleneck, BottleneckAdapter
from pvision.adapters.energy_gated import EnergyGatedLoRA, EnergyGatedLowRank, record_shares
from pvision.adapters.files import load_adapters, save_adapters
from pvision.adapters.gated import GatedLoRA, GatedLowRank, shrink_gates
from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.lines import lines_factors, scale_training
from pvision.adapters.lora import LoRA, LowRank
from pvision.adapters.masked import Masked, MaskedUpdate
from pvision.adapters.peft_format import export_peft, import_peft
from pvision.adapters.places import Place, find_places
from pvision.adapters.prefix import Prefix, PrefixAdapter

__all__ = [
    "AdaptedLayer",
    "AdaptedModel",
    "Adapter",
    "AdapterMethod",
    "Bottleneck",
    "BottleneckAdapter",
    "EnergyGatedLoRA",
    "EnergyGatedLowRank",
    "GatedLoRA",
    "GatedLowRank",
    "LoRA",
    "LowRank",
    "Masked",
    "MaskedUpdate",
    "Place",
    "Prefix",
    "PrefixAdapter",
    "add_adapters",
    "export_peft",
    "find_places",
    "import_peft",
    "lines_factors",
    "load_adapters",
    "record_shares",
    "save_adapters",
    "scale_training",
    "shrink_gates",
]
