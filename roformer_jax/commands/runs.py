"""What uses finished runs: evaluate, predict, translate, generate, length."""

import itertools
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from roformer_jax.commands.parsing import load_config, parse
from roformer_jax.errors import InputError


def evaluate(arguments: list[str]) -> None:
    """Print the metrics of a run on its held-out data."""
    import tyro

    @dataclass(frozen=True)
    class Evaluate:
        """Metrics on a run's held-out data: of its newest checkpoint, or of the mean of those that translates."""

        run: tyro.conf.Positional[Path]
        """Folder of the run."""

    from roformer_jax import trained

    for name, value in trained.evaluate(parse(Evaluate, arguments, prog="python -m roformer_jax evaluate").run).items():
        print(f"{name:20s} {value:.4f}")


def predict(arguments: list[str]) -> None:
    """Write the predictions of a fine-tuned run."""
    import tyro

    @dataclass(frozen=True)
    class Predict:
        """Labels and probabilities for every row of a file; GLUE's submission files without --input."""

        run: tyro.conf.Positional[Path]
        """Folder of a fine-tuned run."""
        output: Path
        """The TSV to write, - is the standard output; a folder where there is no --input."""
        input: str | None = None
        """A table (CSV, TSV, JSONL) with the run's text columns; - is the standard input, a text a line (a pair with a
        tab between); none takes the test sets of a GLUE run."""

    options = parse(Predict, arguments, prog="python -m roformer_jax predict")
    from roformer_jax import trained

    files, texts, seconds = trained.predict(options.run, options.input, options.output)
    print(f"{texts:,} texts in {seconds:.1f} s, compilation included: {texts / seconds:,.0f} texts/s", file=sys.stderr)
    for file in files:
        if str(file) != "-":
            print(f"wrote {file}")


def translate(arguments: list[str]) -> None:
    """Translate a text, line by line."""
    import tyro

    @dataclass(frozen=True)
    class Translate:
        """A translation of every line of a text, by beam search and the mean of a run's newest checkpoints."""

        run: tyro.conf.Positional[Path]
        """Folder of a run of a translation model."""
        input: str = "-"
        """A UTF-8 text file, plain or .gz, a sentence a line; - is the standard input."""
        output: Path = Path("-")
        """The file to write; - is the standard output."""

    options = parse(Translate, arguments, prog="python -m roformer_jax translate")
    from roformer_jax import trained

    began = time.perf_counter()
    found = trained.translate(options.run, options.input, options.output)
    seconds = time.perf_counter() - began
    print(
        f"{len(found.texts):,} sentences, {found.tokens:,} tokens in {seconds:.1f} s, compilation included: "
        f"{len(found.texts) / seconds:,.1f} sentences/s, {found.tokens / seconds:,.0f} tokens/s",
        file=sys.stderr,
    )


def generate(arguments: list[str]) -> None:
    """Continue a text with a trained causal language model."""
    import tyro

    from roformer_jax import generation

    @dataclass(frozen=True)
    class Generate:
        """A causal language model's continuation of a text, written as it comes."""

        run: tyro.conf.Positional[Path]
        """Folder of a run of a causal language model."""
        prompt: str
        """The text to continue."""
        tokens: int = 200
        """The most tokens to write; a model of documents may end its document earlier."""
        sampling: tyro.conf.OmitArgPrefixes[generation.Sampling] = field(default_factory=generation.Sampling)
        seed: int = 0
        """Seed of the draws: the same seed continues a text in the same way."""

    options = parse(Generate, arguments, prog="python -m roformer_jax generate")
    writer = generation.Writer(options.run)
    pieces = writer.write(options.prompt, tokens=options.tokens, sampling=options.sampling, seed=options.seed)
    first = next(pieces)  # a prompt that does not fit is refused before anything is printed
    for piece in itertools.chain([options.prompt, first], pieces):
        print(piece, end="", flush=True)
    print()


def length(arguments: list[str]) -> None:
    """Measure the held-out loss of language models at lengths they were not trained on."""
    import tyro

    from roformer_jax import lengths

    @dataclass(frozen=True)
    class Length:
        """The held-out loss of language models at other lengths than they were trained on: a table and a curve."""

        runs: tyro.conf.Positional[tuple[Path, ...]]
        """Folders of runs, or their config files; each is a curve."""
        lengths: tuple[int, ...]
        """Tokens of a row: 512 1024, or 512,1024."""
        scalings: tuple[Literal["linear", "ntk", "yarn"], ...] = ()
        """For runs with RoPE: also with the frequencies scaled by length over trained length."""
        output: Path | None = None
        """Folder to draw the curve into; none draws nothing."""

    options = parse(Length, numbers_apart(arguments), prog="python -m roformer_jax length")
    runs = [run_folder(run) if run.suffix == ".py" else run for run in options.runs]
    points = []
    for point in lengths.measure(runs, options.lengths, options.scalings):
        value = "the learned positions end before" if point.value is None else f"{point.value:.4f} {point.metric}"
        print(f"{point.label:20s} {point.length:>8,} tokens   {value}", flush=True)
        points.append(point)
    if options.output is not None:
        from roformer_jax.report.lengths import draw_lengths

        for file in draw_lengths(options.output, points, lengths.trained_length(runs)):
            print(f"wrote {file}")


def numbers_apart(arguments: Sequence[str]) -> list[str]:
    """The arguments with numbers that commas join, `512,1024`, as one argument each."""
    joined = re.compile(r"(--[a-z-]+=)?\d+(,\d+)+")
    return [part for word in arguments for part in (word.split(",") if joined.fullmatch(word) else [word])]


def run_folder(config_file: Path) -> Path:
    """The folder that a config file's run is in.

    Raises:
      InputError: it is not the config of one run.
    """
    config = load_config(config_file)
    if not hasattr(config, "run_dir"):
        raise InputError(f"{config_file} makes several runs; name the folders of those that are meant")
    return Path(config.run_dir)
