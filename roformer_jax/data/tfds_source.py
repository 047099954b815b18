"""TensorFlow Datasets read without TensorFlow; the only file that names it.

A data set must have been prepared in a random-access format (array_record); then TFDS needs no TensorFlow to read it.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from roformer_jax.errors import InputError


def read_tfds(
    name: str, split: str, columns: Sequence[str], data_dir: str | Path | None = None
) -> dict[str, list[str]]:
    """Reads columns of one split as text; class labels become their names.

    Args:
        name: data set and configuration, such as "glue/sst2", or the folder of a prepared one, "/sets/glue/sst2/2.0.0".
        split: such as "train", "validation" or "train[:1000]".
        columns: names of the features wanted: text, class label or number.
        data_dir: where TFDS keeps its data sets; TFDS_DATA_DIR or ~/tensorflow_datasets unless given.

    Raises:
        InputError: unknown or unprepared data set, unknown split or column, damaged files, or
            text that is not UTF-8.
    """
    tfds = _import_tfds()
    builder = _builder(tfds, name, data_dir)
    features = builder.info.features
    missing = [column for column in columns if column not in features]
    if missing:
        raise InputError(f"tfds:{name}: no column {missing[0]!r}; the columns are {list(features)}")
    source = _data_source(builder, name, split)
    class_names = {c: getattr(features[c], "names", None) for c in columns}
    values: dict[str, list[str]] = {column: [] for column in columns}
    for index in range(len(source)):
        where = f"tfds:{name}:{split}, record {index}"
        record = _record(source, index, where)
        for column in columns:
            values[column].append(_as_text(record[column], class_names[column], f"{where}, column {column!r}"))
    return values


def _import_tfds() -> ModuleType:
    """TFDS with its text data sets: without TensorFlow it finds GLUE and others only once their module is imported."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text

    return tfds


def _builder(tfds: ModuleType, name: str, data_dir: str | Path | None) -> Any:
    """The builder of a data set that TFDS knows, or that lies prepared in a folder."""
    try:
        if Path(name).is_absolute():
            return tfds.builder_from_directory(name)
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(
            f"tfds:{name}: TFDS knows no such data set (or finds it only with TensorFlow: pip install tensorflow-cpu)"
        ) from error
    except Exception as error:  # an unknown configuration, or whatever a damaged dataset_info.json does to a parser
        raise InputError(f"tfds:{name}: {error}") from error


def _data_source(builder: Any, name: str, split: str) -> Any:
    """The split as a random-access sequence of records."""
    prepare = f'tfds.builder("{name}", file_format="array_record").download_and_prepare()'
    try:
        return builder.as_data_source(split)
    except (NotImplementedError, KeyError) as error:
        if builder.is_prepared():
            problem = f"is prepared as {builder.info.file_format.value}, which cannot be read without TensorFlow"
        else:
            problem = f"is not prepared under {builder.data_dir}"
        raise InputError(
            f"tfds:{name} {problem}; prepare it once with {prepare} "
            "(preparing, not reading, may need: pip install tensorflow-cpu importlib_resources)"
        ) from error
    except ValueError as error:
        raise InputError(
            f"tfds:{name}: cannot read split {split!r}: {error}; the splits are {sorted(builder.info.splits)}"
        ) from error


def _record(source: Any, index: int, where: str) -> dict[str, Any]:
    """One record; of a file cut short, array_record gives records whose values are None."""
    try:
        record = source[index]
    except RuntimeError as error:
        raise InputError(f"{where}: damaged: {error}; prepare the data set again") from error
    if any(value is None for value in record.values()):
        raise InputError(f"{where}: lost: the file is shorter than it was; prepare the data set again")
    return record


def _as_text(value: Any, class_names: list[str] | None, where: str) -> str:
    """One field as text."""
    if class_names is not None:
        return class_names[value] if 0 <= value < len(class_names) else str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: byte 0x{value[error.start]:02x} at {error.start} is not UTF-8") from error
    return str(value)
