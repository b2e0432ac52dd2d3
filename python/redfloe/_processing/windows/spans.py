"""Lengths of windows, as Polars writes them: ``"1h30m"``, ``"1mo"``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import polars as pl

_PART = re.compile(r"([0-9]+)(ns|us|ms|s|mo|m|h|d|w|q|y)")
_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
}
_DAY = 24 * _NS["h"]
_MONTHS = {"mo": 1, "q": 3, "y": 12}
#: Polars counts a datetime's units by 64 bits.
_LONGEST = 2**62


@dataclass(frozen=True)
class Span:
    """A length of time: months are as long as they are, and days as they are in their zone."""

    months: int = 0
    weeks: int = 0
    days: int = 0
    ns: int = 0

    @property
    def text(self) -> str:
        """It as Polars takes it."""
        return self.times(1)

    def times(self, number: int) -> str:
        """Give that many of it, as Polars takes it; they may be less than none."""
        # The largest unit that it is a multiple of, for people.
        unit = next(unit for unit in ("h", "m", "s", "ms", "us", "ns") if self.ns % _NS[unit] == 0)
        parts = [(self.months, "mo"), (self.weeks, "w"), (self.days, "d")]
        parts.append((self.ns // _NS[unit], unit))
        text = "".join(f"{abs(number) * n}{unit}" for n, unit in parts if n) or "0ns"
        return f"-{text}" if number < 0 else text

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same everywhere and always, in UTC at least."""
        return self.months == 0

    def shortest(self) -> int:
        """Give the nanoseconds that it has at least."""
        return self._ns(28, _DAY - _NS["h"])

    def longest(self) -> int:
        """Give the nanoseconds that it has at most."""
        return self._ns(31, _DAY + _NS["h"])

    def fixed_ns(self) -> int:
        """Give the nanoseconds that it has where each day has as many."""
        return self._ns(0, _DAY)

    def _ns(self, month: int, day: int) -> int:
        return (self.months * month + self.weeks * 7 + self.days) * day + self.ns


def as_span(value: object, parameter: str) -> Span:
    """Check a length, which is more than none."""
    span = _span(value, parameter)
    if span == Span():
        msg = f"{parameter} must be more than 0"
        raise ValueError(msg)
    return span


def as_fixed(value: object, parameter: str, *, least: int = 0) -> int:
    """Check a length that is always the same; give its nanoseconds."""
    span = _span(value, parameter)
    if not span.is_fixed:
        msg = f"{parameter} cannot be in months, which differ: {value!r}"
        raise ValueError(msg)
    ns = span.fixed_ns()
    if ns < least:
        msg = f"{parameter} must be at least {'a millisecond' if least else '0'}, not {value!r}"
        raise ValueError(msg)
    return ns


def _span(value: object, parameter: str) -> Span:
    match value:
        case str() if value and "".join(f"{n}{unit}" for n, unit in _PART.findall(value)) == value:
            parts = [(int(n), unit) for n, unit in _PART.findall(value)]
            made = Span(
                months=sum(n * _MONTHS.get(unit, 0) for n, unit in parts),
                weeks=sum(n for n, unit in parts if unit == "w"),
                days=sum(n for n, unit in parts if unit == "d"),
                ns=sum(n * _NS.get(unit, 0) for n, unit in parts),
            )
        case timedelta() if value >= timedelta():
            ns = (value - timedelta(value.days)) // timedelta(microseconds=1) * 1_000
            made = Span(days=value.days, ns=ns)
        case int() if not isinstance(value, bool) and value >= 0:
            made = Span(ns=value * _NS["ms"])
        case str() | int() | timedelta():
            msg = (
                f"{parameter} must be a duration as Polars writes it, such as '1m' or '1h30m', not "
                f"{value!r}"
            )
            raise ValueError(msg)
        case _:
            msg = (
                f"{parameter} must be a duration such as '1m', a timedelta or a number of "
                f"milliseconds, not {type(value).__name__}"
            )
            raise TypeError(msg)
    if made.longest() > _LONGEST:
        msg = f"{parameter} is longer than a datetime can tell: {value!r}"
        raise ValueError(msg)
    return made


def check_every(span: Span) -> None:
    """Refuse what Polars does not truncate times to."""
    if (why := _remembered(span.text)) is not None:
        msg = f"every is no length to which Polars truncates: {why}"
        raise ValueError(msg)


def _refusal(every: str) -> str | None:
    try:
        pl.Series([datetime(2024, 1, 1, tzinfo=UTC)]).dt.truncate(every)
    except pl.exceptions.PolarsError as error:
        return str(error)
    return None


#: A window is declared anew with each batch.
_remembered = lru_cache(maxsize=256)(_refusal)
