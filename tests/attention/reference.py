"""Equation 2 and its gradients in NumPy float64, from the whole matrix of probabilities."""

import numpy as np

EPS = float(np.finfo(np.float32).eps)


def visible(length, segment_ids=None, causal=False):
    """Booleans [#B, 1, L, L]: may the query see the key?"""
    mask = np.ones((1, 1, length, length), bool)
    if causal:
        mask = np.tril(mask)
    if segment_ids is not None:
        ids = np.asarray(segment_ids)
        mask = mask & ((ids[:, :, None] == ids[:, None]) & (ids != 0)[:, None])[:, None]
    return mask


def value_and_gradients(q, k, v, cotangent, *, segment_ids=None, causal=False, left=1.0):
    """The result and the gradients of q, k and v; `left` is what dropout makes of ones, [B, H, L, L]."""
    q, k, v, cotangent = (np.swapaxes(np.asarray(x, np.float64), 1, 2) for x in (q, k, v, cotangent))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scale = 1 / np.sqrt(q.shape[-1])
    mask = visible(q.shape[2], segment_ids, causal)
    weights = np.where(mask, np.exp(q @ k.swapaxes(2, 3) * scale), 0)
    probs = weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(float).tiny)
    d_probs = left * (cotangent @ v.swapaxes(2, 3))
    d_logits = probs * (d_probs - (probs * d_probs).sum(-1, keepdims=True)) * scale
    gradients = d_logits @ k, d_logits.swapaxes(2, 3) @ q, (left * probs).swapaxes(2, 3) @ cotangent
    out = (left * probs) @ v
    dq, dk, dv = gradients
    dk, dv = (x.reshape(x.shape[0], -1, group, *x.shape[2:]).sum(2) for x in (dk, dv))
    return [x.swapaxes(1, 2) for x in (out, dq, dk, dv)]


def tolerances(q, k, v, cotangent, *, eps=EPS, rate=0.0):
    """Bounds on the error of the result and of the three gradients.

    A logit of D products errs by D eps of its size, which moves its probability by twice as much; sums are over at most
    the length, and those of gradients of keys over the queries of every head that they serve. Rounding errors add up
    as their square root, and as their number only at worst: the bounds are of the worst.
    """
    length, heads, channels = q.shape[1:]
    q, k, v, cotangent = (float(np.linalg.norm(np.asarray(x, np.float64), axis=-1).max()) for x in (q, k, v, cotangent))
    relative = (2 * channels * (1 + q * k / np.sqrt(channels)) + 2 * length) * eps / (1 - rate)
    logit = cotangent * v / np.sqrt(channels)
    return [relative * size for size in (v, logit * k, logit * q * length * heads, cotangent * length * heads)]
