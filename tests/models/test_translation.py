"""The encoder-decoder: what its target sees of the source and of itself, whole and token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig, build_translation, build_translator
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
VOCAB, WIDTH, LAYERS, HIDDEN, SOURCE, TARGET, ROWS = 23, 16, 2, 24, 12, 8, 4
SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=HIDDEN,
    max_position_embeddings=SOURCE, attention_probs_dropout_prob=0.0,
)  # fmt: skip
RNG = np.random.default_rng(0)
# Rows of two pairs, then padding; sources of 5 and 4 tokens, targets of 3 and 4.
BATCH = {
    "source_ids": RNG.integers(5, VOCAB, (ROWS, SOURCE)).astype(np.int32),
    "source_segment_ids": np.tile(np.array([1] * 5 + [2] * 4 + [0] * 3, np.int32), (ROWS, 1)),
    "ids": RNG.integers(5, VOCAB, (ROWS, TARGET)).astype(np.int32),
    "segment_ids": np.tile(np.array([1] * 3 + [2] * 4 + [0], np.int32), (ROWS, 1)),
}
REAL = BATCH["segment_ids"] > 0


def tolerance(logits):
    """Blocks sum over both texts, some ten times the width and the hidden units, the head over twice the width."""
    terms = LAYERS * (2 * SOURCE + 2 * TARGET + 10 * WIDTH + 2 * HIDDEN) + 2 * WIDTH
    return terms * EPS * float(np.abs(logits).max())


@pytest.fixture(scope="module")
def model():
    """Config, parameters, and the compiled model."""
    config = RoFormerConfig(**SIZES)
    model = build_translation(config)
    return config, random_params(model), jax.jit(model.apply)


def test_a_target_sees_the_source_and_the_target_of_its_own_pair_only(model):
    _, params, apply = model
    expected = apply(params, *BATCH.values())
    for name, place, seen_by in [("source_ids", 6, 2), ("source_ids", 1, 1), ("source_ids", 10, 0), ("ids", 0, 1)]:
        changed = BATCH[name].copy()
        changed[:, place] = (changed[:, place] + 1) % VOCAB
        moved = np.abs(apply(params, *(BATCH | {name: changed}).values()) - expected).max(axis=(0, 2)) > 0
        np.testing.assert_array_equal(moved[REAL[0]], (BATCH["segment_ids"][0] == seen_by)[REAL[0]])


def test_no_logit_depends_on_a_later_target_token():
    """By gradients: every token has a row of the table to itself, which the head of this model does not read."""
    model = build_translation(RoFormerConfig(**SIZES, tie_word_embeddings=False))
    params = jax.tree.map(jnp.asarray, random_params(model))
    embeddings = params["encoder"]["embeddings"]
    source, target, ones = jnp.array([[8, 9, 10]]), jnp.array([[5, 6, 7]]), jnp.ones((1, 3), jnp.int32)

    def logit_sums(table):
        changed = {"encoder": params["encoder"] | {"embeddings": embeddings | {"token": {"embedding": table}}}}
        return model.apply(params | changed, source, ones, target, ones)[0].sum(axis=-1)

    gradients = jax.jit(jax.jacrev(logit_sums))(embeddings["token"]["embedding"])
    touched = np.abs(gradients).max(axis=-1) > 0
    np.testing.assert_array_equal(touched[:, 5:8], np.tri(3, dtype=bool))
    assert touched[:, 8:11].all()


def test_packed_pairs_have_the_logits_they_have_alone(model):
    _, params, apply = model
    expected = np.asarray(apply(params, *BATCH.values()))
    for pair in (1, 2):
        alone = {name: np.zeros_like(rows) for name, rows in BATCH.items()}
        for side in ("source_", ""):
            here = BATCH[f"{side}segment_ids"][0] == pair
            alone[f"{side}ids"][:, : here.sum()] = BATCH[f"{side}ids"][:, here]
            alone[f"{side}segment_ids"][:, : here.sum()] = 1
        found, here = apply(params, *alone.values()), BATCH["segment_ids"][0] == pair
        np.testing.assert_allclose(found[:, : here.sum()], expected[:, here], rtol=0, atol=tolerance(expected))


def test_token_by_token_with_the_cache_gives_the_logits_of_the_whole_model(model):
    """Two continuations of every source, in rows one behind another, each at its own pace."""
    config, params, apply = model
    translator = build_translator(config)
    read, extend = jax.jit(translator.read), jax.jit(translator.extend)
    lengths = np.array([5, 3, 4, 4, 2, 5, 1, 3])
    ids = RNG.integers(5, VOCAB, (len(lengths), TARGET)).astype(np.int32)
    source = BATCH["source_ids"], (BATCH["source_segment_ids"] == 1).astype(np.int32)
    real = np.arange(TARGET)[None] < lengths[:, None]
    expected = np.zeros((len(lengths), TARGET, VOCAB), np.float32)
    for of_each in (0, 1):
        mine = slice(of_each, None, 2)
        expected[mine] = apply(params, *source, ids[mine], real[mine].astype(np.int32))
    memory, cache = read(params, *source), translator.init_cache(len(lengths), int(max(lengths)))
    for at in range(max(lengths)):
        logits, cache = extend(params, ids[:, at : at + 1], real[:, at].astype(np.int32), memory, cache)
        own = real[:, at]
        np.testing.assert_allclose(logits[own, 0], expected[own, at], rtol=0, atol=tolerance(expected))
    np.testing.assert_array_equal(cache.lengths, lengths)

    # Cross-attention is not rotated: it is all the same in which order the encoded source lies.
    order = RNG.permutation(SOURCE)
    shuffled = jax.tree.map(lambda leaf: leaf[..., order, :, :] if leaf.ndim == 5 else leaf[:, order], memory)
    first, counts = ids[:, :1], np.ones(len(ids), np.int32)
    logits, _ = extend(params, first, counts, shuffled, translator.init_cache(len(ids), int(max(lengths))))
    np.testing.assert_allclose(logits[:, 0], expected[:, 0], rtol=0, atol=tolerance(expected))


def test_source_target_and_head_share_one_table():
    shapes = jax.eval_shape(build_translation(RoFormerConfig(**SIZES)).init, jax.random.key(0))
    tables = [path for path, leaf in jax.tree_util.tree_leaves_with_path(shapes) if VOCAB in leaf.shape]
    assert [jax.tree_util.keystr(path, simple=True, separator="/") for path in tables] == [
        "encoder/embeddings/token/embedding",
        "head/bias",
    ]


def test_one_table_of_distances_for_both_directions_is_refused():
    with pytest.raises(InputError, match="t5 has one table of distances, which a decoder cannot share"):
        build_translation(RoFormerConfig(**SIZES, position_encoding="t5"))
