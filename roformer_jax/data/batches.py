"""Rows -> batches: random access, endless, and a pure function of (seed, step), however it is shared out."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from roformer_jax.errors import InputError

Row = dict[str, np.ndarray]
Transform = Callable[[Row, np.random.Generator], Row]
# Batches made ahead of the one in use: one being copied to the device, one ready, one in the making.
PREFETCH = 3


@runtime_checkable
class Rows(Protocol):
    """Rows by index, all with the same fields, dtypes and shapes; a `RowStore`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...


class Batches:
    """An endless sequence of training batches; `batches[step]` needs nothing of the steps before it.

    Every epoch visits each row once, in an order of its own. A batch is a dict of arrays [microbatches, rows, ...],
    where rows is the share that is made here: joining all shares along axis 1 gives the whole batch, with empty rows
    (all 0) at its end where their number does not divide it.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        transform: Transform | None = None,
        share: tuple[int, int] = (0, 1),
        microbatches: int = 1,
    ):
        """Describes the batches; nothing is read yet.

        Args:
            rows: the rows, by index.
            batch_size: rows of a step, over all processes and microbatches.
            seed: of the order and of `transform`; 0 or more.
            shuffle: visit the rows in random order instead of in sequence.
            transform: applied to each row with a generator that depends on seed and place in the stream only.
            share: which share of a batch is made here, from 0, and how many there are.
            microbatches: how many parts of equal size a step is computed in.

        Raises:
            InputError: a batch size that cannot be divided, a negative seed, or no rows.
        """
        if batch_size < 1 or batch_size % microbatches:
            raise InputError(f"batch_size={batch_size} must be a positive multiple of microbatches={microbatches}")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed must lie in [0, 2^64), got {seed}")
        if len(rows) == 0:
            raise InputError("no rows to make batches of")
        order = grain.MapDataset.range(len(rows))
        self._order = (order.seed(seed).shuffle() if shuffle else order).repeat()
        self._rows = rows
        self._transform = transform
        self._seed = seed
        self._microbatch_size = batch_size // microbatches
        self._microbatches = microbatches
        index, shares = share
        size = -(-self._microbatch_size // shares)
        self._share = range(index * size, (index + 1) * size)

    def __getitem__(self, step: int) -> Row:
        """The batch of `step`, 0 or more."""
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        first = step * self._microbatches * self._microbatch_size
        starts = [first + m * self._microbatch_size for m in range(self._microbatches)]
        rows = [self._row(start, offset) for start in starts for offset in self._share]
        return _stack(rows, self._microbatches)

    def rows_of(self, step: int) -> list[int]:
        """The numbers of the rows in the whole batch of `step`, over all processes."""
        size = self._microbatches * self._microbatch_size
        return [int(self._order[place]) for place in range(step * size, (step + 1) * size)]

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Row]:
        """Yields the batches of steps start_step .. stop_step - 1, made ahead in a thread that ends with them."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            ahead: deque = deque()
            for step in range(start_step, stop_step):
                while len(ahead) < PREFETCH and step + len(ahead) < stop_step:
                    ahead.append(executor.submit(self.__getitem__, step + len(ahead)))
                yield ahead.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)

    def _row(self, start: int, offset: int) -> Row:
        """Row `offset` of the microbatch that begins at `start` in the endless stream of rows; empty past its end."""
        if offset >= self._microbatch_size:
            return _empty_like(self._row(start, 0))
        place = start + offset
        return _transformed(self._rows[self._order[place]], self._transform, self._seed, place)


def eval_batches(rows: Rows, *, batch_size: int, transform: Transform | None = None, seed: int = 0) -> Iterator[Row]:
    """Yields every row exactly once, in order, as batches [1, batch_size, ...].

    The last batch is filled up with empty rows (all 0), so that all have one shape.
    """
    for start in range(0, len(rows), batch_size):
        stop = min(start + batch_size, len(rows))
        batch = [_transformed(rows[i], transform, seed, i) for i in range(start, stop)]
        batch += [_empty_like(batch[0])] * (start + batch_size - stop)
        yield _stack(batch, 1)


def _transformed(row: Row, transform: Transform | None, seed: int, place: int) -> Row:
    """The row after `transform`, whose generator is keyed by the 128 bits (seed, place)."""
    if transform is None:
        return row
    return transform(row, np.random.Generator(np.random.Philox(key=(seed << 64) | place)))


def _empty_like(row: Row) -> Row:
    """A row that has no tokens, no examples and no weight."""
    return {name: np.zeros_like(value) for name, value in row.items()}


def _stack(rows: list[Row], microbatches: int) -> Row:
    """Rows of one shape -> arrays [microbatches, rows / microbatches, ...]."""
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: value.reshape(microbatches, -1, *value.shape[1:]) for name, value in stacked.items()}
