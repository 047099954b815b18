import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest

from roformer_jax.data.rows import ABANDONED_AFTER, RowStore, cached_rows
from roformer_jax.errors import InputError
from tests.data.made_rows import KEY, make_rows, never, only_folder, rows_of


def test_rows_come_back_as_they_were(tmp_path):
    with rows_of(tmp_path, KEY, make_rows) as store:
        assert len(store) == 5
        for i, expected in enumerate(make_rows()):
            found = store[i]
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert found[name].dtype == value.dtype
                np.testing.assert_array_equal(found[name], value)


def test_a_second_run_reads_what_the_first_built(tmp_path):
    first = rows_of(tmp_path, KEY, make_rows)
    again = rows_of(tmp_path, {"length": 8, "texts": "abc"}, never)
    assert again.fingerprint == first.fingerprint
    assert only_folder(tmp_path).name == first.fingerprint[:16]
    first.close()
    again.close()


def test_another_key_is_another_cache(tmp_path):
    for key in (KEY, KEY | {"length": 9}):
        rows_of(tmp_path, key, make_rows).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_metadata_counts_rows_and_tokens(tmp_path):
    with rows_of(tmp_path, KEY, make_rows) as store:
        assert store.metadata["key"] == KEY
        assert (store.metadata["rows"], store.metadata["real_tokens"], store.metadata["tokens"]) == (5, 15, 40)
        assert store.packing == 15 / 40
        assert store.metadata["fields"][2] == {"name": "labels", "dtype": "<f4", "shape": [2, 3]}
        for name, found in store.metadata["ranges"].items():
            values = [row[name] for row in make_rows()]
            assert found == [np.min(values), np.max(values)]


@pytest.mark.parametrize("index", [-1, 5])
def test_rows_that_do_not_exist_are_index_errors(tmp_path, index):
    with rows_of(tmp_path, KEY, make_rows) as store, pytest.raises(IndexError, match=f"row {index} of 5"):
        store[index]


def test_no_rows_are_refused_and_leave_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="no rows to train on"):
        rows_of(tmp_path, KEY, lambda: [])
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_leaves_nothing_behind_and_the_next_one_works(tmp_path):
    def fails():
        yield from make_rows(2)
        raise InputError("dirty text")

    with pytest.raises(InputError, match="dirty text"):
        rows_of(tmp_path, KEY, fails)
    assert list(tmp_path.iterdir()) == []
    rows_of(tmp_path, KEY, make_rows).close()


def test_rows_of_different_shapes_are_refused(tmp_path):
    def uneven():
        yield {"segment_ids": np.ones(8, np.int32)}
        yield {"segment_ids": np.ones(9, np.int32)}

    with pytest.raises(ValueError, match=r"row 1 has fields .*\[9\].* first row has .*\[8\]"):
        cached_rows(tmp_path, KEY, uneven, {"segment_ids": 2})


def test_the_slower_of_two_concurrent_builders_takes_the_rows_of_the_faster(tmp_path):
    def overtaken():
        rows_of(tmp_path, KEY, make_rows).close()
        yield from make_rows()

    with rows_of(tmp_path, KEY, overtaken) as store:
        assert len(store) == 5
    only_folder(tmp_path)


def build_slowly(cache_dir, started):
    def rows():
        for i, row in enumerate(make_rows()):
            if i == 3:
                started.set()
                time.sleep(600)
            yield row

    rows_of(cache_dir, KEY, rows)


def test_a_builder_killed_half_way_leaves_no_half_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=build_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(120)
    process.kill()
    process.join()
    left = only_folder(tmp_path)
    with rows_of(tmp_path, KEY, make_rows) as store:
        assert len(store) == 5
    assert left.exists()  # for all that one can tell, its builder is still at work


def test_what_killed_builders_left_is_cleared_after_a_day(tmp_path):
    rows_of(tmp_path, KEY, make_rows).close()
    folder = only_folder(tmp_path)
    left = folder.rename(tmp_path / f"{folder.name}.tmp-killed")
    long_ago = time.time() - ABANDONED_AFTER - 60
    os.utime(left, (long_ago, long_ago))
    rows_of(tmp_path, KEY, make_rows).close()
    assert only_folder(tmp_path) == folder


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("ids", -1, "ids holds -1, allowed are the integers 0 to 9"),
        ("ids", 10, "ids holds 10, allowed are the integers 0 to 9"),
        ("segment_ids", 2, "segment_ids holds 2, allowed are the integers 0 to 1"),
        ("scores", np.nan, "scores holds nan, allowed are finite numbers from -1e"),
        ("scores", -np.inf, "scores holds -inf, allowed are finite"),
    ],
)
def test_values_out_of_bounds_are_refused_with_row_field_and_value_and_nothing_is_kept(tmp_path, field, value, problem):
    rows = [{"ids": np.arange(3), "segment_ids": np.ones(3, np.int32), "scores": np.zeros(3)} for _ in range(3)]
    bounds = {"ids": 10, "segment_ids": 2, "scores": None}
    cached_rows(tmp_path / "sound", KEY, lambda: rows, bounds).close()
    rows[2][field][1] = value
    with pytest.raises(InputError, match=f"packed row 2: {problem}"):
        cached_rows(tmp_path / "bad", KEY, lambda: rows, bounds)
    assert list((tmp_path / "bad").iterdir()) == []


def test_fields_without_bounds_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"packed row 0: the fields are \['ids', .*\], expected are \['ids'\]"):
        cached_rows(tmp_path, KEY, make_rows, {"ids": 2**31})


def test_a_cache_that_does_not_fit_the_model_is_refused_without_reading_a_row(tmp_path, monkeypatch):
    row = {"ids": np.array([0, 7, 9], np.int32), "segment_ids": np.ones(3, np.int32)}
    cached_rows(tmp_path, KEY, lambda: [row], {"ids": 10, "segment_ids": 2}).close()
    monkeypatch.setattr(RowStore, "__getitem__", never)
    with pytest.raises(InputError, match=f"{only_folder(tmp_path)}: ids holds 9, allowed are .* 0 to 8; delete the"):
        cached_rows(tmp_path, KEY, never, {"ids": 9, "segment_ids": 2})


def fill_the_disk(cache_dir, told):
    def rows():
        rng = np.random.default_rng(0)
        for _ in range(200):
            yield {"ids": rng.integers(0, 2**31, 1024, np.int64), "segment_ids": np.ones(1024, np.int32)}

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        cached_rows(cache_dir, KEY, rows, {"ids": 2**31, "segment_ids": 2})
    except InputError as error:
        told.put(str(error))


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=fill_the_disk, args=(tmp_path, told))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "cannot be written" in told.get()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        rows_of(tmp_path / "file", KEY, make_rows)
