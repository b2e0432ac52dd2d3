"""The columnar connector for Redis Streams: to Polars DataFrames and Arrow, and back."""

from redfloe._core import RedisConnection, StreamReader, __version__
from redfloe._errors import (
    AuthenticationError,
    DataLossError,
    DecodeError,
    FencedError,
    NoGroupError,
    OutcomeUnknownError,
    RedfloeError,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    SchemaError,
    WriteError,
    WrongTypeError,
)
from redfloe._follow import AsyncBatchIterator, BatchIterator, iter_stream, stream_batches
from redfloe._hashes import write_hashes
from redfloe._local import LocalServer, local_server
from redfloe._producer import AsyncStreamProducer, StreamProducer
from redfloe._read import ack_entries, infer_schema, read_stream
from redfloe._scan import scan_stream, stream_reader
from redfloe._sink import sink_stream
from redfloe._write import write_stream, write_stream_async

__all__ = [
    "AsyncBatchIterator",
    "AsyncStreamProducer",
    "AuthenticationError",
    "BatchIterator",
    "DataLossError",
    "DecodeError",
    "FencedError",
    "LocalServer",
    "NoGroupError",
    "OutcomeUnknownError",
    "RedfloeError",
    "RedisConnection",
    "RedisConnectionError",
    "RedisTimeoutError",
    "ResponseError",
    "SchemaError",
    "StreamProducer",
    "StreamReader",
    "WriteError",
    "WrongTypeError",
    "__version__",
    "ack_entries",
    "infer_schema",
    "iter_stream",
    "local_server",
    "read_stream",
    "scan_stream",
    "sink_stream",
    "stream_batches",
    "stream_reader",
    "write_hashes",
    "write_stream",
    "write_stream_async",
]
