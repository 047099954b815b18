"""What an imported checkpoint computes of the golden inputs, padded and packed at once."""

import numpy as np

from tests.interop.conftest import compiled


def batch_of(inputs):
    """The padded rows and, below them, one row with all of them packed one behind the other."""
    ids, mask, types = (inputs[f"inputs/{name}"].astype(np.int32) for name in ("ids", "mask", "token_type_ids"))
    real = mask.astype(bool)
    lengths = mask.sum(axis=1)
    wider = ((0, 1), (0, lengths.sum() - mask.shape[1]))
    ids, segments, types_of_all = (np.pad(array, wider) for array in (ids, mask, types))
    ids[-1], types_of_all[-1] = inputs["inputs/ids"][real], types[real]
    segments[-1] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return ids, segments, types_of_all


def outputs_of(checkpoint, inputs):
    """(padded, packed) outputs in the order of the golden ones: of every real token, or of every row."""
    (_, head, model, labels), params, _ = checkpoint
    ids, segments, types = batch_of(inputs)
    apply = compiled(model, head, len(labels))
    lengths = inputs["inputs/mask"].sum(axis=1)
    ends = np.cumsum(lengths)
    match head:
        case "encoder":
            return of_tokens(apply(params, ids, segments, types), segments)
        case "causal_lm":
            return of_tokens(apply(params, ids, segments), segments)
        case "classifier":
            return of_rows(apply(params, ids, segments, places(0 * lengths, ends - lengths), types))
        case "multiple_choice":
            return of_rows(apply(params, ids, segments, places(lengths - 1, ends - 1), types))
        case _:
            everywhere = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
            return of_tokens(apply(params, ids, segments, everywhere, types), segments)


def places(padded, packed):
    """One place of each padded row, in the first column, and those of the packed row."""
    at = np.zeros((len(padded) + 1, len(padded)), np.int32)
    at[:-1, 0], at[-1] = padded, packed
    return at


def of_rows(found):
    """The outputs at `places`."""
    return np.asarray(found[:-1, 0]), np.asarray(found[-1])


def of_tokens(found, segments):
    """The outputs of real tokens."""
    real = segments > 0
    return np.asarray(found)[:-1][real[:-1]], np.asarray(found)[-1][real[-1]]
