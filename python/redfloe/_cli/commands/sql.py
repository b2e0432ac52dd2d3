"""``redfloe sql``."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from redfloe._cli.options import (
    IdColumn,
    Json,
    MaxColumns,
    Names,
    Text,
    TimestampColumn,
    Url,
    columns,
    connect,
)
from redfloe._cli.output import print_frame, print_json, say
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads
from redfloe._cli.shards import streams_of

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


def sql(
    query: Annotated[
        str, typer.Argument(help="The query. A stream's key is a table.", show_default=False)
    ],
    payload: Payload = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    text: Text = False,
    id_column: IdColumn = "_id",
    timestamp_column: TimestampColumn = "_ts",
    max_columns: MaxColumns = 5_000,
    url: Url = None,
    json: Json = False,
) -> None:
    """Run a DuckDB query over streams.

    redfloe sql 'select sku, sum(price) from "shop:orders" group by all'

    Dtypes are inferred from a thousand entries; a value that does not fit one is an error, and
    --text leaves all to casts in the query.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        msg = "the command sql needs DuckDB: pip install duckdb"
        raise ModuleNotFoundError(msg) from error
    import polars as pl

    import redfloe

    server = connect(url)
    names = Names(id_column, timestamp_column, max_columns=max_columns)
    payloads = Payloads(payload, payload_format, payload_compression)

    def is_stream(name: str) -> bool:
        try:
            return bool(streams_of(server, name))
        except (redfloe.NoStreamError, redfloe.WrongTypeError):
            return False  # a table or a file may be called as a key is

    connection = duckdb.connect()
    failed = ""
    try:
        for name in sorted(connection.get_table_names(query)):
            if is_stream(name):
                options = columns(payloads, rows=None, text=text, names=names)
                connection.register(name, redfloe.stream_reader(server, name, **options))

        def ask() -> pl.DataFrame | None:
            # A statement such as CREATE gives none, which DuckDB's types do not say.
            relation: Any = connection.sql(query)
            return None if relation is None else pl.DataFrame(relation)

        result = interruptible(ask, connection.interrupt)
    except duckdb.Error as error:
        failed = str(error)
    except (KeyboardInterrupt, SystemExit) as end:
        # DuckDB's threads may be reading a stream, and abort the process if the interpreter ends
        # under them; nothing is left to tidy up.
        if isinstance(end, KeyboardInterrupt):
            say("redfloe: interrupted")
        sys.stderr.flush()
        os._exit(128 + (signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM))
    with suppress(duckdb.Error):
        connection.close()  # so that its threads let go of the streams now
    if failed:
        raise ValueError(failed)
    if result is not None:
        print_json(result) if json else print_frame(result)


def interruptible(work: Callable[[], _Result], interrupt: Callable[[], object]) -> _Result:
    """Work beside the main thread, which Ctrl-C interrupts: DuckDB rarely looks for it."""
    done: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 -- it is raised by the main thread
            failed.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.05)
    except BaseException:
        for _ in range(100):  # one that comes just before the query begins is forgotten
            if not thread.is_alive():
                break
            interrupt()
            thread.join(0.1)
        failed.clear()
        raise
    if failed:
        raise failed.pop()  # not held here: its traceback holds this frame, and the query
    return done.pop()
