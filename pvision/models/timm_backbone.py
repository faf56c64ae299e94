"""timm's vision transformers as feature extractors."""

import re
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from pvision.checks import positive_int
from pvision.errors import ConfigError, MissingExtraError
from pvision.models._vit_weights import resized_positions
from pvision.network_weights import load_exactly, read_weights, without_head

__all__ = ["TimmBackbone"]


class TimmBackbone(nn.Module):
    """Turn images into features with one of timm's networks, its classifier left out.

    Needs timm: ``pip install 'pvision[adapters]'``. The images must be normalised as the network was trained; timm says
    how in ``network.pretrained_cfg["mean"]`` and ``["std"]``.

    Args:
        name: timm's name of the network, as ``"vit_base_patch16_224"``.
        pretrained: load timm's published weights. This alone downloads.
        weights: a local file of weights instead, ``.safetensors`` or ``.pth``, under timm's names; a classifier in it
            is left out, position embeddings of another grid are interpolated.
        image_size: side of the images in pixels; None for that which the network was made for.

    Attributes:
        network: timm's network.
        feature_dim: the size of a feature vector.
        image_size: side of the images in pixels.

    Raises:
        ConfigError: if timm has no such network, it takes no ``image_size``, or ``weights`` is another network's.
        DataError: if the file of weights is damaged.
        MissingExtraError: if timm is not installed.
    """

    def __init__(
        self, name: str, *, pretrained: bool = False, weights: str | None = None, image_size: int | None = None
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ConfigError(f"weights {weights!r} came with pretrained: true. Give one of them.")
        self.network = _created(name, pretrained=pretrained, image_size=image_size)
        self.feature_dim: int = self.network.num_features
        self.image_size: int = image_size or self.network.pretrained_cfg["input_size"][-1]
        if weights is not None:
            _load(self.network, weights)

    def forward(self, image: Tensor) -> Tensor:
        """Return features, ``(B, feature_dim)``, of normalised images, float, ``(B, 3, image_size, image_size)``."""
        features: Tensor = self.network(image)
        return features

    def embed(self, image: Tensor) -> Tensor:
        """Return the first block's input, ``(B, 1 + N, width)``: the class token, then the patches, with positions.

        Raises:
            ConfigError: if the network is none of timm's class `VisionTransformer`, or has no class token.
        """
        network = self._transformer()
        # timm has no public method between the patches and the blocks.
        tokens: Tensor = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(image))))
        return tokens

    def encode(self, tokens: Tensor) -> Tensor:
        """Return features, ``(B, feature_dim)``, of tokens ``(B, any number, width)``, pooled as the network does it.

        Raises:
            ConfigError: if the network is none of timm's class `VisionTransformer`, or has no class token.
        """
        network = self._transformer()
        features: Tensor = network.forward_head(network.norm(network.blocks(tokens)))
        return features

    def _transformer(self) -> Any:
        from timm.models.vision_transformer import VisionTransformer

        network = self.network
        if not isinstance(network, VisionTransformer) or network.cls_token is None:
            raise ConfigError(
                f"{type(network).__name__} has no class token before the tokens of its patches, so nothing can be put "
                "between them. Take a network such as vit_base_patch16_224, or a method without prompts."
            )
        return network


def _created(name: str, *, pretrained: bool, image_size: int | None) -> Any:
    """Return timm's network without classifier."""
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "adapters", "TimmBackbone") from error
    # Names with a scheme, as hf-hub:, would be fetched even for a network with random weights.
    architecture = name.partition(".")[0] if isinstance(name, str) else ""
    if not timm.is_model(architecture) or not re.fullmatch(r"[\w.]+", name):
        near = get_close_matches(str(name), timm.list_models(), 3)
        raise ConfigError(
            f"name must be one of timm's networks, but {name!r} came. "
            f"{'Did you mean ' + ' or '.join(near) if near else 'timm.list_models() lists them'}?"
        )
    size: dict[str, Any] = {} if image_size is None else {"img_size": positive_int("image_size", image_size)}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **size)
    except TypeError as error:
        raise ConfigError(f"image_size: {name} takes images of any size. Leave it out.") from error
    except (RuntimeError, OSError, ValueError) as error:
        remedy = (
            "Check the name and the connection, or give a local file as weights" if pretrained else "Check the name"
        )
        raise ConfigError(f"timm cannot make {name!r}: {error} {remedy}.") from error


def _load(network: nn.Module, weights: str) -> None:
    state, own = without_head(read_weights(weights)), network.state_dict()
    if "pos_embed" in own and "pos_embed" in state and own["pos_embed"].ndim == state["pos_embed"].ndim == 3:
        prefix = getattr(network, "num_prefix_tokens", 1)
        prefix = 0 if getattr(network, "no_embed_class", False) else prefix
        state["pos_embed"] = resized_positions(state["pos_embed"], own["pos_embed"], prefix=prefix)
    load_exactly(network, state, source=repr(weights))
