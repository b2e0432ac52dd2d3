"""A Polars predicate to the streams whose rows it can keep.

The parts of a predicate that are about the stream column alone are evaluated on the streams' names;
whatever else it says may be true of any row. The rows have to be filtered again.
"""

import polars as pl

from redfloe._reading.pushdown import Node, as_tree

#: Functions that look at one value at a time, as far as they are known here.
_STRING_FUNCTIONS = frozenset(
    {
        *("Contains", "EndsWith", "Extract", "Head", "LenBytes", "LenChars", "Lowercase"),
        *("Replace", "Slice", "StartsWith", "StripChars", "StripCharsEnd", "StripCharsStart"),
        *("StripPrefix", "StripSuffix", "Tail", "Uppercase"),
    }
)
_BOOLEAN_FUNCTIONS = frozenset({"IsBetween", "IsIn", "IsNotNull", "IsNull", "Not"})


def matching(predicate: pl.Expr, column: str, names: list[str]) -> list[bool]:
    """Say for each stream whether its rows can match.

    Parameters
    ----------
    predicate
        What Polars passes to an IO source.
    column
        The column of the streams' names.
    names
        What it holds.

    Returns
    -------
    list of bool
        True for all where nothing is known.
    """
    frame = pl.DataFrame({column: names}, schema={column: pl.String})
    try:
        kept = _kept(predicate, column, frame)
    # To read too much is right, to fail is not: the filter evaluates it, or raises.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        kept = None
    return [True] * len(names) if kept is None else kept.to_list()


def _kept(predicate: pl.Expr, column: str, frame: pl.DataFrame) -> pl.Series | None:
    """Evaluate what is about the stream column; None where nothing is."""
    tree = as_tree(predicate)
    if set(predicate.meta.root_names()) == {column} and _is_row_by_row(tree):
        kept = frame.select(predicate.alias(column)).to_series()
        # What is null a filter drops.
        return kept.fill_null(value=False) if kept.dtype == pl.Boolean else None
    match tree:
        case {"BinaryExpr": {"op": "And" | "LogicalAnd"}}:
            sides = [_kept(side, column, frame) for side in predicate.meta.pop()]
            known = [side for side in sides if side is not None]
            return None if not known else known[0] & known[-1]
        case {"BinaryExpr": {"op": "Or" | "LogicalOr"}}:
            one, other = (_kept(side, column, frame) for side in predicate.meta.pop())
            return None if one is None or other is None else one | other
    return None


def _is_row_by_row(node: Node) -> bool:
    """Whether a value depends on its row alone, not on how many there are or what they hold."""
    match node:
        case {"Column": _} | {"Literal": _}:
            return True
        case {"BinaryExpr": {"left": left, "right": right}}:
            return _is_row_by_row(left) and _is_row_by_row(right)
        case {"Cast": {"expr": inner}}:
            return _is_row_by_row(inner)
        case {"Ternary": {"predicate": predicate, "truthy": truthy, "falsy": falsy}}:
            return all(map(_is_row_by_row, (predicate, truthy, falsy)))
        case {"Function": {"input": [*inputs], "function": {"StringExpr": function}}}:
            return _name(function) in _STRING_FUNCTIONS and all(map(_is_row_by_row, inputs))
        case {"Function": {"input": [*inputs], "function": {"Boolean": function}}}:
            return _name(function) in _BOOLEAN_FUNCTIONS and all(map(_is_row_by_row, inputs))
    return False


def _name(function: Node) -> str:
    """Read which function it is: one with options is a dict of one."""
    match function:
        case str():
            return function
        case dict() if len(function) == 1:
            return str(*function)
    return ""
