"""The Vision Mamba backbone, registered with timm, and its published weights."""

from svp.models.blocks import Block, PatchEmbed, RMSNorm
from svp.models.checkpoints import LoadReport, WeightsError, read_weights, resize_pos_embed, state_sha256
from svp.models.factory import Backbone, ModelInfo, Origin, create_model, list_models, model_info
from svp.models.mixer import BidirectionalMamba, CausalConv1d
from svp.models.vision_mamba import VisionMamba

__all__ = [
    "Backbone",
    "BidirectionalMamba",
    "Block",
    "CausalConv1d",
    "LoadReport",
    "ModelInfo",
    "Origin",
    "PatchEmbed",
    "RMSNorm",
    "VisionMamba",
    "WeightsError",
    "create_model",
    "list_models",
    "model_info",
    "read_weights",
    "resize_pos_embed",
    "state_sha256",
]
