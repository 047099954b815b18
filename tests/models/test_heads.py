import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_classifier, build_masked_lm
from roformer_jax.models.heads import mean_tokens
from tests.models.jaxprs import count, equations
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
ROWS, LENGTH, MASKED, VOCAB, CLASSES = 2, 12, 3, 37, 5  # all different, so that a shape tells its axes
CONFIG = RoFormerConfig(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [3] * 3, [1] * 6 + [2] * 4 + [0] * 2], np.int32)
POSITIONS = np.array([[0, 7, 2], [9, 3, 0]], np.int32)
STARTS = np.array([[0, 4, 9], [0, 6, 0]], np.int32)


@pytest.fixture(scope="module")
def masked_lm():
    model = build_masked_lm(CONFIG)
    return model, random_params(model)


@pytest.fixture(scope="module")
def classifier():
    model = build_classifier(CONFIG, CLASSES)
    return model, random_params(model)


def test_head_gives_at_each_position_what_it_gives_everywhere(masked_lm):
    model, params = masked_lm
    apply = jax.jit(model.apply)
    everywhere = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    whole = apply(params, IDS, SEGMENTS, everywhere)
    picked = np.take_along_axis(np.asarray(whole), POSITIONS[..., None], axis=1)
    # The same rows of a product that sums over the width, in another shape; logits reach the width times their scale.
    atol = CONFIG.hidden_size * EPS * float(np.abs(whole).max())
    np.testing.assert_allclose(apply(params, IDS, SEGMENTS, POSITIONS), picked, rtol=0, atol=atol)


def test_no_array_of_the_whole_length_has_a_vocabulary_axis_forward_or_backward(masked_lm):
    model, params = masked_lm

    def loss(params, ids, segment_ids, positions):
        return jnp.sum(jnp.square(model.apply(params, ids, segment_ids, positions)))

    arrays = jax.tree.map(jnp.asarray, (IDS, SEGMENTS, POSITIONS))
    program = jax.make_jaxpr(jax.grad(loss))(params, *arrays)
    shapes = {variable.aval.shape for equation in equations(program) for variable in equation.outvars}
    assert (ROWS, MASKED, VOCAB) in shapes
    assert not [shape for shape in shapes if VOCAB in shape and LENGTH in shape]


def test_output_embedding_learns_as_the_input_embedding(masked_lm):
    """A token that no row holds still gets a gradient, from the softmax over the vocabulary."""
    model, params = masked_lm

    def loss(params):
        logits = model.apply(params, jnp.zeros_like(IDS), jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS))
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1))

    table_VM = jax.jit(jax.grad(loss))(params)["encoder"]["embeddings"]["token"]["embedding"]
    assert np.all(np.linalg.norm(table_VM, axis=1) > 0)


def test_classifier_reads_only_the_first_token_of_each_example(classifier):
    model, params = classifier
    shapes = {
        equation.outvars[0].aval.shape
        for equation in equations(jax.make_jaxpr(model.apply)(params, *map(jnp.asarray, (IDS, SEGMENTS, STARTS))))
        if equation.primitive.name == "dot_general"
    }
    assert (ROWS, STARTS.shape[1], CLASSES) in shapes
    assert not [shape for shape in shapes if CLASSES in shape and LENGTH in shape]


def test_mean_pooling_averages_the_tokens_of_each_example_and_no_others():
    x_BLM = RNG.normal(size=(ROWS, LENGTH, 4)).astype(np.float32)
    found = mean_tokens(jnp.asarray(x_BLM), jnp.asarray(SEGMENTS), 3)
    for row, example in np.ndindex(ROWS, 3):
        tokens = x_BLM[row, SEGMENTS[row] == example + 1].astype(np.float64)
        expected = tokens.mean(axis=0) if len(tokens) else np.zeros(4)
        np.testing.assert_allclose(found[row, example], expected, rtol=0, atol=LENGTH * EPS * np.abs(x_BLM).max())


def test_an_example_gets_the_outputs_it_gets_alone(classifier):
    model, params = classifier
    apply = jax.jit(model.apply)
    packed = apply(params, IDS, SEGMENTS, STARTS)
    alone_ids, alone_segments = np.zeros_like(IDS), np.zeros_like(SEGMENTS)
    alone_ids[0, :5], alone_segments[0, :5] = IDS[0, 4:9], 1
    alone_ids[1, :4], alone_segments[1, :4] = IDS[1, 6:10], 1
    alone = apply(params, alone_ids, alone_segments, np.zeros_like(STARTS))
    # Two blocks and the head, each a sum over the keys and four to six times the width.
    atol = 3 * (LENGTH + 6 * CONFIG.hidden_size) * EPS * float(np.abs(packed).max())
    np.testing.assert_allclose(alone[0, 0], packed[0, 1], rtol=0, atol=atol)
    np.testing.assert_allclose(alone[1, 0], packed[1, 1], rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_whatever_the_blocks_compute_in(masked_lm, classifier, dtype):
    config = dataclasses.replace(CONFIG, dtype=dtype)
    arrays = [jnp.asarray(array) for array in (IDS, SEGMENTS)]
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its LayerNorm, to float32
        logits = jax.eval_shape(build_masked_lm(config).apply, masked_lm[1], *arrays, jnp.asarray(POSITIONS))
        outputs = jax.eval_shape(build_classifier(config, CLASSES).apply, classifier[1], *arrays, jnp.asarray(STARTS))
    chex.assert_type([logits, outputs], jnp.float32)
    assert logits.shape == (ROWS, MASKED, VOCAB)
    assert outputs.shape == (ROWS, STARTS.shape[1], CLASSES)


def test_classification_head_drops_before_both_of_its_products(classifier):
    model, params = classifier
    arrays = [jnp.asarray(array) for array in (IDS, SEGMENTS, STARTS)]
    program = jax.make_jaxpr(lambda params: model.apply(params, *arrays, key=jax.random.key(0)))(params)
    assert count("random_bits", program) == 4 + 2  # the encoder's, the head's


def test_a_position_outside_its_row_gives_nan(masked_lm):
    model, params = masked_lm
    outside = np.array([[0, LENGTH, 2], [9, 3, 0]], np.int32)
    logits = jax.jit(model.apply)(params, IDS, SEGMENTS, outside)
    assert np.isnan(logits[0, 1]).all()
    assert np.isfinite(logits[0, [0, 2]]).all() and np.isfinite(logits[1]).all()
