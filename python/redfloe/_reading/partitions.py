"""A read cut into partitions: for programs of several processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from redfloe import _core
from redfloe._arguments import Request, Streams, make_request
from redfloe._checks import as_key, positive
from redfloe._core import StreamReader
from redfloe._errors import WrongTypeError
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._options import DEFAULTS, ReadOptions, complete, takes
from redfloe._reading.offsets import as_pair, offset_in, pair_after
from redfloe._reading.scan import with_fields
from redfloe._reading.shards import shards_of, shards_of_async
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike

#: The first and the last ID of a range.
_Bounds = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, repr=False)
class StreamPartition:
    """A part of one or several streams, cut by `split_stream`, to be read anywhere.

    It can be pickled and read in another process or on another machine: the pickle holds how the
    server is reached, **with the password**; its repr does not. Its end is fixed, so that each
    read gives the same entries, until they are trimmed or deleted.

    Attributes
    ----------
    ranges : dict of str to (str, str)
        The first and the last ID of each stream, both inclusive.
    rows : int
        How many entries there are, about.
    """

    ranges: dict[str, tuple[str, str]]
    rows: int
    _url: RedisConnection
    _pieces: list[tuple[bytes, _Bounds]] = field(compare=False)
    #: Of several streams, even if this part is of one, so that all parts have the same columns.
    _is_of_several: bool = field(compare=False)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{stream!r}: {first}..{last}" for stream, (first, last) in self.ranges.items()
        )
        return f"StreamPartition({self._url!r}, {shown}, rows={self.rows})"

    @takes(ReadOptions)
    def read(
        self, schema: SchemaLike | None = None, **options: Unpack[ReadOptions]
    ) -> pl.DataFrame:
        """Read all entries into a DataFrame, as `read_stream` does.

        Parameters
        ----------
        schema : mapping of str to polars dtype, or pl.Schema, optional
            The fields to read. Without it each partition has the fields that occur in it.
        **options : ReadOptions
            How entries become columns, by keyword: see `redfloe.ReadOptions`.

        Returns
        -------
        pl.DataFrame
            As that of `read_stream`; of several streams with the stream's key as ``_stream``.

        Examples
        --------
        >>> import redfloe
        >>> [partition] = redfloe.split_stream(url, "events", 1)
        >>> partition.read()["action"].to_list()
        ['click', 'view']
        """
        request = self._request(schema, complete(options, StreamPartition.read))
        return _core.read_stream(self._url, _core.PreparedRead(request), of_batch)

    @takes(ReadOptions)
    def read_batches(
        self,
        schema: SchemaLike | None = None,
        *,
        batch_size: int = 50_000,
        batch_bytes: int = 64 * 1024 * 1024,
        **options: Unpack[ReadOptions],
    ) -> Iterator[pl.DataFrame]:
        """Read the entries batch by batch, in bounded memory.

        Parameters
        ----------
        schema : mapping of str to polars dtype, or pl.Schema, optional
            As for `read`.
        batch_size, batch_bytes : int
            The most rows of a batch, and the most bytes of the server's reply, about.
        **options : ReadOptions
            How entries become columns, by keyword: see `redfloe.ReadOptions`.

        Yields
        ------
        pl.DataFrame
            One with rows or more; none where the partition is empty by now.

        Examples
        --------
        >>> import redfloe
        >>> [partition] = redfloe.split_stream(url, "events", 1)
        >>> [batch.height for batch in partition.read_batches(batch_size=1)]
        [1, 1]
        """
        complete_options = complete(options, StreamPartition.read_batches)
        request = self._request(schema, complete_options, batch_size, batch_bytes)
        reader = _core.BatchReader(self._url, request, follow=False)
        return map(of_batch, iter(reader.next_batch, None))

    @takes(ReadOptions)
    def reader(
        self,
        schema: SchemaLike | None = None,
        *,
        batch_size: int = 50_000,
        batch_bytes: int = 64 * 1024 * 1024,
        **options: Unpack[ReadOptions],
    ) -> StreamReader:
        """Read the entries as an Arrow stream, as `stream_reader` does.

        Parameters
        ----------
        schema : mapping of str to polars dtype, or pl.Schema, optional
            As for `stream_reader`.
        batch_size, batch_bytes : int
            As for `read_batches`.
        **options : ReadOptions
            How entries become columns, by keyword: see `redfloe.ReadOptions`.

        Returns
        -------
        StreamReader
            With ``__arrow_c_stream__``, for pyarrow, DuckDB and others.

        Examples
        --------
        >>> import polars as pl
        >>> import redfloe
        >>> [partition] = redfloe.split_stream(url, "events", 1)
        >>> pl.DataFrame(partition.reader({"value": pl.Int64}))["value"].to_list()
        [10, None]
        """
        complete_options = complete(options, StreamPartition.reader)
        request = self._request(schema, complete_options, batch_size, batch_bytes)
        sample = complete_options["infer_schema_length"]
        return StreamReader(self._url, with_fields(self._url, request, sample))

    def _request(
        self,
        schema: SchemaLike | None,
        options: ReadOptions,
        batch_size: int | None = None,
        batch_bytes: int | None = None,
    ) -> Request:
        keys = [key for key, _ in self._pieces]
        stream: Streams = keys if self._is_of_several else keys[0]
        sizes: dict[str, Any] = {"batch_size": batch_size, "batch_bytes": batch_bytes}
        request = make_request(stream, takes_several=True, schema=schema, options=options, **sizes)
        return self._narrowed(request)

    def _narrowed(self, request: Request) -> Request:
        """Give the request of one stream, or of several, as one of what is in this partition."""
        if not self._is_of_several:
            start_id, end_id = map(_text, self._pieces[0][1])
            return request | {"start_id": start_id, "end_id": end_id}
        assert request["many"] is not None, "a list is of several streams"
        streams, ranges = [key for key, _ in self._pieces], [bounds for _, bounds in self._pieces]
        return request | {"many": request["many"] | {"streams": streams, "ranges": ranges}}


def _text(entry: tuple[int, int]) -> str:
    return f"{entry[0]}-{entry[1]}"


def partitions_of(
    url: RedisConnection, request: Request, is_of_several: bool, split: list[_core._Split]
) -> list[StreamPartition]:
    """Make partitions of what the core has cut."""
    assert request["many"] is not None, "it was made of a list"
    streams = request["many"]["streams"]
    partitions = []
    for pieces, rows in split:
        own = [(streams[stream], bounds) for stream, bounds in pieces]
        ranges = {readable(key): (_text(first), _text(last)) for key, (first, last) in own}
        partitions.append(StreamPartition(ranges, rows, url, own, is_of_several))
    return partitions


def _split_request(
    stream: Streams,
    n: int,
    start_id: EntryIdLike,
    end_id: EntryIdLike,
    after: Mapping[str, str] | None,
    up_to: Mapping[str, str] | None,
    must_exist: bool,
) -> tuple[Request, bool]:
    if positive(n, "n") is None:
        msg = "n must be int, not None"
        raise TypeError(msg)
    is_of_several = not isinstance(stream, str | bytes)
    keys: Any = stream if is_of_several else [stream]
    options = DEFAULTS | {"must_exist": must_exist}
    request = make_request(
        keys, takes_several=True, start_id=start_id, end_id=end_id, options=options
    )
    many = request["many"]
    if many is None:
        msg = f"stream must be str, bytes or several of them, not {type(stream).__name__}"
        raise TypeError(msg)
    if (after is None) != (up_to is None):
        msg = "after and up_to belong together: a range of offsets has two ends"
        raise TypeError(msg)
    if after is not None and up_to is not None:
        many["ranges"] = [
            (pair_after(offset_in(after, key)), as_pair(offset_in(up_to, key)))
            for key in many["streams"]
        ]
    return request, is_of_several


def _are_of_others(stream: Streams, up_to: Mapping[str, str] | None) -> bool:
    """Tell whether offsets are given, and none of the one stream."""
    return (
        bool(up_to)
        and isinstance(stream, str | bytes)
        and readable(as_key(stream, "stream")) not in (up_to or {})
    )


def split_stream(
    url: str | RedisConnection,
    stream: Streams,
    n: int,
    *,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    after: Mapping[str, str] | None = None,
    up_to: Mapping[str, str] | None = None,
    must_exist: bool = False,
) -> list[StreamPartition]:
    """Cut what one or several streams hold into up to `n` partitions of about equal size.

    The partitions are disjoint and complete, up to the newest entries now. Several processes may
    read them at the same time.

    Redis cannot say how many entries there are between two IDs. XLEN gives the number in all, and
    pages around some IDs (XRANGE and XREVRANGE, Redis 5.0) show how they are spread: a sample of
    about two percent of the entries of streams that are cut, which the server sends and we skip. A
    stream of up to 10,000 entries is counted; so is one of up to a million where the sample does
    not account for its length, because there are bursts. Larger streams, and ranges of a stream,
    are cut as the sample says, and a partition may be larger than others where it has missed a
    burst. Streams that lie in one partition are not sampled.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, which are laid one after the other and cut:
        a partition may have parts of several. A sharded stream is cut as the list of its shards is.
    n : int
        How many partitions, at most; there are fewer where there are not as many entries.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, as for `read_stream`.
    after, up_to : mapping of str to str, optional
        Offsets, as `stream_offsets` gives them: entries after those of the one, up to those of the
        other, in place of `start_id` and `end_id`.
    must_exist : bool, default False
        Raise where a stream does not exist.

    Returns
    -------
    list of StreamPartition
        In the order of streams and IDs; empty where there are no entries.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, NoStreamError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> partitions = redfloe.split_stream(url, "events", 2)
    >>> [partition.ranges["events"] for partition in partitions]
    [('0-0', '1704067200000-0'), ('1704067200000-1', '1704067200001-0')]
    >>> sum(partition.read().height for partition in partitions)
    2
    """
    url = _core.connect(url)
    asked: tuple[Any, ...] = (n, start_id, end_id, after, up_to, must_exist)
    request, is_of_several = _split_request(stream, *asked)
    try:
        split = _core.split_stream(url, request, n).wait()
    except WrongTypeError:
        shards = shards_of(url, stream)
        if not shards:
            raise
    else:
        # Offsets of shards leave nothing of the name to be asked for.
        shards = shards_of(url, stream) if _are_of_others(stream, up_to) else []
    if shards:
        request, is_of_several = _split_request(shards, *asked)
        request["must_exist"] = False  # the name is there, if not each shard
        split = _core.split_stream(url, request, n).wait()
    return partitions_of(url, request, is_of_several, split)


async def split_stream_async(
    url: str | RedisConnection,
    stream: Streams,
    n: int,
    *,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    after: Mapping[str, str] | None = None,
    up_to: Mapping[str, str] | None = None,
    must_exist: bool = False,
) -> list[StreamPartition]:
    """Cut streams into partitions: the asynchronous twin of `split_stream`.

    Parameters
    ----------
    url, stream, n, start_id, end_id, after, up_to, must_exist
        As for `split_stream`.

    Returns
    -------
    list of StreamPartition
        As for `split_stream`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> len(asyncio.run(redfloe.split_stream_async(url, "events", 2)))
    2
    """
    url = _core.connect(url)
    asked: tuple[Any, ...] = (n, start_id, end_id, after, up_to, must_exist)
    request, is_of_several = _split_request(stream, *asked)
    try:
        split = await completed(_core.split_stream(url, request, n).start())
    except WrongTypeError:
        shards = await shards_of_async(url, stream)
        if not shards:
            raise
    else:
        shards = await shards_of_async(url, stream) if _are_of_others(stream, up_to) else []
    if shards:
        request, is_of_several = _split_request(shards, *asked)
        request["must_exist"] = False  # the name is there, if not each shard
        split = await completed(_core.split_stream(url, request, n).start())
    return partitions_of(url, request, is_of_several, split)
