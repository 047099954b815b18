import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.errors import InputError
from roformer_jax.training.optimizer import OptimizerConfig, decay_mask, make_optimizer, make_schedule

EPS = float(np.finfo(np.float32).eps)
PARAMS = {
    "embed": {"embedding": np.full((3, 2), 2.0, np.float32)},
    "norm": {"scale": np.full(2, 2.0, np.float32), "bias": np.full(2, 2.0, np.float32)},
    "dense": {"kernel": np.full((2, 2), 2.0, np.float32)},
}


def expected_rate(schedule: str, peak: float, warmup: int, steps: int, n: int) -> float:
    if n < warmup:
        return peak * n / warmup
    p = (n - warmup) / max(steps - warmup, 1)
    return (
        peak
        * {
            "linear": 1 - p,
            "cosine": (1 + np.cos(np.pi * p)) / 2,
            "constant": 1.0,
            "inverse_sqrt": np.sqrt(max(warmup, 1) / (n if warmup else n + 1)),
        }[schedule]
    )


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["linear", "cosine", "constant", "inverse_sqrt"]), st.integers(1, 1000), st.data())
def test_schedule_is_its_formula_at_every_update(name, steps, data):
    warmup = data.draw(st.integers(0, steps))
    n = data.draw(st.integers(0, steps - 1))
    schedule = make_schedule(OptimizerConfig(learning_rate=3e-4, warmup=float(warmup), schedule=name), steps)
    # p is rounded to half an eps before 1 - p or the cosine, so the error is relative to the peak.
    np.testing.assert_allclose(schedule(n), expected_rate(name, 3e-4, warmup, steps, n), rtol=0, atol=3e-4 * 4 * EPS)


def test_warmup_below_one_is_a_fraction_of_the_run():
    fraction = make_schedule(OptimizerConfig(warmup=0.1), 200)
    number = make_schedule(OptimizerConfig(warmup=20.0), 200)
    assert [fraction(n) for n in (0, 10, 20, 110)] == [number(n) for n in (0, 10, 20, 110)]
    assert fraction(0) == 0
    assert fraction(20) == np.float32(1e-4)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match=r"optimizer.warmup = 300.0: .* 300 updates is longer than the run of 200"):
        make_schedule(OptimizerConfig(warmup=300.0), 200)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("warmup", -0.1),
        ("warmup", 1.5),
        ("warmup", float("inf")),
        ("weight_decay", -1.0),
        ("b1", 1.0),
        ("b2", -0.5),
        ("eps", 0.0),
        ("clip_norm", 0.0),
    ],
)
def test_a_field_out_of_range_is_refused_by_name_and_value(field, value):
    with pytest.raises(InputError, match=f"^optimizer.{field} must be .* but is {value!r}$"):
        OptimizerConfig(**{field: value})


def test_decay_leaves_biases_and_norms_alone():
    config = OptimizerConfig(learning_rate=0.5, warmup=0.0, schedule="constant", weight_decay=0.1)
    optimizer = make_optimizer(config, 10, PARAMS)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    found = jax.tree.map(lambda update: float(update.reshape(-1)[0]), updates)
    decay = pytest.approx(-0.5 * 0.1 * 2.0)
    assert found == {"embed": {"embedding": decay}, "norm": {"scale": 0, "bias": 0}, "dense": {"kernel": decay}}


def test_every_parameter_must_say_by_its_name_whether_it_decays():
    with pytest.raises(ValueError, match=r"layers/0/gate .* none of kernel, embedding, bias, scale"):
        decay_mask({"layers": {"0": {"gate": np.zeros(2)}}})


def test_update_is_clipped_adamw():
    """Against the equations of AdamW in float64 NumPy, over three updates whose gradients are longer than the clip."""
    config = OptimizerConfig(learning_rate=1e-2, warmup=2.0, clip_norm=0.5, b2=0.98)
    params = {"kernel": np.array([1.0, -2.0, 3.0], np.float32)}
    optimizer = make_optimizer(config, 10, params)
    state = optimizer.init(params)
    weights, mean, square = params["kernel"].astype(np.float64), np.zeros(3), np.zeros(3)
    rng = np.random.default_rng(0)
    for n in range(3):
        gradient = rng.normal(size=3).astype(np.float32)
        updates, state = optimizer.update({"kernel": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        clipped = gradient * min(1.0, 0.5 / np.linalg.norm(gradient.astype(np.float64)))
        mean = 0.9 * mean + 0.1 * clipped
        square = 0.98 * square + 0.02 * clipped**2
        direction = mean / (1 - 0.9 ** (n + 1)) / (np.sqrt(square / (1 - 0.98 ** (n + 1))) + 1e-8)
        weights -= expected_rate("linear", 1e-2, 2, 10, n) * (direction + 0.01 * weights)
        # The bias correction 1 - b2^n of float32 loses 1 / (1 - b2) = 50 eps of the direction, which is about 1.
        np.testing.assert_allclose(params["kernel"], weights, rtol=4 * EPS, atol=1e-2 * 200 * EPS)


def test_every_field_is_explained_where_the_command_line_reads_it(capsys):
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(OptimizerConfig, args=["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(OptimizerConfig):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "fraction of the run" in text
