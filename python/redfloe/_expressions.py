"""The namespace ``redfloe`` of Polars' expressions, which a package of its own has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable


class _Missing:
    """In its place: expressions that say what to install."""

    def _say(self, *_: object, **__: object) -> NoReturn:
        msg = (
            "expressions are in a package of their own, which is not installed: pip install "
            "'redfloe[expressions]'"
        )
        raise ModuleNotFoundError(msg, name="redfloe_expressions")

    decode: Callable[..., NoReturn] = _say
    encode: Callable[..., NoReturn] = _say
    entry_id: Callable[..., NoReturn] = _say


class _Namespace:
    """Imports the package when an expression is first asked for its namespace."""

    def __new__(cls, expr: pl.Expr) -> object:  # type: ignore[misc]  # it chooses what is given
        try:
            from redfloe_expressions import Expressions
        except ModuleNotFoundError as error:
            if error.name != "redfloe_expressions":
                raise
            return _Missing()
        return Expressions(expr)


if "redfloe" not in vars(pl.Expr):
    pl.api.register_expr_namespace("redfloe")(_Namespace)
