"""Streams: labelled image sets that are learned, and forgotten, experience by experience."""

from pvision.datamodules.streams.cifar10 import CIFAR10Stream
from pvision.datamodules.streams.cifar100 import CIFAR100Stream
from pvision.datamodules.streams.cub200 import CUB200Stream
from pvision.datamodules.streams.digits import DigitsStream
from pvision.datamodules.streams.domainnet import DomainNetStream
from pvision.datamodules.streams.fashion_digits_animals import FashionDigitsAnimalsStream
from pvision.datamodules.streams.fashion_mnist import FashionMNISTStream
from pvision.datamodules.streams.image_folder import ImageFolderStream
from pvision.datamodules.streams.imagenet_a import ImageNetAStream
from pvision.datamodules.streams.imagenet_r import ImageNetRStream
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream
from pvision.datamodules.streams.protocols import PROTOCOLS, Protocol
from pvision.datamodules.streams.sources import ArrayImages, FileImages, ImageSource
from pvision.datamodules.streams.task_stream import TaskStream
from pvision.datamodules.streams.tiny_imagenet import TinyImageNetStream

__all__ = [
    "PROTOCOLS",
    "ArrayImages",
    "CIFAR10Stream",
    "CIFAR100Stream",
    "CUB200Stream",
    "DigitsStream",
    "DomainNetStream",
    "FashionDigitsAnimalsStream",
    "FashionMNISTStream",
    "FileImages",
    "ImageFolderStream",
    "ImageNetAStream",
    "ImageNetRStream",
    "ImageSource",
    "Preprocessing",
    "Protocol",
    "ProtocolStream",
    "TaskStream",
    "TinyImageNetStream",
]
