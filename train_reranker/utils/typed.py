"""JSON values as the records that annotations describe, each value checked: a file may hold anything."""

from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
LARGEST = 2**63  # numbers are smaller
_PLAIN: dict[Any, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


def typed(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value as ``kind``: a plain type, an enum, ``list``, ``tuple``, ``dict``, ``| None``, or a record.

    A record with a ``from_json`` reads itself, any other is read by :func:`record`. ValueError, beginning with
    ``where``, if the value is of another kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and origin is UnionType and NoneType in arguments):
        return value
    if origin is UnionType:
        return typed(arguments[0], value, where)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(typed(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind in _PLAIN and type(value) in _PLAIN[kind] and not (type(value) is int and abs(value) >= LARGEST):
        return value
    if isinstance(kind, type) and issubclass(kind, Enum) and value in list(kind):
        return kind(value)
    if hasattr(kind, "from_json"):
        if isinstance(value, dict):
            return kind.from_json(value)
    elif isinstance(value, dict | list) and (is_dataclass(kind) or hasattr(kind, "_fields")):
        return record(kind, value, where)
    raise ValueError(f"{where} must be {getattr(kind, '__name__', kind)}, not {type(value).__name__}")


def record(kind: type[T], value: dict[str, Any] | list[Any], where: str) -> T:
    """Return the dataclass or named tuple that an object holds, or a list, of a named tuple's fields in order.

    A missing field takes its default, an unknown one is left out. ValueError as :func:`typed`, also for a lack.
    """
    names = (
        [each.name for each in fields(kind) if each.init] if is_dataclass(kind) else list(getattr(kind, "_fields", ()))
    )
    values = value if isinstance(value, dict) else dict(zip(names, value, strict=True))
    hints = get_type_hints(kind)
    found = {name: typed(hints[name], values[name], f"{where}.{name}") for name in names if name in values}
    try:
        return kind(**found)
    except TypeError as error:  # a field that has no default is missing
        raise ValueError(f"{where}: {error}") from None
