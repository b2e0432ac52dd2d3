"""Redis Streams in Daft: ``pip install 'redfloe[daft]'``."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Unpack

from redfloe._engines.installed import missing, require

try:
    import pyarrow as pa
    from daft.expressions import ExpressionVisitor
    from daft.io.sink import DataSink, WriteResult
    from daft.io.source import DataSource, DataSourceTask
    from daft.recordbatch import MicroPartition, RecordBatch
    from daft.schema import Schema
except ImportError as error:
    needed = missing("daft", "0.7.26")
    raise needed from error

from redfloe._checks import positive
from redfloe._engines.filters import Column, Filters, Literal, both, either
from redfloe._engines.reading import BATCH_SIZE, BoundedRead, Splits
from redfloe._engines.writing import DAY_MS, Aside, RowOptions, StagedWrite, write_with_ids
from redfloe._options import ReadOptions, complete, takes

require("daft", "0.7.26")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import polars as pl
    from daft import DataFrame, Expression
    from daft.io.pushdowns import Pushdowns

    from redfloe._arguments import Streams
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._reading.partitions import StreamPartition
    from redfloe._schema import SchemaLike

__all__ = ["read_stream", "write_stream"]


@takes(ReadOptions)
def read_stream(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    *,
    partitions: int | None = None,
    **options: Unpack[ReadOptions],
) -> DataFrame:
    """Read the entries of one or several streams, up to the newest now, into a Daft DataFrame.

    Nothing is read before the frame is collected. The streams are divided into parts of about equal
    size, by `redfloe.split_stream`, and each task reads one, straight into Arrow, in batches of up
    to 50,000 rows. The end is fixed by this call, so the frame has the same rows each time, unless
    they have been trimmed or deleted.

    The columns that a query needs are pushed down: other fields are skipped unparsed. So is what
    filters say of ``_id`` (equality), ``_ts`` and ``_stream``, which decides which entries the
    server is asked for; Daft applies all of it. So is a ``limit`` of rows that no filter precedes.
    Rows come in Daft's order; sort the frame, in place of ``order="id"``, which is refused.

    Parameters
    ----------
    url : str or RedisConnection
        As for `redfloe.read_stream`. On Ray the workers connect by it, so it must lead to the
        server from each node, and what is shipped to them has the password; plans do not.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, which are a column then (``_stream``). A
        missing stream gives no rows.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `redfloe.read_stream`. Without it the fields of a sample of
        `infer_schema_length` entries, the oldest and the newest, as String; fields that only other
        entries have are not seen. Categorical and Enum are strings to Daft.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, as for `redfloe.read_stream`.
    partitions : int, optional
        Into how many parts to divide the streams, at most; by default as many as this machine has
        processors.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    daft.DataFrame
        Columns as those of `redfloe.read_stream`, as Daft's types.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, NoStreamError
        At once, as for `redfloe.read_stream`; later as Daft raises what happens in a source.
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import daft
    >>> import polars as pl
    >>> import redfloe.daft
    >>> schema = {"action": pl.String, "value": pl.Int64}
    >>> frame = redfloe.daft.read_stream(url, "events", schema)
    >>> frame.where(daft.col("_ts") > 1704067200000).select("action").to_pydict()
    {'action': ['view']}
    """
    n = positive(partitions, "partitions") or os.cpu_count() or 1
    read = BoundedRead.plan(url, stream, schema, start_id, end_id, complete(options, read_stream))
    return _StreamSource(read, n).read()


def write_stream(
    df: DataFrame,
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    id_column: str | None = None,
    job: str | None = None,
    staging_ms: int = DAY_MS,
    **options: Unpack[RowOptions],
) -> int:
    """Add the rows of a Daft DataFrame to a Redis stream: all or none, and each once.

    Tasks write their rows to streams beside the target, in its slot of a cluster, and when all are
    done this process moves them to the stream by scripts, a thousand entries at a time. So a task
    that runs again writes no row twice, and where one fails, or this process dies, there is no row
    in the stream; what was written aside expires. The server has the rows twice for a moment.
    They come in the order of tasks, within which their order is kept.

    Parameters
    ----------
    df : daft.DataFrame
        The rows. It is executed.
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    id_column : str, optional
        Take the entry IDs from this String column: ``"ms-seq"``. A stream takes IDs in increasing
        order only, so this process writes the rows itself, in the frame's order, and nothing is
        written aside. Sort the frame first. Rows whose IDs the stream has are left out: after a
        crash run it again. Not with `job`.
    job : str, optional
        A name for these rows, such as a date: run again under this name, also after a crash, the
        job adds nothing, or finishes what the first run has begun to move. A small hash stays in
        the server for each name.
    staging_ms : int, default a day
        When rows that were written aside and are not moved expire.
    **options : RowOptions
        `fields`, `null_values`, `payload`, `payload_format`, `payload_compression` and
        `on_empty_row`, as for `redfloe.write_stream`.

    Returns
    -------
    int
        How many entries there are of this job; with `id_column` how many were added now.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, SchemaError
        As for `redfloe.write_stream`. Of tasks Daft raises its own error, which names ours.
    ValueError, TypeError
        An argument cannot be right; nothing was executed.

    Examples
    --------
    >>> import daft
    >>> import redfloe.daft
    >>> frame = daft.from_pydict({"user": ["ada", "bob"]})
    >>> redfloe.daft.write_stream(frame, url, "users", job="2026-01-31")
    2
    >>> redfloe.read_stream(url, "users")["user"].to_list()
    ['ada', 'bob']
    """
    if id_column is not None:
        if job is not None:
            msg = "job has no meaning with id_column: rows that are in are left out anyway"
            raise ValueError(msg)
        return write_with_ids(url, stream, id_column, df.to_arrow_iter(), options)
    sink = _StreamSink(StagedWrite(url, stream, job, staging_ms, options))
    df.write_sink(sink)
    return sink.rows


class _StreamSink(DataSink[Aside | None]):
    """What Daft calls in the tasks of a write, and in this process at its end."""

    def __init__(self, write: StagedWrite) -> None:
        self._write = write
        self.rows = 0

    def name(self) -> str:
        return "redis stream"

    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(pa.schema([("rows", pa.int64())]))

    def write(
        self, micropartitions: Iterator[MicroPartition]
    ) -> Iterator[WriteResult[Aside | None]]:
        size = 0

        def tables() -> Iterator[pa.Table]:
            nonlocal size
            for part in micropartitions:
                size += part.size_bytes() or 0
                yield part.to_arrow()

        aside = self._write.write(tables())
        rows = 0 if aside is None else aside.rows
        yield WriteResult(result=aside, bytes_written=size, rows_written=rows)

    def finalize(self, write_results: list[WriteResult[Aside | None]]) -> MicroPartition:
        self.rows = self._write.commit(written.result for written in write_results)
        return MicroPartition.from_pydict({"rows": [self.rows]})


class _StreamSource(DataSource):
    """What Daft asks for tasks, for an execution and for the text of a plan."""

    def __init__(self, read: BoundedRead, n: int) -> None:
        self._read = read
        self._n = n
        self._splits = Splits(read)
        self._schema = Schema.from_pyarrow_schema(_plain(read.arrow_schema()))

    @property
    def name(self) -> str:
        return "redis stream"

    @property
    def schema(self) -> Schema:
        return self._schema

    async def get_tasks(self, pushdowns: Pushdowns) -> AsyncIterator[DataSourceTask]:
        columns, limit, known = pushdowns.columns, None, None
        if pushdowns.filters is None:
            limit = pushdowns.limit
        else:
            known = _Known(Filters(self._read.metadata)).predicate(pushdowns.filters)
            if columns is not None:
                columns = [*columns, *pushdowns.filter_required_column_names()]
        if columns is not None:
            # Daft knows columns by their places, in the order of the schema.
            columns = [name for name in self._schema.column_names() if name in columns]
        # A few rows are the first ones of all.
        n = 1 if limit is not None and limit <= BATCH_SIZE else self._n
        for partition in await asyncio.to_thread(self._splits.of, n, known):
            yield _StreamTask(self._read, partition, columns, limit)


class _StreamTask(DataSourceTask):
    """A partition, with what is wanted of it. Daft may ship it to another process."""

    def __init__(
        self,
        read: BoundedRead,
        partition: StreamPartition,
        columns: list[str] | None,
        limit: int | None,
    ) -> None:
        self._read, self._partition = read, partition
        self._columns, self._limit = columns, limit

    def __repr__(self) -> str:
        return repr(self._partition)

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(self._arrow_schema())

    async def read(self) -> AsyncIterator[RecordBatch]:
        schema = self._arrow_schema()
        batches = self._read.read(self._partition, self._columns, self._limit)
        # Daft has one event loop for all tasks of a process, which must not wait for one of them.
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            plain = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            yield RecordBatch.from_arrow_record_batches(plain.to_batches(), schema)

    def _arrow_schema(self) -> pa.Schema:
        return _plain(self._read.arrow_schema(self._columns))


def _plain(schema: pa.Schema) -> pa.Schema:
    """Give the types without dictionaries, which Daft does not have."""
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(arrow: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(arrow):
        return arrow.value_type
    if pa.types.is_fixed_size_list(arrow):
        return pa.list_(_plain_type(arrow.value_type), arrow.list_size)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return pa.large_list(_plain_type(arrow.value_type))
    if pa.types.is_struct(arrow):
        return pa.struct([pa.field(field.name, _plain_type(field.type)) for field in arrow])
    return arrow


class _Known(ExpressionVisitor[Any]):
    """What a filter says of IDs and streams: a predicate, an operand of one, or None."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def predicate(self, expression: Expression) -> pl.Expr | None:
        known = self.visit(expression)
        return None if isinstance(known, Column | Literal) else known

    def visit_col(self, name: str) -> Column:
        return Column(name)

    def visit_lit(self, value: Any) -> Literal:
        return Literal(value)

    def visit_alias(self, expr: Expression, alias: str) -> Any:  # noqa: ARG002 - Daft's
        return self.visit(expr)

    def visit_cast(self, expr: Expression, dtype: Any) -> None:  # noqa: ARG002
        return None

    def visit_coalesce(self, args: list[Expression]) -> None:  # noqa: ARG002
        return None

    def visit_function(self, name: str, args: list[Expression]) -> Any:
        match name, args:
            case "and", [left, right]:
                return both(self.predicate(left), self.predicate(right))
            case "or", [left, right]:
                return either(self.predicate(left), self.predicate(right))
            case operation, [left, right] if operation in _COMPARISONS:
                return self._compared(left, _COMPARISONS[operation], right)
            case "between", [value, least, most]:
                return both(self._compared(value, ">=", least), self._compared(value, "<=", most))
        return None

    def visit_is_in(self, expr: Expression, items: list[Expression]) -> pl.Expr | None:
        values = [self.visit(item) for item in items]
        if not all(isinstance(value, Literal) for value in values):
            return None
        return self._filters.contained(self.visit(expr), [value.value for value in values])

    def _compared(self, left: Expression, operation: str, right: Expression) -> pl.Expr | None:
        return self._filters.compared(self.visit(left), operation, self.visit(right))


_COMPARISONS = {
    "equal": "==",
    "less_than": "<",
    "less_than_or_equal": "<=",
    "greater_than": ">",
    "greater_than_or_equal": ">=",
}
