"""Entry IDs as callers write them: texts, milliseconds, dates and datetimes."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

EntryIdLike: TypeAlias = str | int | datetime | date

_DAY = timedelta(days=1)
_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: How an ISO 8601 date begins, and no entry ID.
_ISO = re.compile(r"\d{4}-\d\d-\d\d")
_LARGEST = 2**64 - 1


def entry_id(value: object, parameter: str, *, round_up: bool) -> str:
    """Give the ID's text.

    A datetime, or its ISO 8601 text, means its millisecond, and is UTC where it is naive. A date
    means its day in UTC: for the first millisecond where a range begins (`round_up`), for
    the last where it ends. An int is milliseconds.
    """
    match _time_of(value, parameter):
        case None:
            pass
        case datetime() as time:
            aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
            # Not timestamp(), whose float is off by microseconds for dates far from the epoch.
            since_epoch = aware - _EPOCH
            millis, rest = divmod(since_epoch, _MS)
            return _milliseconds(millis + 1 if round_up and rest else millis, value, parameter)
        case day:
            begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - _EPOCH
            return _milliseconds((begin if round_up else begin + _DAY - _MS) // _MS, day, parameter)
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool):
            if 0 <= value <= _LARGEST:
                return str(value)
            msg = f"{parameter} must be milliseconds within 64 bits, not {value}"
            raise ValueError(msg)
    msg = f"{parameter} must be str, int, date or datetime, not {type(value).__name__}"
    raise TypeError(msg)


def group_start(value: EntryIdLike, parameter: str) -> str:
    """Give the ID after which a group begins; a time is that of the first entry wanted."""
    text = entry_id(value, parameter, round_up=True)
    if _time_of(value, parameter) is None or text == "0":
        return text
    return f"{int(text) - 1}-{_LARGEST}"


def _time_of(value: object, parameter: str) -> datetime | date | None:
    match value:
        case date() if value != value:  # noqa: PLR0124 - as only pandas' NaT is
            msg = f"{parameter} is {value}, and no time"
            raise ValueError(msg)
        case date():  # which a datetime is
            return value
        case str() if _ISO.match(value):
            try:
                if len(value) == len("2024-01-31"):
                    return date.fromisoformat(value)
                return datetime.fromisoformat(value)
            except ValueError as error:
                msg = (
                    f"{parameter} {value[:100]!r} begins like a date, but is no ISO 8601, such as "
                    f"2024-01-31 or 2024-01-31T12:30:00+01:00: {error}"
                )
                raise ValueError(msg) from None
    return None


def _milliseconds(millis: int, value: object, parameter: str) -> str:
    if millis < 0:
        msg = f"{parameter} is before 1970, which no entry ID can be: {value}"
        raise ValueError(msg)
    return str(millis)
