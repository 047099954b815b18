"""`python -m roformer_jax rope`: a spectrum and its scaling as a table, with what they mean for a context length."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from roformer_jax import rope
from roformer_jax.errors import InputError
from roformer_jax.typing import Float

FreqArray = Float[np.ndarray, "pairs"]

# name -> (frequencies, factor, original length) -> scaled frequencies
SCALINGS: Mapping[str, Callable[[FreqArray, float, int], FreqArray]] = {
    "linear": lambda freqs, factor, _: rope.scale_linear(freqs, factor),
    "ntk": lambda freqs, factor, _: rope.scale_ntk(freqs, factor),
    "yarn": lambda freqs, factor, length: rope.scale_yarn(freqs, factor, original_length=length),
    "llama3": lambda freqs, factor, length: rope.scale_llama3(freqs, factor, original_length=length),
}
LONGEST_CONTEXT = 2**24  # tokens: its cosine sums are a second's work
LONGEST_SEARCH = 2**17  # tokens: the lower bound of theta takes some ten seconds, and minutes for a million
TABLE_ROWS = 16


@dataclass(frozen=True)
class Spectrum:
    """The frequencies of RoPE and what a scaling makes of them: a table, and figures as SVG and PNG."""

    head_size: int = 128
    """Rotated channels of a head: even, at least 4."""
    theta: float = 10_000.0
    """Base of the frequencies theta^(-2i / head size), above 1."""
    scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none"
    """How the frequencies are scaled for a longer context."""
    factor: float | None = None
    """Of the scaling: the longer context over the original length, above 1."""
    original_length: int = 4096
    """Tokens the model was trained on before any scaling."""
    context: int | None = None
    """Tokens the model is to read; by default the original length, times the factor."""
    output: Path | None = None
    """Folder to draw the figures into, replacing those drawn there before; none draws nothing."""

    def __post_init__(self):
        if self.head_size < 4 or self.head_size % 2:
            raise InputError(
                f"--head-size must be even and at least 4 (channels rotate in pairs), got {self.head_size}"
            )
        if not 1 < self.theta < math.inf:
            raise InputError(f"--theta must be above 1 and finite, got {self.theta:g}")
        if self.scaling == "none" and self.factor is not None:
            raise InputError(
                f"--factor {self.factor:g} scales nothing: add --scaling {'|'.join(SCALINGS)}, or leave it out"
            )
        if self.scaling != "none" and self.factor is None:
            raise InputError(f"--scaling {self.scaling} needs --factor, the longer context over the original length")
        if self.factor is not None and not 1 < self.factor < math.inf:
            raise InputError(f"--factor must be above 1 and finite, got {self.factor:g}")
        if self.original_length < 2:
            raise InputError(f"--original-length must be at least 2 tokens, got {self.original_length}")
        if not 2 <= self.context_length <= LONGEST_CONTEXT:
            raise InputError(f"the context must have 2 to {LONGEST_CONTEXT:,} tokens, got {self.context_length:,}")
        if self.output is not None and self.output.is_file():
            raise InputError(f"--output {self.output} is a file; name a folder for the figures")

    @property
    def context_length(self) -> int:
        """Tokens the model is to read."""
        return round(self.original_length * (self.factor or 1)) if self.context is None else self.context

    @property
    def freqs(self) -> FreqArray:
        """Radians per token, before scaling."""
        return rope.frequencies(self.head_size, self.theta)

    @property
    def scaled(self) -> FreqArray:
        """Radians per token, after scaling."""
        return self.scaled_by(self.scaling)

    def scaled_by(self, scaling: str) -> FreqArray:
        """Returns radians per token after any scaling, by the same factor and from the same length."""
        if scaling == "none":
            return self.freqs
        return SCALINGS[scaling](self.freqs, self.factor, self.original_length)

    @property
    def title(self) -> str:
        """What is shown, in a line."""
        plain = f"head size {self.head_size}, theta {self.theta:,.10g}"
        if self.scaling == "none":
            return plain
        return f"{plain}, {self.scaling} by {self.factor:g} from {self.original_length:,} tokens"


def describe(spectrum: Spectrum) -> Iterator[str]:
    """Yields the lines to print; the last but a few takes seconds for a long context."""
    yield f"RoPE: {spectrum.title}"
    yield ""
    yield from table(spectrum)
    yield ""
    yield from summary(spectrum)


def table(spectrum: Spectrum) -> Iterator[str]:
    """Yields the lines of a table of some pairs, the first and the last among them."""
    freqs, scaled = spectrum.freqs, spectrum.scaled
    lengths = spectrum.original_length, spectrum.context_length
    columns = [
        ("", "pair", np.arange(freqs.size), "d"),
        ("frequency", "rad/token", freqs, ".4g"),
        ("wavelength", "tokens", rope.wavelengths(freqs), ",.1f"),
        ("turns in", f"{lengths[0]:,}", lengths[0] / rope.wavelengths(freqs), ",.2f"),
    ]
    if spectrum.scaling != "none":
        columns += [
            ("scaled", "rad/token", scaled, ".4g"),
            ("scaled", "ratio", scaled / freqs, ".4f"),
            ("scaled", "wavelength", rope.wavelengths(scaled), ",.1f"),
        ]
    if spectrum.scaling != "none" or lengths[0] != lengths[1]:
        columns.append(("turns in", f"{lengths[1]:,}", lengths[1] / rope.wavelengths(scaled), ",.2f"))
    stride = -(-freqs.size // TABLE_ROWS)
    rows = sorted({*range(0, freqs.size, stride), freqs.size - 1})
    texts = [(above, below, *(f"{values[row]:{form}}" for row in rows)) for above, below, values, form in columns]
    widths = [max(map(len, column)) for column in texts]
    for cells in zip(*texts, strict=True):
        yield "   ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def summary(spectrum: Spectrum) -> Iterator[str]:
    """Yields what the spectrum means for the context, a fact a line."""
    freqs, context, trained = spectrum.freqs, spectrum.context_length, spectrum.original_length
    spectra = {"": freqs} if spectrum.scaling == "none" else {"": freqs, "scaled ": spectrum.scaled}
    for name, of in spectra.items():
        longest = rope.wavelengths(of).max()
        yield fact(f"longest {name}wavelength", f"{longest:,.0f} tokens, {longest / context:.3g} times the context")
    turning = np.count_nonzero(rope.wavelengths(freqs) <= trained)
    share = f"{turning} of {freqs.size} ({turning / freqs.size:.0%})"
    yield fact("pairs that complete a turn", f"{share} in the {trained:,} tokens of training")
    if spectrum.scaling != "none":
        gain = rope.yarn_gain(spectrum.factor) if spectrum.scaling == "yarn" else 1.0
        yield fact("gain on cos and sin", f"{gain:.4f}")
    for name, of in spectra.items():
        negative = rope.cosine_sums(of, context) < 0
        where = f"first negative at distance {negative.argmax():,}" if negative.any() else "nowhere negative"
        yield fact(f"{name}sum of cosines", f"{where} (of {context:,})")
    yield fact("lower bound of theta", theta_verdict(spectrum))
    yield ""
    yield "Where the sum of cosines over all pairs is negative, attention prefers a random key to one like the query;"
    yield "the lower bound of theta keeps it from that in the whole context, without scaling (arXiv 2405.14591)."


def fact(name: str, text: str) -> str:
    """Returns a line of the summary."""
    return f"{name:27} {text}"


def theta_verdict(spectrum: Spectrum) -> str:
    """Returns in words whether theta reaches its lower bound for the context, without scaling."""
    context = spectrum.context_length
    if context > LONGEST_SEARCH:
        return f"not searched for, which takes minutes above {LONGEST_SEARCH:,} tokens"
    bound = rope.base_lower_bound(context, spectrum.head_size)
    verdict = "reaches" if spectrum.theta >= bound else "does not reach"
    return f"{float(f'{bound:.3g}'):,.0f} for {context:,} tokens; {spectrum.theta:,.10g} {verdict} it"
