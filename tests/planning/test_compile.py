import pytest

from roformer_jax.planning.compile import refused

GB = 2**30


def test_temporaries_that_do_not_fit_are_added_to_what_is_held():
    message = (
        "CompileTimeHbmOom: the total memory required for HLO temporaries (34.50G) exceeds available HBM (15.75G)."
    )
    memory = refused([2 * GB, 4 * GB, 1024], message)
    assert memory.temporaries == 34.5 * GB
    assert memory.peak == 40.5 * GB + 1024


def test_a_program_that_does_not_fit_as_a_whole():
    memory = refused([2 * GB, 4 * GB, 0], "Ran out of memory in memory space hbm. Used 20.0G of 15.75G hbm.")
    assert memory.peak == 20 * GB
    assert memory.temporaries == 14 * GB


def test_another_failure_is_not_taken_for_it():
    with pytest.raises(RuntimeError, match="the compiler failed: unsupported"):
        refused([0, 0, 0], "unsupported")
