"""Compiled programs on disk: what one start of an experiment compiled, the next one reads."""

import contextlib
import os
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def compile_cache(folder: str | os.PathLike) -> Iterator[None]:
    """Inside, every compiled program is looked up in `folder` first and kept there, however quickly it compiled.

    JAX finds a program by a digest of its code, of JAX's version and flags, and of the devices. An entry or a folder
    that cannot be read or written costs a warning and the time to compile. A cache that the user has chosen
    (JAX_COMPILATION_CACHE_DIR) is left as it is, and JAX_ENABLE_COMPILATION_CACHE=false switches this one off too.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,  # no least size, on any file system
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _update(settings)
    try:
        yield
    finally:
        _update(before)
        compilation_cache.reset_cache()  # or JAX would go on with the folder that it opened first


def _update(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
