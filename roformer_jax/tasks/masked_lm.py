"""Masked language modelling: predict the tokens that masking hid, at their positions only (BERT; paper section 4.2)."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from roformer_jax.data.batches import Batches, Row, eval_batches
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.models import Model, RoFormerConfig, build_masked_lm
from roformer_jax.sharding import place_batch
from roformer_jax.tasks.corpus import Corpus, cross_entropy, describe, unigram_log_probability
from roformer_jax.tasks.task import Task
from roformer_jax.training.step import evaluate_means, make_eval_step
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
    model = build_masked_lm(model_config)
    loss = masked_lm_loss(model)
    eval_step = make_eval_step(loss)

    def mask(row: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return mask_row(row["ids"], row["segment_ids"], config=masking, tokenizer=corpus.tokenizer, rng=rng)

    def heldout_batches():
        rows = min(batch_size, len(corpus.heldout))
        return eval_batches(corpus.heldout, batch_size=rows, transform=mask, seed=EVALUATION_SEED)

    unigram = unigram_cross_entropy(corpus, heldout_batches())

    def evaluate(params: PyTree) -> dict[str, float]:
        placed = (place_batch(batch, mesh, whole=True) for batch in heldout_batches())
        return evaluate_means(eval_step, params, placed) | {"unigram_loss": unigram}

    batches = Batches(
        corpus.train, batch_size=batch_size, seed=seed, transform=mask, microbatches=microbatches,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    row_tokens = corpus.train.metadata["real_tokens"] / len(corpus.train)
    return Task(
        model=model,
        loss=loss,
        batches=batches,
        steps_per_epoch=-(-len(corpus.train) // batch_size),
        tokens_per_step=batch_size * row_tokens,
        evaluate=evaluate,
        tokenizer=corpus.tokenizer,
        fingerprint={"train": corpus.train.fingerprint, "heldout": corpus.heldout.fingerprint},
        summary={
            "training text": describe(corpus.train),
            "held-out text": describe(corpus.heldout),
        },
    )


def masked_lm_loss(model: Model) -> Callable[..., dict[str, Array]]:
    """The loss function of a masked LM: sums over the masked tokens of a microbatch.

    Returns:
      `loss(params, batch, key) -> {"loss", "accuracy", "weight"}`: summed cross-entropy (nats), correct tokens, tokens.
      The batch holds `ids`, `segment_ids` [rows, length] and `masked_positions`, `masked_labels`, `masked_weights`
      [rows, positions].
    """

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        logits_BPV = model.apply(params, batch["ids"], batch["segment_ids"], batch["masked_positions"], key=key)
        labels_BP, weights_BP = batch["masked_labels"], batch["masked_weights"]
        return {
            "loss": jnp.sum(cross_entropy(logits_BPV, labels_BP) * weights_BP),
            "accuracy": jnp.sum((jnp.argmax(logits_BPV, axis=-1) == labels_BP) * weights_BP),
            "weight": jnp.sum(weights_BP),
        }

    return loss


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
