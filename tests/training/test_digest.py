"""The digest of arrays: of their content alone, and of every bit of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from roformer_jax.training.digest import digests, leaf_digest

DTYPES = ["int8", "uint8", "float16", "bfloat16", "int32", "uint32", "float32"]
SPECS = [(), (None,), ("data",), ("fsdp",), ("data", "fsdp"), ("fsdp", "data"), (None, "data"), (("data", "fsdp"),)]


def array_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bits, as that dtype."""
    dtype = jnp.dtype(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(*shape, dtype.itemsize), dtype=np.uint8).view(dtype).reshape(shape)


def in_numpy(array: np.ndarray) -> str:
    """The digest in Python's integers, element by element, as the module describes it."""
    mask = 2**32 - 1

    def mix(word: int, odd: int) -> int:
        word = (word ^ word >> 15) * odd & mask
        return word ^ word >> 13

    words = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}").tolist()
    lanes = [0, 0]
    for place, word in enumerate(words):
        mixed = mix((place * 0x9E3779B1 + 1) & mask, 0x85EBCA77)
        word = mix(word, 0xC2B2AE3D)
        lanes[0] += mix(word ^ mixed, 0x27D4EB2F)
        lanes[1] += (word + mixed) * (mixed | 1)
    return "".join(f"{lane & mask:08x}" for lane in lanes)


def digest_of(array) -> str:
    return digests({"leaf": array})[0]["leaf"]


def test_the_digest_is_the_sum_that_is_described():
    shapes = [(), (0,), (1,), (7,), (3, 5), (2, 3, 4)]
    tree = {f"{dtype}{shape}": array_of(dtype, shape) for dtype in DTYPES for shape in shapes}
    expected = {name: in_numpy(array) for name, array in tree.items()}
    assert digests(tree)[0] == digests(jax.tree.map(jnp.asarray, tree))[0] == expected


def mesh_of(data: int, fsdp: int) -> jax.sharding.Mesh:
    kind = AxisType.Explicit
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), (kind, kind), devices=jax.devices()[: data * fsdp])


@pytest.mark.parametrize("devices", [(1, 1), (2, 1), (1, 2), (8, 1), (2, 4)])
def test_the_digest_does_not_depend_on_devices_nor_on_the_sharding(devices):
    arrays = {dtype: array_of(dtype, (16, 8)) for dtype in ("int8", "bfloat16", "float32")}
    with jax.set_mesh(mesh_of(*devices)):
        tree = {
            dtype: {str(spec): jax.device_put(array, jax.P(*spec)) for spec in SPECS} for dtype, array in arrays.items()
        }
        tree["scalar"] = jax.device_put(np.float32(3), jax.P())
        found, _ = digests(tree)
    assert len({leaf.sharding.spec for leaf in tree["int8"].values()}) == len(SPECS)
    assert found.pop("scalar") == in_numpy(np.array(3, np.float32))
    assert len(found) == 3 * len(SPECS)
    for name, digest in found.items():
        assert digest == in_numpy(arrays[name.split("/")[0]]), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_changes_the_digest(dtype):
    """All of them, and no two alike: 64 bits are not used up by a few hundred."""
    array = array_of(dtype, (3, 4))
    flipped = []
    for bit in range(array.nbytes * 8):
        words = array.copy().reshape(-1).view(np.uint8)
        words[bit // 8] ^= 1 << bit % 8
        flipped.append(words.view(array.dtype).reshape(array.shape))
    found = np.asarray(jax.jit(jax.vmap(leaf_digest))(np.stack([array, *flipped])))
    assert len({tuple(lanes) for lanes in found}) == 1 + array.nbytes * 8
    # Either lane alone sees a single bit: both are sums of bijections of the element.
    assert np.all(found[1:] != found[:1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_elements_that_change_places_change_the_digest(dtype):
    """All pairs of small whole numbers: as floats they differ in a few high bits only."""
    array = np.arange(24).astype(jnp.dtype(dtype))
    pairs = [(a, b) for a in range(24) for b in range(a)]
    swapped = np.stack([array] * (1 + len(pairs)))
    for row, (a, b) in zip(swapped[1:], pairs, strict=True):
        row[[a, b]] = row[[b, a]]
    found = np.asarray(jax.jit(jax.vmap(leaf_digest))(swapped))
    assert np.all(np.any(found[1:] != found[:1], axis=1))


@settings(deadline=None, max_examples=25)
@given(data=st.binary(min_size=24, max_size=24), other=st.binary(min_size=24, max_size=24))
def test_other_content_has_another_digest(data, other):
    arrays = [np.frombuffer(content, np.float32).reshape(2, 3) for content in (data, other)]
    assert (digest_of(arrays[0]) == digest_of(arrays[1])) == (data == other)


def test_an_array_of_zeros_does_not_hide_its_size():
    assert len({digest_of(np.zeros(size, np.float32)) for size in (1, 2, 3, 8)}) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_leaves_that_are_not_finite_are_named(value, dtype):
    def leaf(last: float):
        return jnp.asarray([[0.0, 1.0], [2.0, last]], dtype)

    tree = {
        "encoder": {"bad": leaf(value), "good": leaf(3)},
        "head": [leaf(3), leaf(value)],
        "step": jnp.int32(2**31 - 1),
    }
    found, not_finite = digests(tree)
    assert list(found) == ["encoder/bad", "encoder/good", "head/0", "head/1", "step"]
    assert not_finite == ["encoder/bad", "head/1"]
    assert found["encoder/good"] == found["head/0"] != found["head/1"]
