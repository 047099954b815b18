"""Using finished runs: load one, evaluate it again, predict with it."""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from roformer_jax.data.examples import Examples, examples_from_table
from roformer_jax.data.glue import GLUE, read_glue
from roformer_jax.data.pairs import read_lines
from roformer_jax.data.sources import read_table
from roformer_jax.data.vocabulary import fitting_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.finetuning import Classification, FineTuning, Glue, SimilarCases
from roformer_jax.language_modelling import ByteLM, DocumentLM
from roformer_jax.models import Model, build_classifier
from roformer_jax.pretraining import Pretraining
from roformer_jax.run_folder import CHECKPOINTS, CONFIG, DATA, TOKENIZER, from_json, read_json
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings
from roformer_jax.tasks.classification import Predictor, pack
from roformer_jax.tasks.predictions import write_lines, write_predictions, write_submission
from roformer_jax.tasks.translating import Translations
from roformer_jax.training.averaging import average_newest
from roformer_jax.translation import Translation
from roformer_jax.typing import PyTree

KINDS = {
    kind.__name__: kind for kind in (Pretraining, DocumentLM, ByteLM, Classification, Glue, SimilarCases, Translation)
}


def load_experiment(run: Path) -> Experiment:
    """The resolved config of a run.

    Raises:
      InputError: the folder is not a run of this version.
    """
    values = read_json(run / CONFIG)
    kind = KINDS.get(values.get("experiment"))
    if kind is None:
        raise InputError(f"{run / CONFIG}: experiment {values.get('experiment')!r} is none of {', '.join(KINDS)}")
    return from_json(kind, values | {"run_dir": str(run)})


def load_params(run: Path, model: Model, mesh: jax.sharding.Mesh, averaged: int = 1) -> PyTree:
    """The newest parameters of a run, or the mean of so many, placed on the mesh.

    Raises:
      InputError: no checkpoint, or one of another architecture.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    saved = average_newest(run / CHECKPOINTS, averaged)
    if jax.tree.map(lambda leaf: leaf.shape, saved) != jax.tree.map(lambda leaf: leaf.shape, shapes):
        raise InputError(f"{run}: the checkpoint does not hold the model that {CONFIG} describes")
    return jax.device_put(saved, parameter_shardings(mesh, shapes, model.axes))


def self_contained(experiment: Experiment, run: Path) -> Experiment:
    """The experiment with the tokenizer in the run's own folder: what it once started from may be gone."""
    own: dict[str, Any] = {"tokenizer": str(run)}
    if isinstance(experiment, Pretraining | DocumentLM | Translation):
        own = {"data": dataclasses.replace(experiment.data, **own)}
    if isinstance(experiment, ByteLM):
        own = {}
    return dataclasses.replace(experiment, init_from=None, init_positions="keep", **own)


def evaluate(run: Path) -> dict[str, float]:
    """The metrics of a run on its held-out data: of its newest checkpoint, or of the mean of them that translates."""
    experiment = self_contained(load_experiment(run), run)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        task = experiment.prepare(mesh)
        averaged = experiment.averaged if isinstance(experiment, Translation) else 1
        return task.evaluate(load_params(run, task.model, mesh, averaged))


def translate(run: Path, source: str, output: Path) -> Translations:
    """Translate the lines of a text with the mean of a run's newest checkpoints, and write a line for each.

    Args:
      run: of a translation experiment.
      source: a UTF-8 text file, plain or .gz, a sentence a line; "-" is the standard input.
      output: the file to write; "-" is the standard output.

    Raises:
      InputError: a run of another kind, or a text that cannot be read or has an empty line.
    """
    experiment = load_experiment(run)
    if not isinstance(experiment, Translation):
        raise InputError(f"{run} is a {type(experiment).__name__} run; translate needs one of Translation")
    texts = read_lines(source)
    translations = experiment.interpreter(run).translate(texts, source)
    write_lines(output, translations.texts)
    return translations


def label_names(run: Path) -> tuple[str, ...]:
    """The classes of a fine-tuned run, in the order of the outputs; empty for regression.

    Raises:
      InputError: the run does not say.
    """
    data = read_json(run / DATA)
    if "label_names" not in data:
        raise InputError(f"{run / DATA} lacks label_names; the run is damaged")
    return tuple(data["label_names"])


class Classifier:
    """A fine-tuned run, ready to label texts.

    Attributes:
      experiment: its resolved config.
      label_names: classes in the order of the outputs; empty for regression.
    """

    def __init__(self, run: Path):
        self.experiment = load_experiment(run)
        if not isinstance(self.experiment, FineTuning):
            raise InputError(f"{run} is a {type(self.experiment).__name__} run; predict needs a fine-tuned one")
        self.label_names = label_names(run)
        self._tokenizer = fitting_tokenizer(run / TOKENIZER, self.experiment.model.vocab_size)
        self._mesh = make_mesh(MeshConfig())
        with jax.set_mesh(self._mesh):
            model = build_classifier(self.experiment.model, max(len(self.label_names), 1))
            self._params = load_params(run, model, self._mesh)
            self._predictor = Predictor(model, self._mesh)

    def outputs(self, examples: Examples) -> np.ndarray:
        """Class logits or scores, float32 [examples, outputs], in input order."""
        experiment = self.experiment
        rows = pack(examples, self._tokenizer, experiment.length, experiment.cache_dir)
        with jax.set_mesh(self._mesh):
            return self._predictor(self._params, rows, experiment.training.batch_size, len(examples.texts))


class Predicted(NamedTuple):
    """What `predict` did."""

    files: list[Path]
    texts: int
    seconds: float
    """Of tokenising, compiling and computing."""


def predict(run: Path, source: str | None, output: Path) -> Predicted:
    """Write predictions: a table for an input file, or GLUE's submission files for the test sets of a GLUE run.

    Args:
      run: a fine-tuned run.
      source: a table with the run's text columns; "-" is the standard input, a text (or a pair with a tab between) a
        line; None takes the GLUE test sets.
      output: the TSV to write for an input ("-" is the standard output); otherwise the folder of submission files.

    Raises:
      InputError: a run that is not fine-tuned, a table that does not fit, or an output of the wrong kind.
    """
    if source is not None and output.is_dir():
        raise InputError(f"--output {output} is a folder; with --input, name the TSV file to write")
    if source is None and output.is_file():
        raise InputError(f"--output {output} is a file; without --input, name the folder of the submission files")
    classifier = Classifier(run)
    experiment: Any = classifier.experiment
    if source is not None:
        glue = isinstance(experiment, Glue)
        columns = GLUE[experiment.task].text_columns if glue else experiment.data.text_columns
        table = read_table(source, columns, encoding="utf-8" if glue else experiment.data.encoding)
        examples = examples_from_table(table, columns, None, None)
        began = time.perf_counter()
        outputs = classifier.outputs(examples)
        seconds = time.perf_counter() - began
        write_predictions(output, outputs, classifier.label_names)
        return Predicted([output], len(examples.texts), seconds)
    if not isinstance(experiment, Glue):
        raise InputError("name the texts to predict: --input FILE (only GLUE runs have test sets of their own)")
    task = GLUE[experiment.task]
    tests = [read_glue(task, experiment.folder, split) for split in task.test_splits]
    files = [output / name for name in task.submission_files]
    began = time.perf_counter()
    outputs = [classifier.outputs(examples) for examples in tests]
    seconds = time.perf_counter() - began
    for file, found in zip(files, outputs, strict=True):
        write_submission(file, found, task.submission_labels)
    return Predicted(files, sum(map(len, outputs)), seconds)
