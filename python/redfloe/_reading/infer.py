"""A schema by a sample of a stream's entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from redfloe import _core
from redfloe._arguments import Streams, make_request
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._options import (
    DEFAULTS,
    MAX_BYTES,
    NullValues,
    PayloadCompression,
    PayloadFormat,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike

#: A field may have the name of a metadata column, which the read may rename or leave out.
_FIELDS_ALONE = DEFAULTS | {
    "include_id": False,
    "include_timestamp": False,
    "include_stream": False,
}


def infer_schema(
    url: str | RedisConnection,
    stream: Streams,
    *,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    infer_schema_length: int | None = 100,
    schema_overrides: SchemaLike | None = None,
    null_values: NullValues | None = None,
    max_columns: int = 5_000,
    payload: str | None = None,
    payload_path: str = "$",
    payload_prefix: str = "",
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    payload_max_bytes: int = MAX_BYTES,
    must_exist: bool = False,
    on_schema_mismatch: Literal["union", "raise"] = "union",
) -> pl.Schema:
    """Look at a sample of a stream's entries and name a dtype for each field.

    A field is Boolean, Int64, Float64, Date or Datetime (microseconds, in UTC where the text has an
    offset) where every text in the sample says so, else String. Integers with leading zeros, such
    as postal codes, and those beyond 64 bits stay String.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or the keys of several streams, of each of which there is a sample.
    start_id, end_id : str, int, date or datetime
        Where to take the sample from; as for `read_stream`.
    infer_schema_length : int or None, default 100
        How many entries to look at, one half the oldest and the other the newest (XRANGE and
        XREVRANGE, Redis 5.0); None looks at all. It is as many of each of several streams, and
        fewer of each where these are more than 100: no more in all than of 100.
    schema_overrides : mapping of str to polars dtype, optional
        The dtypes of some fields, whatever the sample says. A field of these that the sample lacks
        comes last.
    null_values : str, sequence of str, or mapping of field to these, optional
        Texts that mean null and say nothing of the dtype.
    max_columns : int, default 5000
        The most fields that the sample may have; as for `read_stream`.
    payload, payload_path, payload_prefix : str, optional
        The field that holds a JSON object, as for `read_stream`. Its keys come in place of it, with
        the dtypes that JSON says: what is quoted is String or a date, never a number; arrays are
        Lists and objects are Structs, to any depth; values of several kinds are String.
    payload_format, payload_fields, payload_compression, payload_max_bytes
        As for `read_stream`. MessagePack tells bytes, which are Binary, and timestamps, which are
        Datetime in UTC, too.
    must_exist : bool, default False
        Raise where the stream does not exist, instead of giving an empty schema.
    on_schema_mismatch : {"union", "raise"}, default "union"
        Whether to raise where several streams do not have the same fields, with the same dtypes.

    Returns
    -------
    pl.Schema
        The fields in order of first appearance, without the metadata columns: it serves as the
        `schema` of a read. Empty for a missing or empty stream.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    NoStreamError
        The stream does not exist, and `must_exist` is True.
    SchemaError
        The sample has more than `max_columns` fields, or the streams differ and
        `on_schema_mismatch` is "raise".

    Examples
    --------
    >>> import redfloe
    >>> dict(redfloe.infer_schema(url, "events"))
    {'user_id': String, 'action': String, 'value': Int64}
    """
    url = _core.connect(url)
    request = make_request(
        stream,
        takes_several=True,
        start_id=start_id,
        end_id=end_id,
        options=_FIELDS_ALONE
        | {
            "infer_schema": True,
            "infer_schema_length": infer_schema_length,
            "schema_overrides": schema_overrides,
            "null_values": null_values,
            "max_columns": max_columns,
            "payload": payload,
            "payload_path": payload_path,
            "payload_prefix": payload_prefix,
            "payload_format": payload_format,
            "payload_fields": payload_fields,
            "payload_compression": payload_compression,
            "payload_max_bytes": payload_max_bytes,
            "must_exist": must_exist,
            "on_schema_mismatch": on_schema_mismatch,
        },
    )
    return of_batch(_core.infer_schema(url, request).wait()).schema


async def infer_schema_async(
    url: str | RedisConnection,
    stream: Streams,
    *,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    infer_schema_length: int | None = 100,
    schema_overrides: SchemaLike | None = None,
    null_values: NullValues | None = None,
    max_columns: int = 5_000,
    payload: str | None = None,
    payload_path: str = "$",
    payload_prefix: str = "",
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    payload_max_bytes: int = MAX_BYTES,
    must_exist: bool = False,
    on_schema_mismatch: Literal["union", "raise"] = "union",
) -> pl.Schema:
    """Name a dtype for each field, by a sample: the asynchronous twin of `infer_schema`.

    Parameters
    ----------
    url, stream, start_id, end_id, infer_schema_length, schema_overrides
        As for `infer_schema`.
    null_values, max_columns, payload, payload_path, payload_prefix, payload_format, payload_fields
        As for `infer_schema`.
    payload_compression, payload_max_bytes, must_exist, on_schema_mismatch
        As for `infer_schema`.

    Returns
    -------
    pl.Schema
        As for `infer_schema`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> list(asyncio.run(redfloe.infer_schema_async(url, "events")))
    ['user_id', 'action', 'value']
    """
    url = _core.connect(url)
    request = make_request(
        stream,
        takes_several=True,
        start_id=start_id,
        end_id=end_id,
        options=_FIELDS_ALONE
        | {
            "infer_schema": True,
            "infer_schema_length": infer_schema_length,
            "schema_overrides": schema_overrides,
            "null_values": null_values,
            "max_columns": max_columns,
            "payload": payload,
            "payload_path": payload_path,
            "payload_prefix": payload_prefix,
            "payload_format": payload_format,
            "payload_fields": payload_fields,
            "payload_compression": payload_compression,
            "payload_max_bytes": payload_max_bytes,
            "must_exist": must_exist,
            "on_schema_mismatch": on_schema_mismatch,
        },
    )
    sample = await completed(_core.infer_schema(url, request).start())
    return of_batch(sample).schema
