"""Causal language modelling: predict every token of a document from those before it (paper section 4.4)."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from roformer_jax.data.batches import Batches, eval_batches
from roformer_jax.data.rows import RowStore
from roformer_jax.data.tokenizer import FIRST_BYTE_ID
from roformer_jax.flops import training_flops
from roformer_jax.models import Model, RoFormerConfig, build_causal_lm
from roformer_jax.sharding import place_batch, share_of_rows
from roformer_jax.tasks.corpus import Corpus, cross_entropy, describe, row_shapes, unigram_log_probability
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.step import Between, evaluate_means, make_eval_step, never_stops
from roformer_jax.typing import Array, PRNGKeyArray, PyTree

BYTE_VOCABULARY = FIRST_BYTE_ID + 256


def causal_lm_task(
    corpus: Corpus, model_config: RoFormerConfig, *, mesh: Mesh, batch_size: int, microbatches: int, seed: int
) -> Task:
    """Next-token training on a corpus: `batch_size` rows a step."""
    problem = causal_lm_problem(model_config, length=corpus.length, batch_size=batch_size, microbatches=microbatches)
    model = problem.model
    unigram = next_token_unigram_loss(corpus)
    batches = Batches(
        corpus.train, batch_size=batch_size, seed=seed, microbatches=microbatches,
        share=share_of_rows(mesh),
    )  # fmt: skip

    def evaluate(params: PyTree, between: Between = never_stops) -> dict[str, float]:
        return evaluate_rows(model, params, corpus, mesh, batch_size, between) | {"unigram_loss": unigram}

    row_tokens = corpus.train.metadata["real_tokens"] / len(corpus.train)
    return Task(
        problem=problem,
        batches=batches,
        steps_per_epoch=-(-len(corpus.train) // batch_size),
        tokens_per_step=batch_size * row_tokens,
        evaluate=evaluate,
        tokenizer=corpus.tokenizer,
        fingerprint=corpus.fingerprint,
        summary={"training text": describe(corpus.train), "held-out text": describe(corpus.heldout)},
    )


@functools.cache
def causal_lm_problem(model_config: RoFormerConfig, *, length: int, batch_size: int, microbatches: int) -> Problem:
    """What an update of next-token training computes, on `batch_size` rows of `length` tokens.

    Remembered, so that the problem of a config and that of its task are one, whose update is compiled once.
    """
    model = build_causal_lm(model_config)
    tokens = batch_size * length
    return Problem(
        model=model,
        loss=causal_lm_loss(model),
        batch=row_shapes(microbatches, batch_size, length),
        flops=training_flops(
            model_config, tokens=tokens, length=length, predictions=tokens, outputs=model_config.vocab_size
        ),
    )


def causal_lm_loss(model: Model) -> Callable[..., dict[str, Array]]:
    """The loss function of a causal LM: sums over the tokens of a microbatch that have one before them.

    Returns:
      `loss(params, batch, key) -> {"loss", "accuracy", "weight"}`: summed cross-entropy (nats), correct tokens, tokens.
      The batch holds `ids` and `segment_ids` [rows, length]; the first token of a segment is not predicted.
    """

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        ids_BL, segment_ids_BL = batch["ids"], batch["segment_ids"]
        logits_BLV = model.apply(params, ids_BL, segment_ids_BL, key=key)
        # The last token has no next one, but its logits stay: rows split over devices are cut into equal parts only.
        labels_BL, next_ids_BL = (jnp.pad(array[:, 1:], ((0, 0), (0, 1))) for array in (ids_BL, segment_ids_BL))
        weights_BL = ((next_ids_BL == segment_ids_BL) & (next_ids_BL != 0)).astype(jnp.float32)
        return {
            "loss": jnp.sum(cross_entropy(logits_BLV, labels_BL) * weights_BL),
            "accuracy": jnp.sum((jnp.argmax(logits_BLV, axis=-1) == labels_BL) * weights_BL),
            "weight": jnp.sum(weights_BL),
        }

    return loss


def evaluate_rows(
    model: Model, params: PyTree, corpus: Corpus, mesh: Mesh, batch_size: int, between: Between = never_stops
) -> dict[str, float]:
    """Loss (nats per token), accuracy, and bits per token or byte of the held-out rows."""
    eval_step = make_eval_step(causal_lm_loss(model))
    batches = eval_batches(corpus.heldout, batch_size=min(batch_size, len(corpus.heldout)))
    means = evaluate_means(eval_step, params, (place_batch(batch, mesh, whole=True) for batch in batches), between)
    unit = "byte" if corpus.tokenizer.vocab_size == BYTE_VOCABULARY else "token"
    return means | {f"bits_per_{unit}": means["loss"] / math.log(2)}


def next_token_unigram_loss(corpus: Corpus) -> float:
    """Cross-entropy (nats per token) of the predicted held-out tokens under the training text's token frequencies."""
    log_probability = unigram_log_probability(corpus)
    total = count = 0
    for ids in predicted_tokens(corpus.heldout):
        total -= float(np.sum(log_probability[ids]))
        count += len(ids)
    return total / max(count, 1)


def predicted_tokens(rows: RowStore):
    """The ids of every row that have a token of their segment before them."""
    for row in (rows[i] for i in range(len(rows))):
        segments = row["segment_ids"]
        yield row["ids"][1:][(segments[1:] == segments[:-1]) & (segments[1:] > 0)]
