"""The commands put together, and how their errors end."""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer

from redfloe._cli.commands import (
    archive,
    count,
    dead,
    demo,
    export,
    exporter,
    groups,
    head,
    import_,
    lag,
    pending,
    processors,
    run_,
    schema,
    sql,
    streams,
    table,
    tail,
    top,
    trim,
)
from redfloe._cli.output import tell
from redfloe._core import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERRUPTED = 130
_LOOK, _DATA, _CHANGE, _WORK = "Look", "Data", "Change", "Work"


class _ReaderHasGoneError(Exception):
    """A pipe was closed; as a BrokenPipeError typer would take it for a failure."""


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run_it(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError as error:
            raise _ReaderHasGoneError from error

    return run_it


app = typer.Typer(
    help="Redis Streams at the command line: look, read, export, watch.",
    epilog="Each command takes --url. Without it and REDIS_URL the server is redis://localhost:6379.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
_COMMANDS: dict[str, list[Callable[..., Any]]] = {
    _LOOK: [
        *(streams.streams, groups.groups, processors.processors, lag.lag, pending.pending),
        *(top.top, exporter.exporter),
    ],
    _DATA: [
        *(head.head, tail.tail, schema.schema, count.count, sql.sql, table.table),
        *(export.export, import_.import_, archive.archive, demo.demo),
    ],
    _CHANGE: [trim.trim, processors.reset_processor, processors.delete_processor],
    _WORK: [run_.run_],
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        name = command.__name__.rstrip("_").replace("_", "-")
        app.command(name, rich_help_panel=panel)(_guarded(command))
app.add_typer(dead.app, name="dead", rich_help_panel=_CHANGE)


def _print_version(value: bool) -> None:
    if value:
        print(f"redfloe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Redis Streams at the command line: look, read, export, watch."""


def run(arguments: list[str]) -> int:
    """Run a command and give its exit code."""
    try:
        code = app(arguments or ["--help"], prog_name="redfloe", standalone_mode=False) or 0
        if code == _INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        # What typer itself does with it; its types do not say so.
        shown: Any = error
        shown.show()
        return int(shown.exit_code)
    except _ReaderHasGoneError:
        raise BrokenPipeError from None
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        tell(f"{error.filename}: {error.strerror}" if named else error.strerror or error)
        return 1
    except (ImportError, ValueError, TypeError) as error:
        tell(_as_options(str(error)))
        return 1
    except Exception as error:
        import polars as pl

        from redfloe import RedfloeError

        if not isinstance(error, (RedfloeError, pl.exceptions.PolarsError)):
            raise
        if str(error).endswith("IO error: Broken pipe (os error 32)"):  # of a Parquet file
            raise BrokenPipeError from None
        tell(_as_options(str(error)))
        return 1


def _as_options(text: str) -> str:
    """Name parameters as the command line does."""
    return _PARAMETERS.sub(lambda found: "--" + found[0].replace("_", "-"), text)


_PARAMETERS = re.compile(
    r"\b(?:id_column|timestamp_column|rescue_column|max_columns|takeover|partition_by|trim_after"
    r"|on_new_fields|on_data_loss)\b"
)
