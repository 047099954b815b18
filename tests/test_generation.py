"""Tokens are drawn from the distribution asked for, and text is shown in whole characters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.data.tokenizer import Tokenizer, byte_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.generation import Sampling, continue_ids, pieces_of_text, sample
from roformer_jax.models import RoFormerConfig, build_causal_lm, build_decoder
from tests.models.parameters import random_params

LOGITS = np.log(np.array([0.4, 0.05, 0.25, 0.2, 0.1], np.float32))
DRAWS = 20_000


def drawn(sampling: Sampling) -> np.ndarray:
    """Frequencies of the tokens in many draws from `LOGITS`."""
    many = jax.jit(lambda key: sample(jnp.broadcast_to(LOGITS, (DRAWS, 5)), sampling, key))
    return np.bincount(many(jax.random.key(0)), minlength=5) / DRAWS


def normalised(probabilities):
    return np.asarray(probabilities) / np.sum(probabilities)


@pytest.mark.parametrize(
    ("sampling", "probabilities"),
    [
        (Sampling(), [0.4, 0.05, 0.25, 0.2, 0.1]),
        (Sampling(temperature=0.5), np.square([0.4, 0.05, 0.25, 0.2, 0.1])),
        (Sampling(temperature=0.0), [1, 0, 0, 0, 0]),
        (Sampling(top_k=2), [0.4, 0, 0.25, 0, 0]),
        (Sampling(top_k=9), [0.4, 0.05, 0.25, 0.2, 0.1]),
        (Sampling(top_p=0.6), [0.4, 0, 0.25, 0, 0]),  # 0.4 alone does not reach 0.6
        (Sampling(top_p=0.3), [1, 0, 0, 0, 0]),
        (Sampling(top_p=1.0), [0.4, 0.05, 0.25, 0.2, 0.1]),
        (Sampling(top_k=3, top_p=0.7), [0.4, 0, 0.25, 0, 0]),  # of the three: 0.47, 0.29 and 0.24
    ],
)
def test_tokens_are_drawn_with_the_probabilities_asked_for(sampling, probabilities):
    # Five standard deviations of a frequency are at most 5 / (2 sqrt(draws)).
    np.testing.assert_allclose(drawn(sampling), normalised(probabilities), rtol=0, atol=2.5 / np.sqrt(DRAWS))
    assert (drawn(sampling)[np.asarray(probabilities) == 0] == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* or positive, got -1"),
        ({"temperature": float("nan")}, "temperature must be 0 .* or positive, got nan"),
        ({"top_k": 0}, "top-k must be at least 1 token, got 0"),
        ({"top_p": 0.0}, r"top-p must be a probability in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top-p must be a probability in \(0, 1\], got 1.5"),
        ({"temperature": 0.0, "top_k": 3}, "temperature 0 takes the likeliest token: leave out top-k and top-p"),
    ],
)
def test_impossible_sampling_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        Sampling(**values)


@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_greedy_continuation_is_that_of_the_model_without_a_cache(attention):
    config = RoFormerConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attention=attention,
    )  # fmt: skip
    model = build_causal_lm(config)
    params = random_params(model, scale=0.5)
    prompt, tokens = [3, 1, 4, 1, 5], 6
    written = continue_ids(
        build_decoder(config), params, prompt, tokens=tokens, sampling=Sampling(temperature=0.0),
        key=jax.random.key(0), never=(0, 2),
    )  # fmt: skip
    written = list(written)
    ids = jnp.array([prompt + written])
    logits = np.array(jax.jit(model.apply)(params, ids, jnp.ones_like(ids)))[0]
    logits[:, [0, 2]] = -np.inf
    assert written == logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist()
    shortened = continue_ids(
        build_decoder(config), params, prompt, tokens=tokens, sampling=Sampling(temperature=0.0),
        key=jax.random.key(0), never=(0, 2), end=written[2],
    )  # fmt: skip
    assert list(shortened) == written[: written.index(written[2])]


def test_characters_are_shown_when_all_their_bytes_are_there():
    tokenizer = byte_tokenizer()
    prompt, text = "é", "a日b"
    ids = tokenizer.encode([text])[0]
    pieces = list(pieces_of_text(iter(ids.tolist()), tokenizer, tokenizer.encode([prompt])[0].tolist()))
    assert pieces == ["a", "日", "b", ""]
    cut = list(pieces_of_text(iter(ids.tolist()[:3]), tokenizer, []))
    assert cut[:1] == ["a"] and "".join(cut) == "a\N{REPLACEMENT CHARACTER}"


def test_a_long_text_is_shown_whole_and_decoded_in_short_pieces(monkeypatch):
    tokenizer, sizes, decode = byte_tokenizer(), [], Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: sizes.append(len(ids)) or decode(self, ids))
    text = "".join(np.random.default_rng(0).choice(list("aé日😀"), 2000))  # characters of one to four bytes
    ids = tokenizer.encode([text])[0].tolist()
    assert "".join(pieces_of_text(iter(ids), tokenizer, tokenizer.encode(["é"])[0].tolist())) == text
    assert max(sizes) < 140 < len(ids)
