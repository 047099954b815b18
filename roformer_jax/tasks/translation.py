"""Machine translation: predict every token of a target from its source and from the tokens before (section 4.1)."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from roformer_jax.data.batches import Batches, eval_batches
from roformer_jax.flops import translation_flops
from roformer_jax.models import Model, RoFormerConfig, build_translation
from roformer_jax.sharding import place_batch, share_of_rows
from roformer_jax.tasks.corpus import cross_entropy, row_shapes
from roformer_jax.tasks.parallel_corpus import ParallelCorpus
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.step import Between, evaluate_means, make_eval_step, never_stops
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree


def translation_task(
    corpus: ParallelCorpus,
    model_config: RoFormerConfig,
    *,
    label_smoothing: float,
    length: int,
    mesh: Mesh,
    batch_size: int,
    microbatches: int,
    seed: int,
) -> Task:
    """Training on packed pairs, `batch_size` rows a step; the held-out loss is measured without dropout."""
    problem = translation_problem(
        model_config, label_smoothing=label_smoothing, length=length, batch_size=batch_size, microbatches=microbatches
    )
    eval_step = make_eval_step(problem.loss)

    def evaluate(params: PyTree, between: Between = never_stops) -> dict[str, float]:
        batches = eval_batches(corpus.heldout, batch_size=min(batch_size, len(corpus.heldout)))
        means = evaluate_means(eval_step, params, (place_batch(batch, mesh, whole=True) for batch in batches), between)
        return means | {"perplexity": math.exp(min(means["nats_per_token"], 100.0))}

    row_tokens = corpus.train.metadata["real_tokens"] / len(corpus.train)
    return Task(
        problem=problem,
        batches=Batches(
            corpus.train, batch_size=batch_size, seed=seed, microbatches=microbatches, share=share_of_rows(mesh)
        ),
        steps_per_epoch=-(-len(corpus.train) // batch_size),
        tokens_per_step=batch_size * row_tokens,
        evaluate=evaluate,
        tokenizer=corpus.tokenizer,
        fingerprint=corpus.fingerprint,
        summary=corpus.summary,
    )


@functools.cache
def translation_problem(
    model_config: RoFormerConfig, *, label_smoothing: float, length: int, batch_size: int, microbatches: int
) -> Problem:
    """What an update computes, on `batch_size` rows of `length` tokens on either side.

    Remembered, so that the problem of a config and that of its task are one, whose update is compiled once.
    """
    model = build_translation(model_config)
    target = row_shapes(microbatches, batch_size, length)
    source = {f"source_{name}": shape for name, shape in target.items()}
    return Problem(
        model=model,
        loss=translation_loss(model, label_smoothing),
        batch=source | target | {"labels": target["ids"]},
        flops=translation_flops(model_config, tokens=batch_size * length, length=length),
    )


def translation_loss(model: Model, label_smoothing: float) -> Callable[..., dict[str, Array]]:
    """The loss function of translation: sums over the target tokens of a microbatch.

    Returns:
      `loss(params, batch, key) -> {"loss", "nats_per_token", "accuracy", "weight"}`: summed smoothed cross-entropy and
      cross-entropy (nats), correct tokens, tokens. The batch holds `source_ids`, `source_segment_ids`, `ids`,
      `segment_ids` and `labels` [rows, length] (see `data.pairs.pack_pairs`).
    """

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        names = ("source_ids", "source_segment_ids", "ids", "segment_ids")
        logits_BLV = model.apply(params, *(batch[name] for name in names), key=key)
        labels_BL, weights_BL = batch["labels"], (batch["segment_ids"] > 0).astype(jnp.float32)
        return {
            "loss": jnp.sum(smoothed_cross_entropy(logits_BLV, labels_BL, label_smoothing) * weights_BL),
            "nats_per_token": jnp.sum(cross_entropy(logits_BLV, labels_BL) * weights_BL),
            "accuracy": jnp.sum((jnp.argmax(logits_BLV, axis=-1) == labels_BL) * weights_BL),
            "weight": jnp.sum(weights_BL),
        }

    return loss


def smoothed_cross_entropy(
    logits_BLV: Float[Array, "batch length vocab"], labels_BL: Int[Array, "batch length"], smoothing: float
) -> Float[Array, "batch length"]:
    """Cross-entropy in nats with the distribution (1 - smoothing) one-hot + smoothing / V (Szegedy et al. 2016)."""
    uniform_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - jnp.mean(logits_BLV, axis=-1)
    return (1 - smoothing) * cross_entropy(logits_BLV, labels_BL) + smoothing * uniform_BL
