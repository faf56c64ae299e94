"""Video networks under one convention, and encoders of images.

Each video network takes ``video``, float from 0 to 1, ``(B, 3, T, H, W)``, normalises it itself, gives logits
``(B, num_classes)`` when called and ``(B, feature_dim)`` by ``features``, and never lets the clips of a batch meet. An
image encoder gives features ``(B, feature_dim)`` of images ``(B, C, H, W)`` that are normalised already.
"""

from pvision.models.glyph_vit import GlyphViT
from pvision.models.image_nets import ConvEncoder
from pvision.models.motion_net import MotionEncoder, MotionNet
from pvision.models.norms import replace_batch_norm
from pvision.models.pretext import MaskedReconstruction, PublicPretext, RotationPretext
from pvision.models.sample_crossing import crosses_samples
from pvision.models.timm_backbone import TimmBackbone
from pvision.models.trainability import private_training_problems, require_privately_trainable
from pvision.models.tubelet_vit import TubeletViT
from pvision.models.video_backbone import VideoBackbone, video_model
from pvision.models.vision_transformer import VisionTransformer
from pvision.models.zoo import list_video_models
from pvision.weights_hash import weights_sha256

__all__ = [
    "ConvEncoder",
    "GlyphViT",
    "MaskedReconstruction",
    "MotionEncoder",
    "MotionNet",
    "PublicPretext",
    "RotationPretext",
    "TimmBackbone",
    "TubeletViT",
    "VideoBackbone",
    "VisionTransformer",
    "crosses_samples",
    "list_video_models",
    "private_training_problems",
    "replace_batch_norm",
    "require_privately_trainable",
    "video_model",
    "weights_sha256",
]
