"""Sums over the tokens that a token may see, a chunk at a time: time and memory linear in the length."""

from functools import partial

import jax
import jax.numpy as jnp

from roformer_jax.typing import Array, Float, Int

# What a token sees of its segment, and the transposed relation, over which the gradients of its sum are sums.
_TRANSPOSED = {"past": "future", "future": "past", "all": "all"}


def visible_sums(
    q_BLHF: Float[Array, "batch length heads features"],
    k_BLHF: Float[Array, "batch length heads features"],
    v_BLHD: Float[Array, "batch length heads value_dim"],
    segment_ids: Int[Array, "batch length"],
    *,
    causal: bool,
    chunk: int,
) -> Float[Array, "batch length heads value_dim"]:
    """Returns `sum_n (q_m . k_n) v_n` over the tokens n of the segment of m, with `causal` those up to m.

    Inside a chunk of c tokens these are matrix products [c, c]; what lies before it (and, without `causal`, behind it)
    comes from one state [F, D] for each head, which begins anew with every segment. The backward pass runs the same
    sums on other operands, forwards and in reverse; it keeps q, k and v, and no state. Differentiable in reverse mode,
    any number of times.

    Args:
        q_BLHF: queries.
        k_BLHF: keys.
        v_BLHD: values.
        segment_ids: constant over a segment, different in adjacent segments; all ones: one segment.
        causal: no token sees a later one.
        chunk: tokens of a chunk, c.
    """
    length = q_BLHF.shape[1]
    chunk = min(chunk, length)
    arrays = (_split(array, chunk) for array in (q_BLHF, k_BLHF, v_BLHD, segment_ids))
    return _join(_sums(*arrays, "past" if causal else "all"), length)


def _split(x_BL: Array, chunk: int) -> Array:
    """[B, L, H, F] -> [N, B, H, c, F] and [B, L] -> [N, B, c], filled up with zeros to N whole chunks."""
    x_BL = jnp.pad(x_BL, [(0, 0), (0, -x_BL.shape[1] % chunk)] + [(0, 0)] * (x_BL.ndim - 2))
    # Reshaped with the batch in front, and one chunk by name: otherwise a batch of one row may lose its sharding.
    one = x_BL.shape[1] == chunk
    x_BNL = x_BL[:, None] if one else x_BL.reshape(x_BL.shape[0], -1, chunk, *x_BL.shape[2:])
    x_NBL = jnp.swapaxes(x_BNL, 0, 1)
    return x_NBL if x_NBL.ndim == 3 else jnp.swapaxes(x_NBL, 2, 3)


def _join(x_NBHLD: Array, length: int) -> Array:
    """[N, B, H, c, D] -> [B, L, H, D], without what `_split` filled up."""
    x_BNLHD = jnp.swapaxes(jnp.swapaxes(x_NBHLD, 2, 3), 0, 1)
    batch, chunks, _, *heads = x_BNLHD.shape
    x_BLHD = jnp.squeeze(x_BNLHD, 1) if chunks == 1 else x_BNLHD.reshape(batch, -1, *heads)
    return x_BLHD[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sums(q_NBHLF: Array, k_NBHLF: Array, v_NBHLD: Array, ids_NBL: Array, sight: str) -> Array:
    """The sums over what `sight` says is seen, over arrays in chunks."""
    arrays = q_NBHLF, k_NBHLF, v_NBHLD, ids_NBL
    whole = jnp.ones((ids_NBL.shape[-1],) * 2, jnp.bool_)
    match sight:
        case "past":
            return _scan(*arrays, mask=jnp.tril(whole), reverse=False)
        case "future":
            return _scan(*arrays, mask=jnp.triu(whole), reverse=True)
        case "all":
            return _scan(*arrays, mask=whole, reverse=False) + _scan(*arrays, mask=None, reverse=True)


def _sums_forward(q, k, v, ids, sight):
    return _sums(q, k, v, ids, sight), (q, k, v, ids)


def _sums_backward(sight, residuals, g):
    """The out_m = sum_n (q_m . k_n) v_n that is linear in q, k and v has three gradients of its own form."""
    q, k, v, ids = residuals
    seen_by = _TRANSPOSED[sight]
    return _sums(g, v, k, ids, sight), _sums(v, g, q, ids, seen_by), _sums(k, q, g, ids, seen_by), None


_sums.defvjp(_sums_forward, _sums_backward)


def _scan(q: Array, k: Array, v: Array, ids: Array, *, mask: Array | None, reverse: bool) -> Array:
    """Walks over the chunks with the state of the segment that reaches into the next one.

    Args:
        q: queries in chunks.
        k: keys in chunks.
        v: values in chunks.
        ids: segment ids in chunks.
        mask: [c, c], which keys of its own chunk a query sees; None: none of them.
        reverse: walk from the last chunk to the first.
    """
    first, last = (-1, 0) if reverse else (0, -1)

    def step(carry, chunk):
        state_BHFD, id_B = carry
        q_BHLF, k_BHSF, v_BHSD, ids_BL = chunk
        reached = ids_BL == id_B[:, None]
        out_BHLD = jnp.where(reached[:, None, :, None], q_BHLF @ state_BHFD, 0)
        if mask is not None:
            visible = mask[None] & (ids_BL[:, :, None] == ids_BL[:, None, :])
            weights_BHLS = jnp.where(visible[:, None], q_BHLF @ jnp.swapaxes(k_BHSF, -1, -2), 0)
            out_BHLD += weights_BHLS @ v_BHSD
        last_B = ids_BL[:, last]
        leaving = ids_BL == last_B[:, None]
        added_BHFD = jnp.swapaxes(jnp.where(leaving[:, None, :, None], k_BHSF, 0), -1, -2) @ v_BHSD
        goes_on = (last_B == id_B)[:, None, None, None]
        return (jnp.where(goes_on, state_BHFD, 0) + added_BHFD, last_B), out_BHLD

    # The sum over no tokens: zeros that lie on the devices as the state will.
    nothing = jnp.swapaxes(k[0, :, :, :0], -1, -2) @ v[0, :, :, :0]
    _, out = jax.lax.scan(step, (nothing, ids[first, :, first]), (q, k, v, ids), reverse=reverse)
    return out
