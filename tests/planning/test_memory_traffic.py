import jax
import jax.numpy as jnp
import pytest

from roformer_jax.planning.hlo import parse
from roformer_jax.planning.memory_traffic import bytes_moved

SLICED = """
HloModule made_up

%inner (i.0: f32[12,64], i.1: s32[]) -> f32[1,64] {
  %i.0 = f32[12,64]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  ROOT %cut = f32[1,64]{1,0} dynamic-slice(%i.0, %i.1, %i.1), dynamic_slice_sizes={1,64}
}

%fused (f.0: f32[12,64], f.1: f32[12,64], f.2: s32[]) -> f32[12,64] {
  %f.0 = f32[12,64]{1,0} parameter(0)
  %f.1 = f32[12,64]{1,0} parameter(1)
  %f.2 = s32[] parameter(2)
  %row = f32[1,64]{1,0} fusion(%f.0, %f.2), kind=kLoop, calls=%inner
  %update = f32[12,64]{1,0} dynamic-update-slice(%f.1, %row, %f.2, %f.2)
  ROOT %view = f32[12,64]{1,0} bitcast(%update)
}

ENTRY %main (x: f32[12,64], y: f32[12,64], at: s32[]) -> f32[12,64] {
  %x = f32[12,64]{1,0} parameter(0)
  %y = f32[12,64]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %near = f32[12,64]{1,0:S(1)} copy(%y)
  ROOT %fusion = f32[12,64]{1,0} fusion(%x, %near, %at), kind=kLoop, calls=%fused
}
"""


def test_of_a_stack_only_the_layer_counts_that_is_read_or_written():
    whole, row, index = 12 * 64 * 4, 64 * 4, 4
    moved = bytes_moved(parse(SLICED))
    assert moved.accessed == 2 * whole + (row + row + index)  # the copy; the slice, the update, the index
    assert moved.in_memory == whole + (row + row + index)  # the copy's result is near


def test_without_loops_the_bytes_are_those_of_xla_s_own_analysis():
    @jax.jit
    def program(a, b):
        return jnp.tanh(a @ b) @ b + 1.0, jnp.sum(a, axis=0)

    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 512), (512, 512)))
    compiled = program.lower(a, b).compile()
    assert bytes_moved(parse(compiled.as_text())).accessed == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.05
    )


def test_a_loop_moves_the_bytes_of_all_its_turns():
    def program(turns):
        def layer(x, kernel):
            return jnp.tanh(x @ kernel), None

        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 256), (turns, 256, 256)))
        return jax.jit(lambda x, kernels: jax.lax.scan(layer, x, kernels)[0]).lower(*shapes).compile().as_text()

    four, eight = (bytes_moved(parse(program(turns))).accessed for turns in (4, 8))
    kernel = 256 * 256 * 4
    assert eight - four == pytest.approx(4 * (2 * kernel + 4 * 64 * 256 * 4), rel=0.5)
    assert eight == pytest.approx(2 * four, rel=0.05)
