"""What `modality_translation.py` compares: ways to make an RGB detector work on another modality."""

from collections.abc import Callable
from dataclasses import dataclass

from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.adaptations.equalisation import HistogramEqualisation, InvertedEqualisation
from pvision.detection.adaptations.fine_tuning import FineTuning
from pvision.detection.adaptations.inversion import Inversion
from pvision.detection.adaptations.lora import DetectorLoRA
from pvision.detection.adaptations.visual_prompt import VisualPrompt
from pvision.detection.adaptations.wise import WiSEFineTuning
from pvision.detection.adaptations.zero_shot import ZeroShot
from pvision.detection.translator import ModalityTranslator

SIZE = (96, 128)
_TRANSLATOR = (1e-3,)
_WEIGHTS = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Arm:
    """One way.

    Args:
        title: in tables.
        build: makes it for images of so many channels.
        rates: learning rates that are tried; none where nothing is trained.
        rate_of: of which arm the learning rate is taken instead.
    """

    title: str
    build: Callable[[int], Adaptation]
    rates: tuple[float, ...] = ()
    rate_of: str | None = None


def _translator(fusion: str) -> Callable[[int], Adaptation]:
    return lambda channels: ModalityTranslator(channels, network="pyramid", fusion=fusion, encoder_weights="rendered")


ARMS = {
    "zero_shot": Arm("zero-shot", ZeroShot),
    "inversion": Arm("pixel inversion", Inversion),
    "equalisation": Arm("histogram equalisation", HistogramEqualisation),
    "inverted_equalisation": Arm("inversion, then equalisation", InvertedEqualisation),
    "prompt_padding": Arm(
        "static prompt, padding",
        lambda channels: VisualPrompt("padding", image_size=SIZE, in_channels=channels),
        (3e-2,),
    ),
    "prompt_weight_map": Arm(
        "static prompt, weight map",
        lambda channels: VisualPrompt("weight_map", image_size=SIZE, in_channels=channels),
        (3e-2,),
    ),
    "modtr_small": Arm(
        "ModTr, product, small U-Net from scratch",
        lambda channels: ModalityTranslator(channels, network="small", resolution=0.5),
        _TRANSLATOR,
    ),
    "modtr": Arm("ModTr, no fusion", _translator("none"), _TRANSLATOR),
    "modtr_product": Arm("ModTr, product", _translator("product"), rate_of="modtr"),
    "modtr_sum": Arm("ModTr, sum", _translator("sum"), rate_of="modtr"),
    "modtr_attention": Arm("ModTr, attention", _translator("attention"), rate_of="modtr"),
    "modtr_residual": Arm("ModTr, residual product", _translator("residual_product"), rate_of="modtr"),
    "modtr_affine": Arm("ModTr, affine", _translator("affine"), rate_of="modtr"),
    "modprompt": Arm("ModPrompt (additive)", _translator("additive"), rate_of="modtr"),
    "head": Arm("head only", lambda channels: FineTuning(channels, part="head"), (1e-3, 4e-3)),
    "lora": Arm("LoRA, rank 4", lambda channels: DetectorLoRA(channels), (2e-3, 6e-3)),
    "fine_tuning": Arm("full fine-tuning", FineTuning, _WEIGHTS),
    "wise": Arm("WiSE-OD, λ = 0.5", WiSEFineTuning, rate_of="fine_tuning"),
}

MAIN = (
    "modtr",
    "fine_tuning",
    "zero_shot",
    "inversion",
    "equalisation",
    "inverted_equalisation",
    "lora",
    "head",
    "wise",
)
CORRUPTED = ("zero_shot", "fine_tuning", "wise", "modtr")
BUDGETS = {"modtr": (0.1, 0.01), "fine_tuning": (0.1, 0.01)}
ON_DEPTH = ("zero_shot", "fine_tuning", "modtr")
IN_SEQUENCE = ("modtr", "fine_tuning")
