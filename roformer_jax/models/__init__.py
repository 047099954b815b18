"""RoFormer: the encoder of Su et al. 2021 (arXiv 2104.09864) with its heads, and with its decoder (section 4.1)."""

from roformer_jax.models.build import (
    Decoder,
    Head,
    Model,
    Translator,
    build,
    build_causal_lm,
    build_classifier,
    build_decoder,
    build_encoder,
    build_masked_lm,
    build_token_model,
    build_translation,
    build_translator,
)
from roformer_jax.models.config import RoFormerConfig

__all__ = [
    "Decoder",
    "Head",
    "Model",
    "RoFormerConfig",
    "Translator",
    "build",
    "build_causal_lm",
    "build_classifier",
    "build_decoder",
    "build_encoder",
    "build_masked_lm",
    "build_token_model",
    "build_translation",
    "build_translator",
]
