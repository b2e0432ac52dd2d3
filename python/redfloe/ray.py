"""Redis Streams in Ray Data: ``pip install 'redfloe[ray]'``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Unpack

from redfloe._engines.installed import missing, require

try:
    import pyarrow as pa
    import ray.data
    from ray.data.block import BlockAccessor, BlockMetadata
    from ray.data.datasource import Datasink, Datasource, ReadTask, WriteResult
    from ray.data.expressions import (
        AliasExpr,
        BinaryExpr,
        ColumnExpr,
        Expr,
        LiteralExpr,
        Operation,
        UnaryExpr,
    )
except ImportError as error:
    needed = missing("ray", "2.60")
    raise needed from error

from redfloe._checks import positive
from redfloe._engines.filters import Column, Filters, Literal, both, either
from redfloe._engines.reading import BATCH_SIZE, BoundedRead, Splits
from redfloe._engines.writing import DAY_MS, Aside, RowOptions, StagedWrite, write_with_ids
from redfloe._options import ReadOptions, complete, takes

require("ray", "2.60")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import polars as pl
    from ray.data import Dataset

    from redfloe._arguments import Streams
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._reading.partitions import StreamPartition
    from redfloe._schema import SchemaLike

__all__ = ["read_stream", "write_stream"]

_COMPARISONS = {
    Operation.EQ: "==",
    Operation.LT: "<",
    Operation.LE: "<=",
    Operation.GT: ">",
    Operation.GE: ">=",
}


@takes(ReadOptions)
def read_stream(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    *,
    override_num_blocks: int | None = None,
    concurrency: int | None = None,
    ray_remote_args: dict[str, Any] | None = None,
    **options: Unpack[ReadOptions],
) -> Dataset:
    """Read the entries of one or several streams, up to the newest now, into a Ray Dataset.

    The streams are divided into parts of about equal size, by `redfloe.split_stream`, and each task
    reads one, straight into Arrow, in batches of up to 50,000 rows. The end is fixed by this call:
    a dataset has the same rows each time it is executed, and a task that is retried reads the same
    entries again, unless they have been trimmed or deleted.

    ``select_columns`` is pushed down: other fields are skipped unparsed. So is ``filter`` with an
    expression: what it says of ``_id`` (equality), ``_ts`` and ``_stream`` decides which entries
    the server is asked for, and the tasks apply all of it. ``count`` reads no field. Rows come in
    Ray's order; sort the dataset, in place of ``order="id"``, which is refused.

    Parameters
    ----------
    url : str or RedisConnection
        As for `redfloe.read_stream`. The tasks connect by it, so it must lead to the server from
        each node, and what Ray ships to them has the password; plans, names and logs do not.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, which are a column then (``_stream``). A
        missing stream gives no rows.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `redfloe.read_stream`. Without it the fields of a sample of
        `infer_schema_length` entries, the oldest and the newest, as String; fields that only other
        entries have are not seen.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, as for `redfloe.read_stream`.
    override_num_blocks, concurrency, ray_remote_args
        As for ``ray.data.read_datasource``: into how many parts to divide the streams, how many
        tasks run at a time, and what else Ray should know of them.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    ray.data.Dataset
        Columns as those of `redfloe.read_stream`, as Arrow types.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, NoStreamError
        At once, as for `redfloe.read_stream`; later as a ``RayTaskError`` that is an instance of
        ours too.
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe.ray
    >>> from ray.data.expressions import col
    >>> schema = {"action": pl.String, "value": pl.Int64}
    >>> dataset = redfloe.ray.read_stream(url, "events", schema)
    >>> dataset.filter(expr=col("_ts") > 1704067200000).select_columns(["action"]).take_all()
    [{'action': 'view'}]
    """
    read = BoundedRead.plan(url, stream, schema, start_id, end_id, complete(options, read_stream))
    return ray.data.read_datasource(
        _StreamDatasource(read),
        override_num_blocks=override_num_blocks,
        concurrency=concurrency,
        ray_remote_args=ray_remote_args,
    )


def write_stream(
    ds: Dataset,
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    id_column: str | None = None,
    job: str | None = None,
    staging_ms: int = DAY_MS,
    min_rows_per_write: int = 50_000,
    concurrency: int | None = None,
    ray_remote_args: dict[str, Any] | None = None,
    **options: Unpack[RowOptions],
) -> int:
    """Add the rows of a Ray Dataset to a Redis stream: all or none, and each once.

    Tasks write their rows to streams beside the target, in its slot of a cluster, and when all are
    done this process moves them to the stream by scripts, a thousand entries at a time. So a task
    that is retried writes no row twice, and where one fails for good there is no row in the stream;
    what it has written aside expires. The server has the rows twice for a moment. They come in the
    order of blocks, within which their order is kept.

    Parameters
    ----------
    ds : ray.data.Dataset
        The rows. It is executed.
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    id_column : str, optional
        Take the entry IDs from this String column: ``"ms-seq"``. A stream takes IDs in increasing
        order only, so this process writes the rows itself, block after block, and nothing is
        written aside. Sort the dataset first. Rows whose IDs the stream has are left out: after a
        crash run it again. Not with `job`.
    job : str, optional
        A name for these rows, such as a date: run again under this name, also after a crash, the
        job adds nothing, or finishes what the first run has begun to move. A small hash stays in
        the server for each name.
    staging_ms : int, default a day
        When rows that were written aside and are not moved expire.
    min_rows_per_write : int, default 50,000
        How many rows a task should have: Ray starts one for every block otherwise.
    concurrency, ray_remote_args
        As for ``Dataset.write_datasink``.
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
        As for `redfloe.write_stream`. Of tasks Ray raises its ``RayTaskError``, which is an
        instance of ours too.
    ValueError, TypeError
        An argument cannot be right; nothing was executed.

    Examples
    --------
    >>> import ray.data
    >>> import redfloe.ray
    >>> dataset = ray.data.range(1_000)
    >>> redfloe.ray.write_stream(dataset, url, "numbers", job="2026-01-31")
    1000
    >>> redfloe.read_stream(url, "numbers", {"id": int}, count=1)["id"].to_list()
    [0]
    """
    if id_column is not None:
        if job is not None:
            msg = "job has no meaning with id_column: rows that are in are left out anyway"
            raise ValueError(msg)
        with _in_order(ds):
            tables = ds.iter_batches(batch_size=BATCH_SIZE, batch_format="pyarrow")
            return write_with_ids(url, stream, id_column, tables, options)
    sink = _StreamDatasink(StagedWrite(url, stream, job, staging_ms, options), min_rows_per_write)
    ds.write_datasink(sink, concurrency=concurrency, ray_remote_args=ray_remote_args)
    return sink.rows


class _StreamDatasink(Datasink[Aside | None]):
    """What Ray calls in the tasks of a write, and in the driver at its end."""

    def __init__(self, write: StagedWrite, min_rows: int) -> None:
        self._write = write
        self._min_rows = positive(min_rows, "min_rows_per_write")
        self.rows = 0

    def get_name(self) -> str:
        return "RedisStream"

    @property
    def min_rows_per_write(self) -> int | None:
        return self._min_rows

    def write(self, blocks: Iterable[Any], ctx: Any) -> Aside | None:  # noqa: ARG002 - Ray's
        return self._write.write(BlockAccessor.for_block(block).to_arrow() for block in blocks)

    def on_write_complete(self, write_result: WriteResult[Aside | None]) -> None:
        self.rows = self._write.commit(write_result.write_returns)


@contextmanager
def _in_order(ds: Dataset) -> Iterator[None]:
    """Have Ray give the rows in the dataset's order, which it does not by itself."""
    execution = ds.context.execution_options
    before, execution.preserve_order = execution.preserve_order, True
    try:
        yield
    finally:
        execution.preserve_order = before


class _StreamDatasource(Datasource):
    """What Ray asks for read tasks, several times for each execution."""

    def __init__(self, read: BoundedRead) -> None:
        super().__init__()
        self._projection_map: dict[str, str] | None = None  # which Ray leaves unset
        self._read = read
        self._rows, self._row_bytes = read.size()
        self._splits = Splits(read)  # Ray's copies of this have the same

    def get_name(self) -> str:
        return "RedisStream"

    def estimate_inmemory_data_size(self) -> int:
        return self._size(self._rows)

    def supports_projection_pushdown(self) -> bool:
        return True

    def supports_predicate_pushdown(self) -> bool:
        return True

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 - Ray's
    ) -> list[ReadTask]:
        predicate = self._predicate_expr
        known = None if predicate is None else _known(predicate, Filters(self._read.metadata))
        # One at least, which has the columns.
        partitions: Sequence[StreamPartition | None] = self._splits.of(parallelism, known) or [None]
        columns = self._columns()
        schema = self._read.arrow_schema(columns)
        return [
            ReadTask(
                _task(self._read, partition, columns, predicate, per_task_row_limit),
                # Of rows we know only about how many there are, and Ray would take it for exact.
                BlockMetadata(
                    num_rows=None,
                    size_bytes=0 if partition is None else self._size(partition.rows),
                    exec_stats=None,
                    input_files=None,
                ),
                schema=schema,
                per_task_row_limit=per_task_row_limit,
            )
            for partition in partitions
        ]

    def _columns(self) -> list[str] | None:
        if self._projection_map is None:
            return None
        # One at least: a table without columns has no rows, and `count` asks for none.
        return [*self._projection_map] or self._read.arrow_schema().names[:1]

    def _size(self, rows: int) -> int:
        # Nothing means to Ray that there are no rows.
        return max(1, int(rows * self._row_bytes)) if rows else 0


def _task(
    read: BoundedRead,
    partition: StreamPartition | None,
    columns: list[str] | None,
    predicate: Expr | None,
    limit: int | None,
) -> Callable[[], Iterator[pa.Table]]:
    """Give what a worker calls for the rows of a partition."""

    def rows() -> Iterator[pa.Table]:
        # At least one table, which has the columns.
        empty = read.arrow_schema(columns).empty_table()
        if partition is None:
            yield empty
            return
        wanted, condition = columns, None
        if predicate is not None:
            condition = predicate.to_pyarrow()
            filtered = _columns_of(predicate)
            if columns is not None:
                wanted = None if filtered is None else [*dict.fromkeys([*columns, *filtered])]
        yield empty
        for batch in read.read(partition, wanted, None if condition is not None else limit):
            table = pa.Table.from_batches([batch])
            if condition is not None:
                table = table.filter(condition)
            yield table if columns is None else table.select(columns)

    return rows


def _columns_of(expression: Expr) -> list[str] | None:
    """Name the columns that a filter looks at; None for all."""
    match expression:
        case ColumnExpr():
            return [expression.name]
        case LiteralExpr():
            return []
        case AliasExpr():
            return _columns_of(expression.expr)
        case UnaryExpr():
            return _columns_of(expression.operand)
        case BinaryExpr():
            left, right = _columns_of(expression.left), _columns_of(expression.right)
            return None if left is None or right is None else left + right
    return None


def _known(expression: Expr, filters: Filters) -> pl.Expr | None:
    """Give what a filter says of IDs and streams."""
    if not isinstance(expression, BinaryExpr):
        return None
    left, right = expression.left, expression.right
    match expression.op:
        case Operation.AND:
            return both(_known(left, filters), _known(right, filters))
        case Operation.OR:
            return either(_known(left, filters), _known(right, filters))
        case Operation.IN:
            values = right.value if isinstance(right, LiteralExpr) else None
            return filters.contained(_operand(left), values) if isinstance(values, list) else None
        case operation if operation in _COMPARISONS:
            return filters.compared(_operand(left), _COMPARISONS[operation], _operand(right))
    return None


def _operand(expression: Expr) -> Column | Literal | None:
    match expression:
        case ColumnExpr():
            return Column(expression.name)
        case LiteralExpr():
            return Literal(expression.value)
    return None
