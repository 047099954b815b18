"""Which run a checkpoint becomes."""

from pathlib import Path

import pytest

from roformer_jax.errors import InputError
from roformer_jax.exchange import classes_of, experiment_for
from roformer_jax.interop.huggingface import read_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("masked_lm", "Pretraining"), ("causal_lm", "DocumentLM"), ("classifier", "Classification")],
)
def test_a_checkpoint_becomes_a_run_of_the_experiment_with_its_head(name, kind, tmp_path):
    checkpoint = read_checkpoint(GOLDEN / name)
    experiment = experiment_for(checkpoint, name, tmp_path)
    assert type(experiment).__name__ == kind
    assert (experiment.model, experiment.head) == (checkpoint.description.model, checkpoint.description.head)


def test_a_classifier_of_one_output_is_a_regression_without_classes(tmp_path):
    regression, classifier = (read_checkpoint(GOLDEN / name) for name in ("regression", "classifier"))
    assert experiment_for(regression, "here", tmp_path).data.regression and classes_of(regression) == ()
    assert not experiment_for(classifier, "here", tmp_path).data.regression and len(classes_of(classifier)) > 1


@pytest.mark.parametrize("name", ["encoder", "question_answering", "multiple_choice", "token_classifier"])
def test_a_head_that_no_experiment_has_is_refused_with_what_to_do(name, tmp_path):
    with pytest.raises(InputError, match="start from its encoder with --init-from here"):
        experiment_for(read_checkpoint(GOLDEN / name), "here", tmp_path)
