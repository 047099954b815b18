"""The causal model: what it sees, what its parameters are, and that it learns, under every encoding and attention."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_causal_lm, build_decoder, build_masked_lm
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings, place_batch
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
VOCAB, WIDTH, LAYERS, HIDDEN, LENGTH = 23, 16, 2, 24, 12
SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=HIDDEN,
    max_position_embeddings=LENGTH, relative_distance=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
ENCODINGS = ("rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none")
LINEAR = {"attention": "linear", "feature_map": "favor"}
VARIANTS = [{"position_encoding": name} for name in ENCODINGS] + [
    LINEAR,
    LINEAR | {"feature_map": "elu", "position_encoding": "sinusoidal"},
]
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, VOCAB, (8, LENGTH)).astype(np.int32)
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [3] * 2 + [0], [1] * 12] * 4, np.int32)
BATCH = {"ids": IDS, "segment_ids": SEGMENTS}


def named(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def shapes(build=build_causal_lm, **fields):
    return named(jax.eval_shape(build(RoFormerConfig(**SIZES | fields)).init, jax.random.key(0)))


def tolerance(logits):
    """Every block sums over the keys, six times the width and the hidden units, the head over twice the width."""
    return (LAYERS * (2 * LENGTH + 6 * WIDTH + HIDDEN) + 2 * WIDTH) * EPS * float(np.abs(logits).max())


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda fields: "-".join(fields.values()))
def model(request):
    """A model and its parameters, all the way from normal ones."""
    model = build_causal_lm(RoFormerConfig(**SIZES | request.param))
    return model, jax.jit(model.apply), random_params(model)


def test_parameters_are_those_of_the_masked_lm():
    masked = shapes(build_masked_lm)
    assert shapes() == masked
    assert shapes(**LINEAR) == masked


def test_without_segments_there_is_no_segment_embedding():
    without = shapes()
    del without["encoder.embeddings.token_type.embedding"]
    assert shapes(type_vocab_size=0) == without
    assert shapes(build_masked_lm, type_vocab_size=0) == without


def test_an_encoding_adds_only_its_own_parameters():
    plain, heads, head_size = shapes(position_encoding="none"), 2, WIDTH // 2
    added = {
        "rope": {}, "sinusoidal": {}, "alibi": {},
        "learned": {"encoder.embeddings.position.embedding": (LENGTH, WIDTH)},
        "t5": {"encoder.embeddings.position.embedding": (32, heads)},
        "shaw": {
            f"encoder.blocks.attention.relative.{name}.embedding": (LAYERS, 2 * 3 + 1, head_size)
            for name in ("keys", "values")
        },
    }  # fmt: skip
    for encoding, parameters in added.items():
        assert shapes(position_encoding=encoding) == plain | parameters


def test_the_layers_of_shaw_are_drawn_independently():
    params = build_causal_lm(RoFormerConfig(**SIZES, position_encoding="shaw")).init(jax.random.key(0))
    relative = params["encoder"]["blocks"]["attention"]["relative"]
    draws = [float(table[0, 0]) for name in ("keys", "values") for table in relative[name]["embedding"]]
    assert len(set(draws)) == 2 * LAYERS


def test_a_later_token_changes_no_earlier_logit(model):
    _, apply, params = model
    plain = apply(params, IDS, SEGMENTS)
    for at in (0, 3, LENGTH - 2):
        changed = IDS.copy()
        changed[:, at] = (changed[:, at] + 1) % VOCAB
        found = apply(params, changed, SEGMENTS)
        np.testing.assert_allclose(found[:, :at], plain[:, :at], rtol=0, atol=tolerance(plain))
        assert np.abs(found[:, at] - plain[:, at]).max() > 0.01


def test_documents_of_a_packed_row_get_what_they_get_alone(model):
    _, apply, params = model
    packed = np.asarray(apply(params, IDS, SEGMENTS))
    ids, segments = np.zeros_like(IDS), np.zeros_like(SEGMENTS)
    documents = [slice(0, 5), slice(5, 9), slice(9, 11)]
    for row, document in enumerate(documents):
        length = document.stop - document.start
        ids[row, :length], segments[row, :length] = IDS[0, document], 1
    alone = apply(params, ids, segments)
    for row, document in enumerate(documents):
        length = document.stop - document.start
        np.testing.assert_allclose(alone[row, :length], packed[0, document], rtol=0, atol=tolerance(packed))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: "-".join(fields.values()))
def test_logits_of_every_position_are_float32_whatever_the_blocks_compute_in(fields, dtype):
    config = RoFormerConfig(**SIZES | fields, dtype=dtype)
    model, decoder = build_causal_lm(config), build_decoder(config)
    params = random_params(model)
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its LayerNorm, to float32
        logits = jax.eval_shape(model.apply, params, jnp.asarray(IDS), jnp.asarray(SEGMENTS))
        cache = decoder.init_cache(8, LENGTH)
        extended = jax.eval_shape(decoder.extend, params, jnp.asarray(IDS), jnp.full(8, LENGTH), cache)
    for found in (logits, extended[0]):
        assert (found.shape, found.dtype) == ((8, LENGTH, VOCAB), jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(extended[1], cache)


def loss(model, params, batch, key=None):
    """Mean cross-entropy of the next token of the same document."""
    log_probs = jax.nn.log_softmax(model.apply(params, batch["ids"], batch["segment_ids"], key=key)[:, :-1])
    picked = jnp.take_along_axis(log_probs, batch["ids"][:, 1:, None], axis=2)[..., 0]
    segments = batch["segment_ids"]
    weights = ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)).astype(jnp.float32)
    return -jnp.sum(picked * weights) / jnp.sum(weights)


@pytest.fixture(scope="module")
def loss_and_gradients(model):
    """Compiled once for each variant."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, model[0])))


def test_training_lowers_the_loss_of_every_variant(model, loss_and_gradients):
    """Ten steps of one size along the sign of the gradient, over one batch."""
    params = before = random_params(model[0], scale=0.02)
    losses = []
    for step in range(10):
        value, gradients = loss_and_gradients(params, BATCH, jax.random.key(step))
        chex.assert_tree_all_finite(gradients)
        losses.append(float(value))
        params = jax.tree.map(lambda leaf, gradient: leaf - 0.01 * np.sign(gradient), params, gradients)
    assert abs(losses[0] - np.log(VOCAB)) < 0.1  # of a model that knows nothing
    assert losses[-1] < 0.9 * losses[0]
    same = jax.tree.map(np.array_equal, params, before)
    assert not any(jax.tree.leaves(same)), f"a parameter is not used: {same}"


def test_a_mesh_changes_neither_loss_nor_gradients(model, loss_and_gradients):
    model, _, params = model
    key = jax.random.key(0)
    expected = loss_and_gradients(params, BATCH, key)
    mesh = make_mesh(MeshConfig(fsdp=2))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, parameter_shardings(mesh, jax.eval_shape(model.init, key), model.axes))
        placed = place_batch({name: rows[None] for name, rows in BATCH.items()}, mesh)
        found = loss_and_gradients(sharded, {name: rows[0] for name, rows in placed.items()}, key)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    # The same sums in another order, over the rows, places and layers that share a parameter as well.
    atol = (IDS.size + LAYERS * (2 * LENGTH + 6 * WIDTH + HIDDEN)) * EPS * max(largest, 1.0)
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=0, atol=atol)


def test_favor_draws_anew_with_every_key_and_always_the_same_without():
    model = build_causal_lm(RoFormerConfig(**SIZES | LINEAR))
    apply, params = jax.jit(model.apply), random_params(model)
    first, again, other = (apply(params, IDS, SEGMENTS, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(*(apply(params, IDS, SEGMENTS) for _ in range(2)))
