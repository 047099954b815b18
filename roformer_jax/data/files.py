"""Finding and decoding text files, strictly: every refusal names the file and the line."""

import gzip
import importlib.util
import zlib
from pathlib import Path

from roformer_jax.errors import InputError

PACKAGE_PREFIX = "package:"
# Of one document: ten times the longest novels; more is a whole corpus in one file, which tokenizes in one piece.
MAX_CHARACTERS = 10_000_000


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
    """The suffix that tells the format, with a final .gz taken off: ".tsv" of "train.tsv.gz"."""
    return Path(path.name.removesuffix(".gz")).suffix


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Reads a whole text file, unpacking .gz; a UTF-8 byte order mark and carriage returns at line ends are taken off.

    Raises:
        InputError: unreadable, empty, not in `encoding`, or binary (NUL characters).
    """
    raw = _read_bytes(path)
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


def _read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked when its name ends in .gz."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
