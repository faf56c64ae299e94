"""CIFAR-10 in the layout of its Python archive."""

from pvision.datamodules.streams._cifar import CIFARStream
from pvision.datamodules.streams.preprocessing import Preprocessing

__all__ = ["CIFAR10Stream"]


class CIFAR10Stream(CIFARStream):
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes, 32 x 32 pixels.

    Arguments are those of `ProtocolStream`, and ``download``, which fetches the archive (170 MB) if it is not there.

    Example:
        ``CIFAR10Stream(root="data", download=True, protocol="cifar10_mammoth_5")``
    """

    data = "cifar10"
    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    sha256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    train_files = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_file = "test_batch"
    meta_file = "batches.meta"
    labels_key = "labels"
    names_key = "label_names"

    def default_preprocessing(self) -> Preprocessing:
        """Return the usual crop with a margin of 4 pixels and mirroring, at 32 pixels."""
        return Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2615), augment="pad_crop_flip")
