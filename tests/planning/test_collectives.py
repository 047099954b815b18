import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from roformer_jax.planning.collectives import Traffic, collectives, group_size
from roformer_jax.planning.hlo import parse

KINDS = """
HloModule made_up

%all-reduce-scatter.1 (x.1: f32[64]) -> f32[8] {
  %x.1 = f32[64]{0} parameter(0)
  %all-reduce.1 = f32[64]{0} all-reduce(%x.1), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice.1 = f32[8]{0} dynamic-slice(%all-reduce.1, %zero), dynamic_slice_sizes={8}
}

%beside.1 (x.2: bf16[64]) -> bf16[256] {
  %x.2 = bf16[64]{0} parameter(0)
  ROOT %all-gather.1 = bf16[256]{0} all-gather(%x.2), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
}

%beside.2 (x.3: bf16[64]) -> bf16[256] {
  %x.3 = bf16[64]{0} parameter(0)
  ROOT %all-gather.2 = bf16[256]{0} all-gather(%x.3), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
}

ENTRY %main (x: f32[64], y: bf16[64]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %y = bf16[64]{0} parameter(1)
  %scattered = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %first = bf16[256]{0} fusion(%y), kind=kLoop, calls=%beside.1
  %second = bf16[256]{0} fusion(%y), kind=kLoop, calls=%beside.2
  %start = (f32[64]{0}, f32[64]{0}) collective-permute-start(%x), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %done = f32[64]{0} collective-permute-done(%start)
  %alone = f32[64]{0} all-reduce(%x), channel_id=4, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %all-reduce.2 = f32[64]{0} all-reduce(%done), channel_id=5, replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%add
}
"""


def test_each_kind_sends_what_a_ring_sends():
    found = collectives(parse(KINDS), devices=8)
    assert found == {
        "reduce-scatter": Traffic(1, 256 * 7 / 8),
        "all-gather": Traffic(1, 128 * 3),
        "collective-permute": Traffic(1, 256),
        "all-reduce": Traffic(1, 256 * 2 / 2),
    }


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", 2),
        ("replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=3] {'fsdp','tensor'}, x", 12),
        ("replica_groups={}, x", 8),
        ("no groups at all", 8),
    ],
)
def test_groups_are_read_in_every_spelling(written, size):
    assert group_size(written, devices=8) == size


def test_a_real_program_on_eight_devices_sends_what_its_shardings_ask_for():
    """Five products of a matrix whose rows are spread: gathered in each turn; then one sum over all devices."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    spread = jax.NamedSharding(mesh, jax.P("x"))

    @jax.jit
    def program(kernels, rows):
        def layer(rows, kernel):
            return jnp.tanh(rows @ jax.reshard(kernel, jax.P())), None

        return jnp.sum(jax.lax.scan(layer, rows, kernels)[0])

    kernels = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(None, "x")))
    rows = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=spread)
    with jax.set_mesh(mesh):
        found = collectives(parse(program.lower(kernels, rows).compile().as_text()), devices=8)
    assert found["all-gather"] == Traffic(5, 5 * 64 * 64 * 4 * 7 / 8)
    assert found["all-reduce"] == Traffic(1, 4 * 2 * 7 / 8)
