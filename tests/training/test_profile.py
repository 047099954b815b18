import gzip
import json

import chex
import jax
import pytest

from roformer_jax.errors import InputError
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.profile import parse_updates, profiled
from roformer_jax.training.state import create_state
from roformer_jax.training.step import make_train_step

STEPS = 6


@pytest.fixture(scope="module")
def compiled():
    """The training step, compiled once for all tests of this file."""
    return {}


@pytest.fixture
def train(problem, compiled):
    """Trains updates start + 1, ..., stop under `profiled` and returns the state and the losses, on the host."""

    def train(updates, folder, *, start=0, stop=STEPS):
        with jax.set_mesh(problem.make_mesh(1)):
            params = problem.make_params()
            config = OptimizerConfig(learning_rate=1e-2)
            if not compiled:
                compiled["optimizer"] = make_optimizer(config, STEPS, params)
                schedule = make_schedule(config, STEPS)
                compiled["step"] = make_train_step(problem.loss_fn, compiled["optimizer"], schedule, jax.random.key(3))
            state, losses = create_state(params, compiled["optimizer"]), []
            with profiled(compiled["step"], updates, folder, start=start) as step:
                for batch in problem.batches(start, stop):
                    state, metrics = step(state, batch)
                    losses.append(metrics["loss"])
            return jax.device_get((state, losses))

    return train


def steps_traced(folder):
    """The numbers of the updates in the trace, in order; None without a trace."""
    traces = list(folder.glob("plugins/profile/*/*.trace.json.gz"))
    if not traces:
        return None
    (trace,) = traces
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    numbered = {int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})}
    return sorted(numbered)


class TestProfiled:
    def test_the_updates_of_the_range_are_traced_and_no_others(self, train, tmp_path):
        train("3:4", tmp_path / "profile")
        assert steps_traced(tmp_path / "profile") == [3, 4]
        assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == 1  # what xprof reads

    def test_tracing_changes_neither_state_nor_losses(self, train, tmp_path):
        plain, traced = train(None, tmp_path), train("2:3", tmp_path)
        chex.assert_trees_all_equal(plain, traced)

    def test_without_a_range_nothing_is_written(self, train, tmp_path):
        train(None, tmp_path / "profile", stop=1)
        assert not (tmp_path / "profile").exists()

    def test_a_run_that_goes_on_from_within_the_range_traces_the_rest(self, train, tmp_path):
        train("3:5", tmp_path, start=3)
        assert steps_traced(tmp_path) == [4, 5]

    def test_a_run_that_goes_on_after_the_range_traces_nothing(self, train, tmp_path):
        train("1:2", tmp_path, start=4)
        assert steps_traced(tmp_path) is None

    def test_a_run_that_is_stopped_within_the_range_keeps_what_was_traced(self, train, tmp_path):
        train("2:6", tmp_path, stop=3)
        assert steps_traced(tmp_path) == [2, 3]


class TestRanges:
    def test_both_ends_are_included(self):
        assert list(parse_updates("10:15")) == [10, 11, 12, 13, 14, 15]
        assert list(parse_updates("1:1", steps=1)) == [1]

    @pytest.mark.parametrize("text", ["5", "5:", ":5", "0:3", "4:3", "-1:3", "1:2:3", "a:b", "1.5:2", " 1:2"])
    def test_what_is_no_range_is_refused(self, text):
        with pytest.raises(InputError, match=r"training\.profile must be FIRST:LAST"):
            TrainingConfig(profile=text)

    def test_a_range_beyond_the_run_is_refused(self):
        with pytest.raises(InputError, match=r"training\.profile = 9:11 lies outside the run, which has 10 updates"):
            TrainingConfig(profile="9:11", steps=10)
