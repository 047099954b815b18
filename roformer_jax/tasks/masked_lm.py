"""Masked language modelling: predict the tokens that masking hid, at their positions only (BERT; paper section 4.2)."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from roformer_jax.data.batches import Batches, Row, eval_batches
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.flops import training_flops
from roformer_jax.models import Model, RoFormerConfig, build_masked_lm
from roformer_jax.sharding import parts, place_batch, share_of_rows
from roformer_jax.tasks.corpus import Corpus, cross_entropy, describe, row_shapes, unigram_log_probability
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.step import Between, evaluate_means, make_eval_step, never_stops
from roformer_jax.typing import Array, PRNGKeyArray, PyTree

EVALUATION_SEED = 0  # masks of held-out rows never change, so that losses of different runs compare


def masked_lm_task(
    corpus: Corpus,
    model_config: RoFormerConfig,
    masking: MaskingConfig,
    *,
    mesh: Mesh,
    batch_size: int,
    microbatches: int,
    seed: int,
) -> Task:
    """Masked-LM training on a corpus: `batch_size` packed rows a step, masks drawn anew for every row and epoch."""
    problem = masked_lm_problem(
        model_config, masking, length=corpus.length, batch_size=batch_size, microbatches=microbatches
    )
    eval_step = make_eval_step(problem.loss)

    def mask(row: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return mask_row(row["ids"], row["segment_ids"], config=masking, tokenizer=corpus.tokenizer, rng=rng)

    def heldout_batches():
        rows = min(batch_size, len(corpus.heldout))
        return eval_batches(corpus.heldout, batch_size=rows, transform=mask, seed=EVALUATION_SEED)

    unigram = unigram_cross_entropy(corpus, heldout_batches())

    def evaluate(params: PyTree, between: Between = never_stops) -> dict[str, float]:
        placed = (place_batch(batch, mesh, whole=True) for batch in heldout_batches())
        return evaluate_means(eval_step, params, placed, between) | {"unigram_loss": unigram}

    batches = Batches(
        corpus.train, batch_size=batch_size, seed=seed, transform=mask, microbatches=microbatches,
        share=share_of_rows(mesh),
    )  # fmt: skip
    row_tokens = corpus.train.metadata["real_tokens"] / len(corpus.train)
    return Task(
        problem=problem,
        batches=batches,
        steps_per_epoch=-(-len(corpus.train) // batch_size),
        tokens_per_step=batch_size * row_tokens,
        evaluate=evaluate,
        tokenizer=corpus.tokenizer,
        fingerprint=corpus.fingerprint,
        summary={
            "training text": describe(corpus.train),
            "held-out text": describe(corpus.heldout),
        },
    )


@functools.cache
def masked_lm_problem(
    model_config: RoFormerConfig, masking: MaskingConfig, *, length: int, batch_size: int, microbatches: int
) -> Problem:
    """What an update of masked-LM training computes, on `batch_size` rows of `length` tokens.

    Remembered, so that the problem of a config and that of its task are one, whose update is compiled once.
    """
    model = build_masked_lm(model_config)
    positions = masking.positions(length)
    shape = microbatches, batch_size // microbatches, positions
    masked = {"positions": jnp.int32, "labels": jnp.int32, "weights": jnp.float32}
    return Problem(
        model=model,
        loss=masked_lm_loss(model),
        batch=row_shapes(microbatches, batch_size, length)
        | {f"masked_{name}": jax.ShapeDtypeStruct(shape, dtype) for name, dtype in masked.items()},
        flops=training_flops(
            model_config,
            tokens=batch_size * length,
            length=length,
            predictions=batch_size * positions,
            outputs=model_config.vocab_size,
        ),
    )


def masked_lm_loss(model: Model) -> Callable[..., dict[str, Array]]:
    """The loss function of a masked LM: sums over the masked tokens of a microbatch.

    Returns:
      `loss(params, batch, key) -> {"loss", "accuracy", "weight"}`: summed cross-entropy (nats), correct tokens, tokens.
      The batch holds `ids`, `segment_ids` [rows, length] and `masked_positions`, `masked_labels`, `masked_weights`
      [rows, positions].
    """

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        at_BP, labels_BP, weights_BP = (
            evenly_split(batch[f"masked_{name}"]) for name in ("positions", "labels", "weights")
        )
        logits_BPV = model.apply(params, batch["ids"], batch["segment_ids"], at_BP, key=key)
        return {
            "loss": jnp.sum(cross_entropy(logits_BPV, labels_BP) * weights_BP),
            "accuracy": jnp.sum((jnp.argmax(logits_BPV, axis=-1) == labels_BP) * weights_BP),
            "weight": jnp.sum(weights_BP),
        }

    return loss


def evenly_split(x_BP: Array) -> Array:
    """Filled up with zeros, predictions of no weight, to a number that the devices along a row divide."""
    return jnp.pad(x_BP, ((0, 0), (0, -x_BP.shape[1] % parts("predictions"))))


def unigram_cross_entropy(corpus: Corpus, batches: Iterable[Row]) -> float:
    """Cross-entropy (nats per token) of the masked tokens of `batches` under the training text's token frequencies.

    What a model that ignores the context reaches at best: the line that a masked LM has to beat.
    """
    log_probability = unigram_log_probability(corpus)
    total = weight = 0.0
    for batch in batches:
        total -= float(np.sum(log_probability[batch["masked_labels"]] * batch["masked_weights"]))
        weight += float(np.sum(batch["masked_weights"]))
    return total / max(weight, 1.0)


def fill_mask(model: Model, params: PyTree, batch: dict[str, np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` likeliest tokens of every masked position: ids and probabilities, [rows, positions, top]."""

    @jax.jit
    def predict(params, batch):
        logits_BPV = model.apply(params, batch["ids"], batch["segment_ids"], batch["masked_positions"])
        return jax.lax.top_k(jax.nn.softmax(logits_BPV, axis=-1), top)

    probabilities, ids = predict(params, batch)
    return np.asarray(ids), np.asarray(probabilities)
