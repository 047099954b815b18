"""What every field of every config must be: a value of its annotated type."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from roformer_jax.errors import InputError

IN_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


def check_types(config: Any, where: str = "") -> None:
    """Refuses a dataclass with a value of another type than its field's annotation, whoever made it.

    Python checks no annotation, and the command line only those of its flags: a config file may hold anything. NaN is
    no number, and the empty text no text, except as the default that says that a field is not set.

    Args:
      config: an instance of a dataclass whose annotations are of the kinds that `fits` knows.
      where: what precedes the field's name in messages, such as "model.".

    Raises:
      InputError: the message names the field, the value, and what it must be.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        unset = value == "" == getattr(type(config), name, None)
        if not (unset or fits(value, hint)):
            raise InputError(f"{where}{name} = {value!r} must be {in_words(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the annotated type: bool, int, float, str, None, a class, Literal, union, tuple[T, ...]."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in kinds
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, kind) for kind in kinds)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, kinds[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool) and value == value  # NaN equals nothing
    return isinstance(value, hint) and value != ""


def in_words(hint: Any) -> str:
    """What `fits` asks for."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(kinds)}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(in_words(kind) for kind in kinds)
    if get_origin(hint) is tuple:
        return f"a tuple, each item {in_words(kinds[0])}"
    return IN_WORDS.get(hint, f"of type {getattr(hint, '__name__', hint)}")
