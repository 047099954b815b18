"""The finished cells of a table, each a small JSON file that is written at once or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from roformer_jax.errors import InputError
from roformer_jax.report.glue_table import Made
from roformer_jax.run_folder import read_json, write_json


class Cell(NamedTuple):
    """One fine-tuning."""

    model: str
    task: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its file under the folder of cells, without the suffix."""
        return f"{self.model}/{self.task}-{self.learning_rate:g}-{self.seed}"


class Cells:
    """A folder of finished cells."""

    def __init__(self, folder: Path):
        self._folder = folder

    def has(self, cell: Cell) -> bool:
        """Whether a cell is finished."""
        return self._file_of(cell).exists()

    def read(self, cell: Cell) -> Made | None:
        """A cell that is finished; None if it is not.

        Raises:
          InputError: its file is damaged.
        """
        file = self._file_of(cell)
        if not file.exists():
            return None
        content = read_json(file)
        missing = set(Made._fields) - set(content)
        if missing:
            raise InputError(f"{file} lacks {', '.join(sorted(missing))}; remove it to make the cell again")
        return Made(**{name: content[name] for name in Made._fields})

    def write(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Write a finished cell."""
        write_file(self._file_of(cell), content)

    def _file_of(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"


def write_file(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file into a folder that is made if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
