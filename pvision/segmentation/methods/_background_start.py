"""How new outputs can begin as a share of the background.

[0] Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR 2020,
arXiv 2002.00718.
"""

import math

import torch

from pvision.segmentation.head import MaskHead

__all__ = ["split_background"]


def split_background(head: MaskHead) -> None:
    """Give the newest classes the background's weights, and all of them together its probability.

    Section 3.2 of [0], "classifiers' parameters initialization": the bias of the background and of each of the n new
    classes becomes ``b - log(n + 1)``. The softmax of old classes stays as it was, and the old background's probability
    is shared equally.

    Args:
        head: one whose outputs are plain convolutions, with at least one new experience.
    """
    first, new = head.layers[0], head.layers[-1]
    with torch.no_grad():
        bias = first.get_parameter("bias")[0] - math.log(len(head.groups[-1]) + 1)
        new.get_parameter("weight").copy_(first.get_parameter("weight")[:1])
        new.get_parameter("bias").copy_(bias)
        first.get_parameter("bias")[0] = bias
