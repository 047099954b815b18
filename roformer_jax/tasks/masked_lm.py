"""Masked language modelling: predict the tokens that masking hid, at their positions only (BERT; paper section 4.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from roformer_jax.data.batches import Batches, eval_batches
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.data.packing import pack_documents
from roformer_jax.data.rows import RowStore, cached_rows
from roformer_jax.data.sources import deduplicate, read_texts, split_by_content
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.data.vocabulary import digest, tokenizer_for
from roformer_jax.errors import InputError
from roformer_jax.models import Model, RoFormerConfig, build_masked_lm
from roformer_jax.sharding import place_batch
from roformer_jax.tasks.task import Task
from roformer_jax.training.step import evaluate_means, make_eval_step
from roformer_jax.typing import Array, PRNGKeyArray, PyTree

UNIGRAM_ROWS = 20_000  # rows, spread over the training text, whose token frequencies are counted
EVALUATION_SEED = 0  # masks of held-out rows never change, so that losses of different runs compare


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The text to pretrain on, and how it becomes rows of tokens."""

    path: str = ""
    """A folder or file of text, a CSV/TSV/JSONL table, package:NAME/FOLDER, or tfds:NAME:SPLIT."""
    pattern: str = "**/*.txt"
    """Which files of a folder; each is one document."""
    column: str = "text"
    """The text column of a table or TFDS data set; each row is one document."""
    encoding: str = "utf-8"
    """Character encoding of the files."""
    tokenizer: str | None = None
    """vocab.txt, tokenizer.json or a folder (a run's, say) that holds one; none trains a WordPiece vocabulary of
    model.vocab_size on the training text."""
    lowercase: bool = True
    """Whether a vocabulary trained here folds case and accents."""
    length: int = 512
    """Tokens per packed row; longer documents are cut into pieces of this length."""
    holdout: float = 0.05
    """Share of the documents held out for evaluation, chosen by the hash of their text."""

    def __post_init__(self):
        if self.length < 8:
            raise InputError(f"data.length = {self.length}: a row needs at least 8 tokens")
        if not 0 < self.holdout < 1:
            raise InputError(f"data.holdout = {self.holdout} must lie strictly between 0 and 1")


class Corpus(NamedTuple):
    """Tokenised, packed text."""

    tokenizer: Tokenizer
    train: RowStore
    heldout: RowStore


def prepare_corpus(config: CorpusConfig, *, vocab_size: int, cache_dir: str) -> Corpus:
    """Read, deduplicate, split, tokenise and pack the text; what was done once is read back from `cache_dir`.

    Raises:
      InputError: no path, unreadable text, a side of the split without text, a vocabulary larger than `vocab_size`.
    """
    if not config.path:
        raise InputError("data.path is not set: name a folder or file of text, e.g. --data.path my/texts")
    texts = read_texts(config.path, pattern=config.pattern, column=config.column, encoding=config.encoding)
    texts = [texts[i] for i in deduplicate(texts)]
    train, heldout = ([texts[i] for i in side] for side in split_by_content(texts, config.holdout))
    for name, side in (("training", train), ("held-out", heldout)):
        if not side:
            raise InputError(
                f"{config.path}: {len(texts)} distinct documents and data.holdout = {config.holdout} leave no {name} "
                "text; give more documents (a table has one a row) or another holdout"
            )
    tokenizer = tokenizer_for(
        config.tokenizer, train, vocab_size=vocab_size, lowercase=config.lowercase, cache_dir=cache_dir
    )

    def rows(side: list[str]) -> RowStore:
        key = {
            "rows": "documents 1",
            "texts": digest(side),
            "tokenizer": tokenizer.fingerprint,
            "length": config.length,
        }
        return cached_rows(cache_dir, key, lambda: pack_documents(tokenizer.encode(side), tokenizer, config.length))

    return Corpus(tokenizer, rows(train), rows(heldout))


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


def describe(rows: RowStore) -> str:
    """Size and packing of a row store, in words."""
    tokens, filled = rows.metadata["real_tokens"], 100 * rows.packing
    return f"{tokens:,} tokens in {len(rows):,} rows ({filled:.1f} % of the places filled)"


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


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label] in nats, NaN for a label outside; `logits` has one more axis than `labels`."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1, wrap_negative_indices=False)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def unigram_cross_entropy(corpus: Corpus, batches) -> float:
    """Cross-entropy (nats per token) of the masked tokens of `batches` under the training text's token frequencies.

    What a model that ignores the context reaches at best: the line that a masked LM has to beat. One is added to every
    count, so that no token is impossible.
    """
    counts = np.ones(corpus.tokenizer.vocab_size, np.int64)
    stride = -(-len(corpus.train) // UNIGRAM_ROWS)
    for row in (corpus.train[i] for i in range(0, len(corpus.train), stride)):
        ids = row["ids"][row["segment_ids"] > 0]
        np.add.at(counts, ids[(ids != corpus.tokenizer.cls_id) & (ids != corpus.tokenizer.sep_id)], 1)
    log_probability = np.log(counts / np.sum(counts))
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
