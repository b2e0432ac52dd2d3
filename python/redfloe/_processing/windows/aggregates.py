"""Aggregates that can be put together from parts: what is kept of rows, and how that is merged.

An expression reads as JSON, whose nodes are Polars' own: one that is not known here is refused by
its name. Expressions are taken apart by Polars itself, and never made of that JSON again, which has
no NaN and may be off by a bit.
"""

from __future__ import annotations

import io
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import polars as pl

from redfloe._errors import SchemaError
from redfloe._reading.pushdown import Node, as_tree
from redfloe._schema import Dtype

_SUPPORTED = (
    "len, count, null_count, sum, min, max, mean, std, var, first, last, any and all can be, of "
    "expressions of single rows and of filters, and arithmetic with them"
)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Plus": operator.add,
    "Minus": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "TrueDivide": operator.truediv,
    "RustDivide": operator.truediv,
    "FloorDivide": operator.floordiv,
    "Modulus": operator.mod,
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtEq": operator.le,
    "Gt": operator.gt,
    "GtEq": operator.ge,
    "And": operator.and_,
    "Or": operator.or_,
}
#: Functions that look at one row at a time.
_OF_A_ROW = frozenset(
    re.findall(
        r"\w+",
        """Abs ArrayExpr AsStruct Atan2 Ceil Clip Coalesce Exp FillNull Floor ListExpr Log Log1p
        MaxHorizontal MeanHorizontal MinHorizontal Negate Pow Replace ReplaceStrict Round RoundSF
        Sign StringExpr StructExpr SumHorizontal TemporalExpr ToPhysical Trigonometry""",
    )
)
_BOOLEANS_OF_A_ROW = frozenset(
    re.findall(
        r"\w+",
        """allhorizontal anyhorizontal isbetween isclose isfinite isin isinfinite isnan isnotnan
        isnotnull isnull not""",
    )
)


@dataclass(frozen=True)
class Partial:
    """A column that is kept of rows, and merged with that of others."""

    name: str
    #: Of rows, in the order of their time.
    new: pl.Expr
    #: Of partial rows, in the order in which they came.
    merged: pl.Expr
    #: Whether they are merged by adding them, which is quick.
    adds: bool = False


@dataclass(frozen=True)
class Aggregate:
    """An aggregate, put together from parts."""

    name: str
    partials: tuple[Partial, ...]
    #: What comes of the parts.
    final: pl.Expr
    #: What it is, to be compared with another.
    text: str


def aggregate(name: str, expression: pl.Expr, time: pl.Expr, dtype_of: DtypeOf) -> Aggregate:
    """Take an aggregate apart.

    `time` is the column of event times, by which rows are first and last; `dtype_of` gives the
    dtype of an expression of rows.
    """
    parts = _Parts(name, time, dtype_of)
    final, text = parts.take(expression)
    if not parts.partials:
        parts.refuse(expression, "it is no aggregate")
    return Aggregate(name, tuple(parts.partials), final, text)


#: Gives the dtype of an expression of rows.
DtypeOf = Callable[[pl.Expr], Dtype]


class _Parts:
    """The parts of one aggregate."""

    def __init__(self, name: str, time: pl.Expr, dtype_of: DtypeOf) -> None:
        self.name = name
        self.partials: list[Partial] = []
        self._time = time
        self._dtype_of = dtype_of

    def refuse(self, expression: pl.Expr, why: str) -> NoReturn:
        msg = (
            f"the aggregate {self.name!r}, {expression}, cannot be put together from parts: {why}; "
            f"{_SUPPORTED}"
        )
        raise ValueError(msg)

    def take(self, expression: pl.Expr) -> tuple[pl.Expr, str]:
        """Give what comes of the parts of an expression, and what it is."""
        expression = expression.meta.undo_aliases()
        node = as_tree(expression)
        match node:
            case "Len":
                return self._keep("len", pl.len(), "len()")
            case {"Agg": {**kinds}}:
                kind, details = _only(kinds)
                return self._aggregate(expression, kind, details)
            case {"Function": {"function": {"Boolean": {"Any": options} | {"All": options}}}}:
                kind = "Any" if "Any" in node["Function"]["function"]["Boolean"] else "All"
                if options != {"ignore_nulls": True}:
                    self.refuse(expression, f"{kind.lower()} has to ignore nulls")
                return self._aggregate(expression, kind, None)
            case {"Function": {"function": "NullCount"}}:
                return self._aggregate(expression, "NullCount", None)
            case {"BinaryExpr": {"op": str() as op}} if op in _OPERATORS:
                right, left = expression.meta.pop()
                (one, its_text), (other, other_text) = self.take(left), self.take(right)
                return _OPERATORS[op](one, other), f"({its_text} {op} {other_text})"
            case {"Function": {"function": "Negate"}}:
                one, text = self.take(expression.meta.pop()[0])
                return -one, f"-{text}"
            case {"Cast": {"dtype": dtype, "options": options}}:
                one, text = self.take(expression.meta.pop()[0])
                made = one.cast(_dtype(node), strict=options == "Strict")
                return made, f"{text}.cast({_plain(dtype)}, {options})"
            case {"Literal": _}:
                return expression, _literal(expression)
        return self.refuse(expression, _reason(node))

    def _aggregate(self, expression: pl.Expr, kind: str, details: Node) -> tuple[pl.Expr, str]:
        if kind not in _KINDS or (isinstance(details, dict) and details.get("propagate_nans")):
            self.refuse(expression, _reason({"Agg": {kind: details}}))
        value, mask, text = self._rows(expression, expression.meta.pop()[0])
        rows = value if mask is None else value.filter(mask)
        dtype = self._dtype_of(value)
        match kind:
            case "Count":
                has_nulls = isinstance(details, dict) and details.get("include_nulls", False)
                made = rows.len() if has_nulls else rows.count()
                return self._keep("len" if has_nulls else "count", made, f"{text}.len({has_nulls})")
            case "NullCount":
                return self._keep("null_count", rows.null_count(), f"{text}.null_count()")
            case "Sum":
                if dtype == pl.Float32:  # whose rounding would add up
                    rows = rows.cast(pl.Float64)
                return self._keep("sum", rows.sum(), f"{text}.sum()")
            case "Min" | "Max" if isinstance(dtype, pl.Categorical | pl.Enum):
                self.refuse(expression, f"the order of {dtype} is not kept; cast it to pl.String")
            case "Min":
                kept, name = self._add("min", rows.min(), pl.Expr.min)
                return kept, f"{text}.{name}()"
            case "Max":
                kept, name = self._add("max", rows.max(), pl.Expr.max)
                return kept, f"{text}.{name}()"
            case "Any":
                kept, name = self._add("any", rows.any(), pl.Expr.any)
                return kept, f"{text}.{name}()"
            case "All":
                kept, name = self._add("all", rows.all(), pl.Expr.all)
                return kept, f"{text}.{name}()"
            case "First" | "Last":
                return self._end(kind.lower(), rows, mask), f"{text}.{kind.lower()}()"
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            self.refuse(expression, f"{kind.lower()} is of numbers, and not of {dtype}")
        rows = rows.cast(pl.Float64)
        if kind == "Mean":
            count, _ = self._add("count", rows.count(), pl.Expr.sum)
            total, _ = self._add("sum", rows.sum(), pl.Expr.sum)
            return pl.when(count > 0).then(total / count), f"{text}.mean()"
        return self._moments(kind, rows, details[1]), f"{text}.{kind.lower()}({details[1]})"

    def _keep(self, kind: str, new: pl.Expr, text: str) -> tuple[pl.Expr, str]:
        """Keep what is added up."""
        return self._add(kind, new, pl.Expr.sum)[0], text

    def _add(
        self, kind: str, new: pl.Expr, merged: Callable[[pl.Expr], pl.Expr]
    ) -> tuple[pl.Expr, str]:
        column = pl.col(name := self._name(kind))
        self.partials.append(Partial(name, new, merged(column), adds=merged is pl.Expr.sum))
        return column, kind

    def _name(self, kind: str) -> str:
        """Name a column: as the aggregate, where that is all that there is of it."""
        number = len(self.partials)
        return f"{self.name}:{kind}{number or ''}"

    def _end(self, kind: str, rows: pl.Expr, mask: pl.Expr | None) -> pl.Expr:
        """Keep the first or last of rows, by their time and then in the order of the stream."""
        times = self._time if mask is None else self._time.filter(mask)
        is_first = kind == "first"
        pick: Callable[[pl.Expr], pl.Expr] = pl.Expr.first if is_first else pl.Expr.last
        value, at = pl.col(self._name(kind)), pl.col(f"{self._name(kind)}:at")
        ordered = value.sort_by(at, nulls_last=is_first, maintain_order=True)
        self.partials += [
            Partial(value.meta.output_name(), pick(rows), pick(ordered)),
            Partial(at.meta.output_name(), pick(times), at.min() if is_first else at.max()),
        ]
        return value

    def _moments(self, kind: str, rows: pl.Expr, ddof: int) -> pl.Expr:
        """Keep a count, a mean and the sum of squares about it (Chan et al., 1979)."""
        count, mean, squares = (pl.col(self._name(part)) for part in ("count", "mean", "squares"))
        total = (count * mean).sum() / count.sum()
        merged = squares.sum() + (count * (mean - total) ** 2).sum()
        for column, new, together in (
            (count, rows.count(), count.sum()),
            (mean, rows.mean(), total),
            (squares, rows.var(ddof=0) * rows.count(), merged),
        ):
            self.partials.append(Partial(column.meta.output_name(), new, together))
        degrees = count.cast(pl.Int64) - ddof
        variance = pl.when(degrees > 0).then(squares / degrees)
        return variance.sqrt() if kind == "Std" else variance

    def _rows(self, whole: pl.Expr, expression: pl.Expr) -> tuple[pl.Expr, pl.Expr | None, str]:
        """Take filters off an expression of rows; give the rest, the filter, and what it is."""
        expression = expression.meta.undo_aliases()
        match node := as_tree(expression):
            case {"Filter": _}:
                by, inner = expression.meta.pop()
                self._check_rows(whole, as_tree(by))
                value, mask, text = self._rows(whole, inner)
                filtered = _text(by)
            case {"Function": {"function": "DropNulls" | "DropNans" as dropping}}:
                value, mask, text = self._rows(whole, expression.meta.pop()[0])
                by = value.is_not_null() if dropping == "DropNulls" else value.is_not_nan()
                filtered = dropping
            case _:
                if not self._check_rows(whole, node):
                    self.refuse(whole, "it looks at no column")
                return expression, None, _text(expression)
        return value, by if mask is None else mask & by, f"{text}.filter({filtered})"

    def _check_rows(self, whole: pl.Expr, node: Node) -> bool:
        """Refuse what does not look at each row alone; say whether it looks at a column."""
        check = self._check_rows
        match node:
            case {"Column": str() as name}:
                if name.startswith("^") and name.endswith("$"):
                    self.refuse(whole, "it is of several columns; write one for each")
                return True
            case {"Literal": {"Series": _}}:
                self.refuse(whole, "a Series has rows of its own")
            case {"Literal": _}:
                return False
            case {"BinaryExpr": {"left": left, "right": right}}:
                return check(whole, left) | check(whole, right)
            case {"Cast": {"expr": inner}}:
                return check(whole, inner)
            case {"Ternary": {"predicate": one, "truthy": two, "falsy": three}}:
                return check(whole, one) | check(whole, two) | check(whole, three)
            case {"Function": {"input": [*inputs], "function": function}} if _is_of_a_row(function):
                # Series beside a column are sets, as of is_in.
                others = [one for one in inputs[1:] if "Series" not in str(one)[:24]]
                found = [check(whole, one) for one in inputs[:1] + others]  # all of them
                return any(found)
        return self.refuse(whole, _reason(node))


_KINDS = frozenset(
    re.findall(r"\w+", "Count NullCount Sum Min Max Mean Std Var First Last Any All")
)


def _is_of_a_row(function: Node) -> bool:
    match function:
        case {"Boolean": str() as name}:
            return name.lower() in _BOOLEANS_OF_A_ROW
        case {"Boolean": {**options}}:
            return _only(options)[0].lower() in _BOOLEANS_OF_A_ROW
        case {"StringExpr": {"ConcatVertical": _}}:
            return False
        case {**options} if options:
            return _only(options)[0] in _OF_A_ROW
    return function in _OF_A_ROW


def _only(node: Node) -> tuple[str, Node]:
    ((name, inner),) = node.items()
    return name, inner


def _reason(node: Node) -> str:
    """Name what a node does, as Polars' functions are called."""
    name = ""
    while isinstance(node, dict) and node:
        name, inner = next(iter(node.items()))
        if name not in ("Agg", "Boolean", "Function"):
            break
        node = inner["function"] if name == "Function" else inner
    if isinstance(node, str):
        name = node
    if name in ("Column", "Selector", "Columns"):
        return "it is no aggregate of one column"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return f"{words} needs all rows at once"


def _dtype(node: Node) -> Dtype:
    """Give the dtype that a cast is to."""
    cast = {"Cast": {**node["Cast"], "expr": {"Column": "x"}}}
    made = pl.Expr.deserialize(io.StringIO(json.dumps(cast)), format="json")
    return pl.DataFrame(schema={"x": pl.Null}).select(made).schema["x"]


def _text(expression: pl.Expr) -> str:
    """Say what an expression of rows is, whichever Polars writes it."""
    expression = expression.meta.undo_aliases()
    match as_tree(expression):
        case {"Column": str() as name}:
            return repr(name)
        case {"Literal": _}:
            return _literal(expression)
        case {"BinaryExpr": {"op": str() as op}}:
            right, left = expression.meta.pop()
            return f"({_text(left)} {op} {_text(right)})"
        case {"Cast": {"dtype": dtype, "options": options}}:
            return f"{_text(expression.meta.pop()[0])}.cast({_plain(dtype)}, {options})"
        case {**node}:
            kind, details = _only(node)
            function = details.get("function", "") if isinstance(details, Mapping) else ""
            inputs = ", ".join(map(_text, reversed(expression.meta.pop())))
            return f"{kind}{_plain(function)}({inputs})"
    return str(expression)


def _literal(expression: pl.Expr) -> str:
    return repr(pl.select(expression).to_series().to_list())


def _plain(node: Node) -> str:
    return json.dumps(node, sort_keys=True)


def dtypes_of(frame: pl.DataFrame, by: list[str], expressions: Mapping[str, pl.Expr]) -> pl.Schema:
    """Give the dtypes that aggregates of a frame's rows have.

    Raises
    ------
    SchemaError
        There is no such column, or it has no such aggregate.
    """
    made = [expression.alias(name) for name, expression in expressions.items()]
    rows = frame.clear().lazy()
    try:
        # Evaluated, since what a plan says of dtypes may differ.
        return (rows.group_by(by).agg(made) if by else rows.select(made)).collect().schema
    except pl.exceptions.PolarsError as error:
        msg = f"the rows have no such aggregate: {error}"
        raise SchemaError(msg) from error
