"""Single arguments, checked: numbers, times, texts and IDs."""

import reprlib
from collections.abc import Iterable
from datetime import timedelta
from operator import index
from typing import TypeAlias

import polars as pl

from redfloe._schema import as_text

Milliseconds: TypeAlias = int | timedelta

#: What no stream and no patience exceeds.
LARGEST = 2**63 - 1
#: Seconds whose milliseconds the server can add to the time of day.
_LONGEST = 2**62 // 1000


def natural(value: object, parameter: str) -> int:
    """Give a number that must not be negative."""
    try:
        if isinstance(value, bool):
            raise TypeError  # a flag that was meant for another parameter
        number = index(value)  # type: ignore[arg-type]  # a refusal is what the except is for
    except TypeError:
        msg = f"{parameter} must be int, not {type(value).__name__}"
        raise TypeError(msg) from None
    if number < 0:
        msg = f"{parameter} must not be negative, but is {number}"
        raise ValueError(msg)
    return min(number, LARGEST)  # which no stream and no patience exceeds


def optional(value: object, parameter: str) -> int | None:
    """Give a number that must not be negative, or None."""
    return None if value is None else natural(value, parameter)


def milliseconds(value: Milliseconds, parameter: str) -> int:
    """Give whole milliseconds, no fewer than a timedelta has."""
    if isinstance(value, timedelta):
        # Minus the least timedelta is none.
        whole, rest = divmod(value, timedelta(milliseconds=1))
        value = whole + bool(rest)
    try:
        return natural(value, parameter)
    except TypeError:
        msg = f"{parameter} must be int (milliseconds) or a timedelta, not {type(value).__name__}"
        raise TypeError(msg) from None


def optional_milliseconds(value: Milliseconds | None, parameter: str) -> int | None:
    """Give whole milliseconds, no fewer than a timedelta has, or None."""
    return None if value is None else milliseconds(value, parameter)


def positive(value: object, parameter: str) -> int | None:
    """Give a number that must be at least 1, or None."""
    number = optional(value, parameter)
    if number == 0:
        msg = f"{parameter} must be at least 1"
        raise ValueError(msg)
    return number


def milliseconds_of_seconds(seconds: object, parameter: str) -> int:
    """Give whole milliseconds of a number of seconds or a timedelta."""
    match seconds:
        case timedelta():
            return seconds // timedelta(milliseconds=1)
        case int() | float() if not isinstance(seconds, bool):
            # Neither is true of NaN.
            if -_LONGEST < seconds < _LONGEST:
                return round(seconds * 1000)
            msg = f"{parameter} must be a number of seconds, not {repr_of(seconds)}"
            raise ValueError(msg)
    msg = f"{parameter} must be a number of seconds or a timedelta, not {type(seconds).__name__}"
    raise TypeError(msg)


def not_negative(seconds: object, parameter: str) -> None:
    """Refuse what is no number of seconds, such as a flag that was meant for another parameter."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        msg = f"{parameter} must be a number of seconds, not {type(seconds).__name__}"
        raise TypeError(msg)
    if not seconds >= 0:  # nor NaN
        msg = f"{parameter} must not be negative, but is {repr_of(seconds)}"
        raise ValueError(msg)


def one_of(value: object, parameter: str, *allowed: str) -> None:
    """Refuse what is not one of a few texts."""
    if not isinstance(value, str) or value not in allowed:
        *others, last = (f'"{one}"' for one in allowed)
        msg = f"{parameter} must be {', '.join(others)} or {last}, not {repr_of(value)}"
        raise ValueError(msg)


def repr_of(value: object) -> str:
    """Show a value in a message, and not all of one that is long."""
    return reprlib.repr(value)


def refuse_frame(value: object, parameter: str, what: str = "IDs", column: str = "_id") -> None:
    """Refuse a frame where IDs are wanted, say: iterating over it gives its columns."""
    if isinstance(value, pl.DataFrame | pl.LazyFrame):
        kind = type(value).__name__
        msg = f'{parameter} must be {what}, not a {kind}; pass its column, frame["{column}"]'
        raise TypeError(msg)


def as_ids(entry_ids: Iterable[str] | pl.Series) -> list[str]:
    """Give several IDs as a list; one alone is refused, whose letters would be taken for IDs."""
    if isinstance(entry_ids, str | bytes):
        msg = "entry_ids must be several IDs, such as [entry_id]"
        raise TypeError(msg)
    refuse_frame(entry_ids, "entry_ids")
    return [as_text(entry_id, "entry_ids") for entry_id in entry_ids]


def as_key(value: object, parameter: str) -> bytes:
    """Give the name of a key, a group or a consumer as the server knows it."""
    match value:
        case str():
            return value.encode()
        case bytes():
            return value
    msg = f"{parameter} must be str or bytes, not {type(value).__name__}"
    raise TypeError(msg)
