"""The decoder of docs/examples decodes as it prefills, and is compiled once for all steps."""

import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "decoder.py"
EPS = float(np.finfo(np.float32).eps)
LENGTHS, STEPS = (12, 5, 9), 20


@pytest.fixture(autouse=True)
def as_jax_comes():
    """The reader's JAX promotes ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def decoder():
    spec = importlib.util.spec_from_file_location("decoder", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parameters(decoder):
    return decoder.initialize(jax.random.key(0))


@pytest.fixture(scope="module")
def prompts(decoder):
    return jax.random.randint(jax.random.key(1), (len(LENGTHS), max(LENGTHS)), 0, decoder.VOCABULARY)


def prefill(decoder, parameters, tokens):
    cached = jnp.zeros(len(tokens), jnp.int32)
    return decoder.decode(parameters, tokens, empty_cache(decoder, len(tokens)), cached)[0]


def empty_cache(decoder, rows):
    return jnp.zeros((decoder.LAYERS, 2, rows, decoder.CAPACITY, decoder.KV_HEADS, decoder.HEAD_DIM))


def test_one_by_one_gives_the_logits_of_the_prefill(decoder, parameters, prompts):
    whole = prefill(decoder, parameters, prompts)
    cache, steps = empty_cache(decoder, len(prompts)), []
    for at in range(prompts.shape[1]):
        cached = jnp.full(len(prompts), at)
        logits, cache = decoder.decode(parameters, prompts[:, at : at + 1], cache, cached)
        steps.append(logits)
    # Matrix products may add in another order: an eps for every addition on the way to a logit.
    of_a_layer = 6 * decoder.WIDTH + decoder.HEAD_DIM + decoder.CAPACITY + decoder.HEADS * decoder.HEAD_DIM
    additions = decoder.LAYERS * of_a_layer + decoder.WIDTH
    tolerance = additions * EPS * float(jnp.abs(whole).max())
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, rtol=0, atol=tolerance)


def test_generated_tokens_are_the_likeliest_of_the_whole_text(decoder, parameters, prompts):
    """Rows of any length in one batch, each continued where its own prompt ends."""
    generated = decoder.generate(parameters, prompts, jnp.array(LENGTHS), STEPS)
    texts = np.zeros((len(LENGTHS), max(LENGTHS) + STEPS), np.int32)
    for text, prompt, length, continuation in zip(texts, prompts, LENGTHS, generated, strict=True):
        text[: length + STEPS] = np.concatenate([prompt[:length], continuation])
    likeliest = np.argmax(prefill(decoder, parameters, texts), axis=-1)
    expected = [row[length - 1 :][:STEPS] for row, length in zip(likeliest, LENGTHS, strict=True)]
    np.testing.assert_array_equal(generated, expected)


def test_one_compilation_for_the_prompt_and_one_for_all_steps(decoder, parameters, prompts, monkeypatch):
    monkeypatch.setattr(decoder, "decode", jax.jit(chex.assert_max_traces(decoder.decode.__wrapped__, n=2)))
    decoder.generate(parameters, prompts, jnp.array(LENGTHS), STEPS)


def test_the_order_of_earlier_tokens_counts(decoder, parameters, prompts):
    """Without positions, the last logits would not see two earlier tokens change places."""
    swapped = prompts[:, jnp.array([1, 0, *range(2, max(LENGTHS))])]
    last, last_swapped = (prefill(decoder, parameters, tokens)[:, -1] for tokens in (prompts, swapped))
    assert (jnp.abs(last - last_swapped).max(axis=-1) > 1e-2).all()
