"""Beam search with a length penalty (Wu et al. 2016), over many sources at once, in one compiled loop."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.models import Translator
from roformer_jax.typing import Array, Bool, Float, Int, PyTree


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a translation is looked for; the defaults are the paper's."""

    beam: int = 4
    """Hypotheses of each source that are followed; 1 takes the likeliest token every time."""
    length_penalty: float = 0.6
    """alpha: a finished hypothesis of n tokens scores log p / ((5 + n) / 6)^alpha; 0 prefers short ones."""

    def __post_init__(self):
        check_types(self, "search.")
        if self.beam < 1:
            raise InputError(f"search.beam = {self.beam} must be 1 or more")
        if not 0 <= self.length_penalty < math.inf:
            raise InputError(f"search.length_penalty = {self.length_penalty} must be 0 or more, and finite")


class Hypotheses(NamedTuple):
    """The best found so far: K of each of B sources, finished ones among them, which keep their places."""

    tokens: Int[Array, "batch beam capacity"]
    log_probs: Float[Array, "batch beam"]
    """Of all their tokens; -inf where a place is not taken."""
    scores: Float[Array, "batch beam"]
    """What finished ones are judged by; -inf while they are not finished."""
    finished: Bool[Array, "batch beam"]


class Found(NamedTuple):
    """The best finished hypothesis of each source.

    Attributes:
      tokens: its tokens, the end not among them; what follows them is no part of it.
      lengths: how many there are.
      scores: its log-probability, that of its end included, over the length penalty.
      steps: tokens that were looked for one after another.
    """

    tokens: Int[Array, "batch capacity"]
    lengths: Int[Array, "batch"]
    scores: Float[Array, "batch"]
    steps: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("translator", "capacity", "config", "start", "end", "never"))
def beam_search(
    translator: Translator,
    params: PyTree,
    source_ids_BS: Int[Array, "batch source_length"],
    source_segment_ids_BS: Int[Array, "batch source_length"],
    limits_B: Int[Array, "batch"],
    *,
    capacity: int,
    config: SearchConfig,
    start: int,
    end: int,
    never: Sequence[int],
) -> Found:
    """Looks for the likeliest target of each source, its score penalised for its length.

    In every step the K best continuations by log-probability take the places that no finished hypothesis keeps; those
    that end are finished (Sutskever et al. 2014). A source is done when all of its are, or when none that is not could
    still win: its score would be at most its log-probability, which only falls, over the penalty of the limit.

    Args:
      translator: the model (`build_translator`).
      params: its parameters.
      source_ids_BS: one source a row.
      source_segment_ids_BS: 1 for its tokens, 0 for padding.
      limits_B: the most tokens of each target, its end included, which comes there at the latest; 1 to `capacity`.
      capacity: the greatest of them, or more.
      config: beam and penalty.
      start: id before the first token.
      end: id that ends a target.
      never: ids that no target has.
    """
    B, K = len(source_ids_BS), config.beam
    memory = translator.read(params, source_ids_BS, source_segment_ids_BS)

    def more_to_find(state) -> Bool[Array, ""]:
        step, _, found, _ = state
        hopes_BK = jnp.where(found.finished, -jnp.inf, found.log_probs) / penalty(limits_B, config)[:, None]
        done_B = found.scores.max(axis=1) >= hopes_BK.max(axis=1)
        return (step < capacity) & ~done_B.all()

    def grow(state):
        step, last_BK, found, cache = state
        logits, cache = translator.extend(params, last_BK.reshape(-1, 1), jnp.ones(B * K, jnp.int32), memory, cache)
        log_probs_BKV = jax.nn.log_softmax(logits[:, 0].reshape(B, K, -1))
        ids_V = jnp.arange(log_probs_BKV.shape[2])
        is_end_V, is_never_V = ids_V == end, jnp.isin(ids_V, jnp.array(never))
        at_limit_B = limits_B <= step + 1
        excluded_B1V = is_never_V[None, None, :] | (at_limit_B[:, None, None] & ~is_end_V[None, None, :])
        log_probs_BKV = jnp.where(excluded_B1V, -jnp.inf, log_probs_BKV)
        parents_BK, last_BK, found = chosen(found, log_probs_BKV, is_end_V, step, config)
        rows = (jnp.arange(B)[:, None] * K + parents_BK).reshape(-1)
        layers = jax.tree.map(lambda of_rows: of_rows[:, rows], cache.layers)
        return step + 1, last_BK, found, cache._replace(layers=layers)

    empty = Hypotheses(
        tokens=jnp.full((B, K, capacity), end, jnp.int32),
        log_probs=jnp.where(jnp.arange(K)[None] == 0, jnp.zeros((B, 1)), -jnp.inf),  # all begin as the same one
        scores=jnp.full((B, K), -jnp.inf),
        finished=jnp.zeros((B, K), jnp.bool_),
    )
    state = jnp.int32(0), jnp.full((B, K), start, jnp.int32), empty, translator.init_cache(B * K, capacity)
    steps, _, found, _ = jax.lax.while_loop(more_to_find, grow, state)
    best_B = found.scores.argmax(axis=1)
    tokens_BT = jnp.take_along_axis(found.tokens, best_B[:, None, None], axis=1)[:, 0]
    return Found(tokens_BT, (tokens_BT == end).argmax(axis=1), found.scores.max(axis=1), steps)


def chosen(
    found: Hypotheses,
    log_probs_BKV: Float[Array, "batch beam vocab"],
    is_end_V: Bool[Array, "vocab"],
    step: Int[Array, ""],
    config: SearchConfig,
) -> tuple[Int[Array, "batch beam"], Int[Array, "batch beam"], Hypotheses]:
    """The hypotheses after a step, the place of each one's beginning before it, and each one's last token."""
    _, K, V = log_probs_BKV.shape
    # A finished hypothesis has one continuation, itself, which stands for it as its end and is always taken.
    itself_BKV = jnp.where(is_end_V[None, None, :], jnp.inf, -jnp.inf)
    grown_BKV = jnp.where(found.finished[:, :, None], itself_BKV, found.log_probs[:, :, None] + log_probs_BKV)
    values_BK, index_BK = jax.lax.top_k(grown_BKV.reshape(len(grown_BKV), K * V), K)
    parents_BK, last_BK = index_BK // V, index_BK % V

    def of_parents(array: Array) -> Array:
        return jnp.take_along_axis(array, parents_BK.reshape(*parents_BK.shape, *(1,) * (array.ndim - 2)), axis=1)

    before = jax.tree.map(of_parents, found)
    log_probs_BK = jnp.where(before.finished, before.log_probs, values_BK)
    ends_BK = is_end_V[last_BK] & (log_probs_BK > -jnp.inf)
    scores_BK = jnp.where(ends_BK, log_probs_BK / penalty(step + 1, config), -jnp.inf)
    tokens = before.tokens.at[:, :, step].set(last_BK)  # the end again behind that of a finished one
    scores_BK = jnp.where(before.finished, before.scores, scores_BK)
    return parents_BK, last_BK, Hypotheses(tokens, log_probs_BK, scores_BK, ends_BK)


def penalty(length: Int[Array, "*shape"], config: SearchConfig) -> Float[Array, "*shape"]:
    """((5 + n) / 6)^alpha (Wu et al. 2016, equation 14)."""
    return ((5 + length.astype(jnp.float32)) / 6) ** config.length_penalty
