"""A bounded read that an engine carries out in parts, elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from redfloe import _core, _errors
from redfloe._arguments import Many, Request, Streams, make_request
from redfloe._checks import as_key
from redfloe._core import StreamReader
from redfloe._errors import RedfloeError, SchemaError, WrongTypeError
from redfloe._frame import of_batch
from redfloe._reading.partitions import partitions_of
from redfloe._reading.pinning import NOTHING, narrowed, wanted
from redfloe._reading.scan import projected, with_fields
from redfloe._reading.shards import found_over_shards
from redfloe._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._options import ReadOptions
    from redfloe._reading.partitions import StreamPartition
    from redfloe._reading.pinning import Bounds
    from redfloe._schema import SchemaLike

#: Entries of a batch: few enough that several workers hold one each.
BATCH_SIZE = 50_000
#: Entries by which the size of a row is guessed.
_SAMPLE = 100
_BATCH_BYTES = 64 * 1024 * 1024
_LAST = (2**64 - 1, 2**64 - 1)


@dataclass(frozen=True, repr=False)
class BoundedRead:
    """A read of the entries up to those that were the newest when it was planned.

    Its parts are disjoint, complete, and give the same entries each time. It can be pickled, with
    the password; its repr has none.
    """

    _url: RedisConnection
    #: With the columns; what it says of IDs is in the bounds.
    _request: Request
    #: Of several streams, also where the read is of one.
    _planning: Request
    _bounds: list[Bounds]

    @classmethod
    def plan(
        cls,
        url: str | RedisConnection,
        stream: Streams,
        schema: SchemaLike | None,
        start_id: EntryIdLike,
        end_id: EntryIdLike,
        options: ReadOptions,
    ) -> BoundedRead:
        """Find the columns and the newest entries."""
        url = _core.connect(url)
        if options["order"] != "stream":
            msg = 'order="id" needs a single reader: sort the rows in the engine'
            raise ValueError(msg)
        request = make_request(
            stream,
            takes_several=True,
            schema=schema,
            start_id=start_id,
            end_id=end_id,
            options=options,
            batch_size=BATCH_SIZE,
            batch_bytes=_BATCH_BYTES,
        )
        many = request["many"] or _many_of(as_key(stream, "stream"))
        if request["must_exist"]:
            _core.check_streams(url, many["streams"])
            request["must_exist"] = False
        # No warning where some parts lack a field of the schema.
        request = with_fields(url, request, options["infer_schema_length"])
        request["expects_fields"] = False
        if not of_batch(_core.empty_batch(request)).columns:
            msg = "there is no column to read, and engines do not count rows without columns"
            raise SchemaError(msg)
        planning = request | {"many": many}
        try:
            return cls(url, request, planning, _core.pin_streams(url, planning))
        except WrongTypeError:
            found = found_over_shards(url, request)
            if found is None:
                raise
        return cls(url, found, found, _core.pin_streams(url, found))

    def __repr__(self) -> str:
        streams = len(self._bounds)
        return f"BoundedRead({self._url!r}, {counted(streams, 'stream', 'streams')})"

    @property
    def metadata(self) -> Request:
        """What says how the columns beside the fields are called."""
        return self._request

    def arrow_schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """Give the columns, those named or all."""
        schema = pa.schema(StreamReader(self._url, self._projected(columns)))
        return schema if columns is None else pa.schema([schema.field(name) for name in columns])

    def size(self) -> tuple[int, float]:
        """Say how many entries there are, about, and how many bytes a row has in memory."""
        for partition in self.split(1):
            # A misfit is for those to hear of who read it.
            request = partition._narrowed(self._request | {"count": _SAMPLE, "on_error": "null"})
            sample = _core.read_stream(self._url, _core.PreparedRead(request), of_batch)
            return partition.rows, sample.estimated_size() / max(sample.height, 1)
        return 0, 0.0

    def within(self, predicate: pl.Expr | None) -> tuple[Bounds, ...]:
        """Say which entries of each stream may match a predicate, made by `Filters`."""
        many = self._planning["many"]
        assert many is not None, "it is of several streams"
        # Timestamps are numbers to `Filters`, whatever the column is.
        numeric = self._planning | {"timestamp_type": pl.Schema({"timestamp_dtype": pl.Int64()})}
        bounds = narrowed(numeric, self._bounds, predicate)
        pairs = zip(bounds, wanted(numeric, many, predicate), strict=True)
        return tuple(bound if is_wanted else NOTHING for bound, is_wanted in pairs)

    def split(self, n: int, within: tuple[Bounds, ...] | None = None) -> list[StreamPartition]:
        """Cut the entries, or those within bounds, into up to `n` parts of about equal size."""
        many = self._planning["many"]
        assert many is not None, "it is of several streams"
        bounds = self._bounds if within is None else within
        # Of whole streams the server knows the number of entries: the end is cut off afterwards.
        open_ended = [
            (bound[0], _LAST) if bound == pinned and bound[0] <= bound[1] else bound
            for bound, pinned in zip(bounds, self._bounds, strict=True)
        ]
        request = self._planning | {"many": many | {"ranges": open_ended}}
        cut = []
        for pieces, rows in _core.split_stream(self._url, request, n).wait():
            ended = [(at, (first, min(last, bounds[at][1]))) for at, (first, last) in pieces]
            kept = [(at, (first, last)) for at, (first, last) in ended if first <= last]
            cut += [(kept, rows)] if kept else []
        return partitions_of(self._url, request, self._request["many"] is not None, cut)

    def read(
        self,
        partition: StreamPartition,
        columns: Sequence[str] | None,
        limit: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns, those named or all, of the first `limit` entries of a partition."""
        request = partition._narrowed(self._projected(columns) | {"count": limit})
        batches = pa.RecordBatchReader.from_stream(StreamReader(self._url, request))
        try:
            yield from batches
        except pa.ArrowException as error:
            raise _own(error) from None

    def _projected(self, columns: Sequence[str] | None) -> Request:
        return self._request if columns is None else projected(self._request, columns)


def _own(error: pa.ArrowException) -> Exception:
    """Give the error of ours that Arrow has taken for one of its own."""
    if found := re.fullmatch(r"External error: (\w+): (.*)", str(error), re.DOTALL):
        kind = getattr(_errors, found[1], None)
        if isinstance(kind, type) and issubclass(kind, RedfloeError):
            return kind(found[2])
    return RuntimeError(str(error))


class Splits:
    """What a read was cut into: engines ask several times, and to cut a stream takes a sample."""

    def __init__(self, read: BoundedRead) -> None:
        self._read = read
        self._known: dict[tuple[int, tuple[Bounds, ...]], list[StreamPartition]] = {}

    def of(self, n: int, predicate: pl.Expr | None) -> list[StreamPartition]:
        """Give up to `n` parts that have what may match the predicate."""
        within = self._read.within(predicate)
        if (n, within) not in self._known:
            self._known[n, within] = self._read.split(n, within)
        return self._known[n, within]


def _many_of(stream: bytes) -> Many:
    return Many(
        streams=[stream],
        order="stream",
        on_schema_mismatch="union",
        compare_dtypes=True,
        pattern=None,
        ranges=None,
    )
