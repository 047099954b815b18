"""Finding and decoding text files, strictly: every refusal names the file and the line."""

import bz2
import gzip
import importlib.util
import json
import stat
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from roformer_jax.errors import InputError

PACKAGE_PREFIX = "package:"
STANDARD_INPUT = Path("standard input")  # in messages
# Of one document: ten times the longest novels; more is a whole corpus in one file, which tokenizes in one piece.
MAX_CHARACTERS = 10_000_000
MAX_BYTES = 4 * MAX_CHARACTERS  # no encoding takes more
# A packed file may unpack to so many bytes, or to so many times its size if that is more. Text packs to a third or a
# tenth; a file made to fill the memory, to a thousandth or a millionth.
UNPACKED_FREELY = 64 << 20
MAX_RATIO = 50
PIECE = 1 << 20  # bytes unpacked at once
OPEN: Mapping[str, Callable[[Path], BinaryIO]] = {".gz": gzip.open, ".bz2": bz2.open}


def resolve(path: str) -> Path:
    """The file or folder that `path` names; `package:NAME/SUB` lies in an installed package, which is not imported.

    Raises:
        InputError: nothing is there, or the package is not installed.
    """
    if not path.startswith(PACKAGE_PREFIX):
        resolved = Path(path).expanduser()
    else:
        name, _, inner = path.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"{path}: the package {name!r} is not installed; run: pip install {name}")
        resolved = Path(spec.submodule_search_locations[0]) / inner
    if not resolved.exists():
        raise InputError(f"{path}: no such file or folder")
    return resolved


def text_suffix(path: Path) -> str:
    """The suffix that tells the format, with that of a packed file taken off: ".tsv" of "train.tsv.gz"."""
    return path.with_suffix("").suffix if path.suffix in OPEN else path.suffix


def read_bytes(path: Path, limit: int | None = None) -> bytearray:
    """Reads a file, or its first `limit` bytes, unpacked piece by piece where its name ends in .gz or .bz2.

    Raises:
        InputError: not a file (a link stands for what it leads to), unreadable, damaged, or, without a limit, unpacked
            larger than any text would be.
    """
    content = bytearray()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: cannot be read: a folder, a pipe or a device, not a file")
        most = max(UNPACKED_FREELY, MAX_RATIO * status.st_size)
        stop = most + 1 if limit is None else limit
        with OPEN.get(path.suffix, _open_plain)(path) as file:
            while piece := file.read(min(PIECE, stop - len(content))):
                content += piece
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own errors; those of damage have no such text
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        raise InputError(f"{path}: damaged {path.suffix} file: {error}") from error
    if limit is None and len(content) > most:
        raise InputError(
            f"{path}: {status.st_size:,} bytes unpack to more than {most:,}, which no text does; unpack the file "
            "yourself if you trust it"
        )
    return content


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Reads a whole text file, unpacked; a UTF-8 byte order mark and carriage returns at line ends are taken off.

    Raises:
        InputError: unreadable, empty, not in `encoding`, or binary (NUL characters).
    """
    return _decoded(read_bytes(path), path, encoding)


def read_document(path: Path, encoding: str = "utf-8") -> str:
    """Reads a text file as one document, as `read_text` does; of one that is too long, no more than that is read.

    Raises:
        InputError: what `read_text` refuses, or longer than any document should be.
    """
    raw = read_bytes(path, MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise InputError(
            f"{path}: a document of more than {MAX_BYTES:,} bytes, the limit is {MAX_CHARACTERS:,} characters; "
            "split it into several"
        )
    return check_length(_decoded(raw, path, encoding), f"{path}:1")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      InputError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} instead of a JSON object")
    return content


def read_standard_input(encoding: str = "utf-8") -> str:
    """Reads the standard input to its end, as `read_text` does a file.

    Raises:
        InputError: empty, not in `encoding`, or binary.
    """
    return _decoded(bytearray(sys.stdin.buffer.read()), STANDARD_INPUT, encoding)


def check_length(text: str, where: str) -> str:
    """Returns `text` unless it is longer than any document should be.

    Raises:
        InputError: more than `MAX_CHARACTERS` characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{where}: a document of {len(text):,} characters, the limit is {MAX_CHARACTERS:,}; split it into several"
        )
    return text


def _open_plain(path: Path) -> BinaryIO:
    """A file that is not packed."""
    return path.open("rb")


def _decoded(raw: bytearray, path: Path, encoding: str) -> str:
    """The text of a file's bytes."""
    if not raw:
        raise InputError(f"{path}: the file is empty")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not {encoding}; convert the file or name its encoding"
        ) from error
    except LookupError as error:
        raise InputError(f"{path}: unknown encoding {encoding!r}") from error
    nul = text.find("\0")
    if nul >= 0:
        raise InputError(f"{path}:{text.count(chr(10), 0, nul) + 1}: NUL character; this is a binary file, not text")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
