"""Spark's reader of a continuous query: offsets, batches, and entries that are lost before them."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from pyspark.sql.datasource import DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadMaxRows,
    SupportsTriggerAvailableNow,
)

from redfloe._errors import DataLossError
from redfloe._reading.offsets import advance_offsets, as_pair, check_offsets, stream_offsets
from redfloe._reading.partitions import split_stream
from redfloe._reading.read import read_stream
from redfloe._spark.columns import Columns
from redfloe._spark.options import LARGEST, Options, as_text, id_before

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa
    from pyspark.sql.streaming.datasource import ReadLimit
    from pyspark.sql.types import StructType

    from redfloe._reading.partitions import StreamPartition

Offsets = dict[str, str]

_BEGIN = "0-0"
_LOGGER = logging.getLogger("redfloe")


class Part(InputPartition):
    """What a task reads of a batch. Spark shows it: its repr has no password."""

    def __init__(self, partition: StreamPartition, seen: Offsets) -> None:
        self.partition = partition
        #: As long as an entry up to here is in the stream, no entry after it was trimmed.
        self.seen = seen


class StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Reads continuously; all methods but `read` are called in one process, by the driver."""

    def __init__(self, options: Options, schema: StructType) -> None:
        self._options = options
        self._columns = Columns(schema, options)
        self._start = options.position("startingOffsets", "latest", is_start=True)
        self._fails_on_loss = options.flag("failOnDataLoss", default=True)
        self._most = options.number("maxOffsetsPerTrigger", LARGEST)
        #: Up to where a query with the trigger AvailableNow reads.
        self._target: Offsets | None = None

    def initialOffset(self) -> Offsets:  # noqa: N802 - Spark's, as the others
        """Give where a new query begins."""
        options = self._options
        match self._start.at:
            case None:
                starts = self._start.offsets or {}
                return {name: starts.get(name, _BEGIN) for name in options.streams}
            case "earliest":
                return dict.fromkeys(options.streams, _BEGIN)
            case "latest":
                return self._newest()
        return stream_offsets(options.url, options.stream, as_text(self._start.bound()))

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        """Give how much a batch should have."""
        return ReadAllAvailable() if self._most == LARGEST else ReadMaxRows(self._most)

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: N802
        """Give up to where the next batch goes."""
        newest = self._target or self._newest()
        end = {name: self._end_of(name, start.get(name, _BEGIN), newest) for name in newest}
        if isinstance(limit, ReadMaxRows):
            after = _after(start, end)
            return advance_offsets(self._options.url, after, limit.max_rows, up_to=end)
        return end

    def _end_of(self, name: str, start: str, newest: Offsets) -> str:
        if as_pair(newest[name]) >= as_pair(start):
            return newest[name]
        # Either its newest entry was deleted, or the stream is another one.
        return newest[name] if self._is_lost(name, start) else start

    def reportLatestOffset(self) -> Offsets:  # noqa: N802
        """Give the newest offsets, for the query's progress."""
        return self._newest()

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """Read up to what there is now, and no farther."""
        self._target = self._newest()

    def partitions(self, start: Offsets, end: Offsets) -> list[InputPartition]:
        """Cut a batch; the same one again after a restart."""
        options, after = self._options, _after(start, end)
        seen = {
            name: self._seen_of(name, after.get(name, _BEGIN), end[name])
            for name in end
            if name in options.streams and start.get(name, _BEGIN) != end[name]
        }
        partitions = split_stream(
            options.url, options.stream, options.partitions, after=after, up_to=end
        )
        return [Part(partition, _seen_before(partition, seen)) for partition in partitions]

    def _seen_of(self, name: str, start: str, end: str) -> str:
        """Give the entry after which those of a batch come; where there is none its first."""
        if not self._is_lost(name, start, end) and start != _BEGIN:
            return start
        oldest = read_stream(self._options.url, name, {}, count=1, include_timestamp=False)["_id"]
        first = oldest[0] if len(oldest) else _BEGIN
        if start == _BEGIN and as_pair(first) > as_pair(end):  # of a batch that is planned again
            self._lose(f"the stream was trimmed past {end}: it begins at {first} (stream: {name})")
        return first

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Read one of them, in a worker."""
        # Where there is nothing to read Spark makes a partition of its own.
        if not isinstance(partition, Part):
            return
        yield from self._columns.batches(partition.partition)
        # Only now, so that it shows what was trimmed while it was read.
        for name, seen in partition.seen.items():
            self._is_lost(name, seen, partition.partition.ranges[name][1])

    def _newest(self) -> Offsets:
        return stream_offsets(self._options.url, self._options.stream)

    def _is_lost(self, name: str, seen: str, end: str | None = None) -> bool:
        """Whether entries after one, up to another, may be lost: raises if that is what to do."""
        try:
            # Where a query begins, and where its batches are cut, there need be no entry.
            check_offsets(self._options.url, {name: seen}, are_entries=False)
            if end is None or seen == end or self._has_entries(name):
                return False
            what = f"the stream does not exist any more, or is empty (stream: {name})"
        except DataLossError as error:
            # What to do about it the error says in the words of other readers.
            what = re.sub("; (to go on|start a new read).*?(?= \\(stream: |$)", "", str(error))
        self._lose(what)
        return True

    def _lose(self, what: str) -> None:
        if not self._fails_on_loss:
            _LOGGER.warning("entries that were not read may be lost: %s", what)
            return
        msg = (
            f"{what}: entries that this query has not read may be lost; the option "
            "failOnDataLoss=false goes on with those that are there"
        )
        raise DataLossError(msg)

    def _has_entries(self, name: str) -> bool:
        return stream_offsets(self._options.url, name)[name] != _BEGIN


class Refused(DataSourceStreamReader):
    """Says what is wrong with the options once it is asked: Spark would not show it before."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def initialOffset(self) -> Offsets:  # noqa: N802 - as above
        """Refuse a new query."""
        raise self._error

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: ARG002, N802
        """Refuse one that goes on."""
        raise self._error

    def partitions(self, start: Offsets, end: Offsets) -> list[InputPartition]:  # noqa: ARG002
        """Refuse one that repeats a batch."""
        raise self._error

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:  # noqa: ARG002
        """Refuse whatever it may be."""
        raise self._error


def _after(start: Offsets, end: Offsets) -> Offsets:
    """Give where a batch begins: at the oldest entry of a stream that was created again."""
    return {
        name: offset
        for name, offset in start.items()
        if name not in end or as_pair(offset) <= as_pair(end[name])
    }


def _seen_before(partition: StreamPartition, seen: Mapping[str, str]) -> Offsets:
    """Give of each stream of a partition the entry after which its own come."""
    firsts: Iterable[tuple[str, str]] = (
        (name, first) for name, (first, _) in partition.ranges.items() if name in seen
    )
    return {
        name: max(seen[name], as_text(id_before(as_pair(first))), key=as_pair)
        for name, first in firsts
    }
