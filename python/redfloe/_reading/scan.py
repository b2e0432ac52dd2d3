"""Reading a stream lazily, and as an Arrow stream."""

from __future__ import annotations

import inspect
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

import polars as pl
from polars.io.plugins import register_io_source

from redfloe import _core
from redfloe._arguments import Request, Streams, make_request
from redfloe._core import RecordBatch, RedisConnection, StreamReader
from redfloe._errors import WrongTypeError
from redfloe._frame import of_batch
from redfloe._options import ReadOptions, complete, takes
from redfloe._progress import check_bar, shown_of, with_bar
from redfloe._reading.pinning import (
    Pinned,
    Ranges,
    look_for_interrupt,
    narrow,
    narrowed,
    pin,
    wanted,
)
from redfloe._reading.shards import found_over_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike

_T = TypeVar("_T")

#: Batches of a scan whose reader names no size: large enough that a batch costs nothing beside its
#: rows, small enough that a few of them do not count.
_BATCH_SIZE = 50_000
_BATCH_BYTES = 64 * 1024 * 1024
_LARGEST = 2**63 - 1


@takes(ReadOptions)
def scan_stream(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    last: int | None = None,
    progress: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.LazyFrame:
    """Scan the entries of a Redis stream lazily, as `read_stream` reads them eagerly.

    Nothing is read before `collect`. What the query needs decides what is read: fields that it does
    not select are skipped unparsed; comparisons of the timestamp column, and equality of the ID
    column, narrow the range of IDs that the server is asked for (XRANGE, Redis 5.0); ``head`` and
    ``limit`` become its COUNT. The streaming engine gets batch after batch, so that a query or a
    ``sink_parquet`` over a stream larger than memory runs in bounded memory. Text that does not fit
    its dtype raises only in a field that the query needs, or with the rescue column selected.

    A scan is a snapshot: its first ``collect`` pins the newest entry, and the frame's later ones,
    and both sides of a self-join, read up to the same. Scan again for what came since. Entries that
    are trimmed or deleted meanwhile are gone from it.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, as for `read_stream`. A missing stream gives
        no rows. Of several, those that a filter on the stream column excludes are not asked for.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `read_stream`. Without it the fields of a sample of
        `infer_schema_length` entries, the oldest and the newest, as String: it is read when the
        query is first planned, and fields that only other entries have are not seen.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, as for `read_stream`.
    count : int, optional
        Scan at most this many entries, the oldest first, before any filter.
    last : int, optional
        Scan only this many entries, the newest, before any filter. Where they begin is found by
        XREVRANGE, once. Polars does not tell a scan about a ``tail``, which reads everything. Not
        with `count`.
    progress : bool, default False
        Show a bar whenever the scan is read, by tqdm (``pip install tqdm``): rows before the
        filter, rows a second, the size of the columns, and the share of the range of IDs.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    pl.LazyFrame
        Columns as those of `read_stream`.

    Raises
    ------
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right.
    NoStreamError
        At once, where the stream does not exist and `must_exist` is True.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        When the query runs. Polars may wrap them in its own ``ComputeError``, whose message then
        begins with their name.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> lf = redfloe.scan_stream(url, "events", schema={"action": pl.String, "value": pl.Int64})
    >>> lf.filter(pl.col("_ts") > 1704067200000).select("action").collect()
    shape: (1, 1)
    ┌────────┐
    │ action │
    │ ---    │
    │ str    │
    ╞════════╡
    │ view   │
    └────────┘
    """
    url = _core.connect(url)
    decoding = complete(options, scan_stream)
    request = make_request(
        stream,
        takes_several=True,
        schema=schema,
        start_id=start_id,
        end_id=end_id,
        count=count,
        last=last,
        options=decoding,
    )
    _core.empty_batch(request)  # so that what cannot be right raises now, also without a schema
    _core.check_connection(url)
    check_bar(progress)
    _check_stream(url, request)
    detail = "" if request["many"] else "stream "
    return scan_of(url, request, decoding, progress=progress, detail=detail + shown_of(request))


def scan_of(
    url: RedisConnection,
    request: Request,
    options: ReadOptions,
    *,
    progress: bool,
    detail: str,
    pattern: bytes | None = None,
    check: Callable[[], object] | None = None,
) -> pl.LazyFrame:
    """Make the lazy frame of a request; the streams of a pattern are found when it is read.

    `check` may raise before a batch is given, and at the end.
    """
    sample = options["infer_schema_length"]
    scan = _Scan(url, request, sample=sample, progress=progress, pattern=pattern, check=check)
    known = scan.schema if request["schema"] is None else scan.schema()
    return register(scan.batches, known, detail)


@takes(ReadOptions)
def stream_reader(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    last: int | None = None,
    batch_size: int = 50_000,
    batch_bytes: int = 64 * 1024 * 1024,
    **options: Unpack[ReadOptions],
) -> StreamReader:
    """Read the entries of a Redis stream as an Arrow stream.

    The result has ``__arrow_c_stream__`` and ``__arrow_c_schema__`` (the Arrow PyCapsule
    interface): DuckDB, pyarrow, pandas, DataFusion and Polars take it as it is. Each time it is
    taken is a read of its own, batch by batch, in bounded memory, by pages of XRANGE (Redis 5.0) up
    to the entry that is the newest when its first batch is asked for.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, as for `read_stream`. A missing stream gives
        no rows.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `read_stream`. Without it the fields of a sample of
        `infer_schema_length` entries, the oldest and the newest, as text; it is read at once, and
        fields that only other entries have are not seen.
    start_id, end_id, count, last
        Which entries to read, as for `read_stream`.
    batch_size : int, default 50,000
        The most rows of a batch.
    batch_bytes : int, default 64 MiB
        Closes a batch once its entries have taken this many bytes of the server's reply, or at most
        256 KiB or one entry more.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    StreamReader
        String is Arrow's ``utf8``, Binary its ``binary``, Categorical and Enum are dictionaries of
        ``utf8``; Int128, which Arrow lacks, is a ``decimal128(38, 0)``.

    Raises
    ------
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right. Later errors reach the consumer as errors of its
        own, with redfloe's message.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> reader = redfloe.stream_reader(url, "events", schema={"value": pl.Int64})
    >>> reader
    StreamReader(columns=["_id", "_ts", "value"])
    >>> pl.DataFrame(reader)["value"].to_list()
    [10, None]
    """
    url = _core.connect(url)
    decoding = complete(options, stream_reader)
    request = make_request(
        stream,
        takes_several=True,
        schema=schema,
        start_id=start_id,
        end_id=end_id,
        count=count,
        last=last,
        options=decoding,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
    )
    _check_stream(url, request)
    return StreamReader(url, with_fields(url, request, decoding["infer_schema_length"]))


def _check_stream(url: RedisConnection, request: Request) -> None:
    """Raise now where the stream must exist and does not; Polars would wrap it, and DuckDB too."""
    if request["must_exist"]:
        many = request["many"]
        _core.check_streams(url, [request["stream"]] if many is None else many["streams"])
        request["must_exist"] = False


class _Scan:
    """What Polars calls for a scan's schema and for its batches, from any thread."""

    def __init__(
        self,
        url: RedisConnection,
        request: Request,
        *,
        sample: int | None,
        progress: bool = False,
        pattern: bytes | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        self._progress = progress
        self._check = check
        self._url = url
        #: Its columns where the caller has named them, which needs no stream.
        self._columns = request if request["schema"] is not None else None
        found = _Once(partial(_found, url, request, pattern))
        self._request = _Once(partial(_with_fields_of, url, found, sample))
        self._pinned = _Once(partial(pin, url, request))
        self._ranges = Ranges(url)

    def schema(self) -> pl.Schema:
        """Give the columns. Polars asks more than once."""
        return of_batch(_core.empty_batch(self._columns or self._request())).schema

    def batches(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """Read at least one frame, of those of the first `n_rows` rows that match.

        In this order: Polars passes both for a filter after a ``head``, and no `n_rows` for a
        ``head`` after a filter.
        """
        from redfloe._reading.pushdown import without_dynamic

        if predicate is not None:
            predicate = without_dynamic(predicate)
        frames = self._frames(with_columns, predicate, n_rows, batch_size)
        try:
            first = next(frames)
        except WrongTypeError:
            if not self._is_sharded():
                raise
            frames = self._frames(with_columns, predicate, n_rows, batch_size)
            first = next(frames)
        yield first
        yield from frames

    def _is_sharded(self) -> bool:
        """Look whether the stream is a sharded one, and read its shards from now on."""
        request = self._request()
        found = found_over_shards(self._url, request)
        if found is not None:
            self._request = _Once(partial(_same, found))
        # Another thread may have found it before.
        return found is not None or request["many"] is not None

    def _frames(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        names = self.schema() if with_columns is None else with_columns
        request = projected(self._request(), names)
        request["batch_size"] = batch_size or _BATCH_SIZE
        request["batch_bytes"] = _BATCH_BYTES
        if n_rows is not None:
            count = request["count"]
            request["count"] = n_rows if count is None else min(count, n_rows)

        def frame(batch: RecordBatch) -> pl.DataFrame:
            frame = of_batch(batch)
            if predicate is not None:
                # Whatever was pushed down: bounds of IDs hold more than the rows that match.
                frame = frame.filter(predicate)
            # To select nothing would lose the height, which a batch of no columns has.
            return frame[with_columns] if with_columns else frame

        pinned = self._pin(request, predicate)
        if predicate is not None:
            predicate = self._understood(predicate, pinned)
        if request["many"] is None:
            narrow(request, None if pinned is None else pinned.bounds, predicate)
        reader = _core.BatchReader(self._url, request, follow=False)
        batches = iter(partial(self._next, reader), None)
        if self._progress and pinned is not None:
            batches = with_bar(batches, f"scan of {shown_of(request)}", pinned.bounds)
        yield frame(next(batches, None) or _core.empty_batch(request))
        yield from map(frame, batches)

    def _next(self, reader: _core.BatchReader) -> RecordBatch | None:
        batch = reader.next_batch(look_for_interrupt)
        if self._check is not None:
            self._check()
        return batch

    def _pin(self, request: Request, predicate: pl.Expr | None) -> Pinned | None:
        """Fix up to where to read; of several streams also what the predicate leaves of each."""
        many = request["many"]
        if many is None:
            return self._pinned()
        ranges = self._ranges.of(request, many, wanted(request, many, predicate))
        newest = max((last for first, last in ranges if first <= last), default=None)
        request["many"] = many | {"ranges": narrowed(request, ranges, predicate)}
        request["last"] = None  # the ranges are those of the newest
        return None if newest is None else Pinned(None, newest)

    def _understood(self, predicate: pl.Expr, pinned: Pinned | None) -> pl.Expr:
        """Refuse, or make right, what a datetime in the filter does not mean."""
        from redfloe._reading.datetimes import NO_MILLISECOND, naive_as_utc, refuse_microseconds

        request = self._request()
        column, dtype = request["timestamp_column"], request["timestamp_type"]["timestamp_dtype"]
        if dtype != pl.Int64:
            return naive_as_utc(predicate, column, dtype)
        # Whose entries have such IDs means them.
        if pinned is not None and pinned.newest[0] < NO_MILLISECOND:
            refuse_microseconds(predicate, column)
        return predicate


def projected(request: Request, names: Iterable[str]) -> Request:
    """Leave out the columns that are not named."""
    request = request.copy()
    names = set(names)
    schema = request["schema"]
    if schema is None or request["rescue_column"] in names:
        return request  # which keeps what did not fit in whatever column
    if request["rescue_column"] is not None:
        request["rescue_column"], request["on_error"] = None, "null"
    request["schema"] = pl.Schema({n: dtype for n, dtype in schema.items() if n in names})
    for column in ("id_column", "timestamp_column", "sequence_column", "stream_column"):
        if request[column] not in names:
            request[column] = None
    return request


class _Once(Generic[_T]):
    """A value that is computed when first asked for, once, whichever threads ask."""

    def __init__(self, compute: Callable[[], _T]) -> None:
        self._compute = compute
        self._lock = Lock()
        self._values: list[_T] = []

    def __call__(self) -> _T:
        with self._lock:
            if not self._values:  # nor after a failure
                self._values.append(self._compute())
            return self._values[0]

    def __getstate__(self) -> tuple[Callable[[], _T], list[_T]]:
        return self._compute, self._values[:]

    def __setstate__(self, state: tuple[Callable[[], _T], list[_T]]) -> None:
        self._compute, self._values = state
        self._lock = Lock()


def _same(request: Request) -> Request:
    return request


def _found(url: RedisConnection, request: Request, pattern: bytes | None) -> Request:
    """Give the request the streams that match the pattern, if there is one."""
    if pattern is None:
        return request
    return of_streams(request, _core.find_streams(url, pattern, request["must_exist"]).wait())


def of_streams(request: Request, streams: list[bytes]) -> Request:
    """Put the streams that were found into the request, so that no second SCAN is needed."""
    many = request["many"]
    assert many is not None, "a pattern is of several streams"
    return request | {"many": many | {"streams": streams}, "must_exist": False}


def _with_fields_of(url: RedisConnection, found: _Once[Request], sample: int | None) -> Request:
    return with_fields(url, found(), sample)


def with_fields(url: RedisConnection, request: Request, sample: int | None) -> Request:
    """Give the request a schema, by a sample of the entries where the caller gave none."""
    if request["schema"] is not None:
        return request
    fields = of_batch(_core.infer_schema(url, sampled(request, sample)).wait()).schema
    # The caller has named none of these fields, and need not hear that one does not come again.
    request = request | {"schema": schema_of(request, fields), "expects_fields": False}
    return request | {"schema_overrides": None, "infer_schema_length": None}


def sampled(request: Request, sample: int | None) -> Request:
    """Give the request of a sample that tells the fields."""
    typed = request["infer_schema_length"] is not None
    request = request | {"infer_schema_length": _LARGEST if sample is None else sample}
    if request["many"] is not None:
        request["many"] = request["many"] | {"compare_dtypes": typed}
    return request


def schema_of(request: Request, fields: pl.Schema) -> pl.Schema:
    """Give the schema that the fields of a sample make."""
    if request["infer_schema_length"] is not None:
        return fields
    # Overrides, and the columns that the payload's own schema tells.
    known = of_batch(_core.empty_batch(request)).schema
    return pl.Schema({name: known.get(name, pl.String()) for name in fields})


def register(
    batches: Callable[..., Iterator[pl.DataFrame]],
    schema: pl.Schema | Callable[[], pl.Schema],
    detail: str,
) -> pl.LazyFrame:
    """Make Polars' lazy frame of a source, which a plan calls by name where Polars can."""
    # Pure: the same bounds give the same entries, so both sides of a self-join may share one read.
    options: dict[str, Any] = {"validate_schema": True, "is_pure": True}
    if "explain_name" in inspect.signature(register_io_source).parameters:
        options |= {"explain_name": "redfloe", "explain_detail": detail}
    return register_io_source(batches, schema=schema, **options)
