"""A few drawn scenes in two modalities, as a data module: rectangles on noise."""

import torch

from pvision.datamodules.detection.datamodule import DetectionDataModule
from pvision.detection.records import DetectionBatch


class Drawn:
    """Scenes of 64 x 64 pixels with a standing and a lying rectangle, some empty; bright in RGB, warm in LWIR."""

    def __init__(self, split: str, count: int, modality: str) -> None:
        self.names = [f"{split}/{number}" for number in range(count)]
        self.modality = modality
        self._split = split

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, positions):
        scenes = [self._scene(position) for position in positions]
        return DetectionBatch(
            [image for image, _ in scenes],
            [target for _, target in scenes],
            [self.names[position] for position in positions],
            self.modality,
        )

    def _scene(self, position):
        generator = torch.Generator().manual_seed(sum(self._split.encode()) * 1000 + position)
        image = 40 * torch.rand(3, 64, 64, generator=generator)
        boxes, labels = [], []
        for label, (high, wide) in enumerate([(28, 12), (12, 28)]):
            if position % 4 == 3:
                continue  # an empty image
            top, left = (int(torch.randint(0, 30, (), generator=generator)) for _ in range(2))
            image[:, top : top + high, left : left + wide] = torch.tensor([200.0, 60.0 + 100 * label, 90.0])[
                :, None, None
            ]
            boxes.append([left, top, left + wide, top + high])
            labels.append(label)
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        if self.modality == "rgb":
            return image, target
        warm = 29_000 + 4 * image.mean(0, keepdim=True)
        return (warm if self.modality == "lwir" else torch.cat([warm, warm.flip(-1)])), target


class SmallScenes(DetectionDataModule):
    """`Drawn` scenes of one modality, with the RGB test images; depth has two channels."""

    class_names = ("person", "dog")

    def __init__(self, modality: str = "lwir", *, count: int = 10, rgb: bool = True, **settings) -> None:
        super().__init__(**{"batch_size": 4, "eval_batch_size": 3, **settings})
        self.modality, self._count, self._rgb = modality, count, rgb

    def prepare_sets(self) -> None:
        self.train_set = Drawn("train", self._count, self.modality)
        self.val_set = Drawn("val", 5, self.modality)
        self.test_sets = {self.modality: Drawn("test", 7, self.modality)}
        if self._rgb and self.modality != "rgb":
            self.test_sets["rgb"] = Drawn("test", 7, "rgb")
