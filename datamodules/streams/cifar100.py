"""CIFAR-100 in the layout of its Python archive."""

from pvision.datamodules.streams._cifar import CIFARStream
from pvision.datamodules.streams.preprocessing import Preprocessing

__all__ = ["CIFAR100Stream"]


class CIFAR100Stream(CIFARStream):
    """CIFAR-100: 50,000 training and 10,000 test images of 100 classes, 32 x 32 pixels; the fine labels.

    Arguments are those of `ProtocolStream`, and ``download``, which fetches the archive (169 MB) if it is not there.

    Example:
        ``CIFAR100Stream(root="data", download=True, protocol="cifar100_pilot_b0_inc10")``
    """

    data = "cifar100"
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    sha256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    train_files = ("train",)
    test_file = "test"
    meta_file = "meta"
    labels_key = "fine_labels"
    names_key = "fine_label_names"

    def default_preprocessing(self) -> Preprocessing:
        """Return the usual crop with a margin of 4 pixels and mirroring, at 32 pixels."""
        return Preprocessing(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761), augment="pad_crop_flip")
