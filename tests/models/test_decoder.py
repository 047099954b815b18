"""Decoding, whole or token by token, gives what the parallel causal model gives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_causal_lm, build_decoder
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
ENCODINGS = ("rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none")
VOCAB, WIDTH, LAYERS, HIDDEN, LENGTH = 23, 16, 2, 24, 11
LENGTHS = np.array([11, 4, 7], np.int32)  # of the ragged rows
SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=HIDDEN,
    max_position_embeddings=LENGTH, relative_distance=3, attention_probs_dropout_prob=0.0,
)  # fmt: skip
VARIANTS = (
    [{"position_encoding": name} for name in ENCODINGS]
    + [
        {"attention": "linear", "feature_map": feature_map, "linear_rotation": rotate}
        for feature_map, rotate in (("elu", "after"), ("softmax", "before"), ("favor", "after"), ("favor", "before"))
    ]
    + [
        {"attention": "linear", "feature_map": "relu", "position_encoding": "learned"},
        {"rope_scaling": "yarn", "rope_scaling_factor": 4.0, "rope_original_length": 8},
    ]
)
IDS = np.random.default_rng(0).integers(0, VOCAB, (len(LENGTHS), LENGTH)).astype(np.int32)
REAL = np.arange(LENGTH)[None] < LENGTHS[:, None]


def name_of(fields):
    return "-".join(str(value) for value in fields.values())


@pytest.fixture(scope="module", params=VARIANTS, ids=name_of)
def model(request):
    """Config, parameters, compiled extend, and logits of the parallel model over the ragged rows."""
    config = RoFormerConfig(**SIZES | request.param)
    parallel = build_causal_lm(config)
    params = random_params(parallel)
    logits = jax.jit(parallel.apply)(params, IDS, REAL.astype(np.int32))
    return config, params, jax.jit(build_decoder(config).extend), np.asarray(logits)


def tolerance(logits):
    """Every block sums over the keys, six times the width and the hidden units, the head over twice the width."""
    return (LAYERS * (2 * LENGTH + 6 * WIDTH + HIDDEN) + 2 * WIDTH) * EPS * float(np.abs(logits).max())


def test_a_ragged_prefill_gives_the_logits_of_the_parallel_model(model):
    config, params, extend, logits = model
    found, cache = extend(params, IDS, LENGTHS, build_decoder(config).init_cache(len(IDS), LENGTH))
    np.testing.assert_array_equal(cache.lengths, LENGTHS)
    np.testing.assert_allclose(found[REAL], logits[REAL], rtol=0, atol=tolerance(logits))


def test_token_by_token_gives_the_logits_of_the_parallel_model(model):
    config, params, extend, logits = model
    cache = build_decoder(config).init_cache(len(IDS), LENGTH)
    for at in range(LENGTH):
        counts = (at < LENGTHS).astype(np.int32)  # a row that has ended gets padding
        found, cache = extend(params, IDS[:, at : at + 1], counts, cache)
        own = counts > 0
        np.testing.assert_allclose(found[own, 0], logits[own, at], rtol=0, atol=tolerance(logits))
    np.testing.assert_array_equal(cache.lengths, LENGTHS)


def test_rows_continue_at_their_own_lengths(model):
    """A ragged prompt of up to 5 tokens, then the rest of every row in one step."""
    config, params, extend, logits = model
    first = np.minimum(LENGTHS, [5, 2, 4]).astype(np.int32)
    _, cache = extend(params, IDS, first, build_decoder(config).init_cache(len(IDS), LENGTH))
    rest = np.stack([np.roll(row, -start) for row, start in zip(IDS, first, strict=True)])
    found, cache = extend(params, rest, LENGTHS - first, cache)
    np.testing.assert_array_equal(cache.lengths, LENGTHS)
    for row, (start, end) in enumerate(zip(first, LENGTHS, strict=True)):
        np.testing.assert_allclose(found[row, : end - start], logits[row, start:end], rtol=0, atol=tolerance(logits))


@pytest.fixture(scope="module")
def rope():
    """Config, parameters and compiled extend."""
    config = RoFormerConfig(**SIZES)
    return config, random_params(build_causal_lm(config)), jax.jit(build_decoder(config).extend)


def test_a_row_over_its_capacity_gets_nan_and_keeps_what_it_has(rope):
    config, params, extend = rope
    capacity = 8
    _, cache = extend(params, IDS, LENGTHS.clip(max=capacity), build_decoder(config).init_cache(len(IDS), capacity))
    more = np.array([2, 2, 1], np.int32)  # two too many for the first, none for the others
    found, over = extend(params, IDS, more, cache)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1, :2]).all() and np.isfinite(found[2, :1]).all()
    first_rows = (jax.tree.map(lambda leaf: leaf[:, 0], tree.layers) for tree in (over, cache))
    chex.assert_trees_all_equal(*first_rows)
    after, _ = extend(params, IDS, np.array([0, 1, 0], np.int32), over)
    assert np.isnan(after[0]).all()
    assert np.isfinite(after[1, :1]).all()


def test_a_linear_state_has_one_size_and_no_capacity():
    config = RoFormerConfig(**SIZES, attention="linear")
    init_cache = build_decoder(config).init_cache
    sizes = {sum(leaf.size for leaf in jax.tree.leaves(init_cache(1, capacity))) for capacity in (1, 2, 10**6)}
    assert len(sizes) == 1
    parallel = build_causal_lm(config)
    params = random_params(parallel)
    logits = jax.jit(parallel.apply)(params, IDS, np.ones_like(IDS))
    counts = np.full(len(IDS), LENGTH, np.int32)
    found, _ = jax.jit(build_decoder(config).extend)(params, IDS, counts, init_cache(len(IDS), 1))
    np.testing.assert_allclose(found, logits, rtol=0, atol=tolerance(logits))


def test_two_thousand_tokens_of_linear_attention_one_by_one_are_those_of_the_parallel_model():
    config, tokens = RoFormerConfig(**SIZES, attention="linear"), 2000
    parallel, decoder = build_causal_lm(config), build_decoder(config)
    params = random_params(parallel)
    ids = np.random.default_rng(1).integers(0, VOCAB, (1, tokens)).astype(np.int32)
    expected = jax.jit(parallel.apply)(params, ids, np.ones_like(ids))

    @jax.jit
    def one_by_one(params, cache):
        def step(cache, id_B):
            logits, cache = decoder.extend(params, id_B[:, None], jnp.ones(1, jnp.int32), cache)
            return cache, logits[:, 0]

        return jax.lax.scan(step, cache, ids.T)

    _, found = one_by_one(params, decoder.init_cache(1, 1))
    atol = LAYERS * tokens * EPS * float(np.abs(expected).max())  # sums over all tokens, in another order
    np.testing.assert_allclose(found[:, 0], expected[0], rtol=0, atol=atol)


def test_a_token_beyond_the_learned_table_makes_its_row_nan():
    config = RoFormerConfig(**SIZES | {"max_position_embeddings": 4}, position_encoding="learned")
    decoder = build_decoder(config)
    params = random_params(build_causal_lm(config))
    counts = np.array([5, 4, 3], np.int32)
    found, _ = jax.jit(decoder.extend)(params, IDS[:, :5], counts, decoder.init_cache(len(IDS), 8))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


def test_one_compilation_serves_every_length_and_count(rope):
    config, params, _ = rope
    decoder = build_decoder(config)
    extend = jax.jit(chex.assert_max_traces(decoder.extend, n=1))
    cache = decoder.init_cache(3, LENGTH)
    for counts in ([1, 2, 0], [2, 2, 2], [0, 0, 1]):
        _, cache = extend(params, IDS[:, :2], np.array(counts, np.int32), cache)


def test_rotated_keys_are_bitwise_equal_between_prefill_and_decode(rope):
    """With one weight in every column of the first layer's projection no sum is rounded: only rotations are left."""
    config, params, extend = rope
    decoder = build_decoder(config)
    params = jax.tree.map(lambda leaf: leaf, params)
    projection = params["encoder"]["blocks"]["attention"]["query_key_value"]
    columns = np.random.default_rng(1).permuted(np.tile(np.eye(WIDTH, dtype=np.float32), (3, 1, 1)), axis=2)
    kernel = np.moveaxis(columns, 0, 1).reshape(1, WIDTH, 3, 2, WIDTH // 2)
    projection["kernel"] = np.broadcast_to(kernel, projection["kernel"].shape)
    projection["bias"] = np.zeros_like(projection["bias"])
    _, whole = extend(params, IDS, LENGTHS, decoder.init_cache(len(IDS), LENGTH))
    stepped = decoder.init_cache(len(IDS), LENGTH)
    for at in range(LENGTH):
        _, stepped = extend(params, IDS[:, at : at + 1], (at < LENGTHS).astype(np.int32), stepped)
    assert np.abs(whole.layers.keys[0]).max() > 0.1
    np.testing.assert_array_equal(stepped.layers.keys[0], whole.layers.keys[0])


@pytest.mark.parametrize("fields", [{"position_encoding": "t5"}, {"attention": "linear"}], ids=name_of)
def test_decoding_works_where_parameters_are_sharded(fields):
    """As when a trained run generates: on the mesh of the run, one text, the same on every device."""
    config = RoFormerConfig(**SIZES | fields)
    model, decoder = build_causal_lm(config), build_decoder(config)
    params = random_params(model)
    counts = np.array([LENGTH], np.int32)
    expected, _ = jax.jit(decoder.extend)(params, IDS[:1], counts, decoder.init_cache(1, LENGTH))
    mesh = make_mesh(MeshConfig(fsdp=2))
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(mesh, jax.eval_shape(model.init, jax.random.key(0)), model.axes)
        sharded = jax.device_put(params, shardings)
        found, _ = jax.jit(decoder.extend)(sharded, IDS[:1], counts, decoder.init_cache(1, LENGTH))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(expected))
