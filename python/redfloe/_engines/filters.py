"""An engine's filters as predicates, of which the range of entry IDs is known.

What is not understood here is None and says nothing: the engine filters again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import and_, eq, ge, gt, le, lt
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redfloe._arguments import Request

_OPERATORS: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "==": eq,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}
_MIRRORED = {"==": "==", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Column(str):
    """A column in a filter, unlike a text."""

    __slots__ = ()


class Literal:
    """A value in a filter."""

    def __init__(self, value: object) -> None:
        self.value = value


class Filters:
    """Predicates on the columns of IDs, of streams, and of milliseconds, which are numbers."""

    def __init__(self, request: Request) -> None:
        self._id, self._timestamp = request["id_column"], request["timestamp_column"]
        self._stream = request["stream_column"]
        self._dtype: pl.DataType = request["timestamp_type"]["timestamp_dtype"]

    def compared(self, left: object, operator: str, right: object) -> pl.Expr | None:
        """Read a comparison of a column with a value, either way round."""
        match left, right:
            case Column(), Literal():
                return self._compared(left, operator, right.value)
            case Literal(), Column():
                return self._compared(right, _MIRRORED[operator], left.value)
        return None

    def contained(self, column: object, values: Iterable[object]) -> pl.Expr | None:
        """Read a test whether a column has one of some values."""
        values = list(values)
        if not isinstance(column, Column) or not values:
            return None
        if all(isinstance(value, str) for value in values):
            return pl.col(column).is_in(values) if column in (self._id, self._stream) else None
        try:
            least, most = min(values), max(values)  # type: ignore[type-var]  # which may be refused
        except TypeError:  # of which there is no order, as of nulls
            return None
        return both(self._compared(column, ">=", least), self._compared(column, "<=", most))

    def _compared(self, column: str, operator: str, value: object) -> pl.Expr | None:
        compare = _OPERATORS[operator]
        match value:
            case str() if column in (self._id, self._stream):
                return compare(pl.col(column), pl.lit(value))
            case bool():
                return None
            case int() | float() if column == self._timestamp and self._dtype == pl.Int64:
                return compare(pl.col(column), pl.lit(value))
            case datetime() if column == self._timestamp and _is_like(value, self._dtype):
                aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
                millis, rest = divmod(aware - _EPOCH, _MILLISECOND)
                if operator == "==" and rest:
                    return pl.lit(value=False)
                return compare(
                    pl.col(column), pl.lit(millis + bool(rest and operator in {"<", ">="}))
                )
        return None


def _is_like(time: datetime, dtype: pl.DataType) -> bool:
    """Whether all engines compare such a time with such a column alike."""
    has_zone = time.tzinfo is not None
    if not isinstance(dtype, pl.Datetime) or (dtype.time_zone is not None) != has_zone:
        return False
    return not getattr(time, "nanosecond", 0)  # as pandas has


def both(left: pl.Expr | None, right: pl.Expr | None) -> pl.Expr | None:
    """Give what must both be so; one that is not understood leaves the other."""
    known = [part for part in (left, right) if part is not None]
    return reduce(and_, known) if known else None


def either(left: pl.Expr | None, right: pl.Expr | None) -> pl.Expr | None:
    """Give what must be one or the other; one that is not understood may be anything."""
    return None if left is None or right is None else left | right
