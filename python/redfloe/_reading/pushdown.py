"""A Polars predicate to the range of entry IDs that can hold its rows.

A predicate reads as JSON, whose nodes are Polars' own and may change with any version: a node that
is not known here says nothing about IDs. The range is wide enough, never exact: the rows have to be
filtered again.
"""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import ceil, floor
from operator import and_
from typing import Any, TypeAlias

import polars as pl

EntryIdPair: TypeAlias = tuple[int, int]
Bounds: TypeAlias = tuple[EntryIdPair, EntryIdPair]
Node: TypeAlias = Any  # what JSON holds

_LARGEST = 2**64 - 1
_FIRST: EntryIdPair = (0, 0)
_LAST: EntryIdPair = (_LARGEST, _LARGEST)
EVERYTHING: Bounds = (_FIRST, _LAST)
NOTHING: Bounds = (_LAST, _FIRST)

_LARGEST_I64 = 2**63 - 1
#: Below it floats are exact, wherever Polars compares integers as such.
_EXACT_FLOAT = 2**53
_ENTRY_ID = re.compile(r"(0|[1-9][0-9]*)-(0|[1-9][0-9]*)")
_PER_MS = {"Milliseconds": 1, "Microseconds": 1_000, "Nanoseconds": 1_000_000}
_UNITS = {"ms": "Milliseconds", "us": "Microseconds", "ns": "Nanoseconds"}
_MIRRORED = {"Eq": "Eq", "Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq"}


@dataclass(frozen=True)
class _Instant:
    """An expression whose value is the entry's millisecond times `per_ms`."""

    kind: str  # "int", "float" or a datetime's unit
    per_ms: int
    largest_ms: int = _LARGEST  # beyond it a product overflows, and wraps around

    def scaled(self, factor: int) -> "_Instant":
        per_ms = self.per_ms * factor
        return replace(self, per_ms=per_ms, largest_ms=min(self.largest_ms, _LARGEST_I64 // per_ms))

    def cast(self, dtype: Node) -> "_Instant | None":
        """Follow a cast that keeps order and value; None for another."""
        match dtype:
            case "Int64" | "Int128" if self.kind != "float":
                return replace(self, kind="int")
            case "Float64" | {"Unknown": "Float"}:
                return replace(self, kind="float")
            case {"Datetime": [str() as unit, _]} if self.kind == "int" and unit in _PER_MS:
                return replace(self, kind=unit)  # the number counts in whatever the unit is
            case {"Datetime": [str() as unit, _]} if self.kind in _PER_MS and unit in _PER_MS:
                # An overflow is null here, or an error, unlike that of a product.
                per_ms, lost = divmod(self.per_ms * _PER_MS[unit], _PER_MS[self.kind])
                return None if lost else replace(self, kind=unit, per_ms=per_ms)
        return None

    def at_least(self, value: float, *, exclusive: bool) -> Bounds:
        exact = Fraction(value) / self.per_ms
        ms = floor(exact) + 1 if exclusive else ceil(exact)
        # What overflows may match too.
        return max(_FIRST, (min(ms, self.largest_ms + 1), 0)), _LAST

    def at_most(self, value: float, *, exclusive: bool) -> Bounds:
        if self.largest_ms < _LARGEST:
            return EVERYTHING
        exact = Fraction(value) / self.per_ms
        ms = ceil(exact) - 1 if exclusive else floor(exact)
        return _FIRST, min(_LAST, (ms, _LARGEST))


@dataclass(frozen=True)
class _Columns:
    id_column: str | None
    timestamp_column: str | None
    timestamp: _Instant

    def is_id(self, node: Node) -> bool:
        return self.id_column is not None and node == {"Column": self.id_column}

    def instant(self, node: Node) -> _Instant | None:
        """Read an expression of the timestamp that keeps its order."""
        match node:
            case {"Column": str() as name} if name == self.timestamp_column:
                return self.timestamp
            case {"Cast": {"expr": inner, "dtype": {"Literal": dtype}}}:
                instant = self.instant(inner)
                return None if instant is None else instant.cast(dtype)
            case {
                "BinaryExpr": {
                    "left": inner,
                    "op": "Multiply",
                    "right": {"Literal": {"Scalar": {"Int64": int() as factor}}},
                }
            } if factor > 0:  # how pl.from_epoch comes to its unit
                instant = self.instant(inner)
                return instant.scaled(factor) if instant and instant.kind == "int" else None
        return None


def id_bounds(
    predicate: pl.Expr,
    *,
    id_column: str | None,
    timestamp_column: str | None,
    timestamp_dtype: pl.DataType,
) -> Bounds:
    """Say which entries can be among a predicate's rows.

    Parameters
    ----------
    predicate
        What Polars passes to an IO source.
    id_column, timestamp_column
        The columns of IDs and of their milliseconds; None for one that is not read.
    timestamp_dtype
        Int64 or a Datetime: Polars compares a datetime with a number in the column's unit.

    Returns
    -------
    tuple
        The first and the last ID, both inclusive, as (milliseconds, sequence number). All IDs where
        nothing is known; the first is after the last where no entry can match.
    """
    try:
        columns = _Columns(id_column, timestamp_column, _timestamp(timestamp_dtype))
        return _bounds(as_tree(predicate), columns)
    # To read too much is right, to fail is not: what cannot be serialised or evaluated here is for
    # the filter to evaluate, or to raise an error about.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return EVERYTHING


def without_dynamic(predicate: pl.Expr) -> pl.Expr | None:
    """Take out the conjuncts that no filter can evaluate; None if nothing else is left.

    Polars 1.39 to 1.43 add such a `dynamic_pred` to what they push below a top-k, and a filter by
    it panics (https://github.com/pola-rs/polars/issues/28629). It is a hint: the top-k itself sees
    to it that only its rows remain.
    """
    if "dynamic_pred" not in str(predicate):
        return predicate
    match as_tree(predicate):
        case {"Display": {"fmt_str": str() as text}} if text.startswith("dynamic_pred"):
            return None
        case {"BinaryExpr": {"op": "And" | "LogicalAnd"}}:
            # Not rebuilt from JSON, which has no NaN and no infinity.
            parts = map(without_dynamic, reversed(predicate.meta.pop()))
            kept = [part for part in parts if part is not None]
            return reduce(and_, kept) if kept else None
    return predicate


def as_tree(expression: pl.Expr) -> Node:
    """Read the nodes, without aliases, which change no value."""
    text = expression.meta.serialize(format="json")
    return json.loads(text, object_hook=lambda node: node["Alias"][0] if "Alias" in node else node)


def instant_of(node: Node, timestamp_column: str) -> _Instant | None:
    """Read an expression of an integer timestamp; None for another."""
    return _Columns(None, timestamp_column, _timestamp(pl.Int64())).instant(node)


def _timestamp(dtype: pl.DataType) -> _Instant:
    match dtype:
        case pl.Datetime():
            unit = _UNITS[dtype.time_unit]
            return _Instant(unit, _PER_MS[unit])
        case pl.Int64():
            return _Instant("int", 1)
    raise TypeError(dtype)


def _bounds(node: Node, columns: _Columns) -> Bounds:
    match node:
        case {"BinaryExpr": {"left": left, "op": "And" | "LogicalAnd", "right": right}}:
            return _both(_bounds(left, columns), _bounds(right, columns))
        case {"BinaryExpr": {"left": left, "op": "Or" | "LogicalOr", "right": right}}:
            return _either(_bounds(left, columns), _bounds(right, columns))
        case {"Ternary": {"truthy": truthy, "falsy": falsy}}:
            return _either(_bounds(truthy, columns), _bounds(falsy, columns))
        case {"Literal": {"Scalar": {"Boolean": False} | {"Null": _}}}:
            return NOTHING
        case {"BinaryExpr": {"left": left, "op": str() as op, "right": right}} if op in _MIRRORED:
            mirrored = _compared(right, _MIRRORED[op], left, columns)
            return _both(_compared(left, op, right, columns), mirrored)
        case {"Function": {"input": [value, *others], "function": {"Boolean": function}}}:
            match function, others:
                case {"IsBetween": {"closed": closed}}, [low, high]:
                    above = "Gt" if closed in ("Right", "None") else "GtEq"
                    below = "Lt" if closed in ("Left", "None") else "LtEq"
                    at_least = _compared(value, above, low, columns)
                    return _both(at_least, _compared(value, below, high, columns))
                case {"IsIn": {"nulls_equal": bool() as nulls_equal}}, [values]:
                    return _contained(value, values, columns, nulls_equal=nulls_equal)
    return EVERYTHING


def _compared(value: Node, op: str, operand: Node, columns: _Columns) -> Bounds:
    if columns.is_id(value):
        # Nothing but equality: as text "9-0" is more than "10-0".
        return _hull_of_ids(constant(operand)) if op == "Eq" else EVERYTHING
    if (instant := columns.instant(value)) is None:
        return EVERYTHING
    numbers = _comparable(constant(operand), instant)
    if numbers is None or len(numbers) != 1:
        return EVERYTHING
    if (number := numbers[0]) is None:  # no comparison with null is true
        return NOTHING
    bounds = EVERYTHING
    if op in ("Eq", "Gt", "GtEq"):
        bounds = instant.at_least(number, exclusive=op == "Gt")
    if op in ("Eq", "Lt", "LtEq"):
        bounds = _both(bounds, instant.at_most(number, exclusive=op == "Lt"))
    return bounds


def _contained(value: Node, operand: Node, columns: _Columns, *, nulls_equal: bool) -> Bounds:
    is_id, instant = columns.is_id(value), columns.instant(value)
    if not is_id and instant is None:
        return EVERYTHING
    values = constant(operand)
    if values is not None and values.dtype.is_nested():
        values = values[0] if values.dtype == pl.List and len(values) == 1 else None
    if values is None or (nulls_equal and values.has_nulls()):
        return EVERYTHING  # null is also the timestamp that its column cannot hold
    if instant is None:
        return _hull_of_ids(values)
    if (numbers := _comparable(values, instant)) is None:
        return EVERYTHING
    if (numbers := numbers.drop_nulls().sort()).is_empty():
        return NOTHING
    at_least = instant.at_least(numbers[0], exclusive=False)
    return _both(at_least, instant.at_most(numbers[-1], exclusive=False))


def constant(node: Node) -> pl.Series | None:
    """Evaluate what depends on no row; None for what may."""
    match node:
        case {"Literal": {"Scalar": {"Float64": number}} | {"Dyn": {"Float": number}}}:
            # Polars' own JSON may be off by a bit; it has null for NaN and infinity.
            return None if number is None else pl.Series([number], dtype=pl.Float64)
    if not _is_constant(node):
        return None
    expression = pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")
    return pl.select(expression).to_series()


def _is_constant(node: Node) -> bool:
    match node:
        case {"Literal": {"Scalar": _} | {"Dyn": _} | {"Series": _}}:
            return True
        case {"Cast": {"expr": inner}}:
            return _is_constant(inner)
        case {"BinaryExpr": {"left": left, "right": right}}:
            return _is_constant(left) and _is_constant(right)
        case {
            "Function": {
                "input": [*inputs],
                "function": {"TemporalExpr": _} | {"StringExpr": {"Strptime": _}},
            }
        }:
            return all(map(_is_constant, inputs))
    return False


def _comparable(values: pl.Series | None, instant: _Instant) -> pl.Series | None:
    """Give the numbers that Polars compares with the instant's; None if that is not sure."""
    if values is None or values.dtype == pl.Null:
        return values
    if isinstance(values.dtype, pl.Datetime):
        return values.to_physical() if _UNITS[values.dtype.time_unit] == instant.kind else None
    if values.dtype.is_integer() or (values.dtype.is_float() and instant.kind == "float"):
        exact = values.cast(pl.Float64).is_between(-_EXACT_FLOAT, _EXACT_FLOAT, closed="none")
        return values if exact.all() else None
    return None


def _hull_of_ids(texts: pl.Series | None) -> Bounds:
    if texts is None or texts.dtype != pl.String:
        return EVERYTHING
    return reduce(_either, ((entry_id, entry_id) for entry_id in _entry_ids(texts)), NOTHING)


def _entry_ids(texts: Iterable[str | None]) -> Iterable[EntryIdPair]:
    """Read the texts that are IDs; what is none no entry has."""
    for text in texts:
        if text is not None and (found := _ENTRY_ID.fullmatch(text)):
            ms, seq = int(found[1]), int(found[2])
            if max(ms, seq) <= _LARGEST:
                yield ms, seq


def _both(one: Bounds, other: Bounds) -> Bounds:
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return (first, last) if first <= last else NOTHING


def _either(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), max(one[1], other[1])
