"""Config files and command lines, read."""

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from roformer_jax.errors import InputError


def load_config(path: Path) -> Any:
    """What `get_config()` of a Python file returns.

    Raises:
      InputError: no such file (with the nearest names), or no get_config in it.
    """
    if not path.is_file():
        folders = dict.fromkeys((path.parent if path.suffix else Path("configs"), Path("configs")))
        known = {file.stem: str(file) for folder in folders for file in sorted(folder.glob("*.py"))}
        close = difflib.get_close_matches(path.stem, known, n=1)
        hint = f"; did you mean {known[close[0]]}?" if close else f"; there are {', '.join(known.values())}"
        raise InputError(f"there is no config file {path}" + (hint if known else ""))
    name = f"config_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where the sources of its classes are looked up
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} defines no get_config()")
    return module.get_config()


def parse(kind: type, arguments: list[str], *, prog: str, default: Any = None) -> Any:
    """A frozen dataclass from the command line; a wrong flag exits with code 2 and the nearest names."""
    import tyro

    options = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.FlagConversionOff,), **options)


def need(module: str, *, extra: str) -> None:
    """Raises an InputError, with what to install, if a module is not there that the base install does not bring."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f'this needs {module}, which is not installed: pip install "roformer-jax[{extra}]"')
