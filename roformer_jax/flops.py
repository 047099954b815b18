"""Model FLOPs: the arithmetic that training a model asks for, whatever program does it."""

from roformer_jax.models import RoFormerConfig


def training_flops(config: RoFormerConfig, *, tokens: int, length: int, predictions: int, outputs: int) -> float:
    """FLOPs of the matrix products of one update; a multiplication and an addition are two.

        6 tokens N (4 M^2 + 2 M I + A) + 6 predictions (M^2 + M outputs)

    with N layers, width M, feed-forward width I, and A = 2 M S for softmax attention over rows of S = `length`, 2 M R
    for linear attention with R features a head (queries with keys, then weights with values; features with values,
    then queries with those). 6 is 2 for the product and twice that for its two gradients (Kaplan et al. 2020, section
    2.1; Chowdhery et al. 2022, appendix B). As there, a causal or packed row counts whole, and embeddings, norms,
    softmax, dropout, the optimizer and whatever is recomputed count nothing.

    Args:
      config: the model.
      tokens: places of the batch that the encoder reads.
      length: places of a row.
      predictions: places of the batch that the head reads.
      outputs: outputs of the head at each: the vocabulary, or the classes.
    """
    width = config.hidden_size
    mixed = length if config.attention == "softmax" else config.num_features
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * width * mixed
    head = width**2 + width * outputs
    return 6.0 * (tokens * config.num_hidden_layers * layer + predictions * head)


def translation_flops(config: RoFormerConfig, *, tokens: int, length: int) -> float:
    """FLOPs as `training_flops` counts them, of an encoder-decoder that reads as many places on both sides.

    An encoder without a head, a decoder with one, and in each layer of that cross-attention, 6 tokens (4 M^2 + 2 M S):
    its queries and output at the target's places, its keys and values at the source's.

    Args:
      config: the model.
      tokens: places of the batch on either side.
      length: places of a row, S.
    """
    encoder = training_flops(config, tokens=tokens, length=length, predictions=0, outputs=0)
    decoder = training_flops(config, tokens=tokens, length=length, predictions=tokens, outputs=config.vocab_size)
    width = config.hidden_size
    crossed = 6.0 * tokens * config.num_hidden_layers * (4 * width**2 + 2 * width * length)
    return encoder + decoder + crossed
