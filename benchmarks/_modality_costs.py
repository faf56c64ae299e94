"""What each way costs when it predicts: multiply-adds beside the detector's, and milliseconds side by side."""

import statistics
import time
from typing import Any

import torch
from _modality_arms import ARMS, SIZE

from pvision.detection import CompactFCOS, FixedRange, ImageInput, ModalityRouter, multiply_adds
from pvision.detection.adaptations.cost import added_bytes, trainable_parameters

ROUNDS, IMAGES = 15, 8


def measure_costs() -> dict[str, Any]:
    """Return, for each way and for the detector alone, added multiply-adds and the median of milliseconds per image.

    One image at a time, on one thread; every round asks each way in turn, so that all meet the same machine.
    """
    torch.set_num_threads(1)
    kept = {name: _kept(name) for name in ARMS}
    routers = {name: _router(name) for name in ARMS}
    images = [27_000 + 4_000 * torch.rand(1, *SIZE) for _ in range(IMAGES)]
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for round_ in range(ROUNDS + 1):
        for name, router in routers.items():
            started = time.perf_counter()
            for image in images:
                router.predict([image], "lwir")
            if round_:  # the first one warms up
                times[name].append(1000 * (time.perf_counter() - started) / IMAGES)
    detector = CompactFCOS()
    found: dict[str, Any] = {
        name: {"multiply_adds": _added(router), "ms": round(statistics.median(times[name]), 2), **kept[name]}
        for name, router in routers.items()
    }
    whole = multiply_adds(detector.predict, [torch.rand(3, *SIZE)])
    return {"detector": {"multiply_adds": whole}, **found}


def _kept(name: str) -> dict[str, int]:
    detector, adaptation = CompactFCOS(), ARMS[name].build(1)
    adaptation.attach(detector)
    return {
        "trainable_parameters": trainable_parameters(detector, adaptation),
        "added_bytes": added_bytes(detector, adaptation),
    }


def _router(name: str) -> ModalityRouter:
    router = ModalityRouter(CompactFCOS())
    router.add("lwir", ImageInput(1, scaling=FixedRange(25_000, 35_000)), ARMS[name].build(1))
    # Before it is used, LoRA is merged, as it would be after training.
    router.adaptations["lwir"].after_training(router.detector)
    return router


def _added(router: ModalityRouter) -> int:
    return multiply_adds(router.adaptations["lwir"].translate, torch.rand(1, 1, *SIZE))
