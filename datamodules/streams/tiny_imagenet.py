"""Tiny-ImageNet [0]: 200 classes of ImageNet at 64 x 64 pixels.

[0] Le, Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from pvision.datamodules.streams._image_lists import (
    ImageRow,
    ImageSplits,
    below,
    folder_rows,
    read_lines,
    refuse_absent,
    sources_of,
)
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources
from pvision.errors import DataError

__all__ = ["TinyImageNetStream"]


class TinyImageNetStream(ProtocolStream):
    """Tiny-ImageNet: 100,000 training images of 200 classes; its 10,000 validation images are the test.

    The labels of its own test images were never published. Classes are numbered by their WordNet identifiers in order.

    ``root`` is the folder ``tiny-imagenet-200`` of the archive. Other arguments are those of `ProtocolStream`.

    Example:
        ``TinyImageNetStream(root="data/tiny-imagenet-200", protocol="tiny_imagenet_pass_b100_inc10")``
    """

    data = "tiny_imagenet"

    def default_preprocessing(self) -> Preprocessing:
        """Return crops with a margin of 4 pixels and mirroring, at 64 pixels, with ImageNet's colours."""
        return Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), augment="pad_crop_flip")

    def read_sources(self) -> Sources:
        """List the images.

        Raises:
            DataError: if the data is not in the layout of the archive.
        """
        annotations, images = self.root / "val" / "val_annotations.txt", self.root / "val" / "images"
        refuse_absent(
            [self.root / "train", annotations, images],
            data="Tiny-ImageNet",
            layout="ROOT/train/WNID/images/*.JPEG, ROOT/val/images/*.JPEG and ROOT/val/val_annotations.txt",
            site="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        )
        train = folder_rows(self.root, self.root / "train", inner="images")
        test = [
            ImageRow(f"val/images/{below(name, annotations)}", label)
            for name, label, *_ in read_lines(annotations, 2, separator="\t")
        ]
        there = {path.name for path in images.iterdir()}
        missing = [row.name for row in test if row.name.rpartition("/")[2] not in there]
        if missing:
            raise DataError(
                f"{annotations} names {len(missing)} images that are not there, such as {missing[0]}. Unpack anew."
            )
        return Sources(*sources_of(ImageSplits(self.root, train, test)))
