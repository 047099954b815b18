"""Rows of three fields, and the cache they are kept in."""

import numpy as np

from roformer_jax.data.rows import cached_rows

KEY = {"texts": "abc", "length": 8}
BOUNDS = {"ids": 2**31, "segment_ids": 2, "labels": None}


def make_rows(count=5):
    rng = np.random.default_rng(0)
    for i in range(count):
        yield {
            "ids": rng.integers(0, 2**31 - 1, 8, np.int32),
            "segment_ids": np.array([1] * (i + 1) + [0] * (7 - i), np.int32),
            "labels": rng.random((2, 3), np.float32),
        }


def rows_of(cache_dir, key, build):
    return cached_rows(cache_dir, key, build, BOUNDS)


def never():
    raise AssertionError("the rows are built again")


def only_folder(cache_dir):
    (folder,) = cache_dir.iterdir()
    return folder
