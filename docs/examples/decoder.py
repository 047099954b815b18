"""A decoder in plain JAX, as another project would write it: grouped queries and a cache of rotated keys.

It needs `pip install roformer-jax` and nothing else. Run it: `python decoder.py`
"""

import jax
import jax.numpy as jnp

from roformer_jax import rope

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CAPACITY = 96, 64, 2, 4, 2, 16, 64
FREQS = rope.frequencies(HEAD_DIM)
SHAPES = {
    "q": (LAYERS, WIDTH, HEADS, HEAD_DIM),
    "kv": (LAYERS, 2, WIDTH, KV_HEADS, HEAD_DIM),
    "out": (LAYERS, HEADS, HEAD_DIM, WIDTH),
    "up": (LAYERS, WIDTH, 4 * WIDTH),
    "down": (LAYERS, 4 * WIDTH, WIDTH),
    "embedding": (VOCABULARY, WIDTH),
}


def initialize(key):
    """Returns random parameters."""
    keys = jax.random.split(key, len(SHAPES))
    return {name: jax.random.normal(k, SHAPES[name]) / WIDTH**0.5 for name, k in zip(SHAPES, keys, strict=True)}


def normalize(x):
    """Divides by the root mean square."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


@jax.jit
def decode(parameters, tokens, cache, cached):
    """Returns the logits [B, L, V] of tokens [B, L], and the cache [N, 2, B, S, K, D] that held `cached` [B] tokens."""
    positions = rope.decode_positions(cached, tokens.shape[1])  # [B, L]
    table = rope.rotation(positions, FREQS)  # one for all layers
    mask = jnp.arange(CAPACITY) <= positions[:, None, :, None]  # [B, 1, L, S]
    row = jnp.arange(len(tokens))[:, None]

    def layer(x, weights_and_cache):
        weights, cache = weights_and_cache
        q = jnp.einsum("blm,mhd->blhd", normalize(x), weights["q"])
        k, v = jnp.einsum("blm,cmkd->cblkd", normalize(x), weights["kv"])
        q, k = rope.rotate_qk(q, k, table, layout="half")
        cache = cache.at[:, row, positions].set(jnp.stack([k, v]))
        attended = jax.nn.dot_product_attention(q, *cache, mask=mask)
        x = x + jnp.einsum("blhd,hdm->blm", attended, weights["out"])
        return x + jax.nn.gelu(normalize(x) @ weights["up"]) @ weights["down"], cache

    weights = {name: array for name, array in parameters.items() if name != "embedding"}
    x, cache = jax.lax.scan(layer, parameters["embedding"][tokens], (weights, cache))
    return normalize(x) @ parameters["embedding"].T, cache


def generate(parameters, prompts, lengths, steps):
    """Returns the likeliest tokens [B, steps] after prompts [B, L], padded on the right from `lengths` [B] on."""
    cache = jnp.zeros((LAYERS, 2, len(prompts), CAPACITY, KV_HEADS, HEAD_DIM))
    logits, cache = decode(parameters, prompts, cache, jnp.zeros_like(lengths))
    tokens = [logits[jnp.arange(len(prompts)), lengths - 1].argmax(-1)]
    for step in range(steps - 1):
        logits, cache = decode(parameters, tokens[-1][:, None], cache, lengths + step)
        tokens.append(logits[:, 0].argmax(-1))
    return jnp.stack(tokens, axis=1)


if __name__ == "__main__":
    prompts = jax.random.randint(jax.random.key(1), (3, 12), 0, VOCABULARY)
    print(generate(initialize(jax.random.key(0)), prompts, jnp.array([12, 5, 9]), steps=20))
