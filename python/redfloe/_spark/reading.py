"""Spark's readers of what there is: plans by `split_stream`, which workers carry out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql.datasource import (
    DataSourceReader,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    InputPartition,
    LessThan,
    LessThanOrEqual,
)

from redfloe._reading.offsets import as_pair, stream_offsets
from redfloe._reading.partitions import split_stream
from redfloe._spark.columns import Columns
from redfloe._spark.options import LARGEST, Id, Options, as_text, id_before, id_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql.datasource import Filter
    from pyspark.sql.types import StructType

    from redfloe._reading.partitions import StreamPartition

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_ALL = (0, 0), (LARGEST, LARGEST)


class Part(InputPartition):
    """What a task reads. Spark shows it: its repr has no password."""

    def __init__(self, partition: StreamPartition) -> None:
        self.partition = partition


class BoundedReader(DataSourceReader):
    """Reads what there is between two positions."""

    def __init__(self, options: Options, schema: StructType) -> None:
        self._options = options
        self._columns = Columns(schema, options)
        self._start = options.position("startingOffsets", "earliest", is_start=True)
        self._end = options.position("endingOffsets", "latest", is_start=False)
        if self._start.at == "latest" or self._end.at == "earliest":
            msg = "a bounded read cannot begin at the latest offsets or end at the earliest"
            raise ValueError(msg)
        self._within = _ALL

    def partitions(self) -> list[InputPartition]:
        """Cut what there is now."""
        options = self._options
        first = max(self._within[0], self._start.bound())
        ends, last = self._end.offsets, self._within[1]
        if ends is None:
            last = min(last, self._end.bound())
            ends = stream_offsets(options.url, options.stream)
        starts = self._start.offsets or {}
        after = {
            name: max(as_pair(starts.get(name, "0-0")), id_before(first))
            for name in options.streams
        }
        up_to = {name: min(as_pair(ends.get(name, "0-0")), last) for name in options.streams}
        partitions = split_stream(
            options.url,
            options.stream,
            options.partitions,
            after={name: as_text(offset) for name, offset in after.items()},
            up_to={name: as_text(offset) for name, offset in up_to.items()},
        )
        return [Part(partition) for partition in partitions]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Read one of them, in a worker."""
        # Where there is nothing to read Spark makes a partition of its own.
        return (
            self._columns.batches(partition.partition) if isinstance(partition, Part) else iter(())
        )


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
    ms, seq = id_in(str(text)) or (0, None)
    return None if seq is None else (ms, seq)
