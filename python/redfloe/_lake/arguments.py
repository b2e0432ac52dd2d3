"""The arguments of an archive, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from redfloe._checks import as_key, milliseconds
from redfloe._schema import as_text
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redfloe._arguments import Streams

#: A span of time, ``"90s"``, ``"1h30m"``, ``"7d"``, or a timedelta.
Span: TypeAlias = str | timedelta

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN = re.compile(r"(?:\d+(?:ms|s|m|h|d|w))+")
_PART = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def span(value: object, parameter: str) -> int:
    """Give the milliseconds of a span of time.

    Raises
    ------
    ValueError, TypeError
        It is none; the message names the parameter.
    """
    if isinstance(value, timedelta):
        whole = milliseconds(value, parameter)
    elif isinstance(value, str):
        if _SPAN.fullmatch(value) is None:
            msg = f'{parameter} is a span of time, such as "30s", "1h30m" or "7d", not {value!r}'
            raise ValueError(msg)
        whole = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    else:
        msg = f"{parameter} must be str or a timedelta, not {type(value).__name__}"
        raise TypeError(msg)
    if whole == 0:
        msg = f"{parameter} must be longer than 0 s"
        raise ValueError(msg)
    return whole


def keys_of(stream: Streams) -> list[bytes]:
    """Give the keys of one stream, or of several."""
    if isinstance(stream, str | bytes):
        return [as_key(stream, "stream")]
    keys = [as_key(key, "each of several streams") for key in stream]
    if not keys:
        msg = "stream names no stream"
        raise ValueError(msg)
    names: set[str] = set()
    for name in map(readable, keys):
        if name in names:
            msg = f"two of the streams are called {name!r}: an archive tells them apart by that"
            raise ValueError(msg)
        names.add(name)
    return keys


def parts_of(partition_by: str | Sequence[str] | None) -> tuple[str, ...]:
    """Give the names of the partitions' values."""
    given: Any = partition_by
    if given is None:
        return ()
    if not isinstance(given, Iterable):
        msg = f"partition_by must be str, several of them or None, not {type(given).__name__}"
        raise TypeError(msg)
    given = [given] if isinstance(given, str) else given
    parts = tuple(as_text(part, "partition_by") for part in given)
    if len({*parts}) < len(parts):
        msg = f"partition_by names a column twice: {list(parts)}"
        raise ValueError(msg)
    return parts
