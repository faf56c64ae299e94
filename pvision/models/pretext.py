"""Losses from redacted clips alone, for training in which the labels are protected too.

Un-noised steps must not see what the guarantee protects. Where that includes the labels, they learn from one of these
instead: which way up a clip is [0], or what stood in tubelets that were taken away [1, 2].

[0] Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018, arXiv 1803.07728.
[1] He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377.
[2] Tong et al., "VideoMAE", NeurIPS 2022, arXiv 2203.12602.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import open_unit, positive_int
from pvision.errors import ConfigError, DataError
from pvision.models.inputs import check_video
from pvision.models.tubelet_vit import TubeletViT

__all__ = ["MaskedReconstruction", "PublicPretext", "RotationPretext"]

_TURNS = 4


class PublicPretext(nn.Module, ABC):
    """A loss that needs redacted clips and their masks, and has no way to be given a label.

    Args:
        network: the network to train; only what computes its features is.

    Attributes:
        network: the same network, so that training this trains its trunk. All other parameters belong to the pretext
            and can be thrown away afterwards.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the clips' losses, each of which depends on that clip only; 0 for no clips.

        Args:
            video: redacted clips, float from 0 to 1, ``(B, 3, T, H, W)``.
            mask: what was redacted, bool, ``(B, T, H, W)``.

        Raises:
            DataError: if the two do not fit each other, or not the network.
        """


class RotationPretext(PublicPretext):
    """Tell by which quarter turn a clip was rotated; each is shown in all of them.

    Clips that are not square are shown upright and upside down only, because a network may take one size only. What
    has no up and down teaches nothing, and fixed things in the picture (a date, a letterbox) give the answer away.

    Args:
        network: any with ``features(video)`` and ``feature_dim``.

    Raises:
        ConfigError: if it lacks one of the two.

    Guarantee:
        The loss is a deterministic function of the video that is given: give the redacted one.

    References:
        [0] in this file.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        width = getattr(network, "feature_dim", None)
        if not callable(getattr(network, "features", None)) or not isinstance(width, int):
            raise ConfigError(
                f"RotationPretext needs a network with features(video) and feature_dim, but {type(network).__name__} "
                "came. Use a network of pvision.models, or add the two to yours."
            )
        self.head = nn.Linear(width, _TURNS)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Return the mean cross entropy over clips and turns."""
        _check(video, mask)
        turns = range(0, _TURNS, 1 if video.shape[-2] == video.shape[-1] else 2)
        logits = [self.head(self._features(video.rot90(turn, (-2, -1))))[:, list(turns)] for turn in turns]
        targets = torch.arange(len(turns), device=video.device).repeat_interleave(len(video))
        total = F.cross_entropy(torch.cat(logits), targets, reduction="sum")
        return total / max(1, len(targets))

    def _features(self, video: Tensor) -> Tensor:
        return cast(Tensor, self.network.features(video))  # type: ignore[operator]  # a method, as the constructor saw


class MaskedReconstruction(PublicPretext):
    """Reconstruct the normalised pixels of tubelets that were dropped, from the other public ones.

    A tubelet with one redacted pixel is neither shown nor a target, so the network learns from public content alone.
    The choice of what to drop comes from torch's global generator. The network never sees the fill of the redaction
    here, and does so in use.

    Args:
        network: the transformer to train.
        drop: which part of a clip's public tubelets is dropped; one at least is kept and one dropped.
        depth: blocks of the decoder.

    Raises:
        ConfigError: if ``network`` is no `TubeletViT`, or a number is out of its range.

    Guarantee:
        The loss, bit for bit, depends on no pixel of a tubelet that the mask touches, even if ``video`` is not redacted
        at all. A clip with fewer than two public tubelets has the loss 0 and teaches nothing: see `public_tubelets`.

    References:
        [1] and [2] in this file.
    """

    network: TubeletViT

    def __init__(self, network: nn.Module, *, drop: float = 0.75, depth: int = 1) -> None:
        if not isinstance(network, TubeletViT):
            raise ConfigError(
                f"MaskedReconstruction needs a TubeletViT, whose tokens can be left out, but {type(network).__name__} "
                "came. Use RotationPretext, which takes any network."
            )
        super().__init__(network)
        self.drop = open_unit("drop", drop)
        width, attention = network.feature_dim, cast(nn.Module, network.blocks[0].attention)
        twin = TubeletViT(
            1,
            clip=network.clip,
            tubelet=network.tubelet,
            width=width,
            depth=positive_int("depth", depth),
            heads=cast(int, attention.heads),
        )
        self.hand_over = nn.Linear(width, width)
        self.missing = nn.Parameter(torch.zeros(width))
        self.positions, self.blocks, self.norm = twin.positions, twin.blocks, twin.norm
        self.pixels = nn.Linear(width, network.embed.in_features)

    def public_tubelets(self, mask: Tensor) -> Tensor:
        """Return which tubelets have no redacted pixel, bool, ``(B, tubelets)``.

        Args:
            mask: what was redacted, bool, ``(B, T, H, W)``.
        """
        size = self.network.tubelet
        touched = F.max_pool3d(mask.unsqueeze(1).float(), size, stride=size)
        return touched.flatten(1) == 0

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over the clips of the mean squared error over their dropped tubelets."""
        _check(video, mask)
        check_video(video, clip=self.network.clip)
        public = self.public_tubelets(mask)
        # Zeros from the start: a NaN times 0 further down would still be a NaN.
        tubelets = torch.where(public.unsqueeze(-1), self.network._tubelets(2 * video - 1), 0.0)
        chosen = _choose(public, self.drop)
        shown = self._encoded(tubelets, chosen)
        tokens = torch.where(chosen.visible.unsqueeze(-1), shown, self.missing) + self.positions
        for block in self.blocks:
            tokens = _block(block, tokens, public)
        errors = (self.pixels(self.norm(tokens)) - _normalised(tubelets)).square().mean(-1)
        dropped = public & ~chosen.visible
        per_clip = torch.where(dropped, errors, 0.0).sum(1) / dropped.sum(1).clamp(min=1)
        return per_clip.sum() / max(1, len(per_clip))

    def _encoded(self, tubelets: Tensor, chosen: "_Choice") -> Tensor:
        """Return what the network makes of the visible tubelets alone, at their places, ``(B, tubelets, width)``."""
        most = int(chosen.visible.sum(1).max()) if len(tubelets) else 0
        first = chosen.order[:, :most, None]
        real = chosen.visible.gather(1, chosen.order[:, :most])
        tokens = (self.network.embed(tubelets) + self.network.positions).gather(
            1, first.expand(-1, -1, self.network.feature_dim)
        )
        tokens = torch.where(real.unsqueeze(-1), tokens, 0.0)
        for block in self.network.blocks:
            tokens = _block(block, tokens, real)
        handed = self.hand_over(self.network.norm(tokens))
        places = handed.new_zeros(*tubelets.shape[:2], handed.shape[-1])
        placed: Tensor = places.scatter(1, first.expand_as(handed), handed)
        return placed


class _Choice(NamedTuple):
    """What is shown of the clips.

    Attributes:
        visible: bool, ``(B, tubelets)``.
        order: the tubelets of each clip, the visible ones first, int64, ``(B, tubelets)``.
    """

    visible: Tensor
    order: Tensor


def _choose(public: Tensor, drop: float) -> _Choice:
    """Draw for each clip which of its public tubelets are shown."""
    count = public.sum(1, keepdim=True)
    kept = (count - (drop * count).round().long()).clamp(min=1).minimum((count - 1).clamp(min=1))
    order = torch.rand(public.shape, device=public.device).masked_fill(~public, 2.0).argsort(1)
    place = order.argsort(1)
    return _Choice(public & (place < kept), order)


def _block(block: nn.Module, tokens: Tensor, real: Tensor) -> Tensor:
    """Run a block of a `TubeletViT` so that nothing attends to tokens that are not ``real``, ``(B, length)``."""
    attention = cast(nn.Module, block.attention)
    normed = cast(nn.Module, block.attention_norm)(tokens)
    heads = cast(int, attention.heads)
    split = cast(nn.Module, attention.queries_keys_values)(normed).unflatten(-1, (3, heads, -1))
    queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
    weights = queries @ keys.transpose(-1, -2) * cast(float, attention.scale)
    # The lowest number, not minus infinity: a clip without one real token would become NaN, and with it the batch.
    weights = weights.masked_fill(~real[:, None, None, :], torch.finfo(weights.dtype).min)
    mixed = (weights.softmax(-1) @ values).transpose(1, 2).flatten(2)
    tokens = tokens + cast(nn.Module, attention.project)(mixed)
    change = cast(nn.Module, block.mlp)(cast(nn.Module, block.mlp_norm)(tokens))
    return cast(Tensor, tokens + change)


def _normalised(tubelets: Tensor) -> Tensor:
    """Return each tubelet with mean 0 and variance 1, as [1] found best."""
    centred = tubelets - tubelets.mean(-1, keepdim=True)
    deviation: Tensor = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation


def _check(video: Tensor, mask: Tensor) -> None:
    check_video(video)
    if mask.dtype != torch.bool or mask.shape != (video.shape[0], *video.shape[2:]):
        raise DataError(
            "mask must be bool and have the clips' frames, height and width, "
            f"{(video.shape[0], *video.shape[2:])}, but {mask.dtype} of shape {tuple(mask.shape)} came."
        )
