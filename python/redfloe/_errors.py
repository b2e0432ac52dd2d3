"""The exceptions that redfloe raises.

Each has two bases: `RedfloeError`, to catch all of them, and the builtin that fits, for code
that says `except ConnectionError`. Arguments that cannot be right raise plain `ValueError` or
`TypeError`, before any byte is sent.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


class RedfloeError(Exception):
    """The root of redfloe's exceptions.

    Attributes
    ----------
    code : str or None
        The server's error code, such as ``"WRONGTYPE"``, where the server answered with one. Where
        a transaction or a script failed, the code of the error that made it fail, if the server
        quotes it.
    stream : str or None
        The stream that was read or written, where the error is about one.
    """

    code: str | None
    stream: str | None = None

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class RedisConnectionError(RedfloeError, ConnectionError):
    """The server cannot be reached, or the connection was lost and retries did not help."""


class RedisTimeoutError(RedfloeError, TimeoutError):
    """The server did not answer within `connect_timeout` or `response_timeout`."""


class AuthenticationError(RedfloeError, PermissionError):
    """The server refused the user or password, or the user lacks a permission (ACL)."""


class ResponseError(RedfloeError):
    """The server answered with an error, or with bytes that are not RESP."""


class WrongTypeError(RedfloeError, TypeError):
    """The key holds something other than a stream."""


class NoStreamError(RedfloeError, LookupError):
    """The stream does not exist, and `must_exist` says that it must."""


class NoGroupError(RedfloeError, LookupError):
    """The consumer group does not exist."""


class SchemaError(RedfloeError, ValueError):
    """The schema contradicts itself, or a field has the name of a metadata column.

    Attributes
    ----------
    entry_id : str or None
        The entry that has such a field, where it is an entry's.
    field : str or None
        That field, or the one of the schema.
    """

    entry_id: str | None = None
    field: str | None = None


class DecodeError(RedfloeError, ValueError):
    """A field's text does not fit its dtype; the message names the entry, field, dtype and text.

    Attributes
    ----------
    entry_id : str or None
        The entry that has the value.
    field : str or None
        The field, and where the value lies in it: ``"price"``, ``"items[1].price"``. None where it
        is the field's name that cannot be read.
    """

    entry_id: str | None = None
    field: str | None = None


class CheckpointError(RedfloeError, ValueError):
    """A checkpoint cannot be read or written, or is no entry ID; it never counts as missing."""


class DataLossError(RedfloeError):
    """Entries that should have been read, or that were written, are gone from the stream."""


class FencedError(RedfloeError):
    """Another worker has taken over what this one owned."""


class ClaimedError(FencedError):
    """Another consumer of the group has claimed entries of a batch; nothing of it is written.

    The processor goes on: its next batch has what is still its own.
    """


class NotDurableError(RedfloeError):
    """A commit is in, but not known to be on all the replicas and disks where it has to be."""


class PendingEntriesError(RedfloeError):
    """Entries are pending for a consumer that was to be deleted, and would be lost with it."""


class NoProcessorError(RedfloeError, LookupError):
    """There is no processor of that name on the stream."""


class ProcessorRunningError(RedfloeError):
    """A processor is running that was to be reset or deleted, and would be fenced."""


class WriteError(RedfloeError):
    """Some rows were not written, or are lost since, and it is known which.

    Attributes
    ----------
    rows_written : int
        How many rows are in.
    row : int or None
        The first row that is not in.
    ids : pl.Series or None
        The entry ID of each row, null where the row is not in: ``df.filter(error.ids.is_null())``
        gives the rows to write again.
    first_row : int
        The row that `ids` begins with: 0, but for `sink_stream` and `StreamProducer`, which know
        only the IDs of their last batch.
    """

    rows_written: int = 0
    row: int | None = None
    ids: "pl.Series | None" = None
    first_row: int = 0


class OutcomeUnknownError(RedfloeError):
    """Replies were lost, and nobody knows whether some rows were written.

    Attributes
    ----------
    rows_written : int
        How many rows are surely in.
    unknown : range
        The rows of which nobody knows whether they are in. Those after them are surely not in.
    row : int or None
        The first row that is not surely in.
    ids : pl.Series or None
        The entry ID of each row, null where the row is not surely in.
    first_row : int
        As for `WriteError`.
    """

    rows_written: int = 0
    unknown: range = range(0)
    row: int | None = None
    ids: "pl.Series | None" = None
    first_row: int = 0


# Where users find them, so that is what a traceback says.
for _error in (RedfloeError, *RedfloeError.__subclasses__(), ClaimedError):
    _error.__module__ = "redfloe"
