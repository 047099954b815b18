"""What `python -m roformer_jax rope` shows comes from the library, and says what it means."""

import numpy as np
import pytest

from roformer_jax import rope
from roformer_jax.errors import InputError
from roformer_jax.report import spectrum as figures
from roformer_jax.report.figures import themed_figure
from roformer_jax.spectrum import Spectrum, summary, table

YARN = Spectrum(scaling="yarn", factor=8.0)


def rows(spectrum):
    """Every row of the table as numbers, below its two lines of headings."""
    return np.array([[float(cell.replace(",", "")) for cell in line.split()] for line in list(table(spectrum))[2:]])


def facts(spectrum):
    return {line[:27].strip(): line[27:].strip() for line in summary(spectrum) if line[27:28] == " "}


def test_the_table_holds_the_scaled_and_the_unscaled_frequencies():
    numbers = rows(YARN)
    pairs = numbers[:, 0].astype(int)
    assert (pairs[0], pairs[-1]) == (0, 63)
    freqs = rope.frequencies(128)
    scaled = rope.scale_yarn(freqs, 8.0, original_length=4096)
    columns = [
        freqs, 2 * np.pi / freqs, 4096 * freqs / (2 * np.pi),
        scaled, scaled / freqs, 2 * np.pi / scaled, 32768 * scaled / (2 * np.pi),
    ]  # fmt: skip
    expected = np.stack(columns, axis=1)[pairs]
    np.testing.assert_allclose(numbers[:, 1:], expected, rtol=5e-4, atol=0.05)  # four digits, or one decimal


def test_an_unscaled_table_has_no_columns_for_a_scaling_and_a_longer_context_one_of_its_own():
    assert rows(Spectrum()).shape[1] == 4
    assert rows(Spectrum(context=8192)).shape[1] == 5


@pytest.mark.parametrize("head_size", [4, 64, 96, 256])
def test_the_table_shows_at_most_eighteen_pairs_and_both_ends(head_size):
    pairs = rows(Spectrum(head_size=head_size, original_length=64))[:, 0]
    assert len(pairs) <= 18
    assert (pairs[0], pairs[-1]) == (0, head_size // 2 - 1)


def test_the_summary_says_how_the_wavelengths_lie_in_the_context():
    said = facts(YARN)
    assert said["longest wavelength"] == "54,410 tokens, 1.66 times the context"
    assert said["longest scaled wavelength"] == "435,281 tokens, 13.3 times the context"
    assert said["pairs that complete a turn"] == "46 of 64 (72%) in the 4,096 tokens of training"
    assert said["gain on cos and sin"] == "1.2079"  # 0.1 ln 8 + 1


def test_the_summary_says_where_attention_prefers_random_keys():
    sums = np.cos(np.arange(4096)[:, None] * 10_000.0 ** (-np.arange(64) / 64)).sum(axis=1)
    said = facts(Spectrum())
    assert said["sum of cosines"] == f"first negative at distance {np.argmax(sums < 0):,} (of 4,096)"
    assert said["lower bound of theta"] == "27,000 for 4,096 tokens; 10,000 does not reach it"


def test_the_summary_says_when_theta_is_large_enough():
    said = facts(Spectrum(theta=27_000.0, original_length=2048))
    assert said["sum of cosines"] == "nowhere negative (of 2,048)"
    assert said["lower bound of theta"].endswith("for 2,048 tokens; 27,000 reaches it")


def test_no_search_of_minutes_is_begun():
    said = facts(Spectrum(context=2**20))
    assert said["lower bound of theta"] == "not searched for, which takes minutes above 131,072 tokens"


def test_the_context_is_the_original_length_times_the_factor_unless_it_is_given():
    assert YARN.context_length == 32768
    assert Spectrum(original_length=100).context_length == 100
    assert Spectrum(scaling="linear", factor=2.0, context=5000).context_length == 5000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_size": 7}, "--head-size must be even and at least 4 .*, got 7"),
        ({"head_size": 2}, "--head-size must be even and at least 4 .*, got 2"),
        ({"theta": 1.0}, "--theta must be above 1 and finite, got 1"),
        ({"theta": float("nan")}, "--theta must be above 1 and finite, got nan"),
        ({"factor": 8.0}, "--factor 8 scales nothing: add --scaling linear|ntk|yarn|llama3, or leave it out"),
        ({"scaling": "ntk"}, "--scaling ntk needs --factor, the longer context over the original length"),
        ({"scaling": "yarn", "factor": 1.0}, "--factor must be above 1 and finite, got 1"),
        ({"scaling": "yarn", "factor": float("inf")}, "--factor must be above 1 and finite, got inf"),
        ({"original_length": 1}, "--original-length must be at least 2 tokens, got 1"),
        ({"context": 1}, "the context must have 2 to 16,777,216 tokens, got 1"),
        ({"context": 2**24 + 1}, "the context must have 2 to 16,777,216 tokens, got 16,777,217"),
    ],
)
def test_values_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        Spectrum(**fields)


def lines(plot, spectrum):
    """The y values of every line of a figure."""
    with themed_figure(4.0, 3.0) as figure:
        axes = figure.subplots()
        plot(axes, spectrum)
        return [np.asarray(line.get_ydata(), np.float64) for line in axes.lines]


def test_the_decay_figure_is_figure_2_of_the_paper():
    (bound,) = lines(figures.decay, Spectrum())
    turns = np.exp(1j * np.arange(257)[:, None] * 10_000.0 ** (-np.arange(64) / 64))
    np.testing.assert_allclose(bound, np.abs(np.cumsum(turns, axis=1)).mean(axis=1), rtol=0, atol=1e-9)


def test_the_wavelengths_figure_shows_both_spectra_and_both_lengths():
    unscaled, scaled, context, trained = lines(figures.wavelengths, YARN)
    np.testing.assert_allclose(unscaled, 2 * np.pi * 10_000.0 ** (np.arange(64) / 64))
    np.testing.assert_allclose(scaled[[0, 63]], unscaled[[0, 63]] * [1, 8])
    assert (set(context), set(trained)) == ({32768}, {4096})


def test_the_scalings_figure_shows_the_ratio_of_every_scaling():
    linear, ntk, yarn, llama3 = lines(figures.scalings, YARN)
    np.testing.assert_allclose(linear, 1 / 8)
    np.testing.assert_allclose(ntk, 8.0 ** (-np.arange(64) / 63))
    for ramp in (yarn, llama3):
        assert ramp[0] == 1 and ramp[-1] == pytest.approx(1 / 8) and (np.diff(ramp) <= 0).all()
