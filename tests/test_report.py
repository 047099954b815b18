"""The report is one safe, self-contained and repeatable file, and what it says is what was measured."""

import os
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.errors import InputError
from roformer_jax.lengths import Measured
from roformer_jax.report.figures import smooth, spread
from roformer_jax.report.html import PALETTE, bar, element, heat_table, percent
from roformer_jax.report.lengths import draw_lengths
from roformer_jax.report.quickstart import render, write_report
from roformer_jax.report.results import MaskedWord, QuickstartResults, wilson_interval

HOSTILE = """<script>alert("1")</script> 'a' & <b"""


def rows(loss, accuracy, updates=40):
    train = [{"step": step, "kind": "train", "loss": loss + 1 / step} for step in range(1, updates + 1)]
    return [*train, {"step": updates, "kind": "eval", "loss": loss, "accuracy": accuracy}]


def results(**changes):
    plausible = QuickstartResults(
        pretraining={"rope": rows(5.1234, 0.171), "learned": rows(5.3456, 0.152)},
        unigram_loss=6.789,
        finetuning=rows(0.21, 0.925),
        label_names=("business", "sport"),
        confusion=np.array([[17, 2], [1, 20]]),
        tfidf_accuracy=0.95,
        masked_words=(
            MaskedWord("The ", " won.", "team", (("club", 0.42), ("team", 0.0731))),
            MaskedWord("A ", " fell.", "cabinet", (("share", 0.3),)),
        ),
        facts={"Seed": "0", "Device": "1 × CPU"},
    )
    return plausible._replace(**changes)


class Page(HTMLParser):
    """Collects the text, attributes and unclosed elements of a document."""

    def __init__(self, document):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], set(), [], []
        self.feed(document)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def test_report_is_one_balanced_document_that_refers_to_nothing_outside():
    document = render(results())
    page = Page(document)
    assert page.open == []
    assert page.tags.isdisjoint({"script", "link", "img", "image", "iframe", "object", "embed", "base", "form"})
    assert "://" not in document and "@import" not in document
    references = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset", "data"}]
    references += [part.split(")")[0] for part in document.split("url(")[1:]]
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert references and {reference.removeprefix("#") for reference in references} <= set(identifiers)
    assert len(identifiers) == len(set(identifiers))


def test_figures_take_every_colour_from_the_theme():
    figures = render(results()).split("<svg")[1:]
    assert len(figures) == 2
    for figure in figures:
        styles = [value for name, value in Page("<svg" + figure.split("</figure>")[0]).attributes if name == "style"]
        assert not any(": #" in style for style in styles)


def test_hostile_text_stays_text():
    hostile = results(
        label_names=(HOSTILE, "sport"),
        masked_words=(MaskedWord(HOSTILE, HOSTILE, HOSTILE, ((HOSTILE, 0.5),)),),
        facts={HOSTILE: HOSTILE},
    )
    document = render(hostile)
    page = Page(document)
    assert "script" not in page.tags and "<b\n" not in document
    # Labels: in a sentence and on two sides of the table; words: around the gap, as guess and as answer; facts: both.
    assert page.text.count(HOSTILE) >= 3 + 4 + 2


def test_attributes_are_escaped():
    assert element("p", "<", aria_label='"><b>') == '<p aria-label="&quot;&gt;&lt;b&gt;">&lt;</p>'


def test_every_number_of_the_results_appears():
    text = Page(render(results())).text
    losses = ("5.123", "5.346", "6.789", "0.223 nats", "1.666 nats")
    accuracies = ("17.1%", "15.2%", "92.5%", "95.0%", "2.5 percentage points", "40 held-out articles")
    guesses = ("42.0%", "7.3%", "right in 0 of 2", "✓ team", "not among its 1 best words")
    for number in (*losses, *accuracies, *guesses, "1 × CPU"):
        assert number in text, number


def test_confusion_matrix_shows_counts_row_totals_and_recall():
    text = Page(render(results())).text
    assert "gives 37 their true kind" in text
    assert "business taken for sport, 2 times" in text
    table = Page(heat_table(("business", "sport"), np.array([[17, 2], [1, 20]]))).text
    assert table == "business sport total right business 17 2 19 89.5% sport 1 20 21 95.2%"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "RoFormer is better than the model with learned positions by 0.223 nats"),
        (
            {"pretraining": {"rope": rows(5.5, 0.1), "learned": rows(5.25, 0.1)}},
            "the model with learned positions is better than RoFormer by 0.250 nats",
        ),
        (
            {"pretraining": {"rope": rows(5.5, 0.1), "learned": rows(5.50004, 0.1)}},
            "RoFormer and the model with learned positions are level",
        ),
        ({}, "RoFormer is better than guessing from word frequencies by 1.666 nats"),
        ({"unigram_loss": 5.0}, "guessing from word frequencies is better than RoFormer by 0.123 nats"),
        ({}, "TF-IDF with logistic regression is better than RoFormer by 2.5 percentage points"),
        ({"tfidf_accuracy": 0.9}, "RoFormer is better than TF-IDF with logistic regression by 2.5 percentage points"),
        ({"tfidf_accuracy": 0.925}, "RoFormer and TF-IDF with logistic regression are level"),
    ],
)
def test_headline_names_the_better_one_whichever_it_is(changes, verdict):
    headline = render(results(**changes)).split("<h2>")[0]
    assert verdict in Page(headline.split("<body>")[1].removeprefix("<main>")).text


def test_perfect_confusion_matrix_has_no_worst_mistake():
    text = Page(render(results(confusion=np.diag([3, 4])))).text
    assert "It makes no mistake." in text and "most frequent mistake" not in text


def test_training_updates_without_a_finite_loss_are_left_out_of_the_curve():
    with_gap = rows(5.1234, 0.171)
    with_gap[3] = {**with_gap[3], "loss": float("nan")}
    without_row = rows(5.1234, 0.171)
    del without_row[3]
    learned = rows(5.3456, 0.152)
    documents = [render(results(pretraining={"rope": rope, "learned": learned})) for rope in (with_gap, without_row)]
    assert documents[0] == documents[1]


def test_same_results_give_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, results())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(source, target):
        assert os.path.getsize(source) > 10_000
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_report(path, results())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretraining": {"rope": rows(5.0, 0.1)}}, r"compares 'rope' and 'learned'; pretraining holds \['rope'\]"),
        ({"finetuning": rows(5.0, 0.1)[:-1]}, r"fine-tuning lack .*found: \['train'\]"),
        ({"finetuning": rows(float("nan"), 0.1)}, "fine-tuning at update 40 read loss nan"),
        ({"confusion": np.ones((3, 3), int)}, r"2 labels must have shape \(2, 2\).*it has shape \(3, 3\)"),
        ({"confusion": np.zeros((2, 2), int)}, "counts 0"),
    ],
)
def test_incomplete_results_are_refused_before_a_file_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / "report.html", results(**changes))
    assert list(tmp_path.iterdir()) == []


def test_small_probability_never_reads_as_nothing():
    assert [percent(share) for share in (0.0, 0.0004, 0.0006, 1.0)] == ["0.0%", "<0.1%", "0.1%", "100.0%"]
    assert "width:25.0%" in bar("word", 0.25, "25%", "blue")


def test_smoothing_is_the_mean_over_the_last_updates():
    updates, window = np.array([1.0, 2, 5, 6, 7, 20]), 3
    values = np.array([4.0, 8, 3, 5, 7, 1])
    expected = [values[(updates > update - window) & (updates <= update)].mean() for update in updates]
    # Sums of small integers are exact in float64.
    np.testing.assert_array_equal(smooth(updates, values, window), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4), st.integers(1, 10))
def test_labels_are_moved_apart_and_no_further(values, gap):
    values = np.sort(np.asarray(values, np.float64))
    moved = spread(values, float(gap))
    eps = 64 * np.finfo(np.float64).eps * (abs(values).max() + 4 * gap)
    assert (np.diff(moved) >= gap - eps).all()
    np.testing.assert_allclose(moved.mean(), values.mean(), atol=eps)
    if (np.diff(values) >= gap).all():
        np.testing.assert_allclose(moved, values, atol=eps)


@pytest.mark.parametrize(("share", "trials"), [(0.5, 10), (0.946, 445), (0.0, 20), (1.0, 445)])
def test_interval_ends_where_the_share_is_196_standard_errors_away(share, trials):
    for end in wilson_interval(share, trials):
        # Squared, as both sides vanish together at 0 and 1; a dozen roundings of numbers of order 1.
        assert (share - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / trials, abs=1e-14)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_is_readable_on_the_page_and_on_the_deepest_blue(theme):
    colours = {name: rgb(both[theme]) for name, both in PALETTE.items()}
    for name in ("ink", "muted", "blue", "orange", "green"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    deepest = 0.6 * rgb(PALETTE["blue"][0]) + 0.4 * colours["page"]
    assert contrast(colours["ink"], deepest) >= 4.5


def rgb(colour):
    return np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])


def contrast(first, second):
    """The contrast ratio of WCAG 2.1."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (first, second)]
    darker, lighter = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (lighter + 0.05) / (darker + 0.05)


def test_a_curve_against_length_leaves_out_where_positions_end_and_is_refused_where_all_do(tmp_path):
    beyond, within = Measured("learned", 64, "loss", None), Measured("rope", 64, "bits_per_byte", 2.5)
    svg = draw_lengths(tmp_path, [beyond, within], 32)[0].read_text(encoding="utf-8")
    assert "rope 2.500" in svg and "bits per byte" in svg and "learned" not in svg
    with pytest.raises(InputError, match="there is no curve to draw"):
        draw_lengths(tmp_path / "none", [beyond], 32)
    assert not (tmp_path / "none").exists()
