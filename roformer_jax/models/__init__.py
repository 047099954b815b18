"""RoFormer: the encoder of Su et al. 2021 (arXiv 2104.09864) with its masked-LM and classification heads."""

from roformer_jax.models.build import Model, build_classifier, build_masked_lm
from roformer_jax.models.config import RoFormerConfig

__all__ = ["Model", "RoFormerConfig", "build_classifier", "build_masked_lm"]
