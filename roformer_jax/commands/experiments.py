"""What takes config files: train, table, plan, report."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from roformer_jax.commands.parsing import load_config, parse
from roformer_jax.errors import InputError

CONFIGS = Path("configs")
TABLE = "configs/glue_table.py"


def train(arguments: list[str]) -> None:
    """Run the experiment of a config file, with overrides."""
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


def report(arguments: list[str]) -> None:
    """Write the page of results from the finished cells of all tables, and an HTML file of it and of runs."""
    import tyro

    from roformer_jax.cells import CellTable
    from roformer_jax.results import write_results

    @dataclass(frozen=True)
    class Report:
        """All finished cells of the tables, and runs, on one page: docs/results.md and a self-contained HTML file."""

        runs: tyro.conf.Positional[tuple[Path, ...]] = ()
        """Folders of runs to report beside the tables."""
        configs: tuple[Path, ...] = ()
        """Config files of the tables; by default those of configs/."""
        output: Path = Path("docs/report.html")
        """The HTML file."""

    options = parse(Report, arguments, prog="python -m roformer_jax report")
    found = [load_config(path) for path in options.configs or sorted(CONFIGS.glob("*.py"))]
    others = [type(config).__name__ for config in found if not isinstance(config, CellTable)]
    if options.configs and others:
        raise InputError(f"--configs takes tables of cells, such as {TABLE}, not {', '.join(others)}")
    for file in write_results([table for table in found if isinstance(table, CellTable)], options.runs, options.output):
        print(f"wrote {file}")


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

    from roformer_jax.stages import StagedPretraining

    found = tyro.cli(Plan, args=arguments[1:], prog=f"python -m roformer_jax plan {arguments[0]}")
    staged = isinstance(found.experiment, StagedPretraining)
    run_plan(found.experiment.largest() if staged else found.experiment, found.options)
