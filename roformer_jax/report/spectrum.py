"""Figures of a spectrum of RoPE, as SVG and PNG files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from roformer_jax import rope
from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, save_figure, themed_figure
from roformer_jax.spectrum import SCALINGS, Spectrum

PAPER_DISTANCES = np.arange(257)  # figure 2 of the paper
WIDTH, HEIGHT = 6.4, 3.4  # inches
LABEL_DEPTH = 0.15  # how far down its fall a scaling is named: there the curves lie apart


def draw(spectrum: Spectrum, folder: Path) -> Iterator[Path]:
    """Draws every figure into a folder, and yields the files, each absent or complete."""
    figures: dict[str, Callable[[Axes, Spectrum], None]] = {"decay": decay, "wavelengths": wavelengths}
    if spectrum.scaling != "none":
        figures["scalings"] = scalings
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in figures.items():
        with themed_figure(WIDTH, HEIGHT) as figure:
            axes = figure.subplots()
            axes.set_title(spectrum.title, loc="left", fontsize=10, color=COLOURS["muted"], pad=10)
            plot(axes, spectrum)
            for suffix in (".svg", ".png"):
                file = folder / f"rope-{name}{suffix}"
                save_figure(figure, file)
                yield file


def draw_decay(file: Path, head_size: int) -> None:
    """Draws figure 2 of the paper as an SVG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with themed_figure(WIDTH, HEIGHT) as figure:
        decay(figure.subplots(), Spectrum(head_size=head_size))
        save_figure(figure, file)


def decay(axes: Axes, spectrum: Spectrum) -> None:
    """Figure 2 of the paper: the upper bound of scores against distance."""
    ends = []
    for label, colour, freqs in _curves(spectrum):
        bound = rope.decay_bound(freqs, PAPER_DISTANCES)
        axes.plot(PAPER_DISTANCES, bound, color=COLOURS[colour], linewidth=1.4)
        ends.append(EndLabel(bound[-1], label, colour))
    axes.set(
        xlabel="relative distance (tokens)", ylabel="relative upper bound of the score", xlim=(0, 256), ylim=(0, None)
    )
    axes.set_xticks(range(0, 257, 32))
    label_ends(axes, ends)


def wavelengths(axes: Axes, spectrum: Spectrum) -> None:
    """Tokens per turn of every pair, against the lengths of training and of the context."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    ends = []
    for label, colour, freqs in _curves(spectrum):
        tokens = rope.wavelengths(freqs)
        axes.plot(tokens, color=COLOURS[colour], linewidth=1.6)
        ends.append(EndLabel(tokens[-1], label, colour))
    lengths = {spectrum.context_length: "context", spectrum.original_length: "trained on"}
    for length, name in lengths.items():
        axes.axhline(length, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (5, 4)))
        ends.append(EndLabel(length, f"{name} {length:,}", "muted"))
    axes.set(xlabel="pair, fastest first", ylabel="wavelength (tokens per turn)", xlim=(0, spectrum.freqs.size - 1))
    label_ends(axes, ends)


def scalings(axes: Axes, spectrum: Spectrum) -> None:
    """What every scaling makes of every frequency, by the factor and the length given."""
    axes.set_yscale("log")
    lowest = 1 / spectrum.factor
    halvings = 2.0 ** -np.arange(np.log2(spectrum.factor) + 1)
    axes.yaxis.set_major_locator(FixedLocator([*halvings[halvings > 1.4 * lowest], lowest]))  # 1.4: labels do not touch
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: "1" if ratio == 1 else f"1/{1 / ratio:.3g}"))
    for name in SCALINGS:
        chosen = name == spectrum.scaling
        colour = COLOURS["blue" if chosen else "muted"]
        ratios = spectrum.scaled_by(name) / spectrum.freqs
        axes.plot(ratios, color=colour, linewidth=2.2 if chosen else 1.1, zorder=3 if chosen else 2)
        pair = int(np.argmax(ratios <= lowest**LABEL_DEPTH))
        axes.annotate(name, (pair, ratios[pair]), (5, 4), textcoords="offset points", color=colour)
    axes.set(xlabel="pair, fastest first", ylabel="scaled frequency over unscaled", xlim=(0, spectrum.freqs.size - 1))


def _curves(spectrum: Spectrum) -> list[tuple[str, str, np.ndarray]]:
    """Returns label, colour and frequencies of the spectrum before and, where it is scaled, after scaling."""
    if spectrum.scaling == "none":
        return [("RoPE", "blue", spectrum.freqs)]
    return [
        ("unscaled", "orange", spectrum.freqs),
        (f"{spectrum.scaling} by {spectrum.factor:g}", "blue", spectrum.scaled),
    ]
