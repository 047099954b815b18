"""Beam search in one compiled loop finds what a search in plain Python finds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig, build_translation, build_translator
from roformer_jax.tasks.beam_search import SearchConfig, beam_search
from tests.models.parameters import random_params

EPS = float(jnp.finfo(jnp.float32).eps)
PAD, START, END, VOCAB = 0, 2, 3, 14
NEVER = (0, 1, 2, 4)
SENTENCES, SOURCE, CAPACITY = 50, 6, 9
CONFIG = RoFormerConfig(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
)  # fmt: skip
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, SOURCE + 1, SENTENCES)
IDS = RNG.integers(5, VOCAB, (SENTENCES, SOURCE)).astype(np.int32)
SEGMENTS = (np.arange(SOURCE)[None] < LENGTHS[:, None]).astype(np.int32)
LIMITS = np.clip(LENGTHS + 3, 1, CAPACITY).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    """Parameters, the translator, and log-probabilities of the next token by the whole model, without a cache."""
    whole = build_translation(CONFIG)
    params = random_params(whole, scale=0.7)
    # An end that is neither rare nor sure, so that hypotheses of many lengths compete.
    params["head"]["bias"][END] += 1.0
    apply = jax.jit(whole.apply)
    known = {}

    def next_log_probs(sentence, prefixes):
        """[prefixes, vocab], of prefixes of one length; 4 rows of one shape, so that all is compiled once."""
        missing = [prefix for prefix in prefixes if (sentence, prefix) not in known]
        for start in range(0, len(missing), 4):
            some = missing[start : start + 4]
            ids = np.full((4, CAPACITY), PAD, np.int32)
            for row, prefix in enumerate(some):
                ids[row, : len(prefix) + 1] = (START, *prefix)
            source = np.repeat(IDS[sentence : sentence + 1], 4, 0), np.repeat(SEGMENTS[sentence : sentence + 1], 4, 0)
            targets = (np.arange(CAPACITY)[None] <= len(some[0])).astype(np.int32).repeat(4, 0)
            logits = np.asarray(apply(params, *source, ids, targets), np.float64)[:, len(some[0])]
            logits -= logits.max(axis=-1, keepdims=True)
            log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            known.update({(sentence, prefix): log_probs[row] for row, prefix in enumerate(some)})
        return [known[sentence, prefix] for prefix in prefixes]

    return params, build_translator(CONFIG), next_log_probs


def score(log_prob, tokens, alpha):
    return log_prob / ((5 + tokens) / 6) ** alpha


def reference_search(next_log_probs, sentence, beam, alpha):
    """The search as it is told: a list of hypotheses, to its very end."""
    live, finished = [((), 0.0)], []
    for step in range(1, LIMITS[sentence] + 1):
        candidates = []
        log_probs = next_log_probs(sentence, [prefix for prefix, _ in live])
        for (prefix, log_prob), of_next in zip(live, log_probs, strict=True):
            allowed = [END] if step == LIMITS[sentence] else [t for t in range(VOCAB) if t not in NEVER]
            candidates += [((*prefix, token), log_prob + of_next[token]) for token in allowed]
        candidates.sort(key=lambda candidate: -candidate[1])
        taken = candidates[: beam - len(finished)]
        finished += [(prefix[:-1], score(p, step, alpha)) for prefix, p in taken if prefix[-1] == END]
        live = [(prefix, p) for prefix, p in taken if prefix[-1] != END]
        if not live:
            break
    return max(finished, key=lambda hypothesis: hypothesis[1])


def searched(model, **config):
    params, translator, _ = model
    found = beam_search(
        translator, params, IDS, SEGMENTS, LIMITS, capacity=CAPACITY, config=SearchConfig(**config), start=START,
        end=END, never=NEVER,
    )  # fmt: skip
    tokens = [tuple(row[:n].tolist()) for row, n in zip(np.asarray(found.tokens), found.lengths, strict=True)]
    return tokens, np.asarray(found.scores), int(found.steps)


def test_tokens_and_scores_are_those_of_a_search_in_plain_python(model):
    tokens, scores, _ = searched(model, beam=4, length_penalty=0.6)
    expected = [reference_search(model[2], sentence, 4, 0.6) for sentence in range(SENTENCES)]
    assert tokens == [prefix for prefix, _ in expected]
    assert len(set(map(len, tokens))) > 4, "the lengths are to differ"
    # A score sums up to CAPACITY logits, each of some hundred terms of the size of the largest.
    atol = CAPACITY * 200 * EPS * max(abs(value) for _, value in expected)
    np.testing.assert_allclose(scores, [value for _, value in expected], rtol=0, atol=atol)


def test_a_beam_of_one_takes_the_likeliest_token_every_time(model):
    tokens, _, _ = searched(model, beam=1)
    for sentence in range(SENTENCES):
        prefix = ()
        while len(prefix) + 1 < LIMITS[sentence]:
            log_probs = model[2](sentence, [prefix])[0].copy()
            log_probs[list(NEVER)] = -math.inf
            if log_probs.argmax() == END:
                break
            prefix = (*prefix, int(log_probs.argmax()))
        assert tokens[sentence] == prefix


def test_the_search_ends_when_no_live_hypothesis_can_win_and_not_before(model):
    """The reference goes on to the end: equal results say that nothing was missed; here, that steps were saved."""
    params = jax.tree.map(np.copy, model[0])
    params["head"]["bias"][END] += 20.0
    _, scores, steps = searched((params, *model[1:]), beam=4, length_penalty=0.6)
    assert steps == 1 and (scores > -0.1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam": 0}, "search.beam = 0 must be 1 or more"),
        ({"length_penalty": -0.1}, "search.length_penalty = -0.1 must be 0 or more"),
    ],
)
def test_a_search_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        SearchConfig(**fields)
