"""What several commands take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._words import readable

if TYPE_CHECKING:
    import polars as pl

    from redfloe import RedisConnection
    from redfloe._cli.payloads import Payloads


class Name(bytes):
    """A key or a name that is not UTF-8, which messages show as listings do."""

    def __str__(self) -> str:
        return readable(self)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _name(value: str | None) -> Any:
    r"""Give the bytes that were typed, as in ``head $'caf\xe9'``, where they are not UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return Name(str(value).encode(errors="surrogateescape"))
    return value


def several(values: list[str]) -> Any:
    """Give the bytes of each that is not UTF-8."""
    return [_name(value) for value in values]


_ID = re.compile(r"\(?\d+(-\d+)?|[-+$]")


def bound(value: str | None) -> str | None:
    """Refuse what is neither an ID nor a time, before anything is done."""
    if value is None:
        return None
    from redfloe._ids import entry_id

    try:
        is_one = _ID.fullmatch(entry_id(value, "it", round_up=True)) is not None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not is_one:
        msg = f"{value!r} is no ID, such as 1704067200000-0, and no time, such as 2024-01-31T12:00Z"
        raise typer.BadParameter(msg)
    return value


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="REDIS_URL",
        show_envvar=True,
        show_default=False,
        help="The server, such as redis://localhost:6379/0.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Stream = Annotated[
    str, typer.Argument(help="The stream's key.", show_default=False, callback=_name)
]
Group = Annotated[
    str, typer.Argument(help="The consumer group.", show_default=False, callback=_name)
]
Processor = Annotated[
    str, typer.Argument(help="The processor's name.", show_default=False, callback=_name)
]
TableName = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="The table's name.", show_default=False, callback=_name),
]
LanesOf = Annotated[
    str | None,
    typer.Option("--group", help="Only what it has of this group's consumers.", callback=_name),
]
MemberOf = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Read as a member of this group: acknowledges what it has shown.",
        callback=_name,
    ),
]
Consumer = Annotated[
    str | None, typer.Option("--consumer", help="The consumer's name.", callback=_name)
]
Letters = Annotated[
    str,
    typer.Argument(help="The key of the dead-letter stream.", show_default=False, callback=_name),
]
Pattern = Annotated[
    str,
    typer.Argument(
        help="Only streams whose key matches: * is any text, ? one character.", callback=_name
    ),
]
Start = Annotated[
    str,
    typer.Option(
        "--start",
        help="The first ID, or a time: 2024-01-31, 2024-01-31T12:00Z.",
        callback=bound,
    ),
]
End = Annotated[str, typer.Option("--end", help="The last ID, or a time.", callback=bound)]
IdColumn = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The name of the column of IDs, where entries have such a field."
    ),
]
TimestampColumn = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The name of the column of times, where entries have such a field."
    ),
]
RescueColumn = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The name of the column of what fits no other, where entries have such a field.",
    ),
]
MaxColumns = Annotated[
    int, typer.Option(min=1, help="The most columns that fields become.", metavar="NUMBER")
]
Text = Annotated[bool, typer.Option("--text", help="Leave all values as text; infer no dtypes.")]


def connect(url: str | None) -> RedisConnection:
    """Give the connection; without a URL to the server at its usual port here."""
    from redfloe import RedisConnection

    try:
        # A mistyped port costs a second, not five.
        url = url or os.environ.get("REDIS_URL") or "redis://localhost:6379"
        return RedisConnection(url, max_retries=3)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


@contextmanager
def existing(stream: str) -> Iterator[None]:
    """Say in a command line's words that there is no such stream."""
    from redfloe import NoStreamError

    try:
        yield
    except NoStreamError:
        raise missing(stream) from None


def missing(stream: str) -> Exception:
    """Give what is raised where there is no such stream."""
    from redfloe import NoStreamError

    return NoStreamError(f"there is no stream {stream!r}; `redfloe streams` lists those there are")


@dataclass(frozen=True)
class Names:
    """What the columns beside those of fields are called, and how many columns there may be."""

    id: str = "_id"
    timestamp: str = "_ts"
    rescued: str = "_rescued"
    max_columns: int = 5_000

    @property
    def options(self) -> dict[str, Any]:
        """Give the options of a read."""
        return {
            "id_column": self.id,
            "timestamp_column": self.timestamp,
            "max_columns": self.max_columns,
        }

    def without_empty(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Leave out the column of what was rescued, where nothing was."""
        if self.rescued in frame.columns and frame[self.rescued].null_count() == frame.height:
            return frame.drop(self.rescued)
        return frame


def columns(
    payloads: Payloads, *, rows: int | None, text: bool, names: Names | None = None
) -> dict[str, Any]:
    """Give the options of a read whose rows are shown, with their times.

    Dtypes are inferred from a sample that has all `rows`, the oldest or the newest, so that each
    value fits. What is no text in any column, such as a field whose name is not UTF-8, is in the
    column of what was rescued. Where the sample cannot have all rows, None, a value that does not
    fit is an error.
    """
    import polars as pl

    names = names or Names()
    options = {
        **names.options,
        "infer_schema": not text,
        "infer_schema_length": 1_000 if rows is None else max(100, 2 * rows + 2),
        "timestamp_dtype": pl.Datetime,
        **payloads.options,
    }
    if rows is None:
        return options
    return options | {"on_error": "null", "rescue_column": names.rescued}
