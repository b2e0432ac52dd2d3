"""What a window is made of, as it was declared, and for rows of a certain schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe._errors import SchemaError
from redfloe._processing.table import table_request
from redfloe._processing.windows.spans import Span, as_fixed, as_span, check_every
from redfloe._schema import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redfloe._processing.table import TableRequest
    from redfloe._processing.windows.aggregates import Aggregate
    from redfloe._schema import Dtype

#: The columns of a window's boundaries, as Polars' `group_by_dynamic` names them.
LOWER, UPPER = "_lower_boundary", "_upper_boundary"
#: The column of event times where it has been prepared; no name that a field would have.
TIME = "\0time"
#: In how many windows a row may be.
_MOST = 1_000
_MS = 1_000_000
NS_PER = {"ms": 1_000_000, "us": 1_000, "ns": 1}
_UNITS = {"ms": "milliseconds", "us": "microseconds"}


@dataclass(frozen=True)
class Declared:
    """A window as it was declared; without a look at the rows."""

    every: Span | None
    period: Span | None
    #: Nanoseconds, of a session.
    gap: int | None
    by: tuple[str, ...]
    aggs: dict[str, pl.Expr]
    time: str
    #: Nanoseconds.
    lateness: int | None
    #: Milliseconds.
    idle_close: int | None
    close_at_end: bool

    def columns(self) -> list[str]:
        """Name the columns of rows that it looks at."""
        roots = [name for one in self.aggs.values() for name in one.meta.root_names()]
        return [*dict.fromkeys([self.time, *self.by, *roots])]

    def is_like(self, other: Declared) -> bool:
        """Whether the two say the same."""
        mine, others = self.__dict__, other.__dict__
        return (
            all(mine[name] == others[name] for name in mine if name != "aggs")
            and [*self.aggs] == [*other.aggs]
            and all(self.aggs[name].meta.eq(other.aggs[name]) for name in self.aggs)
        )


def declare(
    every: object,
    period: object,
    gap: object,
    by: str | Sequence[str],
    aggs: Mapping[str, object],
    time: str,
    lateness: object,
    idle_close: object,
    close_at_end: object,
) -> Declared:
    """Check and normalise what a window is declared by."""
    if (every is None) == (gap is None):
        msg = "a window has either every, or gap for sessions"
        raise ValueError(msg)
    if gap is not None and period is not None:
        msg = "period belongs to every; a session is as long as it is"
        raise ValueError(msg)
    names = (by,) if isinstance(by, str) else tuple(as_text(name, "by") for name in by)
    if len({*names}) < len(names):
        msg = f"by names a column twice: {[*names]}"
        raise ValueError(msg)
    for name in names:
        if name == "*" or (name.startswith("^") and name.endswith("$")):
            msg = f"by names a column that Polars takes for a pattern: {name!r}; rename it"
            raise ValueError(msg)
    if not aggs:
        msg = "aggs must be a mapping of names to expressions, at least one: {'n': pl.len()}"
        raise ValueError(msg)
    taken, made = {LOWER, UPPER, *names}, {}
    for name, expression in aggs.items():
        if as_text(name, "the name of an aggregate") in taken:
            msg = f"an aggregate has the name of another column of the window: {name!r}"
            raise ValueError(msg)
        if not isinstance(expression, pl.Expr):
            msg = f"the aggregate {name!r} must be an expression, not {type(expression).__name__}"
            raise TypeError(msg)
        made[name] = expression
    length = None if every is None else as_span(every, "every")
    if length is not None:
        check_every(length)
    declared = Declared(
        every=length,
        period=length if period is None else as_span(period, "period"),
        gap=None if gap is None else as_fixed(gap, "gap", least=_MS),
        by=names,
        aggs=made,
        time=as_text(time, "time"),
        lateness=None if lateness is None else as_fixed(lateness, "lateness"),
        idle_close=None
        if idle_close is None
        else as_fixed(idle_close, "idle_close", least=_MS) // _MS,
        close_at_end=bool(close_at_end),
    )
    _hops(declared)
    return declared


def _hops(declared: Declared) -> int:
    """Give in how many windows a row is at most."""
    every, period = declared.every, declared.period
    if every is None or period is None or every == period:
        return 1
    hops = -(-period.longest() // every.shortest())
    if hops > _MOST:
        msg = f"a row would be in {hops:,} windows: period is at most {_MOST:,} times every"
        raise ValueError(msg)
    return hops


@dataclass(frozen=True)
class Definition:
    """A window for rows of a certain schema."""

    declared: Declared
    #: Of the columns that it looks at.
    rows: pl.Schema
    #: The dtype of boundaries.
    boundary: pl.Datetime
    #: The columns that are kept of the open windows, beside `LOWER`, `UPPER` and `by`.
    partials: pl.Schema
    aggregates: tuple[Aggregate, ...]
    #: What is given of windows.
    finals: tuple[pl.Expr, ...]
    #: No windows, as they are given.
    nothing: pl.DataFrame

    @cached_property
    def by(self) -> list[str]:
        """The columns by which rows are kept apart."""
        return [*self.declared.by]

    @cached_property
    def key(self) -> list[str]:
        """The columns by which windows are told apart."""
        return [LOWER, *self.by]

    @cached_property
    def hops(self) -> int:
        """In how many windows a row is at most."""
        return _hops(self.declared)

    @cached_property
    def is_ordered(self) -> bool:
        """Whether it matters which row is the first."""
        return any(name.endswith(":at") for name in self.partials)

    @cached_property
    def adds(self) -> bool:
        """Whether partial rows are merged by adding them."""
        return all(part.adds for one in self.aggregates for part in one.partials)

    @cached_property
    def ns(self) -> int:
        """The nanoseconds of a unit of time."""
        return NS_PER[self.boundary.time_unit]

    def key_schema(self) -> dict[str, Dtype]:
        """Give the dtypes of the key."""
        return {LOWER: self.boundary, **{name: self.rows[name] for name in self.by}}

    def value_schema(self) -> dict[str, Dtype]:
        """Give the dtypes of what is kept."""
        return {UPPER: self.boundary, **self.partials}

    @cached_property
    def request(self) -> TableRequest:
        """The table of its open windows."""
        columns = {**self.key_schema(), **self.value_schema()}
        return table_request(self.key, columns, null_keys=True)

    @cached_property
    def text(self) -> dict[str, Any]:
        """Say what it is, to be compared with what a window was before.

        What may change while windows are open is not among it: lateness, and when they close.
        """
        declared = self.declared
        return {
            "every": declared.every and declared.every.text,
            "period": declared.period and declared.period.text,
            "gap": declared.gap,
            "by": {name: _shown(self.rows[name]) for name in self.by},
            "time": [declared.time, _shown(self.boundary)],
            "aggs": {made.name: made.text for made in self.aggregates},
            "partials": {name: _shown(dtype) for name, dtype in self.partials.items()},
        }


def define(declared: Declared, schema: pl.Schema) -> Definition:
    """Look at what a window is declared by, for rows of a schema.

    Raises
    ------
    ValueError
        An aggregate cannot be put together from parts; the message names it.
    SchemaError
        There is no such column, or it has no such dtype.
    """
    from redfloe._processing.windows.aggregates import aggregate, dtypes_of

    for name in (declared.time, *declared.by):
        if name not in schema:
            msg = f"there is no column {name!r}, which the window names; the rows have {[*schema]}"
            raise SchemaError(msg)
    frame = pl.DataFrame(schema=schema)

    def dtype_of(expression: pl.Expr) -> Dtype:
        return dtypes_of(frame, [], {"x": expression})["x"]

    time = pl.col(TIME)
    made = tuple(
        aggregate(name, expression, time, dtype_of) for name, expression in declared.aggs.items()
    )
    boundary = _boundary(declared.time, schema[declared.time])
    _check_lengths(declared, boundary)
    timed = frame.with_columns(pl.lit(None, boundary).alias(TIME))
    new = {part.name: part.new for one in made for part in one.partials}
    if taken := {*new} & {*declared.by}:
        msg = f"a column of `by` has the name of one that is kept: {taken.pop()!r}; rename it"
        raise ValueError(msg)
    partials = dtypes_of(timed, [*declared.by], new)
    for name in declared.by:
        del partials[name]
    wanted = dtypes_of(frame, [*declared.by], declared.aggs)
    finals = tuple(one.final.cast(wanted[one.name]).alias(one.name) for one in made)
    needed = pl.Schema({name: schema[name] for name in declared.columns() if name in schema})
    given = {name: needed[name] for name in declared.by} | {
        name: wanted[name] for name in declared.aggs
    }
    nothing = pl.DataFrame(schema={LOWER: boundary, UPPER: boundary, **given})
    return Definition(declared, needed, boundary, partials, made, finals, nothing)


def _boundary(name: str, dtype: Dtype) -> pl.Datetime:
    match dtype:
        case pl.Int64():
            return pl.Datetime("ms", "UTC")
        case pl.Datetime():
            return dtype
    msg = (
        f"the window's time {name!r} must be a Datetime, or Int64 milliseconds, and is {dtype}; "
        "cast it"
    )
    raise SchemaError(msg)


def _check_lengths(declared: Declared, boundary: pl.Datetime) -> None:
    """Refuse lengths of which the times, and so the boundaries, cannot tell a part."""
    lengths = {
        "every": declared.every and declared.every.ns,
        "period": declared.period and declared.period.ns,
        "gap": declared.gap,
        "lateness": declared.lateness,
    }
    for parameter, ns in lengths.items():
        if ns and ns % NS_PER[boundary.time_unit]:
            unit = _UNITS[boundary.time_unit]
            msg = (
                f"{parameter} must be whole {unit}, as the times of {declared.time!r} are: cast "
                f"them to pl.Datetime({_finer(ns)!r})"
            )
            raise ValueError(msg)


def _finer(ns: int) -> str:
    return "ns" if ns % NS_PER["us"] else "us"


def _shown(dtype: Dtype) -> str:
    # How many digits a sum of Decimals has differs between Polars' versions.
    return f"Decimal({dtype.scale})" if isinstance(dtype, pl.Decimal) else str(dtype)
