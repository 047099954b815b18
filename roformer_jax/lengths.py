"""The held-out loss of trained runs at lengths they were not trained on."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.language_modelling import LanguageModelling
from roformer_jax.pretraining import Pretraining
from roformer_jax.sharding import MeshConfig, make_mesh
from roformer_jax.trained import load_experiment, load_params, self_contained

METRICS = ("bits_per_byte", "bits_per_token", "loss")  # the first that a run's evaluation has


class Measured(NamedTuple):
    """One point of a curve.

    Attributes:
      label: position encoding and scaling.
      length: tokens of a row.
      metric: name of what was measured.
      value: its mean over the held-out data; None where the encoding ends before this length.
    """

    label: str
    length: int
    metric: str
    value: float | None


def measure(runs: Sequence[Path], lengths: Sequence[int], scalings: Sequence[str]) -> Iterator[Measured]:
    """Yields the held-out loss of every run at every length, the same text cut anew.

    Args:
      runs: folders of language models, masked or causal.
      lengths: tokens of a row.
      scalings: for runs with RoPE, scalings of the frequencies by length over trained length, beyond the run's own.

    Raises:
      InputError: a run of another kind, or a length that its data cannot be cut into.
    """
    if not runs or not lengths:
        raise InputError("name at least one run and one length")
    loaded = [(run, _language_model(run)) for run in runs]
    trained_length(runs)
    points = [
        (run, _label(experiment, scaling), _at_length(experiment, length, scaling))
        for run, experiment in loaded
        for scaling in ("none", *(scalings if experiment.model.position_encoding == "rope" else ()))
        for length in lengths
    ]  # all of them are checked before the first is measured
    for point in points:
        yield _measure(*point)


def trained_length(runs: Sequence[Path]) -> int:
    """The tokens of a row that the runs were trained on.

    Raises:
      InputError: they were trained on different lengths.
    """
    trained = {str(run): _language_model(run).data.length for run in runs}
    if len(set(trained.values())) > 1:
        raise InputError(f"the runs were trained on rows of different lengths: {trained}")
    return next(iter(trained.values()))


def _language_model(run: Path) -> Experiment:
    """The experiment of a run whose loss can be measured at any length."""
    experiment = self_contained(load_experiment(run), run)
    if not isinstance(experiment, LanguageModelling | Pretraining):
        raise InputError(f"{run} is a {type(experiment).__name__} run; length needs a language model, masked or causal")
    return experiment


def _label(experiment: Experiment, scaling: str) -> str:
    """The name of a curve."""
    return experiment.model.position_encoding + ("" if scaling == "none" else f", {scaling}")


def _measure(run: Path, label: str, at_length: Experiment) -> Measured:
    """One point."""
    length = at_length.data.length
    try:
        at_length.model.check_length(length)
    except InputError:
        return Measured(label, length, METRICS[-1], None)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        task = at_length.prepare(mesh)
        metrics = task.evaluate(load_params(run, task.model, mesh))
    metric = next(name for name in METRICS if name in metrics)
    return Measured(label, length, metric, metrics[metric])


def _at_length(experiment: Experiment, length: int, scaling: str) -> Experiment:
    """The experiment with rows of another length, as many tokens a batch, and the frequencies scaled for it."""
    trained = experiment.data.length
    model = experiment.model
    if scaling != "none" and length > trained:
        model = dataclasses.replace(
            model, rope_scaling=scaling, rope_scaling_factor=length / trained, rope_original_length=trained
        )
    data = dataclasses.replace(experiment.data, length=length)
    rows = max(1, experiment.training.batch_size * trained // length)
    training = dataclasses.replace(experiment.training, batch_size=rows, microbatches=1)
    return dataclasses.replace(experiment, data=data, model=model, training=training)
