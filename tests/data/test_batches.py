import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.batches import Batches, eval_batches
from roformer_jax.errors import InputError


def make_rows(count, length=3):
    """Row i is full of i."""
    return [{"ids": np.full(length, i, np.int32), "example_ids": np.array([i + 1], np.int32)} for i in range(count)]


def noise(row, rng):
    return row | {"noise": rng.random(4)}


def indices(batch):
    return batch["ids"][..., 0].ravel().tolist()


def assert_same(first, second):
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own():
    batches = Batches(make_rows(12), batch_size=4, seed=0)
    epochs = [[i for step in range(3 * e, 3 * e + 3) for i in indices(batches[step])] for e in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert list(range(12)) not in epochs


def test_without_shuffling_rows_come_in_order_again_and_again():
    batches = Batches(make_rows(5), batch_size=3, seed=0, shuffle=False)
    assert [indices(batches[step]) for step in range(3)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_a_batch_is_a_function_of_seed_and_step():
    first, same, other = (Batches(make_rows(50), batch_size=10, seed=seed, transform=noise) for seed in (7, 7, 8))
    for step in (1000, 0, 3):  # in any order, at any distance
        assert_same(first[step], same[step])
        assert indices(first[step]) != indices(other[step])
        assert not np.array_equal(first[step]["noise"], other[step]["noise"])


def test_a_row_is_transformed_anew_in_every_epoch():
    batches = Batches(make_rows(1), batch_size=1, seed=0, transform=noise)
    drawn = np.concatenate([batches[step]["noise"].ravel() for step in range(20)])
    assert len(np.unique(drawn)) == drawn.size


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 20),
    rows=st.integers(1, 7),
    processes=st.integers(1, 4),
    microbatches=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 10**6),
)
def test_the_shares_of_all_processes_join_to_the_batch_of_one(count, rows, processes, microbatches, seed, step):
    arguments = {
        "batch_size": rows * microbatches,
        "seed": seed,
        "transform": noise,
        "microbatches": microbatches,
    }
    whole = Batches(make_rows(count), **arguments)[step]
    shares = [Batches(make_rows(count), **arguments, share=(p, processes))[step] for p in range(processes)]
    joined = {name: np.concatenate([s[name] for s in shares], axis=1) for name in whole}
    assert_same({name: values[:, :rows] for name, values in joined.items()}, whole)
    assert not any(values[:, rows:].any() for values in joined.values())  # empty rows fill up the last shares
    assert len({s["ids"].shape for s in shares}) == 1


def test_microbatches_are_consecutive_parts_of_the_batch():
    whole, parts = (Batches(make_rows(9), batch_size=6, seed=1, microbatches=m)[2] for m in (1, 3))
    assert indices(whole) == indices(parts)
    assert parts["ids"].shape == (3, 2, 3)


def test_a_data_set_smaller_than_a_batch_is_repeated_within_it():
    batch = Batches(make_rows(3), batch_size=8, seed=0)[0]
    assert sorted(set(indices(batch))) == [0, 1, 2]
    assert np.bincount(indices(batch)).min() >= 2


def test_iterating_gives_the_batches_of_the_steps_in_order():
    batches = Batches(make_rows(20), batch_size=4, seed=0, transform=noise)
    found = list(batches.iterate(5, 17))
    assert len(found) == 12
    for step, batch in enumerate(found, 5):
        assert_same(batch, batches[step])


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (5, 3)])
def test_iterating_over_no_steps_gives_nothing(start, stop):
    assert list(Batches(make_rows(3), batch_size=1, seed=0).iterate(start, stop)) == []


def test_batches_are_made_ahead_in_another_thread():
    made = []
    third = threading.Event()

    def note(row, rng):
        made.append(threading.current_thread())
        if len(made) == 3:
            third.set()
        return row

    iterator = Batches(make_rows(3), batch_size=1, seed=0, transform=note).iterate(0, 100)
    next(iterator)
    assert third.wait(60)
    assert threading.current_thread() not in made
    iterator.close()


def test_threads_end_with_the_iterator():
    def workers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]

    batches = Batches(make_rows(3), batch_size=1, seed=0)
    iterator = batches.iterate(0, 10**9)
    next(iterator)
    assert workers()
    iterator.close()
    assert not workers()
    list(batches.iterate(0, 5))
    assert not workers()


def test_an_error_in_a_row_reaches_the_consumer_at_its_step():
    def fails_on_row_2(row, rng):
        if row["ids"][0] == 2:
            raise InputError("record 2 is damaged")
        return row

    iterator = Batches(make_rows(5), batch_size=1, seed=0, shuffle=False, transform=fails_on_row_2).iterate(0, 5)
    assert [indices(batch) for batch in itertools.islice(iterator, 2)] == [[0], [1]]
    with pytest.raises(InputError, match="record 2 is damaged"):
        next(iterator)


@pytest.mark.parametrize(("batch_size", "microbatches"), [(6, 4), (0, 1)])
def test_a_batch_that_the_microbatches_do_not_divide_is_refused(batch_size, microbatches):
    with pytest.raises(InputError, match=f"batch_size={batch_size} must be a positive multiple of microbatches="):
        Batches(make_rows(3), batch_size=batch_size, seed=0, microbatches=microbatches)


def test_bad_seeds_steps_and_empty_rows_are_refused():
    with pytest.raises(InputError, match=r"seed must lie in \[0, 2\^64\), got -1"):
        Batches(make_rows(3), batch_size=1, seed=-1)
    with pytest.raises(InputError, match="no rows"):
        Batches([], batch_size=1, seed=0)
    with pytest.raises(IndexError, match="got -1"):
        Batches(make_rows(3), batch_size=1, seed=0)[-1]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 20), batch_size=st.integers(1, 8))
def test_evaluation_sees_every_row_once_in_order_in_batches_of_one_shape(count, batch_size):
    batches = list(eval_batches(make_rows(count), batch_size=batch_size))
    assert {batch["ids"].shape for batch in batches} == {(1, batch_size, 3)}
    example_ids = np.concatenate([batch["example_ids"].ravel() for batch in batches])
    assert example_ids[:count].tolist() == list(range(1, count + 1))
    assert np.all(example_ids[count:] == 0)
    assert all(not batch["ids"][0, row].any() for batch in batches for row in np.flatnonzero(batch["example_ids"] == 0))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_evaluation_transforms_each_row_alike_whatever_the_batch_size(batch_size):
    def drawn(size, seed):
        batches = eval_batches(make_rows(7), batch_size=size, transform=noise, seed=seed)
        return np.concatenate([batch["noise"][0] for batch in batches])[:7]

    np.testing.assert_array_equal(drawn(batch_size, 0), drawn(7, 0))
    assert not np.array_equal(drawn(batch_size, 1), drawn(7, 0))
