"""Spark's sink: tasks write rows aside, and the driver's commit moves them to the stream, once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from pyspark import TaskContext
from pyspark.sql.datasource import (
    DataSourceArrowWriter,
    DataSourceStreamArrowWriter,
    WriterCommitMessage,
)

from redfloe import _core
from redfloe._engines.writing import DAY_MS, MOST_FIELDS, RowOptions, check_options
from redfloe._spark.columns import OURS, refuse_types
from redfloe._write import write_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from pyspark.sql.types import StructType

    from redfloe._spark.options import Options

#: What Spark's engine tells its tasks of the batch. The names are its own, not its interface's.
_QUERY, _BATCH = "sql.streaming.queryId", "streaming.sql.batchId"


@dataclass
class Written(WriterCommitMessage):
    """What a task has written, and where; without rows nowhere."""

    query: str
    key: bytes | None
    rows: int


class _Writer:
    """What both kinds of writes do. Spark ships it to the tasks."""

    def __init__(self, options: Options, schema: StructType) -> None:
        if not isinstance(options.stream, str):
            msg = "a write is to one stream; the option stream must be its key"
            raise ValueError(msg)
        if len(schema.fields) > MOST_FIELDS:
            msg = f"an entry may have {MOST_FIELDS:,} fields here, not {len(schema.fields):,}"
            raise ValueError(msg)
        for name in OURS:
            if name in schema.names:
                msg = f"{name} is no field: drop the column, or rename it to make it one"
                raise ValueError(msg)
        refuse_types(schema, "write it as string, by to_json or a cast")
        self._rows: RowOptions = options.rows
        check_options(self._rows)
        self._url = options.url
        self._stream = options.stream.encode()
        self._expiry_ms = options.number("stagingExpiryMs", DAY_MS)

    def _write_aside(self, batches: Iterable[pa.RecordBatch], query: str, batch: int) -> Written:
        # Each attempt of a task has a key of its own: what one that failed has left expires.
        attempt = uuid.uuid4().hex
        parts = ["spark", query, str(batch), attempt]
        key = _core.staged_key(self._stream, [part.encode() for part in parts])
        rows = 0
        for records in batches:
            if not records.num_rows:
                continue
            _core.prepare_staging(self._url, key, self._expiry_ms).wait()
            rows += write_stream(self._url, pl.DataFrame(records), key, **self._rows).count()
        return Written(query, key if rows else None, rows)

    def _commit(
        self, messages: Sequence[WriterCommitMessage | None], batch: int, *, is_last: bool
    ) -> None:
        written = [message for message in messages if isinstance(message, Written)]
        if not written:
            return
        # The marker says which of a query's batches are in the stream.
        marker = _core.staged_key(self._stream, [b"spark", written[0].query.encode()])
        parts = [(message.key, message.rows) for message in written if message.key is not None]
        committing = _core.commit_staged(
            self._url, self._stream, marker, batch, parts, is_last=is_last
        )
        committing.wait()


class Writer(_Writer, DataSourceArrowWriter):
    """A bounded write: all rows, or none where a task fails."""

    def __init__(self, options: Options, schema: StructType) -> None:
        super().__init__(options, schema)
        self._job = uuid.uuid4().hex

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        """Write a partition aside, in a worker."""
        return self._write_aside(iterator, self._job, 0)

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        """Move all to the stream."""
        self._commit(messages, 0, is_last=True)


class StreamWriter(_Writer, DataSourceStreamArrowWriter):
    """The sink of a continuous query: each batch is in the stream once."""

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        """Write a partition aside, in a worker."""
        context = TaskContext.get()
        query = context and context.getLocalProperty(_QUERY)
        batch = context and context.getLocalProperty(_BATCH)
        if not query or batch is None:
            msg = (
                "this version of Spark does not tell tasks the query and the batch (the local "
                f"properties {_QUERY} and {_BATCH}), without which a batch that is repeated would "
                "be written twice; write it by foreachBatch and redfloe.write_stream"
            )
            raise RuntimeError(msg)
        return self._write_aside(iterator, query, int(batch))

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803
        """Move a batch to the stream, where that was not done before."""
        self._commit(messages, batchId, is_last=False)
