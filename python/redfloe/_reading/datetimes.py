"""Datetimes in a scan's predicate: what Polars compares with the timestamp, and what was meant."""

import io
import json
from collections.abc import Callable, Iterator
from functools import reduce
from operator import and_, or_
from typing import Any

import polars as pl

from redfloe._errors import SchemaError
from redfloe._reading.pushdown import Node, as_tree, constant, instant_of

#: As milliseconds it is the year 5138, as microseconds 1973: no clock's entry ID is as large, and
#: few datetimes are as small.
NO_MILLISECOND = 10**14
_COMPARISONS = ("Eq", "NotEq", "EqValidity", "NotEqValidity", "Gt", "GtEq", "Lt", "LtEq")


def refuse_microseconds(predicate: pl.Expr, timestamp_column: str | None) -> None:
    """Raise where a timestamp of Int64 milliseconds is compared with a datetime's microseconds.

    Polars casts a datetime that is compared with an integer to Int64, as it is. All that a source
    sees of it is a number, and no row would match.
    """
    if timestamp_column is None:
        return
    try:
        number = _first_large(as_tree(predicate), timestamp_column)
    # What cannot be read or evaluated here is for the filter.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return
    if number is not None:
        msg = (
            f"the filter compares {timestamp_column}, which is Int64 milliseconds, with {number}. "
            "If that was a datetime: Polars compares it with an integer in microseconds; pass "
            "timestamp_dtype=pl.Datetime to the scan, and leave the filter as it is"
        )
        raise SchemaError(msg)


def naive_as_utc(
    predicate: pl.Expr, timestamp_column: str | None, timestamp_dtype: pl.DataType
) -> pl.Expr:
    """Give the naive datetimes that a timestamp with a time zone is compared with that zone.

    They are UTC, as everywhere where an entry ID is asked for; Polars would refuse to compare them.
    """
    if timestamp_column is None or not isinstance(timestamp_dtype, pl.Datetime):
        return predicate
    if timestamp_dtype.time_zone is None:
        return predicate
    try:
        return _aware(predicate, {"Column": timestamp_column}, timestamp_dtype)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  # as above
        return predicate


def _first_large(tree: Node, timestamp_column: str) -> int | None:
    def is_milliseconds(node: Node) -> bool:
        instant = instant_of(node, timestamp_column)
        return instant is not None and instant.kind in ("int", "float") and instant.per_ms == 1

    for operands, key in _compared_with(tree, is_milliseconds):
        values = constant(operands[key])
        if values is not None and values.dtype == pl.List and len(values) == 1:
            values = values[0]  # of is_in
        if values is not None and values.dtype.is_numeric():
            large = values.filter(values.abs() >= NO_MILLISECOND)
            if not large.is_empty():
                return int(large[0])
    return None


def _aware(predicate: pl.Expr, column: Node, dtype: pl.Datetime) -> pl.Expr:
    tree = as_tree(predicate)
    naive = {}
    for number, (operands, key) in enumerate(_compared_with(tree, column.__eq__)):
        values = constant(operands[key])
        if values is not None and len(values) == 1 and _is_naive(values.dtype):
            naive[number] = values
    if not naive:
        return predicate
    match tree:
        # Apart from the rest, because what follows cannot handle every number.
        case {"BinaryExpr": {"op": "And" | "LogicalAnd" | "Or" | "LogicalOr" as operator}}:
            parts = [_aware(part, column, dtype) for part in reversed(predicate.meta.pop())]
            return reduce(and_ if operator.endswith("And") else or_, parts)
    if _has_float(tree):
        return predicate  # JSON has no NaN, no infinity, and is off by a bit
    sites = list(_compared_with(tree, column.__eq__))
    for number, values in naive.items():
        operands, key = sites[number]
        physical = values.cast(pl.Datetime(dtype.time_unit)).to_physical()[0]
        operands[key] = as_tree(pl.lit(physical, dtype=pl.Int64).cast(dtype))
    return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")


def _compared_with(node: Node, is_wanted: Callable[[Node], bool]) -> Iterator[tuple[Any, Any]]:
    """Find the operands of comparisons with a wanted one: what holds each, and its key there."""
    match node:
        case {"Literal": _}:
            return  # which may be a long one
        case {"BinaryExpr": {"left": left, "op": str() as op, "right": right} as operands} if (
            op in _COMPARISONS
        ):
            if is_wanted(left):
                yield operands, "right"
            if is_wanted(right):
                yield operands, "left"
        case {
            "Function": {
                "input": [value, *others] as inputs,
                "function": {"Boolean": {"IsBetween": _} | {"IsIn": _}},
            }
        } if is_wanted(value):
            for number in range(1, 1 + len(others)):
                yield inputs, number
    match node:
        case dict():
            inner = list(node.values())
        case list():
            inner = node
        case _:
            return
    for one in inner:
        yield from _compared_with(one, is_wanted)


def _is_naive(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is None


def _has_float(node: Node) -> bool:
    match node:
        case {"Literal": {"Scalar": {"Float64": _} | {"Float32": _}} | {"Dyn": {"Float": _}}}:
            return True
        case {"Literal": _}:
            return False
        case dict():
            return any(map(_has_float, node.values()))
        case list():
            return any(map(_has_float, node))
    return False
