"""The columnar connector for Redis Streams: to Polars DataFrames and Arrow, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Polars takes a quarter of a second to import, and the command line's help does not need it. So
# what is public, which `_api` lists, is imported when a name of it is first asked for.
if TYPE_CHECKING:
    from redfloe._api import *  # noqa: F403 - which has __all__
    from redfloe._api import __all__ as __all__
    from redfloe._api import __version__ as __version__
else:
    import sys

    # Who has Polars has expressions, and gives them the namespace `redfloe`. So does `_api`.
    if hasattr(sys.modules.get("polars"), "Expr"):
        from redfloe import _expressions as _expressions

    def __getattr__(name: str) -> object:
        if not name.startswith("_") or name in {"__all__", "__version__"}:
            from importlib import import_module

            api = import_module("redfloe._api")
            public = {known: getattr(api, known) for known in api.__all__}
            globals().update(public, __all__=api.__all__)
            if name in globals():
                return globals()[name]
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name)

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *(name for name in globals() if name[0] == "_")})
