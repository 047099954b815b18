import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig
from roformer_jax.models.build import functional
from roformer_jax.models.encoder import Embeddings, Encoder
from roformer_jax.models.positions import Sinusoidal
from tests.models.jaxprs import count
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
LINEAR = {"attention": "linear", "attention_probs_dropout_prob": 0.0}
VARIANTS = {
    name: {"position_encoding": name} for name in ("rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none")
}
VARIANTS |= {
    "linear-after": LINEAR,
    "linear-before": LINEAR | {"linear_rotation": "before", "feature_map": "softmax"},
    "linear-favor": LINEAR | {"feature_map": "favor"},
}
LENGTH, WIDTH, LAYERS, HIDDEN = 16, 16, 2, 32
SIZES = dict(
    vocab_size=24, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=HIDDEN,
    max_position_embeddings=LENGTH,
)  # fmt: skip
IDS = np.arange(LENGTH, dtype=np.int32)[None]  # every token another id, so that a row of the table stands for a place
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [3] * 3 + [0] * 4], np.int32)
TYPES = np.array([[0] * 3 + [1] * 2 + [0] * 11], np.int32)
# States are of size 1 (they leave a norm); every block sums over the keys, four times the width and the hidden units.
TOLERANCE = LAYERS * (LENGTH + 4 * WIDTH + HIDDEN) * EPS


def encoder(**fields):
    config = RoFormerConfig(**SIZES | fields)
    return functional(lambda rngs: Encoder(config, rngs=rngs))


def probe_loss(apply):
    """A scalar of the outputs in which no direction is special: the plain sum of a normed vector is constant."""
    probe_LM = np.random.default_rng(0).normal(size=(LENGTH, WIDTH)).astype(np.float32)

    def loss(params, weights_L):
        out_LM = apply(params, jnp.asarray(IDS), jnp.asarray(SEGMENTS), jnp.asarray(TYPES))[0].astype(jnp.float32)
        return jnp.sum(out_LM * probe_LM * weights_L[:, None])

    return loss


@pytest.fixture(scope="module", params=VARIANTS)
def encoding(request):
    """Name, compiled `apply`, and parameters of the encoder under each position encoding and kind of attention."""
    model = encoder(**VARIANTS[request.param])
    return request.param, jax.jit(model.apply), random_params(model)


@pytest.fixture(scope="module")
def params():
    return random_params(encoder())


def test_no_gradient_crosses_documents_or_reaches_padding(encoding):
    _, apply, params = encoding
    gradient = jax.jit(jax.grad(probe_loss(apply)))
    for segment in (1, 2, 3):
        own = SEGMENTS[0] == segment
        found = gradient(params, own.astype(np.float32))
        chex.assert_tree_all_finite(found)
        norms = np.linalg.norm(found["embeddings"]["token"]["embedding"][:LENGTH], axis=1)
        assert np.all(norms[own] > 0)
        np.testing.assert_array_equal(norms[~own], 0)


def test_what_padding_holds_changes_no_output(encoding):
    _, apply, params = encoding
    padding = SEGMENTS == 0
    plain = apply(params, IDS, SEGMENTS, TYPES)
    spoiled = apply(params, np.where(padding, 20, IDS), SEGMENTS, np.where(padding, 1, TYPES))
    np.testing.assert_array_equal(plain[~padding], spoiled[~padding])


def test_a_document_may_stand_anywhere_in_a_row(encoding):
    _, apply, params = encoding
    moved = np.roll(np.arange(LENGTH), 7)
    plain = apply(params, IDS, SEGMENTS, TYPES)[0]
    rolled = apply(params, IDS[:, moved], SEGMENTS[:, moved], TYPES[:, moved])[0]
    real = SEGMENTS[0] > 0
    np.testing.assert_allclose(rolled[np.argsort(moved)][real], plain[real], rtol=0, atol=TOLERANCE)


def test_the_order_of_tokens_matters_to_every_encoding_but_none(encoding):
    name, apply, params = encoding
    order = np.arange(LENGTH)
    order[:2] = 1, 0  # not a reversal: to symmetric distances (alibi) that is the same text
    untyped = np.zeros_like(TYPES)
    plain = apply(params, IDS, SEGMENTS, untyped)[0]
    swapped_back = apply(params, IDS[:, order], SEGMENTS, untyped)[0][order]
    change = float(np.max(np.abs(swapped_back[:5] - plain[:5])))
    assert change < TOLERANCE if name == "none" else change > 1000 * TOLERANCE


def test_only_learned_positions_limit_the_length(encoding):
    name, apply, params = encoding
    long = 700
    ids, segment_ids = np.full((1, long), 5, np.int32), np.ones((1, long), np.int32)
    if name == "learned":
        with pytest.raises(InputError, match=f"rows of {long} tokens .* model.max_position_embeddings = {LENGTH}"):
            apply(params, ids, segment_ids)
    else:
        out = apply(params, ids, segment_ids)
        assert out.shape == (1, long, WIDTH)
        chex.assert_tree_all_finite(out)


@pytest.mark.parametrize("width", [2, 16, 768])
def test_sinusoidal_positions_are_equation_4(width):
    positions = np.array([[0, 1, 2, 511, 4096, 100_000]])
    t = np.arange(width // 2)
    angles = positions[..., None] / 10_000.0 ** (2 * t / width)
    expected = np.empty((*positions.shape, width))
    expected[..., 0::2], expected[..., 1::2] = np.sin(angles), np.cos(angles)
    phase = 2 * np.pi * positions.max() * 2.0**-33  # what `rotation` promises, in radians
    atol = phase + (np.pi + 1) * EPS  # an angle below pi, then its sine, rounded
    config = RoFormerConfig(position_encoding="sinusoidal", hidden_size=width, num_attention_heads=1)
    found = Sinusoidal(config, rngs=nnx.Rngs(0)).added(jnp.asarray(positions))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_absent_token_types_are_the_first_type(encoding):
    _, apply, params = encoding
    plain, typed = apply(params, IDS, SEGMENTS), apply(params, IDS, SEGMENTS, TYPES)
    np.testing.assert_array_equal(plain, apply(params, IDS, SEGMENTS, np.zeros_like(TYPES)))
    assert not np.array_equal(plain, typed)


@pytest.mark.parametrize(("ids", "types"), [(24, 0), (-1, 0), (0, 2), (0, -1)])
def test_an_id_outside_its_table_gives_nan(params, ids, types):
    ids_BL, types_BL = IDS.copy(), TYPES.copy()
    ids_BL[0, 2], types_BL[0, 2] = ids, types
    assert np.isnan(jax.jit(encoder().apply)(params, ids_BL, SEGMENTS, types_BL)[0, 2]).all()


def test_rematerialisation_recomputes_what_it_says_and_changes_no_gradient(params):
    losses = {remat: probe_loss(encoder(remat=remat).apply) for remat in ("none", "dots", "full")}
    programs = {remat: jax.make_jaxpr(jax.grad(loss))(params, jnp.ones(LENGTH)) for remat, loss in losses.items()}
    products, norms = (
        {remat: count(primitive, program) for remat, program in programs.items()}
        for primitive in ("dot_general", "rsqrt")
    )
    assert products["none"] < products["dots"] < products["full"], products  # "dots" recomputes those of attention
    assert norms["none"] < norms["dots"] == norms["full"], norms
    expected, *others = (jax.jit(jax.grad(loss))(params, np.ones(LENGTH, np.float32)) for loss in losses.values())
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for found in others:
        chex.assert_trees_all_close(found, expected, rtol=0, atol=TOLERANCE * largest)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters(params):
    model = encoder(dtype="bfloat16")
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its LayerNorm, to float32
        out = jax.jit(model.apply)(params, IDS, SEGMENTS, TYPES)
        gradients = jax.eval_shape(jax.grad(probe_loss(model.apply)), params, jnp.ones(LENGTH))
    assert out.dtype == jnp.bfloat16
    chex.assert_trees_all_equal_dtypes(gradients, params)
    wide = jax.jit(encoder().apply)(params, IDS, SEGMENTS, TYPES)
    real = SEGMENTS > 0
    error = np.abs(out.astype(jnp.float32) - wide)[real]
    # Roundings of size eps/2 at the embedding and at each of the seven results of a block, for the most part random.
    assert 0 < error.mean() < np.sqrt(1 + 7 * LAYERS) * float(jnp.finfo(jnp.bfloat16).eps)


def test_embeddings_are_normed_and_then_dropped():
    config = RoFormerConfig(**SIZES, hidden_dropout_prob=0.25)
    embeddings = Embeddings(config, rngs=nnx.Rngs(0))
    arrays = jnp.asarray(IDS), jnp.asarray(TYPES), jnp.asarray(IDS)
    normed = embeddings(*arrays, None)
    np.testing.assert_allclose(normed.mean(axis=-1), 0, atol=WIDTH * EPS)
    np.testing.assert_allclose(normed.std(axis=-1), 1, atol=WIDTH * EPS)
    dropped = embeddings(*arrays, jax.random.key(0))
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(dropped[kept], normed[kept] / 0.75, rtol=2 * EPS)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)


def test_dropout_is_decided_by_its_key(params):
    apply = jax.jit(encoder(hidden_dropout_prob=0.2).apply)
    first, again, other = (apply(params, IDS, SEGMENTS, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("hidden", "attention", "draws"), [(0.1, 0.1, 4), (0.1, 0.0, 3), (0.0, 0.1, 1), (0.0, 0.0, 0)])
def test_dropout_follows_embeddings_both_halves_of_a_block_and_attention_probabilities(
    params, hidden, attention, draws
):
    model = encoder(hidden_dropout_prob=hidden, attention_probs_dropout_prob=attention)
    arrays = jnp.asarray(IDS), jnp.asarray(SEGMENTS)
    with_key, without = (
        jax.make_jaxpr(lambda params, key=key: model.apply(params, *arrays, key=key))(params)
        for key in (jax.random.key(0), None)
    )
    assert count("random_bits", with_key) == draws  # the blocks are one scan, so each place is there once
    assert count("random_bits", without) == 0
