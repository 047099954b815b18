import jax
import numpy as np
import optax
import pytest

from roformer_jax.errors import InputError
from roformer_jax.training.averaging import average_newest
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.state import create_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of four checkpoints, and what they hold."""
    folder, rng = tmp_path_factory.mktemp("checkpoints"), np.random.default_rng(0)
    trees = [{"a": {"kernel": rng.normal(size=(3, 2)).astype(np.float32)}, "bias": np.float32([i])} for i in range(4)]
    with Checkpoints(folder, keep=4) as checkpoints:
        for i, tree in enumerate(trees):
            checkpoints.save_last(10 * i, create_state(jax.tree.map(jax.numpy.asarray, tree), optax.identity()))
    return folder, trees


@pytest.mark.parametrize(("count", "averaged"), [(3, 3), (4, 4), (9, 4), (1, 1)])
def test_the_average_is_the_mean_of_the_newest_checkpoints(saved, count, averaged):
    folder, trees = saved
    found = average_newest(folder, count)
    kernels = [tree["a"]["kernel"] for tree in trees[-averaged:]]
    expected = np.mean(np.array(kernels, np.float64), axis=0).astype(np.float32)  # rounded once, as it is
    np.testing.assert_array_equal(found["a"]["kernel"], expected)
    assert found["a"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(found["bias"], [np.mean([3, 2, 1, 0][:averaged])])


def test_nothing_to_average_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint in"):
        average_newest(tmp_path, 5)
