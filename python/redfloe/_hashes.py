"""Writing frames into hashes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, TypedDict

import polars as pl

from redfloe import _core
from redfloe._checks import as_key, milliseconds_of_seconds, one_of, positive
from redfloe._core import RedisConnection
from redfloe._errors import SchemaError
from redfloe._frame import ArrowStream, as_frame, check_column, field_names, without_null_dtypes
from redfloe._progress import bar_or, check_progress
from redfloe._schema import as_text
from redfloe._write import Progress, finished, finished_async
from redfloe._writing.sending import ended


class HashRequest(TypedDict):
    """How rows become hashes; `src/python/write.rs` has its twin."""

    key_column: str
    key_prefix: bytes
    fields: list[str]
    ttl_ms: int | None
    if_exists: str
    batch_size: int


def write_hashes(
    url: str | RedisConnection,
    df: pl.DataFrame | ArrowStream,
    *,
    key_column: str,
    key_prefix: str | bytes = "",
    ttl: float | timedelta | None = None,
    if_exists: Literal["replace", "merge", "fail"] = "replace",
    fields: Sequence[str] | None = None,
    batch_size: int = 1_000,
    progress: Progress | bool | None = None,
) -> int:
    """Write the rows of a DataFrame into Redis hashes, one hash per row.

    That is where aggregates go, for other programs to look up by key. Each column but the key's is
    a field, as the text that `read_stream` would take for its dtype; a null is a field that the
    hash lacks.
    Each row is written in one step (HSET, in MULTI where it takes more than that; Redis 4.0), and
    rows are pipelined.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    df : pl.DataFrame, or an object with ``__arrow_c_stream__``
        The rows.
    key_column : str
        The column that names each row's hash.
    key_prefix : str or bytes, default ""
        What each key begins with.
    ttl : float or timedelta, optional
        How long the hashes live, in seconds (PEXPIRE). By default without end; a hash that is
        merged keeps the time that it has.
    if_exists : {"replace", "merge", "fail"}, default "replace"
        What to do where the hash exists: replace it; set the row's fields, then remove those
        that are null in the row, and leave all others; or refuse.
    fields : sequence of str, optional
        The columns to write, instead of all but the key's.
    batch_size : int, default 1_000
        How many rows are sent together.
    progress : callable or bool, optional
        Called with the number of rows that are in, about 20 times a second and at the end; True
        shows a bar of them, by tqdm (``pip install tqdm``).

    Returns
    -------
    int
        How many hashes were written: one for each row.

    Raises
    ------
    WriteError
        The server refused a row, or its hash exists and `if_exists` is "fail". `rows_written` and
        `row`, the first that is not in, say how far it came; rows after that one may be in, and
        "replace" and "merge" can write them again.
    OutcomeUnknownError
        Replies were lost for good, and nobody knows whether the rows in `unknown` are in; "replace"
        and "merge" can write them again. After a lost connection those two send rows again by
        themselves, which changes nothing; "fail" does not.
    RedisConnectionError, RedisTimeoutError
        As for `write_stream`.
    AuthenticationError
        As for `write_stream`; also where rows need MULTI and the user lacks the permission.
    WrongTypeError
        A key holds something other than a hash; nothing is written.
    SchemaError
        A column is missing, or has a dtype that has no text form; nothing is written.
    ValueError, TypeError
        An argument cannot be right, a key is null, or occurs twice and is not merged, or a text is
        longer than the server takes (proto-max-bulk-len); nothing is written.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> summary = pl.DataFrame({"sensor": ["a", "b"], "mean": [1.5, 2.0], "count": [3, 4]})
    >>> redfloe.write_hashes(url, summary, key_column="sensor", key_prefix="sensor:", ttl=3600)
    2
    """
    url = _core.connect(url)
    check_progress(progress)
    columns, request = _make(
        df,
        key_column=key_column,
        key_prefix=key_prefix,
        ttl=ttl,
        if_exists=if_exists,
        fields=fields,
        batch_size=batch_size,
    )
    with bar_or(progress, "write_hashes", total=columns.height) as tell:
        return finished(
            lambda outcomes: _core.write_hashes(url, columns, request, outcomes, tell),
            _rows,
            tell,
            with_ids=False,
        )


async def write_hashes_async(
    url: str | RedisConnection,
    df: pl.DataFrame | ArrowStream,
    *,
    key_column: str,
    key_prefix: str | bytes = "",
    ttl: float | timedelta | None = None,
    if_exists: Literal["replace", "merge", "fail"] = "replace",
    fields: Sequence[str] | None = None,
    batch_size: int = 1_000,
    progress: Progress | bool | None = None,
) -> int:
    """Write the rows of a DataFrame into Redis hashes: the asynchronous twin of `write_hashes`.

    Where the task is cancelled, no more rows are sent; what became of those in flight is known
    within a second, and the `CancelledError` then has a `WriteError` or `OutcomeUnknownError` as
    its cause.

    Parameters
    ----------
    url, df, key_column, key_prefix, ttl, if_exists, fields, batch_size
        As for `write_hashes`.
    progress : callable or bool, optional
        As for `write_hashes`; it is called in the event loop.

    Returns
    -------
    int
        How many hashes were written: one for each row.

    Raises
    ------
    WriteError, OutcomeUnknownError, RedisConnectionError, RedisTimeoutError
        As for `write_hashes`.
    AuthenticationError, WrongTypeError, SchemaError, ValueError, TypeError
        As for `write_hashes`.

    Examples
    --------
    >>> import asyncio
    >>> import polars as pl
    >>> import redfloe
    >>> summary = pl.DataFrame({"sensor": ["a", "b"], "mean": [1.5, 2.0]})
    >>> asyncio.run(redfloe.write_hashes_async(url, summary, key_column="sensor"))
    2
    """
    url = _core.connect(url)
    check_progress(progress)
    columns, request = _make(
        df,
        key_column=key_column,
        key_prefix=key_prefix,
        ttl=ttl,
        if_exists=if_exists,
        fields=fields,
        batch_size=batch_size,
    )
    with bar_or(progress, "write_hashes", total=columns.height) as tell:
        task = _core.start_write_hashes(url, columns, request)
        return await finished_async(ended(task, tell), _rows, tell, with_ids=False)


def _make(
    df: object,
    *,
    key_column: str,
    key_prefix: str | bytes,
    ttl: float | timedelta | None,
    if_exists: str,
    fields: Sequence[str] | None,
    batch_size: int,
) -> tuple[pl.DataFrame, HashRequest]:
    """Check and normalise a frame, and how its rows become hashes."""
    if isinstance(df, pl.LazyFrame):
        msg = "df is a LazyFrame; collect it: write_hashes(url, df.collect(), ...)"
        raise TypeError(msg)
    frame = as_frame(df)
    if as_text(key_column, "key_column") not in frame.columns:
        msg = f"there is no column {key_column!r}"
        raise SchemaError(msg)
    one_of(if_exists, "if_exists", "replace", "merge", "fail")
    check_column(key_column, frame.schema[key_column])
    names = field_names(frame, fields, without={key_column})
    columns = without_null_dtypes(frame[[*dict.fromkeys([key_column, *names])]])
    if if_exists != "merge" and columns[key_column].is_duplicated().any():
        row = columns[key_column].is_duplicated().arg_true()[0]
        msg = (
            f"the key {columns[key_column][row]!r} occurs in several rows, of which only one could "
            f'stay; aggregate them, or pass if_exists="merge" (row: {row})'
        )
        raise ValueError(msg)
    request = HashRequest(
        key_column=key_column,
        key_prefix=as_key(key_prefix, "key_prefix"),
        fields=names,
        ttl_ms=None if ttl is None else _milliseconds(ttl),
        if_exists=if_exists,
        batch_size=positive(batch_size, "batch_size") or 1,
    )
    return columns, request


def _rows(outcome: _core.Outcome) -> int:
    return outcome.rows_written


def _milliseconds(ttl: object) -> int:
    millis = milliseconds_of_seconds(ttl, "ttl")
    if millis < 1:
        msg = f"ttl must be at least a millisecond, but is {ttl!r}"
        raise ValueError(msg)
    return millis
