"""A staged pretraining is a chain of runs that differ in length, batch and updates alone."""

import dataclasses

import pytest

from roformer_jax.errors import InputError
from roformer_jax.pretraining import Pretraining
from roformer_jax.stages import StagedPretraining

STAGED = StagedPretraining(
    base=Pretraining(run_dir="runs/all", init_from="wobert", init_positions="rope"),
    lengths=(128, 1024, 256),
    batch_sizes=(16, 4, 8),
    steps=(40, 20, 30),
)


def test_every_stage_starts_from_the_one_before_and_the_first_from_the_base():
    first, second, third = STAGED.experiments()
    assert [stage.init_from for stage in (first, second, third)] == ["wobert", first.run_dir, second.run_dir]
    assert [stage.init_positions for stage in (first, second, third)] == ["rope", "keep", "keep"]
    sizes = [(stage.data.length, stage.training.batch_size, stage.training.steps) for stage in (first, second, third)]
    assert sizes == [(128, 16, 40), (1024, 4, 20), (256, 8, 30)]
    assert dataclasses.replace(second, run_dir=third.run_dir, init_from=third.init_from).model == third.model


def test_plan_takes_the_largest_stage_though_none_has_been_run():
    largest = STAGED.largest()
    assert (largest.data.length, largest.init_from, largest.init_positions) == (1024, "wobert", "rope")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": (128, 256)}, "but lengths has 2, batch_sizes has 3, steps has 3"),
        ({"lengths": (), "batch_sizes": (), "steps": ()}, "every stage has a length"),
        ({"batch_sizes": (1, 2, 0)}, "training.batch_size must be 1 or more, but is 0"),
    ],
)
def test_stages_that_no_run_could_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(STAGED, **fields)
