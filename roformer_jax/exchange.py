"""Runs out of other people's checkpoints, and checkpoints for others out of runs: `import` and `export`."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import optax

from roformer_jax.data.files import resolve
from roformer_jax.data.tokenizer import Tokenizer, load_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.finetuning import Classification, FineTuning, TableConfig
from roformer_jax.interop.huggingface import Checkpoint, read_checkpoint, write_checkpoint
from roformer_jax.interop.serving import write_program
from roformer_jax.interop.tokenizer_files import write_tokenizer
from roformer_jax.language_modelling import DocumentLM
from roformer_jax.model_card import CARD, model_card
from roformer_jax.models import Head, RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.run_folder import CHECKPOINTS, TOKENIZER, as_json, check_folder, locked, open_folder
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.trained import label_names, load_experiment
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.state import create_state
from roformer_jax.typing import PyTree

Format = Literal["huggingface", "jax"]
KINDS = "masked language models, causal language models and sequence classifiers"


class Finished(NamedTuple):
    """A run as others take it."""

    experiment: Experiment
    params: PyTree
    labels: tuple[str, ...]
    """Names of a classifier's outputs; empty for regression and the other heads."""
    tokenizer: Tokenizer

    @property
    def head(self) -> Head:
        """The head of its model."""
        return self.experiment.head

    @property
    def model(self) -> RoFormerConfig:
        """The configuration of its model."""
        return self.experiment.model

    @property
    def length(self) -> int:
        """Tokens of its rows."""
        experiment: Any = self.experiment
        return experiment.length if isinstance(experiment, FineTuning) else experiment.data.length


def import_checkpoint(source: str, run: Path) -> list[str]:
    """Make a run of no updates of a Hugging Face checkpoint: what works with a run works with it.

    Args:
      source: its folder, or package:NAME/FOLDER.
      run: the new run's folder.

    Returns:
      What was read and what was left out, line by line.

    Raises:
      InputError: not a checkpoint that we read, a tokenizer that does not fit it, a head that no experiment has, or a
        folder that holds something else; nothing is written then.
    """
    folder = resolve(source)
    checkpoint = read_checkpoint(folder)
    model = checkpoint.description.model
    experiment = experiment_for(checkpoint, source, run)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.vocab_size}")
    config = as_json(experiment)
    if check_folder(run, config):
        raise InputError(f"{run} holds this checkpoint already")
    with locked(run):
        with Checkpoints(run / CHECKPOINTS) as checkpoints:
            checkpoints.save_last(0, create_state(jax.device_put(checkpoint.params), optax.identity()))
        data = {"source": source, "tokenizer": tokenizer.fingerprint, "label_names": list(classes_of(checkpoint))}
        open_folder(run, config, data, tokenizer)
    count = sum(leaf.size for leaf in jax.tree.leaves(checkpoint.params))
    lines = [f"{checkpoint.description.family} {experiment.head}, {count:,} parameters, from {folder} into {run}"]
    if checkpoint.left_out:
        lines.append(f"left out, for no model here has them: {', '.join(checkpoint.left_out)}")
    return lines


def classes_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of a classifier's classes; none where its one output is a score."""
    labels = checkpoint.description.labels
    return labels if len(labels) > 1 else ()


def experiment_for(checkpoint: Checkpoint, source: str, run: Path) -> Experiment:
    """The experiment whose run a checkpoint becomes; its data is not set, for it is not known.

    Raises:
      InputError: no experiment has its head.
    """
    family, head, model, _ = checkpoint.description
    length = min(model.max_position_embeddings, 512)
    common = {"run_dir": str(run), "model": model}
    match head:
        case "masked_lm":
            return Pretraining(**common, data=CorpusConfig(length=length))
        case "causal_lm":
            return DocumentLM(**common, data=CorpusConfig(length=length))
        case "classifier":
            return Classification(**common, length=length, data=TableConfig(regression=not classes_of(checkpoint)))
    raise InputError(
        f"{source} is a {family} {head}, and runs are made of {KINDS}; start from its encoder with --init-from {source}"
    )


def load_finished(run: Path) -> Finished:
    """A run with its newest parameters.

    Raises:
      InputError: not a run of this version, or one without a checkpoint.
      DamagedError: every checkpoint is damaged.
    """
    experiment = load_experiment(run)
    if experiment.head == "translation":
        raise InputError(f"{run} is a Translation run, and export takes {KINDS}: it has no form for two texts")
    labels = label_names(run) if isinstance(experiment, FineTuning) else ()
    params = restore_params(run / CHECKPOINTS)
    return Finished(experiment, params, labels, load_tokenizer(run / TOKENIZER))


def export_run(run: Path, output: Path, *, form: Format, licence: str) -> list[Path]:
    """Write a run's model for others, with its tokenizer and a model card.

    Args:
      run: any run.
      output: a folder that does not exist yet, or is empty.
      form: "huggingface" for transformers, "jax" for a program that needs JAX alone.
      licence: of the data that the model was trained on, for the card.

    Returns:
      The files written.

    Raises:
      InputError: not a run, a model that transformers does not have, or an output that holds something; nothing is
        written then.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output} exists and is not an empty folder; choose another")
    finished = load_finished(run)
    with folder_at_once(output) as folder:
        if form == "huggingface":
            write_checkpoint(
                folder, finished.model, finished.head, finished.params, labels=finished.labels, length=finished.length
            )
            write_tokenizer(folder, finished.tokenizer, finished.length)
        else:
            tokenizer = finished.tokenizer
            labels = finished.labels
            write_program(folder, finished.model, finished.head, finished.params, labels, tokenizer.segmentation)
            tokenizer.save(folder / TOKENIZER)
        (folder / CARD).write_text(model_card(run, finished.experiment, form, licence), encoding="utf-8")
    return sorted(output.iterdir())


@contextlib.contextmanager
def folder_at_once(output: Path) -> Iterator[Path]:
    """A folder to write into that takes its name when all is written, and leaves nothing if something fails.

    Raises:
      InputError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror}") from error
    try:
        yield draft
        draft.chmod(0o755)
        draft.replace(output)
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
