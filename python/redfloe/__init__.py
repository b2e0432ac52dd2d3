"""The columnar connector for Redis Streams: to Polars DataFrames and Arrow, and back."""

from redfloe._core import RedisConnection, __version__
from redfloe._errors import (
    AuthenticationError,
    DataLossError,
    DecodeError,
    FencedError,
    NoGroupError,
    RedfloeError,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    SchemaError,
    WrongTypeError,
)
from redfloe._local import LocalServer, local_server
from redfloe._read import infer_schema, read_stream

__all__ = [
    "AuthenticationError",
    "DataLossError",
    "DecodeError",
    "FencedError",
    "LocalServer",
    "NoGroupError",
    "RedfloeError",
    "RedisConnection",
    "RedisConnectionError",
    "RedisTimeoutError",
    "ResponseError",
    "SchemaError",
    "WrongTypeError",
    "__version__",
    "infer_schema",
    "local_server",
    "read_stream",
]
