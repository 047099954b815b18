"""The report of the quickstart: two small models pretrained, one fine-tuned, both held to a simple baseline."""

import math
import os
from pathlib import Path

import numpy as np

from roformer_jax.report import figures
from roformer_jax.report.html import (
    Html,
    bar,
    bars,
    card,
    element,
    facts_table,
    heat_table,
    note,
    page,
    paragraph,
    percent,
    section,
    strong,
)
from roformer_jax.report.results import MaskedWord, QuickstartResults, check, wilson_interval

TFIDF = "TF-IDF with logistic regression"


def write_report(path: Path, results: QuickstartResults) -> None:
    """Writes the report of the quickstart as one self-contained HTML file, whole or not at all.

    Raises:
        InputError: the results are not complete, or not finite (`results.check`).
    """
    check(results)
    document = render(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(document, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def render(results: QuickstartResults) -> str:
    """Returns the report as an HTML document; the same results give the same text."""
    return page(
        "RoFormer quickstart",
        _headline(results),
        _pretraining(results),
        _finetuning(results),
        _confusion(results),
        _masked_words(results.masked_words),
        section("What was run", facts_table(results.facts)),
    )


def _headline(results: QuickstartResults) -> Html:
    rope, learned = (round(results.held_out(encoding, "loss"), 3) for encoding in ("rope", "learned"))
    unigram = round(results.unigram_loss, 3)
    accuracy, tfidf = (round(100 * share, 1) for share in (results.accuracy, results.tfidf_accuracy))
    summary = paragraph(
        "Words were hidden in texts that no model had trained on, and each model had to guess them. RoFormer, which "
        f"marks the order of words by rotation, ends at a loss of {rope:.3f} nats per hidden token; the same model "
        f"with learned positions ends at {learned:.3f}; guessing from word frequencies, without reading the text, "
        f"costs {unigram:.3f}. Lower is better: ",
        strong(_verdict("RoFormer", "the model with learned positions", learned - rope, "{:.3f} nats")),
        ", and ",
        _verdict("RoFormer", "guessing from word frequencies", unigram - rope, "{:.3f} nats"),
        f". Fine-tuned to tell {len(results.label_names)} kinds of articles apart, RoFormer gives {accuracy:.1f}% of "
        f"{results.articles:,} held-out articles their true kind; {TFIDF}, which only counts words, reaches "
        f"{tfidf:.1f}%. Here ",
        strong(_verdict("RoFormer", TFIDF, accuracy - tfidf, "{:.1f} percentage points")),
        ".",
    )
    return element("section", summary, *_scores(results))


def _scores(results: QuickstartResults) -> tuple[Html, Html, Html]:
    """Returns the numbers of the headline as bars, and how far to trust them."""
    losses = (
        ("RoFormer", results.held_out("rope", "loss"), "blue"),
        ("Learned positions", results.held_out("learned", "loss"), "orange"),
        ("Word frequencies", results.unigram_loss, "muted"),
    )
    accuracies = (
        ("RoFormer", results.accuracy, "blue"),
        ("TF-IDF + logistic regression", results.tfidf_accuracy, "muted"),
    )
    longest = max(loss for _, loss, _ in losses)
    low, high = wilson_interval(results.accuracy, results.articles)
    return (
        card(
            "Guessing hidden words",
            "held-out loss in nats per token, lower is better",
            bars(*(bar(name, loss / longest, f"{loss:.3f}", colour) for name, loss, colour in losses)),
        ),
        card(
            "Telling articles apart",
            "held-out accuracy, higher is better",
            bars(*(bar(name, share, percent(share), colour) for name, share, colour in accuracies)),
        ),
        note(
            f"Each number comes from one run; another seed would move it a little. With {results.articles:,} articles, "
            f"the 95% interval of RoFormer’s accuracy is {percent(low)} to {percent(high)}; TF-IDF’s accuracy lies "
            f"{'inside' if low <= results.tfidf_accuracy <= high else 'outside'} it."
        ),
    )


def _pretraining(results: QuickstartResults) -> Html:
    curves = [
        figures.Curve("learned positions", "orange", "s", results.pretraining["learned"]),
        figures.Curve("RoFormer", "blue", "o", results.pretraining["rope"]),
    ]
    window = _window(results.pretraining["rope"])
    hits, learned_hits = (percent(results.held_out(encoding, "accuracy")) for encoding in ("rope", "learned"))
    likelihood = math.exp(-results.held_out("rope", "loss"))
    return section(
        "Learning to guess hidden words",
        paragraph(
            "The loss is the surprise at the right token: the negative logarithm of the probability that the model "
            "gave it, on average, in nats. Every 0.69 nats less means that the right token is held twice as likely. "
            f"At the end RoFormer gives the right token a probability of {likelihood:.2%} (geometric mean), and its "
            f"first guess is right for {hits} of the hidden tokens; with learned positions, for {learned_hits}."
        ),
        figures.loss_figure(
            curves,
            figures.EndLabel(results.unigram_loss, f"word frequencies\n{results.unigram_loss:.3f}", "muted"),
            window,
            f"Lines: loss on the training text, each point the mean of the last {window} updates. "
            "Marks: loss on held-out text, with its last value written beside it. "
            "Dashed: guessing from word frequencies, without reading the text around the gap.",
        ),
    )


def _finetuning(results: QuickstartResults) -> Html:
    window = _window(results.finetuning)
    return section(
        "Learning to tell articles apart",
        paragraph(
            "The pretrained RoFormer is then trained further, on articles with their kinds: "
            f"{', '.join(results.label_names)}. Its accuracy is the share of held-out articles given their true kind."
        ),
        figures.classification_figure(
            figures.Curve("RoFormer", "blue", "o", results.finetuning),
            figures.EndLabel(results.tfidf_accuracy, f"TF-IDF\n{results.tfidf_accuracy:.1%}", "muted"),
            window,
            f"Above: accuracy on held-out articles; dashed: {TFIDF}. "
            f"Below: loss on the training articles, each point the mean of the last {window} updates.",
        ),
    )


def _confusion(results: QuickstartResults) -> Html:
    """Returns the confusion matrix as a heat map, with the accuracy and the most frequent mistake in words."""
    counts, names = results.confusion, results.label_names
    mistakes = counts - np.diag(np.diag(counts))
    truth, given = np.unravel_index(np.argmax(mistakes), counts.shape)
    worst = f"The most frequent mistake: {names[truth]} taken for {names[given]}, {mistakes[truth, given]:,} times."
    return section(
        "Which articles it mixes up",
        paragraph(
            f"Of {results.articles:,} held-out articles RoFormer gives {np.trace(counts):,} their true kind: "
            "an accuracy of ",
            strong(percent(results.accuracy)),
            ". ",
            worst if mistakes.any() else "It makes no mistake.",
        ),
        heat_table(names, counts),
        note(
            "Rows: the true kind. Columns: the kind that RoFormer gives. "
            "The deeper the blue, the larger the share of its row."
        ),
    )


def _masked_words(words: tuple[MaskedWord, ...]) -> Html:
    hits = sum(word.answer in dict(word.guesses[:1]) for word in words)
    return section(
        "Fill in the blank",
        paragraph(
            "Sentences from held-out text with one word hidden, and the pretrained RoFormer’s best guesses among whole "
            f"words, with the probability it gives them. Its first guess is right in {hits} of {len(words)}."
        ),
        *(_masked_word(word) for word in words),
    )


def _masked_word(word: MaskedWord) -> Html:
    gap = element("span", "\N{NO-BREAK SPACE}", class_="gap", role="img", aria_label="hidden word")
    guesses = (_guess(guess, probability, guess == word.answer) for guess, probability in word.guesses)
    found = word.answer in dict(word.guesses)
    return element(
        "div",
        element("blockquote", word.before, gap, word.after),
        bars(*guesses),
        note(
            "The hidden word: ",
            element("span", word.answer, class_="right"),
            "." if found else f", which is not among its {len(word.guesses)} best words.",
        ),
        class_="card",
    )


def _guess(word: str, probability: float, is_right: bool) -> Html:
    label = element("span", f"✓\N{NO-BREAK SPACE}{word}", class_="right") if is_right else word
    return bar(label, probability, percent(probability), "green" if is_right else "blue")


def _verdict(ours: str, theirs: str, lead: float, form: str) -> str:
    """Returns which of two is better, and by how much; `lead` is that of `ours`, a tie if it prints as nothing."""
    amount = form.format(abs(lead))
    if amount == form.format(0.0):
        return f"{ours} and {theirs} are level"
    better, worse = (ours, theirs) if lead > 0 else (theirs, ours)
    return f"{better} is better than {worse} by {amount}"


def _window(rows: list[dict]) -> int:
    """Returns a fortieth of the run, in updates: it steadies the line and hides no turn of it."""
    return max(2, round(rows[-1]["step"] / 40))
