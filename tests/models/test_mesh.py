"""Heads, tokens, rows and widths split over eight devices: every position encoding and attention gives the same."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_causal_lm, build_masked_lm
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings, place_batch
from tests.models.parameters import random_params

ROWS, LENGTH, WIDTH, HIDDEN, LAYERS = 4, 16, 32, 64, 2
SIZES = dict(
    vocab_size=48, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=HIDDEN,
    max_position_embeddings=LENGTH, relative_distance=3, attention_probs_dropout_prob=0.0,
)  # fmt: skip
EPS = float(jnp.finfo(jnp.float32).eps)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(5, 48, (1, ROWS, LENGTH)).astype(np.int32),
        "segment_ids": np.sort(rng.integers(1, 4, (1, ROWS, LENGTH)).astype(np.int32), axis=-1),
        "at": rng.integers(0, LENGTH, (1, ROWS, 8)).astype(np.int32),
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        *({"position_encoding": name} for name in ("rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none")),
        {"attention": "linear", "feature_map": "elu"},
        {"attention": "linear", "feature_map": "favor", "linear_rotation": "before"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_logits_are_those_of_one_device(batch, fields, causal):
    build = build_causal_lm if causal else build_masked_lm
    model = build(RoFormerConfig(**SIZES | fields))
    arguments = ("ids", "segment_ids") if causal else ("ids", "segment_ids", "at")
    params = random_params(model, scale=0.1)
    expected = jax.jit(model.apply)(params, *(batch[name][0] for name in arguments))
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        placed = place_batch(batch, mesh)
        sharded = jax.device_put(params, parameter_shardings(mesh, shapes, model.axes))
        found = jax.jit(model.apply)(sharded, *(placed[name][0] for name in arguments))
    assert jax.typeof(found).sharding.spec[1] == ("sequence", "tensor")
    # The same sums in another order; a norm divides by the deviation of the residual stream, about 1.
    terms = LAYERS * (LENGTH + 4 * WIDTH + HIDDEN) + WIDTH
    np.testing.assert_allclose(found, expected, rtol=0, atol=terms * EPS * float(np.abs(expected).max()))


def scans(jaxpr):
    """The loops of a program, those inside others too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from scans(inner)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_with_rematerialisation_the_backward_pass_gathers_weights_again(batch, remat):
    model = build_masked_lm(RoFormerConfig(**SIZES, remat=remat, position_encoding="none"))
    mesh = make_mesh(MeshConfig(fsdp=4))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        shardings = parameter_shardings(mesh, shapes, model.axes)
        params = jax.device_put(random_params(model), shardings)
        placed = place_batch(batch, mesh)

        def loss(params):
            return jnp.sum(model.apply(params, *(placed[name][0] for name in ("ids", "segment_ids", "at"))))

        program = jax.make_jaxpr(jax.grad(loss))(params)
    forward, backward = (scan for scan in scans(program.jaxpr) if scan.params["length"] == LAYERS)
    kernel = (LAYERS, WIDTH, HIDDEN)
    assert kernel not in [result.aval.shape for result in forward.outvars]
    assert kernel in [result.aval.shape for result in backward.outvars]
