"""Model FLOPs against the products that the program of a model has."""

import jax
import pytest

from roformer_jax.flops import training_flops
from roformer_jax.models import RoFormerConfig, build_causal_lm, build_masked_lm
from roformer_jax.planning.arithmetic import matmul_flops

SIZES = dict(vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
ROWS, LENGTH, POSITIONS = 4, 16, 5


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, "int32")


def forward_flops(model, *shapes):
    params = jax.eval_shape(model.init, jax.random.key(0))
    return matmul_flops(jax.make_jaxpr(model.apply)(params, *shapes))


def test_a_masked_lm_has_a_third_of_them_in_its_forward_pass():
    config = RoFormerConfig(**SIZES, attention_probs_dropout_prob=0.0, position_encoding="none")
    rows = tokens(ROWS, LENGTH)
    found = forward_flops(build_masked_lm(config), rows, rows, tokens(ROWS, POSITIONS))
    flops = training_flops(config, tokens=ROWS * LENGTH, length=LENGTH, predictions=ROWS * POSITIONS, outputs=96)
    assert found == flops / 3


def test_linear_attention_grows_with_the_length_and_not_its_square():
    config = RoFormerConfig(**SIZES, attention="linear", attention_probs_dropout_prob=0.0)

    def flops(length):
        return training_flops(config, tokens=1024, length=length, predictions=0, outputs=1)

    assert flops(1024) == flops(16)
    softmax = RoFormerConfig(**SIZES)
    features = config.num_features
    assert flops(16) == training_flops(softmax, tokens=1024, length=features, predictions=0, outputs=1)


def test_a_causal_row_counts_whole():
    config = RoFormerConfig(**SIZES, position_encoding="none")
    rows = tokens(ROWS, LENGTH)
    found = forward_flops(build_causal_lm(config), rows, rows)
    count = ROWS * LENGTH
    flops = training_flops(config, tokens=count, length=LENGTH, predictions=count, outputs=96)
    assert found == pytest.approx(flops / 3, rel=1e-9)


def test_the_base_model_has_six_flops_a_parameter_and_its_attention():
    """BERT base: 85 million parameters in 12 blocks; 12 L M of attention for each token and layer."""
    config = RoFormerConfig()
    blocks = 12 * (4 * 768**2 + 2 * 768 * 3072)
    flops = training_flops(config, tokens=1, length=512, predictions=0, outputs=1)
    assert flops == 6 * blocks + 12 * 12 * 512 * 768
