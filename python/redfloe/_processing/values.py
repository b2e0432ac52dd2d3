"""State as JSON: Python's plain values to text and back, each as what it was.

What JSON has no word for is an object of one key that begins with ``$``: ``{"$datetime": "..."}``.
A dict with such a key, or with keys that are no text, is one too (``$dict``), so nothing is
ambiguous. Reading makes values of the types listed here, and nothing else: no class is looked up by
its name.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from redfloe._errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What JSON has as it is. By identity of the type: a subclass would not come back as one.
PLAIN = frozenset((str, int, bool, type(None)))

_MICROSECOND = timedelta(microseconds=1)

#: Made once: `json.dumps` makes another for each value.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(value: object, within: Callable[[object], object] | None = None) -> object:
    """Give what `json.dumps` can write for a value, and `decode` makes the same value of.

    Parameters
    ----------
    value
        What is to be written.
    within
        Asked about a value of another type: what to write in its place. It raises TypeError where
        it does not know either.
    """
    if type(value) in PLAIN:
        return value
    if type(value) is float:
        return value if isfinite(value) else {"$float": repr(value)}
    if type(value) is list:
        return [encode(item, within) for item in value]
    if type(value) is dict:
        return _dict(value, within)
    if (write := _WRITE.get(type(value))) is not None:
        return write(value, within)
    if within is not None:
        return within(value)
    raise TypeError(_unwritable(value))


def decode(text: bytes) -> Any:
    """Give the value of which `encode` has made this JSON."""
    try:
        return json.loads(text, object_hook=_object)
    except DecodeError:
        raise
    except (ValueError, TypeError, ArithmeticError, KeyError, OSError, RecursionError) as error:
        msg = f"it is not JSON as redfloe writes it: {error}"
        raise DecodeError(msg) from error


def dumps(encoded: object) -> bytes:
    """Give the JSON of what was encoded, compactly, and the same each time."""
    return _encode(encoded).encode()


def _unwritable(value: object) -> str:
    name = type(value).__name__
    match value:
        case Enum():
            return f"{name} is an Enum, which would come back as another type: store its .value"
        case _ if hasattr(value, "dtype"):
            return f"{name} is not a value of Python's: store int(...), float(...) or .to_list()"
    return (
        f"{name} cannot be state: JSON values, datetimes, Decimals, UUIDs, bytes, tuples and sets "
        "can; a frame, a dataclass or a pydantic model can under a name of its own"
    )


def _dict(value: dict[object, object], within: Callable[[object], object] | None) -> object:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: encode(item, within) for key, item in value.items()}
    return {"$dict": [[encode(key, within), encode(item, within)] for key, item in value.items()]}


def _datetime(value: datetime, _: object) -> object:
    match value.tzinfo:
        case None | timezone():
            return {"$datetime": value.isoformat()}
        case ZoneInfo(key=str() as key):
            return {"$datetime": [value.isoformat(), key]}
    msg = f"a datetime with the time zone {value.tzinfo!r} cannot be state: use UTC or a ZoneInfo"
    raise TypeError(msg)


def _read_datetime(value: object) -> datetime:
    match value:
        case [str() as text, str() as zone]:
            return datetime.fromisoformat(text).astimezone(ZoneInfo(zone))
        case str():
            return datetime.fromisoformat(value)
    msg = f"{value!r} is no datetime"
    raise ValueError(msg)


def _time(value: time, _: object) -> object:
    if value.tzinfo is not None and not isinstance(value.tzinfo, timezone):
        msg = "a time with a time zone that is no fixed offset cannot be state"
        raise TypeError(msg)
    return {"$time": value.isoformat()}


def _items(tag: str) -> Callable[[Any, Any], object]:
    return lambda value, within: {tag: [encode(item, within) for item in value]}


def _sorted(tag: str) -> Callable[[Any, Any], object]:
    """Write a set in one order, so that it is written again only when it changes."""
    return lambda value, within: {tag: sorted((encode(item, within) for item in value), key=dumps)}


_WRITE: dict[type, Callable[[Any, Callable[[object], object] | None], object]] = {
    tuple: _items("$tuple"),
    set: _sorted("$set"),
    frozenset: _sorted("$frozenset"),
    datetime: _datetime,
    date: lambda value, _: {"$date": value.isoformat()},
    time: _time,
    timedelta: lambda value, _: {"$microseconds": value // _MICROSECOND},
    Decimal: lambda value, _: {"$decimal": str(value)},
    UUID: lambda value, _: {"$uuid": str(value)},
    bytes: lambda value, _: {"$bytes": b64encode(value).decode()},
}

#: The types beside those of JSON.
TYPES = tuple(_WRITE)

_READ: dict[str, Callable[[Any], object]] = {
    "$float": lambda text: {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[text],
    "$dict": dict,
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$datetime": _read_datetime,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$microseconds": lambda number: number * _MICROSECOND,
    "$decimal": Decimal,
    "$uuid": UUID,
    "$bytes": lambda text: b64decode(text, validate=True),
}


def _object(members: dict[str, object]) -> object:
    if len(members) != 1:
        return members
    ((name, value),) = members.items()
    if not name.startswith("$"):
        return members
    if (read := _READ.get(name)) is None:
        msg = f"{name!r} is no type of state that this version of redfloe knows"
        raise DecodeError(msg)
    return read(value)
