"""RoFormer: the encoder of Su et al. 2021 (arXiv 2104.09864) with its language-model and classification heads."""

from roformer_jax.models.build import (
    Decoder,
    Head,
    Model,
    build,
    build_causal_lm,
    build_classifier,
    build_decoder,
    build_encoder,
    build_masked_lm,
    build_token_model,
)
from roformer_jax.models.config import RoFormerConfig

__all__ = [
    "Decoder",
    "Head",
    "Model",
    "RoFormerConfig",
    "build",
    "build_causal_lm",
    "build_classifier",
    "build_decoder",
    "build_encoder",
    "build_masked_lm",
    "build_token_model",
]
