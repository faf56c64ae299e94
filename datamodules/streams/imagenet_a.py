"""ImageNet-A [0]: photographs of 200 classes that networks get wrong.

[0] Hendrycks, Zhao, Basart, Steinhardt, Song, Natural Adversarial Examples, CVPR 2021, arXiv:1907.07174.
"""

from pvision.datamodules.streams._wordnet_folders import WordNetFolders

__all__ = ["ImageNetAStream"]


class ImageNetAStream(WordNetFolders):
    """ImageNet-A: 7,500 photographs of 200 classes; two splits are in use.

    - ``folders``: ``ROOT/{train,test}/CLASS/IMAGE``, as in the archive of PILOT and its relatives.
    - ``random``: ``ROOT/CLASS/IMAGE``, as the authors publish it, divided within each class by ``split_seed``.

    Other arguments are those of `ProtocolStream`.

    Args:
        test_fraction: part of each class' images that is for the test, with split ``random``.
        split_seed: draws them.

    Example:
        ``ImageNetAStream(root="data/imagenet-a", protocol="imagenet_a_pilot_b0_inc20")``
    """

    data = "imagenet_a"
    title = "ImageNet-A"
    site = "https://github.com/hendrycks/natural-adv-examples"
