"""The quickstart: pretrain two position encodings on one budget, fine-tune, compare with TF-IDF, write the report."""

import dataclasses
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from roformer_jax.data.sources import deduplicate, read_texts, split_by_content
from roformer_jax.data.tokenizer import Tokenizer, load_tokenizer
from roformer_jax.finetuning import Classification
from roformer_jax.models import build_masked_lm
from roformer_jax.pretraining import Pretraining
from roformer_jax.report.results import MaskedWord, QuickstartResults
from roformer_jax.run_folder import RESULTS, TOKENIZER, read_json
from roformer_jax.sharding import MeshConfig, make_mesh
from roformer_jax.tasks.classification import Splits
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.tasks.masked_lm import fill_mask
from roformer_jax.tasks.scores import confusion_matrix
from roformer_jax.trained import Classifier, load_params
from roformer_jax.training.writer import read_metrics

SENTENCES, GUESSES = 8, 5  # how many masked words the report shows, and guesses for each
CANDIDATES = 200  # likeliest tokens among which the guesses are the first whole words
SENTENCE_WORDS = range(8, 26)
WORD = re.compile(r"\b[a-z]{4,}\b")


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Pretraining (twice: with rotary and with learned positions), fine-tuning and the report."""

    pretraining: Pretraining
    finetuning: Classification
    report: str = "runs/quickstart/report.html"
    """The report to write: one self-contained HTML file."""

    def run(self) -> None:
        """Run all of it, or what is left of it."""
        rope, learned = (with_positions(self.pretraining, encoding) for encoding in ("rope", "learned"))
        for experiment in (rope, learned):
            announce(f"pretraining with {experiment.model.position_encoding} positions")
            experiment.run()
        finetuning = dataclasses.replace(self.finetuning, init_from=rope.run_dir)
        announce("fine-tuning on the five classes")
        finetuning.run()
        announce("report")
        from roformer_jax.report.quickstart import write_report  # not before: it loads matplotlib, which takes its time

        results = gather(rope, learned, finetuning)
        write_report(Path(self.report), results)
        truth = np.trace(results.confusion) / np.sum(results.confusion)
        print(f"accuracy on held-out articles: RoFormer {truth:.4f}, TF-IDF + logistic regression "
              f"{results.tfidf_accuracy:.4f}\nreport: {self.report}")  # fmt: skip


def announce(stage: str) -> None:
    """Separate the stages in the output."""
    print(f"\n=== {stage} ===", flush=True)


def with_positions(experiment: Pretraining, encoding: str) -> Pretraining:
    """The same experiment with another position encoding, in a folder of its own; nothing else differs."""
    model = dataclasses.replace(experiment.model, position_encoding=encoding)
    return dataclasses.replace(experiment, model=model, run_dir=f"{experiment.run_dir}/{encoding}")


def gather(rope: Pretraining, learned: Pretraining, finetuning: Classification) -> QuickstartResults:
    """Everything that the report shows, from the runs' folders."""
    splits = finetuning.splits()
    (heldout,) = splits.evaluation.values()
    classifier = Classifier(Path(finetuning.run_dir))
    predicted = np.argmax(classifier.outputs(heldout), axis=-1)
    pretraining = {"rope": read_metrics(rope.run_dir), "learned": read_metrics(learned.run_dir)}
    return QuickstartResults(
        pretraining=pretraining,
        unigram_loss=next(row["unigram_loss"] for row in pretraining["rope"] if row["kind"] == "eval"),
        finetuning=read_metrics(finetuning.run_dir),
        label_names=splits.label_names,
        confusion=confusion_matrix(predicted, heldout.labels, len(splits.label_names)),
        tfidf_accuracy=tfidf_accuracy(splits),
        masked_words=guess_masked_words(rope),
        facts=facts(rope, learned, finetuning, splits),
    )


def tfidf_accuracy(splits: Splits) -> float:
    """Held-out accuracy of TF-IDF and logistic regression on the same examples: the baseline of bag-of-words models."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # here: a run is to start without waiting for it
    from sklearn.linear_model import LogisticRegression

    (heldout,) = splits.evaluation.values()
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(vectorizer.fit_transform(splits.train.texts), splits.train.labels)
    return float(model.score(vectorizer.transform(heldout.texts), heldout.labels))


def guess_masked_words(experiment: Pretraining) -> tuple[MaskedWord, ...]:
    """The pretrained model's guesses for one hidden word in each of some held-out sentences, drawn at random."""
    tokenizer = load_tokenizer(Path(experiment.run_dir) / TOKENIZER)
    gaps = draw_gaps(heldout_texts(experiment.data), tokenizer, np.random.default_rng(experiment.seed))
    pieces = [tokenizer.encode([before, after]) for before, _, after in gaps]
    length = max(len(before) + len(after) for before, after in pieces) + 3
    ids = np.full((len(gaps), length), tokenizer.pad_id, np.int32)
    segment_ids = np.zeros((len(gaps), length), np.int32)
    for row, (before, after) in enumerate(pieces):
        sentence = [tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.sep_id]
        ids[row, : len(sentence)], segment_ids[row, : len(sentence)] = sentence, 1
    at = np.array([[1 + len(before)] for before, _ in pieces], np.int32)
    mesh = make_mesh(MeshConfig())
    model = build_masked_lm(experiment.model)
    with jax.set_mesh(mesh):
        params = load_params(Path(experiment.run_dir), model, mesh)
        batch = {"ids": ids, "segment_ids": segment_ids, "masked_positions": at}
        tokens, probabilities = fill_mask(model, params, batch, CANDIDATES)
    return tuple(
        MaskedWord(before, after, word, whole_words(tokenizer, tokens[i, 0], probabilities[i, 0]))
        for i, (before, word, after) in enumerate(gaps)
    )


def whole_words(tokenizer: Tokenizer, tokens: np.ndarray, probabilities: np.ndarray) -> tuple[tuple[str, float], ...]:
    """The first guesses that are words, not pieces of words or punctuation, with their probabilities."""
    guesses = [(tokenizer.token(int(token)), float(p)) for token, p in zip(tokens, probabilities, strict=True)]
    return tuple(guess for guess in guesses if guess[0].isalpha())[:GUESSES]


def heldout_texts(data: CorpusConfig) -> list[str]:
    """The documents that pretraining never saw."""
    texts = read_texts(data.path, pattern=data.pattern, column=data.column, encoding=data.encoding)
    texts = [texts[i] for i in deduplicate(texts)]
    return [texts[i] for i in split_by_content(texts, data.holdout)[1]]


def draw_gaps(texts: list[str], tokenizer: Tokenizer, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Sentences of different documents cut at a random word of one token: (before, word, after)."""
    gaps: list[tuple[str, str, str]] = []
    for index in rng.permutation(len(texts)):
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", texts[index]) if len(s.split()) in SENTENCE_WORDS]
        if not sentences:
            continue
        sentence = sentences[rng.integers(len(sentences))]
        words = [match for match in WORD.finditer(sentence) if len(tokenizer.encode([match.group()])[0]) == 1]
        if words:
            word = words[rng.integers(len(words))]
            gaps.append((sentence[: word.start()], word.group(), sentence[word.end() :]))
        if len(gaps) == SENTENCES:
            break
    return gaps


def facts(rope: Pretraining, learned: Pretraining, finetuning: Classification, splits: Splits) -> dict[str, str]:
    """What was run, for the last table of the report."""
    model = rope.model
    seconds = {e.run_dir: read_json(Path(e.run_dir) / RESULTS)["training_seconds"] for e in (rope, learned, finetuning)}
    (heldout,) = splits.evaluation.values()
    return {
        "Command": "python train.py configs/quickstart.py",
        "Articles": f"{len(splits.train.texts):,} for training, {len(heldout.texts):,} held out (BBC, 2004-2005; "
        "exact duplicates dropped first)",
        "Model": f"{model.num_hidden_layers} layers x {model.hidden_size}, {model.num_attention_heads} heads, "
        f"vocabulary of at most {model.vocab_size:,} word pieces trained on the training articles",
        "Pretraining": f"{rope.training.steps:,} updates of {rope.training.batch_size} rows x {rope.data.length} "
        f"tokens, peak learning rate {rope.optimizer.learning_rate:g}, the same for both position encodings",
        "Fine-tuning": f"{finetuning.training.epochs:g} epochs, {finetuning.training.batch_size} articles per update "
        f"on average, at most {finetuning.length} tokens each, peak learning rate "
        f"{finetuning.optimizer.learning_rate:g}",
        "Seeds": f"pretraining {rope.seed}, fine-tuning {finetuning.seed}",
        "Training time": ", ".join(f"{Path(run).name} {value:.0f} s" for run, value in seconds.items()),
        "Devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "tokenizers", "scikit-learn")),
    }
