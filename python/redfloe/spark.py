"""Redis Streams in Spark 4, as a Python data source: ``pip install 'redfloe[spark]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from pyspark.sql.datasource import (
        DataSource,
        DataSourceReader,
        DataSourceStreamReader,
        DataSourceStreamWriter,
        DataSourceWriter,
    )
except ImportError as error:
    msg = "redfloe.spark needs Spark 4.3: pip install 'redfloe[spark]'"
    raise ImportError(msg) from error

from redfloe._spark.columns import inferred_type
from redfloe._spark.options import Options
from redfloe._spark.reading import BoundedReader, FilteringReader
from redfloe._spark.streaming import Refused, StreamReader
from redfloe._spark.writing import StreamWriter, Writer

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

__all__ = ["RedisStreamSource"]


class RedisStreamSource(DataSource):
    """The format ``redis_stream``: streams as Spark's DataFrames, bounded and continuous.

    A read is divided into partitions of about equal size, by `redfloe.split_stream`; each is read
    by a Python worker straight into Arrow record batches. A continuous query keeps its offsets, an
    entry ID for each stream, in Spark's checkpoint; together with a sink that is idempotent each
    entry counts once.

    A DataFrame's columns are written as fields, as by `redfloe.write_stream`, in the mode
    ``append``. A bounded write adds no row if a task fails; if the driver dies while it adds them,
    only the first of them are in the stream. A continuous query adds each batch once, also after a
    crash and with rows in other partitions. Tasks write to streams beside the target, in its slot
    of a cluster; the driver's commit moves the rows by scripts, a thousand at a time, with a marker
    for the query and the batch. So the rows are in the server twice for a moment, and in the order
    of partitions. The marker stays, one small hash for each query.

    The schema may have ``_id`` (string), ``_ts`` (timestamp, or bigint for milliseconds), ``_seq``
    (bigint) and ``_stream`` (string) beside the fields. Without one, the fields of a sample of the
    entries become columns, by `redfloe.infer_schema`, after ``_id`` and ``_ts``, and ``_stream``
    where there are several streams.

    Where the server is, as options whose case does not matter:

    - ``url``: as for `redfloe.read_stream`, with ``username`` and ``password`` beside it if it has
      none. Spark's plans and logs show it redacted.
    - ``settingsFile``: in place of it, a file as for `RedisConnection.from_file`.
    - ``settingsEnv``: in place of it, a prefix of variables as for `RedisConnection.from_env`.
      Without any of the three, the variables that begin with ``REDIS_``. Spark looks at the
      driver's environment as it was when Spark started, and at the driver's files.
    - ``stream``: the stream's key, or of a read a JSON array of several.

    Options of a read:

    - ``partitions``: how many at most; by default as many as the driver's machine has cores.
    - ``startingOffsets``: ``earliest``, ``latest``, the ID or the time of the first entry, or a
      JSON object as from `redfloe.stream_offsets`; a stream that is not in it begins with its
      oldest entry. By default a bounded read begins with the oldest entry, and a new continuous
      query after the newest.
    - ``endingOffsets``: of a bounded read, likewise the ID or the time of the last entry, or an
      offset for each stream.
    - ``filterPushdown``: ``true`` has a bounded read ask the server only for the range that filters
      of ``_ts`` and ``_id`` leave. Spark refuses such a read unless its setting
      ``spark.sql.python.filterPushdown.enabled`` is ``true``.
    - ``maxOffsetsPerTrigger``: the most entries of a continuous query's batch, of all streams
      together. To find where they end, the driver has the server send them once more.
    - ``failOnDataLoss``: ``true``, the default, fails a continuous query where entries that it has
      not read may be lost: trimmed, or deleted with their stream, before their batch was planned
      or before it was read. ``false`` logs that, and goes on with what is there; a stream that was
      created again is read from its oldest entry.
    - ``batchSize``: rows of a record batch, 10,000 by default.
    - ``onError``, ``rescueColumn``, ``payload``, ``payloadPath``, ``payloadPrefix``,
      ``payloadFormat``, ``payloadFields`` (with commas), ``payloadCompression``,
      ``payloadMaxBytes``: as for `redfloe.ReadOptions`.
    - ``payloadDescriptor``, ``payloadMessage``: with the ``payloadFormat`` ``protobuf``, the path
      of a descriptor set, on the driver, and the message; as for `redfloe.ProtobufSchema`.

    Options of a write:

    - ``onEmptyRow``: ``skip`` leaves out rows without any value, which no entry can hold. By
      default they fail the write.
    - ``stagingExpiryMs``: how long rows that nobody has committed are kept after a task's last
      write; a day by default.

    The Python workers must have redfloe: set ``PYSPARK_PYTHON``. What is shipped to them has the
    password, where one is given as an option.
    """

    @classmethod
    def name(cls) -> str:
        """Give the name for `format`."""
        return "redis_stream"

    def schema(self) -> StructType:
        """Give the schema of a read that has none, by a sample."""
        return inferred_type(Options.of(self.options).over_shards())

    def reader(self, schema: StructType) -> DataSourceReader:
        """Give the reader of a bounded read."""
        options = Options.of(self.options)
        options.refuse("maxOffsetsPerTrigger", "failOnDataLoss", "stagingExpiryMs", "onEmptyRow")
        reader = FilteringReader if options.flag("filterPushdown", default=False) else BoundedReader
        return reader(options.over_shards(), schema)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's
        """Give the reader of a continuous query."""
        try:
            options = Options.of(self.options)
            options.refuse("endingOffsets", "filterPushdown", "stagingExpiryMs", "onEmptyRow")
            return StreamReader(options.over_shards(), schema)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised later
            return Refused(error)

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
        """Give the writer of a DataFrame."""
        return Writer(self._write_options(overwrite=overwrite), schema)

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamWriter:  # noqa: N802
        """Give the sink of a continuous query."""
        return StreamWriter(self._write_options(overwrite=overwrite), schema)

    def _write_options(self, *, overwrite: bool) -> Options:
        if overwrite:
            msg = 'rows can only be appended to a stream: use the mode "append"'
            raise ValueError(msg)
        options = Options.of(self.options)
        options.allow("stagingExpiryMs", "onEmptyRow")
        return options
