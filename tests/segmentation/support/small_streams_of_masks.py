"""A stream of tiny pictures with four classes, a network without BatchNorm, and a Trainer that is quick and quiet."""

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.sources import ArraySegmentation
from pvision.datamodules.segmentation.stream import SegmentationStream
from pvision.modules import IncrementalSegmenter

COLOURS = np.array([[40, 40, 40], [220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30]])


def pictures(count, seed):
    """Return pictures with two coloured squares each, and a void row."""
    random = np.random.default_rng(seed)
    masks = np.zeros((count, 16, 16), np.uint8)
    for mask in masks:
        for label in random.permutation(4)[:2] + 1:
            top, left = random.integers(1, 10, 2)
            mask[top : top + 6, left : left + 6] = label
    images = np.clip(COLOURS[masks] + random.normal(0, 15, (*masks.shape, 3)), 0, 255).astype(np.uint8)
    masks[:, 0] = 255
    return ArraySegmentation(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)), masks, num_classes=4, prefix=f"set{seed}"
    )


class SmallStream(SegmentationStream):
    """Classes 1 and 2, then 3, then 4."""

    class_names = ("red", "green", "blue", "yellow")

    def __init__(self, *, train=48, **settings):
        settings = {"scenario": SegmentationScenario(increments=[2, 1, 1]), "batch_size": 8, "seed": 3, **settings}
        preprocessing = SegmentationPreprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), eval_crop=12)
        super().__init__(**{"preprocessing": preprocessing, "eval_batch_size": 3, **settings})
        self.train_images = train

    def prepare_sources(self):
        self.train_source, self.test_source = pictures(self.train_images, 1), pictures(7, 2)


class SmallNetwork(nn.Module):
    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    def levels(self, image):
        return [self.body(image)]

    def forward(self, image):
        return self.body(image)


def segmenter(method, **settings):
    torch.manual_seed(0)
    optimizer = {"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)}
    return IncrementalSegmenter(SmallNetwork(), **{"method": method, **optimizer, **settings})


def trainer_for(folder, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{"max_epochs": 1, "default_root_dir": folder, **quiet, **settings})
