import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from roformer_jax.training.compile_cache import compile_cache

X = np.arange(6, dtype=np.float32)
EXPECTED = (2 * np.cumsum(X)).tolist()
EVENTS = {"/jax/compilation_cache/cache_hits": "read", "/jax/compilation_cache/cache_misses": "compiled"}


@pytest.fixture
def events():
    """What happened to every program compiled since: "read" from the cache, or "compiled" and kept there."""
    seen = []

    def listen(event, **_):
        if event in EVENTS:
            seen.append(EVENTS[event])

    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


@pytest.fixture
def calculate(events):
    """Compiles the same program anew, as another process would, and returns its result and what happened."""

    def calculate():
        events.clear()
        result = jax.jit(lambda x: jnp.cumsum(x) * 2)(X)
        return np.asarray(result).tolist(), list(events)

    return calculate


class TestCompileCache:
    def test_a_second_start_reads_what_the_first_one_compiled(self, calculate, tmp_path):
        for happened in ("compiled", "read"):
            with compile_cache(tmp_path):
                assert calculate() == (EXPECTED, [happened])

    def test_another_folder_is_another_cache(self, calculate, tmp_path):
        for folder in ("a", "b"):
            with compile_cache(tmp_path / folder):
                assert calculate() == (EXPECTED, ["compiled"])

    def test_nothing_is_kept_outside_of_it(self, calculate, tmp_path):
        with compile_cache(tmp_path):
            pass
        assert calculate() == (EXPECTED, [])
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("damage", [b"", b"damaged", None], ids=["empty", "garbage", "cut short"])
    def test_a_damaged_entry_costs_a_warning_and_the_time_to_compile(self, calculate, tmp_path, damage):
        with compile_cache(tmp_path):
            calculate()
        (entry,) = tmp_path.glob("*-cache")
        entry.write_bytes(entry.read_bytes()[:100] if damage is None else damage)
        with compile_cache(tmp_path), pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
            result, _ = calculate()
        assert result == EXPECTED

    def test_a_folder_that_cannot_be_made_costs_a_warning(self, calculate, tmp_path):
        (tmp_path / "file").touch()
        with compile_cache(tmp_path / "file"), pytest.warns(UserWarning, match="persistent compilation cache"):
            result, _ = calculate()
        assert result == EXPECTED

    def test_the_users_own_cache_is_left_as_it_is(self, calculate, tmp_path):
        with own_cache(tmp_path / "own"), compile_cache(tmp_path / "ours"):
            calculate()
        assert (tmp_path / "own").exists()
        assert not (tmp_path / "ours").exists()

    def test_jax_switches_it_off(self, calculate, tmp_path):
        with switched_off(), compile_cache(tmp_path):
            assert calculate() == (EXPECTED, [])
        assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def own_cache(folder):
    """What JAX_COMPILATION_CACHE_DIR does."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def switched_off():
    """What JAX_ENABLE_COMPILATION_CACHE=false does."""
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
