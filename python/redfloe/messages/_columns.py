"""Values of events as columns have them, if they fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import polars as pl

from redfloe.messages._schema_of import fields_of

#: What columns of a duration count.
MICROSECOND = timedelta(microseconds=1)
#: What an Int64 holds, and a Duration.
_INTEGERS = range(-(2**63), 2**63)


class UnfitError(ValueError):
    """A value that its column cannot hold: Polars would round it, make it null, or panic."""


def native(value: Any, dtype: pl.DataType) -> Any:
    """Give a value as Polars takes it.

    Raises
    ------
    UnfitError
        The dtype cannot hold it.
    """
    match value:
        case Enum():
            return native(value.value, dtype)
        case UUID():
            return str(value)
        case datetime() if value.tzinfo is not None and dtype == pl.Datetime("us"):
            return value.astimezone(UTC).replace(tzinfo=None)
        case list() | tuple() | set() | frozenset() if isinstance(dtype, pl.List):
            return [native(item, _instance(dtype.inner)) for item in value]
        case None:
            return None
        case _ if isinstance(dtype, pl.Struct):
            get = value.get if isinstance(value, dict) else partial(getattr, value)
            names = (
                {}
                if isinstance(value, dict)
                else {one.name: one.attribute for one in fields_of(value.__class__)}
            )
            return {
                inner.name: native(get(names.get(inner.name, inner.name)), _instance(inner.dtype))
                for inner in dtype.fields
            }
    if not _fits(value, dtype):
        raise UnfitError
    return value


def _fits(value: Any, dtype: pl.DataType) -> bool:
    match value:
        case int():
            return dtype != pl.Int64 or value in _INTEGERS
        case timedelta():
            return value // MICROSECOND in _INTEGERS
        case Decimal() if isinstance(dtype, pl.Decimal):
            return value.is_finite() and _fits_decimal(value, dtype)
    return True


def _fits_decimal(value: Decimal, dtype: pl.Decimal) -> bool:
    """Whether it has no more digits than the dtype on both sides of the point."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "it is finite"
    if not any(digits):
        return True
    ends = next(place for place, digit in enumerate(reversed(digits)) if digit)
    whole = dtype.precision - dtype.scale
    return exponent + ends >= -dtype.scale and len(digits) + exponent <= whole


def _instance(dtype: Any) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def column_or_unfit(
    name: str, natives: list[Any], dtype: pl.DataType
) -> tuple[pl.Series, list[int]]:
    """Give values as a column, and the numbers of those that became null, as they do not fit."""
    try:
        column = pl.Series(name, natives, dtype=dtype, strict=False)
    except Exception:  # noqa: BLE001 - Polars has many, and one value is to blame
        natives = [_alone(value, dtype) for value in natives]
        column = pl.Series(name, natives, dtype=dtype, strict=False)
    if not column.null_count():
        return column, []
    nulls: list[int] = column.is_null().arg_true().to_list()
    return column, nulls


def _alone(value: Any, dtype: pl.DataType) -> Any:
    try:
        pl.Series([value], dtype=dtype, strict=False)
    except Exception:  # noqa: BLE001 - as above
        return None
    return value
