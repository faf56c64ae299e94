"""The table of named protocols.

Each group follows code that was read in the named repository at the named commit, but for the protocol that is
pvision's own. Where a protocol's class order comes
from a seed, that is `numpy.random.RandomState(seed).permutation(classes)`, as in all of PyCIL's descendants.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pvision.datamodules.streams._protocol import Protocol
from pvision.datamodules.streams.preprocessing import PILOT_224, Preprocessing

__all__ = ["TABLE"]

_CIFAR_MEAN, _CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# At 224 pixels, values stay in [0, 1] (mean 0, std 1).
_AT_224 = Preprocessing(resize=256, crop=224, augment="random_resized_crop")
_CIFAR_224 = Preprocessing(resize=224, crop=224, augment="random_resized_crop")

_PYCIL = Preprocessing(mean=_CIFAR_MEAN, std=_CIFAR100_STD, augment="pad_crop_flip", brightness=63 / 255)
_ICARL = Preprocessing(mean=_CIFAR_MEAN, std=(1.0, 1.0, 1.0), augment="pad_crop_flip")
_MAMMOTH = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2615), augment="pad_crop_flip")
_SMALL_VIT = Preprocessing(resize=56, interpolation="bicubic", rgb=True, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
_PASS_TINY = Preprocessing(mean=_IMAGENET_MEAN, std=_IMAGENET_STD, augment="flip")
_SPROMPTS = replace(_AT_224, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)

_VIT = "timm vit_base_patch16_224"
_VIT_21K = f"{_VIT} or vit_base_patch16_224_in21k"
_VIT_LORA = f"{_VIT}.augreg2_in21k_ft_in1k"

_PILOT_CODE = "LAMDA-CL/LAMDA-PILOT 5ecab2d utils/data.py, utils/data_manager.py; 3450184, ced523f exps/"
_EASE_CODE = f"{_PILOT_CODE}; sun-hailong/CVPR24-Ease 51849e7 exps/, logs/"
_INFLORA_CODE = "liangyanshuo/InfLoRA 3c97364 configs/, utils/data.py; e08b00e logs/"
_SDLORA_CODE = "WuYichen-97/SD-Lora-CL: logs with class order and weights (2f269b0)"
_CODA_CODE = "GT-RIPL/CODA-Prompt 6417d4f dataloaders/, trainer.py, configs/"
_PYCIL_CODE = "G-U-N/PyCIL 25e8156 utils/data.py; 44cda2e utils/data_manager.py; 44cda2e, 34da939 exps/"

_INFLORA_NOTE = "other logs have the order of the labels, or that of seed 0"
_INFLORA_SPLIT = "; that code draws train/ and test/ itself, so images may differ between groups"
_SDLORA_NOTE = "preprocessing not verified: PILOT's, on which the code builds"
_CODA_NOTE = "trial r > 0 shuffles the classes by Python's random.seed(r)"
_ICARL_NOTE = "the mean colour is subtracted instead of the mean image"


def _icarl_order() -> tuple[int, ...]:
    """Return iCaRL's first class order: its code shuffles the images of each class before it shuffles the classes."""
    random = np.random.RandomState(1993)
    for _ in range(100):
        random.shuffle(np.arange(500))
    order = np.arange(100)
    random.shuffle(order)
    return tuple(order.tolist())


def _cifar() -> Iterator[Protocol]:
    for size in (5, 10):
        yield Protocol(
            name=f"cifar100_pilot_b0_inc{size}",
            data="cifar100",
            classes=100,
            increments=(size,) * (100 // size),
            class_order_seed=1993,
            preprocessing=PILOT_224,
            backbone=_VIT_21K,
            source=_EASE_CODE,
        )
    yield Protocol(
        name="cifar100_inflora_10",
        data="cifar100",
        classes=100,
        increments=(10,) * 10,
        class_order_seed=1993,
        preprocessing=_CIFAR_224,
        backbone="timm vit_base_patch16_224_in21k",
        source=_INFLORA_CODE,
        note=_INFLORA_NOTE,
    )
    yield Protocol(
        name="cifar100_sdlora_10",
        data="cifar100",
        classes=100,
        increments=(10,) * 10,
        class_order_seed=1993,
        preprocessing=PILOT_224,
        backbone=_VIT_LORA,
        source=_SDLORA_CODE,
        verified=False,
        note=f"{_SDLORA_NOTE}; another log has the seed 1994",
    )
    yield Protocol(
        name="cifar100_coda_10",
        data="cifar100",
        classes=100,
        increments=(10,) * 10,
        preprocessing=_CIFAR_224,
        backbone=_VIT,
        source=_CODA_CODE,
        note=_CODA_NOTE,
    )
    yield _pycil("cifar100_pycil_b0_inc10", (10,) * 10, "ResNet-32")
    yield _pycil("cifar100_pycil_b50_inc10", (50, *(10,) * 5), "ResNet-18 with CBAM (exps/pass.json)")
    yield Protocol(
        name="cifar100_icarl_10",
        data="cifar100",
        classes=100,
        increments=(10,) * 10,
        class_order=_icarl_order(),
        preprocessing=_ICARL,
        backbone="ResNet-32, from scratch",
        source="srebuffi/iCaRL b3d3686 iCaRL-TheanoLasagne/",
        note=_ICARL_NOTE,
    )
    yield Protocol(
        name="cifar10_mammoth_5",
        data="cifar10",
        classes=10,
        increments=(2,) * 5,
        preprocessing=_MAMMOTH,
        backbone="ResNet-18, from scratch",
        source="aimagelab/mammoth 0529fb3 datasets/seq_cifar10.py",
    )


def _pycil(name: str, increments: tuple[int, ...], backbone: str) -> Protocol:
    return Protocol(
        name=name,
        data="cifar100",
        classes=100,
        increments=increments,
        class_order_seed=1993,
        preprocessing=_PYCIL,
        backbone=f"{backbone}, from scratch",
        source=_PYCIL_CODE,
    )


def _image_sets() -> Iterator[Protocol]:
    for data, size in (("imagenet_r", 10), ("imagenet_r", 20), ("imagenet_a", 20), ("cub200", 10)):
        yield Protocol(
            name=f"{data}_pilot_b0_inc{size}",
            data=data,
            classes=200,
            increments=(size,) * (200 // size),
            class_order_seed=1993,
            split="folders",
            preprocessing=PILOT_224,
            backbone=_VIT_21K,
            source=_EASE_CODE,
        )
    for count in (5, 10, 20):
        yield Protocol(
            name=f"imagenet_r_inflora_{count}",
            data="imagenet_r",
            classes=200,
            increments=(200 // count,) * count,
            class_order_seed=1993,
            split="folders",
            preprocessing=_AT_224,
            backbone="timm vit_base_patch16_224_in21k",
            source=_INFLORA_CODE,
            note=_INFLORA_NOTE + _INFLORA_SPLIT,
        )
    for count in (5, 10, 20):
        yield _sdlora("imagenet_r", count, 1995)
    yield _sdlora("imagenet_a", 10, 1993)
    for count in (5, 10, 20):
        yield Protocol(
            name=f"imagenet_r_coda_{count}",
            data="imagenet_r",
            classes=200,
            increments=(200 // count,) * count,
            split="coda",
            preprocessing=_AT_224,
            backbone=_VIT,
            source=_CODA_CODE,
            note=_CODA_NOTE,
        )


def _sdlora(data: str, count: int, seed: int) -> Protocol:
    return Protocol(
        name=f"{data}_sdlora_{count}",
        data=data,
        classes=200,
        increments=(200 // count,) * count,
        class_order_seed=seed,
        split="folders",
        preprocessing=PILOT_224,
        backbone=_VIT_LORA,
        source=_SDLORA_CODE,
        verified=False,
        note=_SDLORA_NOTE,
    )


def _domain_net() -> Iterator[Protocol]:
    alphabetical = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    yield Protocol(
        name="domainnet_coda_5",
        data="domainnet",
        classes=345,
        increments=(69,) * 5,
        split="coda",
        preprocessing=_AT_224,
        backbone=_VIT,
        source=_CODA_CODE,
        note=_CODA_NOTE,
    )
    yield Protocol(
        name="domainnet_inflora_5",
        data="domainnet",
        classes=345,
        increments=(69,) * 5,
        split="coda",
        preprocessing=_AT_224,
        backbone="timm vit_base_patch16_224_in21k",
        source=_INFLORA_CODE,
        verified=False,
        note="class order not verified: the configuration's (as labelled), without a log; lists as CODA-Prompt's",
    )
    yield Protocol(
        name="domainnet_sprompts_6",
        data="domainnet",
        classes=345,
        domains=alphabetical,
        preprocessing=_SPROMPTS,
        backbone="CLIP (slip)",
        source="iamwangyabin/S-Prompts 0fc9d4f utils/data.py, configs/domainnet_slip.json",
        note="that code gives each domain 345 labels of its own",
    )
    yield Protocol(
        name="domainnet_ranpac_6",
        data="domainnet",
        classes=345,
        domains=("real", "quickdraw", "painting", "sketch", "infograph", "clipart"),
        preprocessing=PILOT_224,
        backbone=_VIT,
        source="RanPAC/RanPAC a460ac0 utils/data.py; 698e00c trainer.py; e5e21b7 args/domainnet_publish.csv",
    )


def _tiny() -> Iterator[Protocol]:
    for size in (5, 10, 20):
        yield Protocol(
            name=f"tiny_imagenet_pass_b100_inc{size}",
            data="tiny_imagenet",
            classes=200,
            increments=(100, *(size,) * (100 // size)),
            class_order_seed=1993,
            preprocessing=_PASS_TINY,
            backbone="ResNet-18 with CBAM, from scratch",
            source="Impression2805/CVPR21_PASS a55178a Tiny-ImageNet/",
        )


def _own() -> Iterator[Protocol]:
    yield Protocol(
        name="fashion_digits_animals_pvision_10",
        data="fashion_digits_animals",
        classes=30,
        increments=(3,) * 10,
        class_order_seed=1993,
        split="fixed",
        preprocessing=_SMALL_VIT,
        backbone="a vision transformer of 56 pixels",
        source="pvision",
        note="pvision's own, for runs of minutes; no figures of others",
    )


TABLE: tuple[Protocol, ...] = (*_cifar(), *_image_sets(), *_domain_net(), *_tiny(), *_own())
