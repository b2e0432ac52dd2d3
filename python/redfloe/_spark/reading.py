"""Spark's readers: plans by `split_stream` and offsets, which workers carry out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql.datasource import (
    DataSourceReader,
    DataSourceStreamReader,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    InputPartition,
    LessThan,
    LessThanOrEqual,
)
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadMaxRows,
    SupportsTriggerAvailableNow,
)

from redfloe._reading.offsets import advance_offsets, as_pair, check_offsets, stream_offsets
from redfloe._reading.partitions import split_stream
from redfloe._spark.columns import Columns
from redfloe._spark.options import LARGEST, Id, Options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql.datasource import Filter
    from pyspark.sql.streaming.datasource import ReadLimit
    from pyspark.sql.types import StructType

    from redfloe._reading.partitions import StreamPartition

Offsets = dict[str, str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_ALL = (0, 0), (LARGEST, LARGEST)


class Part(InputPartition):
    """What a task reads. Spark shows it: its repr has no password."""

    def __init__(self, partition: StreamPartition) -> None:
        self.partition = partition


def _read(columns: Columns, part: InputPartition) -> Iterator[pa.RecordBatch]:
    # Where there is nothing to read Spark makes a partition of its own.
    return columns.batches(part.partition) if isinstance(part, Part) else iter(())


class BoundedReader(DataSourceReader):
    """Reads what there is between two positions."""

    def __init__(self, options: Options, schema: StructType) -> None:
        self._options = options
        self._columns = Columns(schema, options)
        self._start = options.position("startingOffsets", "earliest")
        self._end = options.position("endingOffsets", "latest")
        if self._start.at == "latest" or self._end.at == "earliest":
            msg = "a bounded read cannot begin at the latest offsets or end at the earliest"
            raise ValueError(msg)
        self._within = _ALL

    def partitions(self) -> list[InputPartition]:
        """Cut what there is now."""
        options = self._options
        first = max(self._within[0], self._start.bound("startingOffsets", is_start=True))
        ends, last = self._end.offsets, self._within[1]
        if ends is None:
            last = min(last, self._end.bound("endingOffsets", is_start=False))
            ends = stream_offsets(options.url, options.stream)
        starts = self._start.offsets or {}
        after = {
            name: max(as_pair(starts.get(name, "0-0")), _before(first)) for name in options.streams
        }
        up_to = {name: min(as_pair(ends.get(name, "0-0")), last) for name in options.streams}
        partitions = split_stream(
            options.url,
            options.stream,
            options.partitions,
            after={name: _text(offset) for name, offset in after.items()},
            up_to={name: _text(offset) for name, offset in up_to.items()},
        )
        return [Part(partition) for partition in partitions]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Read one of them, in a worker."""
        return _read(self._columns, partition)


class FilteringReader(BoundedReader):
    """The same, of what filters leave. A class of its own: Spark refuses one that could filter."""

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - Spark's
        """Narrow the range of IDs. Spark filters again: a range holds more than what matches."""
        first, last = _ALL
        for one in filters:
            lower, upper = _range(one)
            first, last = max(first, lower), min(last, upper)
        self._within = first, last
        return filters


def _range(one: Filter) -> tuple[Id, Id]:
    """Give the IDs that a filter leaves, and perhaps others; all where that cannot be said."""
    match one:
        case EqualTo(("_ts",), value) if (ms := _milliseconds(value)) is not None:
            return (ms, 0), (ms, LARGEST)
        case GreaterThan(("_ts",), value) | GreaterThanOrEqual(("_ts",), value) if (
            ms := _milliseconds(value)
        ) is not None:
            return (ms, 0), _ALL[1]
        case LessThan(("_ts",), value) | LessThanOrEqual(("_ts",), value) if (
            ms := _milliseconds(value)
        ) is not None:
            return _ALL[0], (ms, LARGEST)
        case In(("_ts",), values) if values:
            all_ms = [ms for value in values if (ms := _milliseconds(value)) is not None]
            if len(all_ms) == len(values):
                return (min(all_ms), 0), (max(all_ms), LARGEST)
        # Texts are in another order than IDs: only equality says something.
        case EqualTo(("_id",), str(text)) if (entry := _entry(text)) is not None:
            return entry, entry
        case In(("_id",), values) if values:
            entries = [entry for text in values if (entry := _entry(text)) is not None]
            if len(entries) == len(values):
                return min(entries), max(entries)
    return _ALL


def _milliseconds(value: object) -> int | None:
    """Give the millisecond of a value of `_ts`: a bigint, or a time, which comes as aware."""
    match value:
        case bool():
            return None
        case datetime() if value.tzinfo is not None:
            ms = (value - _EPOCH) // _MS
        case int():
            ms = value
        case _:
            return None
    return min(max(ms, 0), LARGEST)


def _entry(text: object) -> Id | None:
    ms, _, seq = str(text).partition("-")
    both = (ms, seq)
    return (int(ms), int(seq)) if all(t.isascii() and t.isdigit() for t in both) else None


def _before(entry: Id) -> Id:
    """Give the ID before, as a position from which on the entry is read."""
    ms, seq = entry
    if seq:
        return ms, seq - 1
    return (ms - 1, LARGEST) if ms else (0, 0)


def _text(entry: Id) -> str:
    return f"{entry[0]}-{entry[1]}"


class StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Reads continuously; all methods but `read` are called in one process, by the driver."""

    def __init__(self, options: Options, schema: StructType) -> None:
        self._options = options
        self._columns = Columns(schema, options)
        self._start = options.position("startingOffsets", "latest")
        self._fails_on_loss = options.flag("failOnDataLoss", default=True)
        self._most = options.number("maxOffsetsPerTrigger", LARGEST)
        #: Up to where a query with the trigger AvailableNow reads.
        self._target: Offsets | None = None

    def initialOffset(self) -> Offsets:  # noqa: N802 - Spark's, as the others
        """Give where a new query begins."""
        options = self._options
        if self._start.offsets is not None:
            return {name: self._start.offsets.get(name, "0-0") for name in options.streams}
        at = {"earliest": "-", "latest": "$"}.get(str(self._start.at), str(self._start.at))
        return stream_offsets(options.url, options.stream, at)

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        """Give how much a batch should have."""
        return ReadAllAvailable() if self._most == LARGEST else ReadMaxRows(self._most)

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: N802
        """Give up to where the next batch goes."""
        options = self._options
        newest = self._target or stream_offsets(options.url, options.stream)
        # Not back, where the newest entry was deleted.
        end = {
            name: max(newest.get(name, "0-0"), start.get(name, "0-0"), key=as_pair)
            for name in options.streams
        }
        if isinstance(limit, ReadMaxRows):
            return advance_offsets(options.url, start, limit.max_rows, up_to=end)
        return end

    def reportLatestOffset(self) -> Offsets:  # noqa: N802
        """Give the newest offsets, for the query's progress."""
        return stream_offsets(self._options.url, self._options.stream)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """Read up to what there is now, and no farther."""
        self._target = stream_offsets(self._options.url, self._options.stream)

    def partitions(self, start: Offsets, end: Offsets) -> list[InputPartition]:
        """Cut a batch; the same one again after a restart."""
        options = self._options
        if self._fails_on_loss:
            check_offsets(
                options.url,
                {name: start[name] for name in end if name in start and start[name] != end[name]},
            )
        partitions = split_stream(
            options.url, options.stream, options.partitions, after=start, up_to=end
        )
        return [Part(partition) for partition in partitions]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Read one of them, in a worker."""
        return _read(self._columns, partition)
