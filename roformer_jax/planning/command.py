"""The command `plan`, step by step: what is printed comes as it is known."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.planning import report
from roformer_jax.planning.plan import Plan, make_plan, remedies, sweep_meshes
from roformer_jax.planning.topology import Slice, open_slice


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a run needs and takes on a slice that need not be there; the experiment's own flags work as in train."""

    topology: str
    """Chips and their arrangement: v5e:2x4, v5e:16x16, v6e:4x4, v4:2x2x1, v5p:2x2x4, h100:8, a100:8 or a100-40:8."""
    price: float | None = None
    """Of one chip for an hour, to say what the run costs."""
    json: bool = False
    """Whether to print JSON: one object, or one a line with --sweep."""
    sweep: bool = False
    """Whether to compare all meshes that divide the model; each is compiled, which takes a minute or two."""


def run_plan(experiment: Any, options: PlanOptions) -> None:
    """Print a plan, or a table of plans.

    Raises:
      InputError: an unknown topology, a compiler that is missing, a mesh that does not divide, a price below zero.
    """
    if not isinstance(experiment, Experiment):
        raise InputError(f"plan takes one experiment, and this config is a {type(experiment).__name__} of several")
    if options.price is not None and not options.price >= 0:
        raise InputError(f"--price {options.price} must be 0 or more")
    experiment = experiment.resolved()
    place = open_slice(options.topology)
    if options.sweep:
        print_sweep(experiment, place, options)
        return
    plan = make_plan(experiment, place, options.price)
    if options.json:
        print(json.dumps(report.as_json(plan, place)))
    else:
        print(report.describe(plan, experiment, place), flush=True)
    if not plan.fits:
        print_remedy(experiment, place, options)


def print_sweep(experiment: Experiment, place: Slice, options: PlanOptions) -> None:
    """One line for every mesh, as it is compiled."""
    meshes = sweep_meshes(experiment, len(place.devices))
    if not options.json:
        print(f"{place.name}: {len(meshes)} meshes\n{report.COLUMNS}", flush=True)
    for flags, changed in meshes:
        plan = make_plan(changed, place, options.price, flags)
        print(json.dumps(report.as_json(plan, place)) if options.json else report.row(plan), flush=True)


def print_remedy(experiment: Experiment, place: Slice, options: PlanOptions) -> None:
    """Compile changed settings until one fits, and say which."""
    for flags, changed in remedies(experiment, len(place.devices)):
        plan: Plan = make_plan(changed, place, options.price, flags)
        if options.json:
            print(json.dumps(report.as_json(plan, place)), flush=True)
        else:
            verdict = "fits" if plan.fits else "does not fit either"
            print(f"with {flags}: {plan.compiled.memory.peak / 1e9:.2f} GB, {verdict}", flush=True)
        if plan.fits:
            return
    print("nothing that was tried makes it fit: take fewer rows, a smaller model or more chips", file=sys.stderr)
