"""The command line: `python -m roformer_jax COMMAND`, and `python train.py CONFIG`.

Exit codes: 0 done; 1 a bug (with its traceback); 2 bad input (one message, nothing written); 3 training gave no finite
numbers any more; 4 every checkpoint is damaged; 5 the last checkpoint could not be written; 75 stopped by a signal with
the state saved: run the same command again to go on; 130 ended by a second Ctrl-C, unsaved.
"""

import argparse
import difflib
import importlib.util
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from roformer_jax.errors import InputError, Interrupted, RunError

BUG = 1
TABLE = "configs/glue_table.py"
READER_GONE = 128 + signal.SIGPIPE  # how shells count it

USAGE = """usage: python -m roformer_jax COMMAND ...

  train CONFIG [--field.name value ...]   run the experiment of a config file; run again to continue
  table [CONFIG] [--minutes 60 ...]       the fair GLUE table, cell by cell; configs/glue_table.py without CONFIG
  plan CONFIG --topology v5e:4x4 [...]    memory, step time and cost of a run on chips that need not be there
  evaluate RUN                            metrics of a run's newest checkpoint on its held-out data
  predict RUN --output PATH [--input F]   labels and probabilities for a file; GLUE's submission files without --input
  generate RUN --prompt TEXT              a causal language model's continuation of a text, written as it comes
  length RUN ... --lengths 512 1024       the held-out loss of language models at other lengths: a table and a curve
  rope [--scaling yarn --factor 8 ...]    frequencies of RoPE and of its scalings: a table, and figures with --output

On several processes `train` takes --distributed (TPU pods, Slurm) or --coordinator HOST:PORT --processes N
--process-id I, the same command on each but for the last number.
`train CONFIG --help` lists the fields of an experiment, which `plan` takes too; the others answer --help as well.
`python train.py CONFIG ...` is `train`. The configs that come with the project lie in configs/."""


def main(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code."""
    command, *rest = list(arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    commands = {
        "train": train,
        "table": table,
        "plan": plan,
        "evaluate": evaluate,
        "predict": predict,
        "generate": generate,
        "length": length,
        "rope": rope,
    }
    if command not in commands:
        close = difflib.get_close_matches(command, commands)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: no command {command!r}{hint}\n\n{USAGE}", file=sys.stderr)
        return InputError.exit_code
    if command not in ("train", "table"):
        return guarded(commands[command], rest)
    from roformer_jax.distributed import leave

    code = BUG
    try:
        code = guarded(commands[command], rest)
    finally:
        leave(code)
    return code


def run_process(arguments: Sequence[str]) -> NoReturn:
    """Run the command of this process and end it with its exit code.

    At once: after a save that failed, a thread of orbax may wait for its parts for five minutes, and Python for it.
    """
    try:
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        code = READER_GONE
    os._exit(code)


def guarded(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run a command; turn the ends that are foreseen into one message and an exit code."""
    try:
        command(arguments)
    except Interrupted as end:
        print(f"{end}; run the same command again to go on", file=sys.stderr)
        return end.exit_code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train(arguments: list[str]) -> None:
    """Run the experiment of a config file, with overrides."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    if not arguments or arguments[0].startswith("-"):
        raise InputError("name a config file first, e.g. `train.py configs/quickstart.py`; it answers --help")
    config = load_config(Path(arguments[0]))
    from roformer_jax.distributed import read_flags

    processes, overrides = read_flags(arguments[1:])
    experiment = parse(type(config), overrides, prog=f"python train.py {arguments[0]}", default=config)
    processes.connect()
    experiment.run()


def table(arguments: list[str]) -> None:
    """Make what is missing of a table of GLUE scores; `train` with a config of its own."""
    named = arguments and not arguments[0].startswith("-")
    train(arguments if named else [TABLE, *arguments])


def plan(arguments: list[str]) -> None:
    """Compile a config's update for a slice that need not be there, and say what it needs and takes."""
    if not arguments or arguments[0].startswith("-"):
        raise InputError(
            "name a config file first, e.g. `plan configs/pretrain_base.py --topology v5e:2x4`; it answers --help"
        )
    import tyro

    from roformer_jax.planning.environment import prepare_compilers

    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--topology", default="")
    prepare_compilers(gpu="100" in early.parse_known_args(arguments)[0].topology)

    config = load_config(Path(arguments[0]))
    from roformer_jax.planning.command import PlanOptions, run_plan

    kind = type(config)

    @dataclass(frozen=True)
    class Plan:
        """What a run needs and takes on a slice; the flags below `topology` are those of `train`."""

        options: Annotated[tyro.conf.FlagCreatePairsOff[PlanOptions], tyro.conf.arg(name="")]
        experiment: Annotated[tyro.conf.FlagConversionOff[kind], tyro.conf.arg(name="")] = config

    found = tyro.cli(Plan, args=arguments[1:], prog=f"python -m roformer_jax plan {arguments[0]}")
    run_plan(found.experiment, found.options)


def load_config(path: Path) -> Any:
    """What `get_config()` of a Python file returns.

    Raises:
      InputError: no such file (with the nearest names), or no get_config in it.
    """
    if not path.is_file():
        folders = dict.fromkeys((path.parent if path.suffix else Path("configs"), Path("configs")))
        known = {file.stem: str(file) for folder in folders for file in sorted(folder.glob("*.py"))}
        close = difflib.get_close_matches(path.stem, known, n=1)
        hint = f"; did you mean {known[close[0]]}?" if close else f"; there are {', '.join(known.values())}"
        raise InputError(f"there is no config file {path}" + (hint if known else ""))
    name = f"config_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where the sources of its classes are looked up
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} defines no get_config()")
    return module.get_config()


def parse(kind: type, arguments: list[str], *, prog: str, default: Any = None) -> Any:
    """A frozen dataclass from the command line; a wrong flag exits with code 2 and the nearest names."""
    import tyro

    options = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.FlagConversionOff,), **options)


def evaluate(arguments: list[str]) -> None:
    """Print the metrics of a run on its held-out data."""
    import tyro

    @dataclass(frozen=True)
    class Evaluate:
        """Metrics of a run's newest checkpoint on its held-out data."""

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
        """The TSV to write; a folder where there is no --input."""
        input: str | None = None
        """A table (CSV, TSV, JSONL) with the run's text columns; none takes the test sets of a GLUE run."""

    options = parse(Predict, arguments, prog="python -m roformer_jax predict")
    from roformer_jax import trained

    for file in trained.predict(options.run, options.input, options.output):
        print(f"wrote {file}")


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


def rope(arguments: list[str]) -> None:
    """Print a spectrum and its scaling; draw it into a folder."""
    need("tyro", extra="plots")
    from roformer_jax import spectrum

    options = parse(spectrum.Spectrum, arguments, prog="python -m roformer_jax rope")
    for line in spectrum.describe(options):
        print(line, flush=True)
    if options.output is None:
        return
    need("matplotlib", extra="plots")
    from roformer_jax.report.spectrum import draw

    for file in draw(options, options.output):
        print(f"wrote {file}")


def need(module: str, *, extra: str) -> None:
    """Raises an InputError, with what to install, if a module is not there that the base install does not bring."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f'this needs {module}, which is not installed: pip install "roformer-jax[{extra}]"')
