import jax
import jax.numpy as jnp
import pytest

from roformer_jax.planning.hlo import array_bytes, executed, parse

# Two loops in each other: 3 turns as the compiler notes them, 5 as the condition says; a fusion in the inner one.
NESTED = """
HloModule made_up, is_scheduled=true

%fused (a.1: f32[4]) -> f32[4] {
  %a.1 = f32[4]{0} parameter(0)
  ROOT %negate.1 = f32[4]{0:T(8,128)(2,1)S(1)} negate(%a.1)
}

%inner_condition (s.1: (s32[], f32[4])) -> pred[] {
  %s.1 = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %count.1 = s32[] get-tuple-element(%s.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count.1, %limit), direction=LT, metadata={op_name="while/cond/lt"}
}

%data_condition (s.9: (s32[], f32[4])) -> pred[] {
  %s.9 = (s32[], f32[4]{0}) parameter(0)
  %count.9 = s32[] get-tuple-element(%s.9), index=0
  %stop.9 = s32[] get-tuple-element(%s.9), index=0
  ROOT %lt.9 = pred[] compare(%count.9, %stop.9), direction=LT
}

%inner_body (s.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s.2 = (s32[], f32[4]{0}) parameter(0)
  %fusion.1 = f32[4]{0} fusion(%s.2), kind=kLoop, calls=%fused
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%s.2, %fusion.1)
}

%outer_body (s.3: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s.3 = (s32[], f32[4]{0}) parameter(0)
  ROOT %while.1 = (s32[], f32[4]{0}) while(%s.3), condition=%inner_condition, body=%inner_body
}

ENTRY %main (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  ROOT %while.2 = (s32[], f32[4]{0}) while(%p), condition=%data_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501


def times(text):
    return {visit.instruction.name: (visit.times, visit.fused) for visit in executed(parse(text))}


def test_what_is_in_loops_is_executed_as_often_as_they_turn_together():
    found = times(NESTED)
    assert found["while.2"] == (1, False)
    assert found["while.1"] == (3, False)
    assert found["fusion.1"] == (15, False)
    assert found["negate.1"] == (15, True)


def test_a_loop_over_data_turns_as_often_as_the_loop_around_it():
    over_data = NESTED.replace("condition=%inner_condition", "condition=%data_condition")
    assert times(over_data)["fusion.1"] == (9, False)
    alone = over_data.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    assert times(alone)["fusion.1"] == (1, False)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,512]{1,0:T(8,128)}", 4 * 8 * 512),
        ("bf16[3]{0}", 6),
        ("pred[10]{0}", 10),
        ("(s32[], u4[7]{0}, f8e4m3fn[2]{0})", 4 + 7 + 2),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert array_bytes(shape) == size


def test_arrays_in_local_memory_are_no_traffic_of_main_memory():
    shape = "(f32[8]{0:T(128)S(1)}, f32[2]{0:T(128)}, s32[]{:S(2)})"
    assert array_bytes(shape) == 32 + 8 + 4
    assert array_bytes(shape, in_memory=True) == 8


def test_the_loops_of_a_real_program_are_found():
    @jax.jit
    def program(x):
        def inner(x, _):
            return jnp.sin(x @ x), None

        return jax.lax.scan(lambda x, _: (jax.lax.scan(inner, x, length=5)[0], None), x, length=3)[0]

    visits = executed(parse(program.lower(jnp.ones((16, 16))).compile().as_text()))
    assert [visit.times for visit in visits if visit.instruction.opcode == "dot"] == [15]


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("module @jit_f {}")
