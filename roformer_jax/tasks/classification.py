"""Classification and regression of texts and pairs of texts, packed several to a row with one prediction each."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from roformer_jax.data.batches import Batches, eval_batches
from roformer_jax.data.examples import Examples
from roformer_jax.data.packing import pack_examples
from roformer_jax.data.rows import RowStore, cached_rows
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.data.vocabulary import digest
from roformer_jax.errors import InputError
from roformer_jax.flops import training_flops
from roformer_jax.models import Model, RoFormerConfig, build_classifier
from roformer_jax.sharding import place_batch, share_of_rows
from roformer_jax.tasks.corpus import cross_entropy, describe, row_bounds, row_shapes
from roformer_jax.tasks.scores import score
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.step import Between, never_stops
from roformer_jax.typing import Array, PRNGKeyArray, PyTree


class Splits(NamedTuple):
    """The examples of a task.

    Attributes:
      train: labelled examples.
      evaluation: labelled examples by name, e.g. {"dev": ...}, or {"matched": ..., "mismatched": ...}.
      label_names: in the order of their indices; empty for regression.
      metrics: names in `scores.SCORES`.
    """

    train: Examples
    evaluation: dict[str, Examples]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]


def pack(examples: Examples, tokenizer: Tokenizer, length: int, cache_dir: str, classes: int = 0) -> RowStore:
    """The examples tokenised and packed into rows of `length` tokens, in the cache.

    Raises:
      InputError: a label that is none of the `classes`, or no finite score where there are no classes.
    """
    key = {
        "rows": "examples 2",
        "texts": digest(examples.texts),
        "pairs": digest(examples.pairs) if examples.pairs else None,
        "labels": digest([str(label) for label in examples.labels]) if examples.labels is not None else None,
        "tokenizer": tokenizer.fingerprint,
        "length": length,
    }

    def build():
        first = tokenizer.encode(examples.texts)
        second = tokenizer.encode(examples.pairs) if examples.pairs else None
        return pack_examples(first, second, examples.labels, tokenizer, length)

    bounds = row_bounds(tokenizer, length) | {
        "token_type_ids": 1 if examples.pairs is None else 2,
        "starts": length,
        "labels": classes or None,
        "example_ids": len(examples.texts) + 1,
    }
    return cached_rows(cache_dir, key, build, bounds)


def classification_task(
    splits: Splits,
    model_config: RoFormerConfig,
    tokenizer: Tokenizer,
    *,
    mesh: Mesh,
    length: int,
    batch_size: int,
    microbatches: int,
    seed: int,
    cache_dir: str,
) -> Task:
    """Fine-tuning on packed examples: `batch_size` examples a step on average, as many rows as hold them.

    Raises:
      InputError: labels outside the classes, or pairs of texts for a model that cannot tell them apart.
    """
    if splits.train.pairs is not None and model_config.type_vocab_size < 2:
        raise InputError(f"model.type_vocab_size = {model_config.type_vocab_size}: pairs of texts need 2 or more")
    classes = len(splits.label_names)
    train = pack(splits.train, tokenizer, length, cache_dir, classes)
    heldout = {
        name: pack(examples, tokenizer, length, cache_dir, classes) for name, examples in splits.evaluation.items()
    }
    examples_per_row = len(splits.train.texts) / len(train)
    rows = max(1, round(batch_size / examples_per_row / microbatches)) * microbatches
    problem = classification_problem(
        model_config, length=length, classes=classes, rows=rows, microbatches=microbatches,
        examples=len(train[0]["starts"]),
    )  # fmt: skip
    predictor = Predictor(problem.model, mesh)

    def evaluate(params: PyTree, between: Between = never_stops) -> dict[str, float]:
        scores = {}
        for name, examples in splits.evaluation.items():
            outputs = predictor(params, heldout[name], rows, len(examples.texts), between)
            prefix = "" if len(splits.evaluation) == 1 else f"{name}/"
            found = score(outputs, examples.labels, splits.metrics)
            scores |= {f"{prefix}{metric}": value for metric, value in found.items()}
        return scores

    batches = Batches(
        train, batch_size=rows, seed=seed, microbatches=microbatches,
        share=share_of_rows(mesh),
    )  # fmt: skip
    return Task(
        problem=problem,
        batches=batches,
        steps_per_epoch=-(-len(train) // rows),
        tokens_per_step=rows * train.metadata["real_tokens"] / len(train),
        evaluate=evaluate,
        tokenizer=tokenizer,
        fingerprint={
            "label_names": list(splits.label_names),
            "tokenizer": tokenizer.fingerprint,
            "train": train.fingerprint,
        }
        | {name: store.fingerprint for name, store in heldout.items()},
        summary={
            "training examples": f"{len(splits.train.texts):,}: {describe(train)}",
            "held-out examples": ", ".join(f"{name} {len(e.texts):,}" for name, e in splits.evaluation.items()),
            "batch": f"{rows} rows of {length} tokens: {rows * examples_per_row:.1f} examples on average",
        },
    )


def classification_problem(
    model_config: RoFormerConfig, *, length: int, classes: int, rows: int, microbatches: int, examples: int
) -> Problem:
    """What an update of fine-tuning computes.

    Args:
      model_config: the model.
      length: tokens of a row.
      classes: how many there are; 0 for regression.
      rows: packed rows of a batch.
      microbatches: parts of a batch.
      examples: the most examples that a row holds.
    """
    model = build_classifier(model_config, max(classes, 1))
    tokens = row_shapes(microbatches, rows, length)
    shape = microbatches, rows // microbatches, examples
    per_example = {"starts": jnp.int32, "labels": jnp.int32 if classes else jnp.float32, "example_ids": jnp.int32}
    return Problem(
        model=model,
        loss=classification_loss(model) if classes else regression_loss(model),
        batch=tokens
        | {"token_type_ids": tokens["ids"]}
        | {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in per_example.items()},
        flops=training_flops(
            model_config, tokens=rows * length, length=length, predictions=rows * examples, outputs=max(classes, 1)
        ),
    )


def _outputs(model: Model, params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> Array:
    return model.apply(
        params, batch["ids"], batch["segment_ids"], batch["starts"], batch["token_type_ids"], key=key
    )  # [rows, examples, outputs]


def classification_loss(model: Model) -> Callable[..., dict[str, Array]]:
    """Sums over the examples of a microbatch: cross-entropy (nats), correct predictions, examples."""

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        logits_BEC = _outputs(model, params, batch, key)
        weights_BE = (batch["example_ids"] > 0).astype(jnp.float32)
        return {
            "loss": jnp.sum(cross_entropy(logits_BEC, batch["labels"]) * weights_BE),
            "accuracy": jnp.sum((jnp.argmax(logits_BEC, axis=-1) == batch["labels"]) * weights_BE),
            "weight": jnp.sum(weights_BE),
        }

    return loss


def regression_loss(model: Model) -> Callable[..., dict[str, Array]]:
    """Sums over the examples of a microbatch: squared error, examples (STS-B)."""

    def loss(params: PyTree, batch: dict[str, Array], key: PRNGKeyArray | None) -> dict[str, Array]:
        scores_BE = _outputs(model, params, batch, key)[..., 0]
        weights_BE = (batch["example_ids"] > 0).astype(jnp.float32)
        return {
            "loss": jnp.sum(jnp.square(scores_BE - batch["labels"]) * weights_BE),
            "weight": jnp.sum(weights_BE),
        }

    return loss


class Predictor:
    """Outputs of every example exactly once and in input order, whatever the batch size and the number of devices."""

    def __init__(self, model: Model, mesh: Mesh):
        def predict(params: PyTree, batch: dict[str, Array]) -> tuple[Array, Array]:
            batch = {name: rows[0] for name, rows in batch.items()}  # one microbatch
            return _outputs(model, params, batch, None), batch["example_ids"]

        self._mesh = mesh
        whole = NamedSharding(mesh, PartitionSpec())  # replicated, so that every process can read all of it
        self._predict = jax.jit(predict, out_shardings=whole)

    def __call__(
        self, params: PyTree, rows: RowStore, batch_size: int, num_examples: int, between: Between = never_stops
    ) -> np.ndarray:
        """Outputs float32 [num_examples, outputs]: class logits, or one score.

        Raises:
          RuntimeError: an example was missing or came twice (the packing would be at fault).
        """
        outputs, seen = None, np.zeros(num_examples, np.int64)
        for batch in eval_batches(rows, batch_size=min(batch_size, len(rows))):
            between()
            found, numbers = map(np.asarray, self._predict(params, place_batch(batch, self._mesh, whole=True)))
            if outputs is None:
                outputs = np.zeros((num_examples, found.shape[-1]), np.float32)
            indices = numbers[numbers > 0] - 1
            outputs[indices] = found[numbers > 0]
            np.add.at(seen, indices, 1)
        if outputs is None or not np.all(seen == 1):
            raise RuntimeError(f"evaluation saw {int(np.sum(seen == 1))} of {num_examples} examples exactly once")
        return outputs
