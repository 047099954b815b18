"""Writing text with a trained causal language model, token by token."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.data.vocabulary import fitting_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.language_modelling import DocumentLM, LanguageModelling
from roformer_jax.models import Decoder, build_causal_lm, build_decoder
from roformer_jax.run_folder import TOKENIZER
from roformer_jax.sharding import MeshConfig, make_mesh
from roformer_jax.trained import load_experiment, load_params
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree

RECENT_TOKENS = 64  # decoded again with every new one, more than a character has: a long text costs no more
PROMPT_STEP = 64  # prompts are padded to multiples of so many tokens: few lengths to compile for
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes to where bytes of a character are missing


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen from the model's probabilities."""

    temperature: float = 1.0
    """Divides the logits before anything else; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Only so many of the likeliest tokens are drawn from."""
    top_p: float | None = None
    """Only the fewest likeliest tokens whose probabilities sum to this are drawn from (nucleus sampling)."""

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature must be 0 (the likeliest token) or positive, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top-k must be at least 1 token, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top-p must be a probability in (0, 1], got {self.top_p}")
        if self.temperature == 0 and not self.top_k == self.top_p is None:
            raise InputError("temperature 0 takes the likeliest token: leave out top-k and top-p")


def sample(logits_BV: Float[Array, "batch vocab"], sampling: Sampling, key: PRNGKeyArray) -> Int[Array, "batch"]:
    """Draws one token a row; tokens of logit -inf are never drawn."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    logits_BV = logits_BV / sampling.temperature
    descending_BV = -jnp.sort(-logits_BV, axis=-1)
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        logits_BV = jnp.where(logits_BV < descending_BV[:, sampling.top_k - 1 :][:, :1], -jnp.inf, logits_BV)
        descending_BV = jnp.where(jnp.arange(logits_BV.shape[-1])[None] < sampling.top_k, descending_BV, -jnp.inf)
    if sampling.top_p is not None:
        probs_BV = jax.nn.softmax(descending_BV, axis=-1)
        needed_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < sampling.top_p  # those before do not suffice
        least_B1 = jnp.min(jnp.where(needed_BV, descending_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return jax.random.categorical(key, logits_BV, axis=-1)


def continue_ids(
    decoder: Decoder,
    params: PyTree,
    prompt: Sequence[int],
    *,
    tokens: int,
    sampling: Sampling,
    key: PRNGKeyArray,
    never: Sequence[int] = (),
    end: int | None = None,
) -> Iterator[int]:
    """Yields up to `tokens` ids after the prompt, one row: the prompt in one step, then each token in one.

    Args:
      decoder: the model with its cache.
      params: its parameters.
      prompt: token ids, at least one.
      tokens: ids wanted.
      sampling: how they are chosen.
      key: randomness; the i-th token takes `fold_in(key, i)`.
      never: ids that are not generated.
      end: id that ends the text; it is not yielded.
    """
    next_token = _next_token(decoder, sampling, tuple(never))
    padded = -(-len(prompt) // PROMPT_STEP) * PROMPT_STEP
    ids_BT = np.zeros((1, padded), np.int32)
    ids_BT[0, : len(prompt)] = prompt
    cache = decoder.init_cache(1, padded + tokens)
    count_B = np.array([len(prompt)], np.int32)
    for i in range(tokens):
        id_B, cache = next_token(params, ids_BT, count_B, cache, jax.random.fold_in(key, i))
        if int(id_B[0]) == end:
            return
        yield int(id_B[0])
        ids_BT, count_B = np.asarray(id_B, np.int32)[:, None], np.ones(1, np.int32)


def _next_token(decoder: Decoder, sampling: Sampling, never: tuple[int, ...]) -> Callable[..., tuple[Array, PyTree]]:
    """Returns the jitted step: feed tokens, draw the next one."""

    @partial(jax.jit, donate_argnames="cache")
    def step(params, ids_BT, counts_B, cache, key):
        logits_BTV, cache = decoder.extend(params, ids_BT, counts_B, cache)
        logits_BV = jnp.take_along_axis(logits_BTV, (counts_B - 1)[:, None, None], axis=1)[:, 0]
        logits_BV = logits_BV.at[:, np.array(never, np.int32)].set(-jnp.inf)
        return sample(logits_BV, sampling, key), cache

    return step


class Writer:
    """A trained causal language model, ready to continue texts.

    Attributes:
      experiment: its resolved config.
    """

    def __init__(self, run: Path):
        """Loads the newest checkpoint of a run.

        Raises:
          InputError: the run is not one of a causal language model, or has no checkpoint.
        """
        experiment = load_experiment(run)
        if not isinstance(experiment, LanguageModelling):
            raise InputError(f"{run} is a {type(experiment).__name__} run; generate needs a causal language model")
        self.experiment = experiment
        self._tokenizer = fitting_tokenizer(run / TOKENIZER, experiment.model.vocab_size)
        self._mesh = make_mesh(MeshConfig())
        self._decoder = build_decoder(experiment.model)
        with jax.set_mesh(self._mesh):
            self._params = load_params(run, build_causal_lm(experiment.model), self._mesh)

    def write(self, prompt: str, *, tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
        """Yields the continuation of a prompt in pieces of whole characters, as they come.

        Raises:
          InputError: an empty prompt, no tokens asked for, more than the model's positions hold, or no such seed.
        """
        tokenizer = self._tokenizer
        ids = tokenizer.encode([prompt])[0].tolist()
        if not ids:
            raise InputError("the prompt is empty; give the model something to continue")
        if tokens < 1:
            raise InputError(f"tokens must be at least 1, got {tokens}")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed = {seed} must lie in [0, 2^32)")
        documents = isinstance(self.experiment, DocumentLM)
        ids = [tokenizer.cls_id, *ids] if documents else ids
        self.experiment.model.check_length(len(ids) + tokens)
        special = {tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.mask_id, tokenizer.sep_id}
        end = tokenizer.sep_id if documents else None
        with jax.set_mesh(self._mesh):
            new = continue_ids(
                self._decoder, self._params, ids, tokens=tokens, sampling=sampling,
                key=jax.random.key(seed), never=sorted(special - {end}), end=end,
            )  # fmt: skip
            yield from pieces_of_text(new, tokenizer, ids)


def pieces_of_text(new: Iterator[int], tokenizer: Tokenizer, before: Sequence[int]) -> Iterator[str]:
    """Yields what every token adds to the decoded text, a character only when all its bytes are there."""
    ids = list(before)
    shown = tokenizer.decode(ids)
    for token in new:
        ids.append(token)
        text = tokenizer.decode(ids)
        if not text.endswith(INCOMPLETE):
            yield text[len(shown) :]
            if len(ids) > 2 * RECENT_TOKENS:
                ids = ids[-RECENT_TOKENS:]
                text = tokenizer.decode(ids)
            shown = text
    yield tokenizer.decode(ids)[len(shown) :]
